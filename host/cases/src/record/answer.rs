//! What a call answered, as a case writes it: what differs from the usual, and no more.
//! The other way round: [`crate::answer`].

use serde_json::{Map, Value as Json, json};
use windlass_layers::scripted::usual_reply;
use windlass_model::reply::{Exit, Response};
use windlass_model::{Call, CallError, Reply};

use super::stable::Stable;
use crate::answer;

/// A longer body is left out: a case is read by people.
const MAX_BODY: usize = 64 * 1024;
/// Headers that differ from one answer to the next, or that say what only the one who
/// asked may know.
const LEFT_OUT_HEADERS: &[&str] = &["date", "set-cookie", "age", "expires", "last-modified"];

/// What is written, and what a person has to know of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// `reply`, `exit` or `error`, with its value; nothing where the usual will do.
    pub(super) answer: Option<(&'static str, Json)>,
    pub(super) note: Option<String>,
}

impl Written {
    fn reply(value: Json) -> Self {
        Self {
            answer: Some(("reply", value)),
            note: None,
        }
    }
}

/// `log` is what was printed before, as the case has it.
pub(super) fn written(
    call: &Call,
    result: &Result<Reply, CallError>,
    log: &[String],
    stable: &Stable,
) -> Written {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return failed(error, stable),
    };
    if usual_reply(call).as_ref() == Some(reply) && log.is_empty() {
        return Written::default();
    }
    let name = call.name();
    match reply {
        Reply::Done => Written::default(),
        Reply::Text(text) | Reply::Id(text) => Written::reply(stable.text(text).into()),
        Reply::Texts(list) => Written::reply(stable.json(json!(list))),
        // What is sent on as a whole: nobody looks into it.
        Reply::Blob(blob) if name == "file.archive" => {
            Written::reply(format!("an archive of {} bytes", blob.size).into())
        }
        Reply::Blob(blob) => Written {
            answer: Some(("reply", format!("{} bytes", blob.size).into())),
            note: Some(format!(
                "the journal keeps no contents: write in `reply` what the step makes something of \
                 (there were {} bytes)",
                blob.size
            )),
        },
        Reply::Exit(exit) => exited(call, exit, log, stable),
        Reply::Response(response) => responded(response, stable),
        Reply::Outcomes(list) => each(&name, json!(list), stable),
        Reply::Releases(list) => {
            let mut releases = json!(list);
            for release in releases.as_array_mut().into_iter().flatten() {
                for only_then in ["run", "who", "created"] {
                    drop_key(release, only_then);
                }
            }
            each(&name, releases, stable)
        }
        Reply::Image(None) | Reply::Manifest(None) | Reply::Lease(None) => {
            Written::reply("none".into())
        }
        Reply::Lease(Some(lease)) => {
            let mut lease = json!(lease);
            drop_key(&mut lease, "since");
            Written::reply(differs(&name, lease, stable))
        }
        Reply::Engine(_)
        | Reply::Image(Some(_))
        | Reply::Container(_)
        | Reply::Manifest(Some(_))
        | Reply::Facts(_)
        | Reply::Staged(_)
        | Reply::Git(_)
        | Reply::Tag(_)
        | Reply::Trace(_) => {
            let mut value = json!(reply)["value"].take();
            if matches!(reply, Reply::Git(_)) && value["branch"].is_null() {
                // No branch: an empty one, since TOML has no null.
                value["branch"] = "".into();
            }
            Written::reply(differs(&name, value, stable))
        }
    }
}

fn drop_key(value: &mut Json, key: &str) {
    if let Some(table) = value.as_object_mut() {
        table.shift_remove(key);
    }
}

/// The keys that are not as a case has them by itself.
fn differs(call: &str, value: Json, stable: &Stable) -> Json {
    let base = match answer::reply(call, &json!({})) {
        Ok(windlass_layers::scripted::Answer::Reply(base)) => json!(base)["value"].take(),
        _ => Json::Null,
    };
    without(value, &base, stable)
}

fn without(value: Json, base: &Json, stable: &Stable) -> Json {
    let Json::Object(table) = value else {
        return stable.json(value);
    };
    table
        .into_iter()
        .filter(|(key, value)| base.get(key) != Some(value) && !value.is_null())
        .map(|(key, value)| (key, stable.json(pairs(value))))
        .collect::<Map<_, _>>()
        .into()
}

/// A list of pairs with different names as a table.
fn pairs(value: Json) -> Json {
    let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
        return value;
    };
    let mut table = Map::new();
    for item in list {
        match item.as_array().map(Vec::as_slice) {
            Some([Json::String(name), inner]) if !table.contains_key(name) => {
                table.insert(name.clone(), inner.clone());
            }
            _ => return value,
        }
    }
    Json::Object(table)
}

fn each(call: &str, list: Json, stable: &Stable) -> Written {
    let base = match answer::reply(call, &json!([{}])) {
        Ok(windlass_layers::scripted::Answer::Reply(base)) => json!(base)["value"][0].take(),
        _ => Json::Null,
    };
    let list = list.as_array().cloned().unwrap_or_default();
    Written::reply(
        list.into_iter()
            .map(|item| without(item, &base, stable))
            .collect(),
    )
}

fn exited(call: &Call, exit: &Exit, log: &[String], stable: &Stable) -> Written {
    let usual = match usual_reply(call) {
        Some(Reply::Exit(usual)) => usual,
        _ => Exit::default(),
    };
    let tail = stable.text(&exit.tail);
    // A case's tail is its log, unless it says another one.
    let same_tail = tail.lines().eq(log.iter().map(String::as_str));
    if same_tail && exit.values.is_empty() {
        return match exit.code {
            0 if usual.values.is_empty() => Written::default(),
            code => Written {
                answer: Some(("exit", code.into())),
                note: None,
            },
        };
    }
    if same_tail && exit.code == 0 && exit.values == usual.values {
        return Written::default();
    }
    let mut reply = Map::new();
    if exit.code != 0 {
        reply.insert("code".to_owned(), exit.code.into());
    }
    for (name, value) in &exit.values {
        reply.insert(name.clone(), stable.text(&value.to_string()).into());
    }
    if !same_tail {
        reply.insert("tail".to_owned(), tail.into());
    }
    Written::reply(Json::Object(reply))
}

fn responded(response: &Response, stable: &Stable) -> Written {
    let mut reply = Map::new();
    let mut note = None;
    if response.status != 200 {
        reply.insert("status".to_owned(), response.status.into());
    }
    let headers: Vec<&(String, String)> = response
        .headers
        .iter()
        .filter(|(name, _)| !LEFT_OUT_HEADERS.contains(&name.as_str()))
        .collect();
    if !headers.is_empty() {
        reply.insert("headers".to_owned(), pairs(stable.json(json!(headers))));
    }
    if response.body.len() > MAX_BODY {
        note = Some(format!(
            "the answer's body of {} bytes is left out: write in `reply.body` what the step reads",
            response.body.len()
        ));
    } else if !response.body.is_empty() {
        match std::str::from_utf8(&response.body) {
            Ok(text) => {
                let text = stable.text(text);
                match as_json(&text) {
                    Some(json) => reply.insert("json".to_owned(), json),
                    None => reply.insert("body".to_owned(), text.into()),
                };
            }
            Err(_) => {
                reply.insert("body".to_owned(), json!(response.body));
            }
        }
    }
    if response.truncated {
        reply.insert("truncated".to_owned(), true.into());
    }
    let only_status = reply.keys().all(|key| key == "status");
    let value = if only_status {
        response.status.into()
    } else {
        Json::Object(reply)
    };
    Written {
        answer: Some(("reply", value)),
        note,
    }
}

/// A JSON object that says the same in TOML, which has no null.
fn as_json(text: &str) -> Option<Json> {
    let value: Json = serde_json::from_str(text).ok()?;
    fn plain(value: &Json) -> bool {
        match value {
            Json::Null => false,
            Json::Number(number) => number.is_i64(),
            Json::Array(list) => list.iter().all(plain),
            Json::Object(table) => table.values().all(plain),
            _ => true,
        }
    }
    (value.is_object() && plain(&value)).then_some(value)
}

fn failed(error: &CallError, stable: &Stable) -> Written {
    let mut table = Map::new();
    table.insert("kind".to_owned(), json!(error.kind));
    table.insert("code".to_owned(), error.code.as_str().into());
    table.insert("message".to_owned(), stable.text(&error.message).into());
    if let Some(hint) = &error.hint {
        table.insert("hint".to_owned(), stable.text(hint).into());
    }
    if error.retryable {
        table.insert("retryable".to_owned(), true.into());
    }
    Written {
        answer: Some(("error", Json::Object(table))),
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::call::{DockerCall, DockerOp, GitCall, HttpBody, HttpCall};
    use windlass_model::reply::{ContainerInfo, GitFacts, Health, ImageInfo};
    use windlass_model::{ErrorKind, RunId, TargetName};

    use super::*;

    fn docker(op: DockerOp) -> Call {
        Call::Docker(DockerCall {
            engine: TargetName::local(),
            op,
        })
    }

    fn get() -> Call {
        Call::Http(HttpCall {
            method: "GET".into(),
            url: "https://x/".into(),
            headers: vec![],
            body: HttpBody::Empty,
            timeout_ms: 1,
            max_redirects: 0,
            via: None,
            max_body: 1,
        })
    }

    /// Written down and read again, it is the same answer.
    #[test]
    fn answers_come_back() {
        let stable = Stable::new(RunId(Default::default()));
        let image = || "app:1".into();
        let cases = [
            (
                docker(DockerOp::InspectImage { image: image() }),
                Reply::Image(None),
            ),
            (
                docker(DockerOp::InspectImage { image: image() }),
                Reply::Image(Some(Box::new(ImageInfo {
                    id: "sha256:1".into(),
                    os: "linux".into(),
                    architecture: "arm64".into(),
                    labels: vec![("a".into(), "b".into())],
                    ..ImageInfo::default()
                }))),
            ),
            (
                docker(DockerOp::InspectContainer { id: "x".into() }),
                Reply::Container(Box::new(ContainerInfo {
                    id: "x".into(),
                    state: "exited".into(),
                    exit_code: 3,
                    health: Health::Unhealthy,
                    ..ContainerInfo::default()
                })),
            ),
            (
                docker(DockerOp::Push { image: image() }),
                Reply::Exit(Exit {
                    code: 0,
                    tail: "done".into(),
                    values: vec![("digest".into(), "sha256:2".into())],
                }),
            ),
            (
                get(),
                Reply::Response(Response {
                    status: 503,
                    body: b"busy".to_vec(),
                    ..Response::default()
                }),
            ),
            (
                get(),
                Reply::Response(Response {
                    status: 200,
                    headers: vec![("etag".into(), "1".into())],
                    body: br#"{"version":"1","list":[1,true]}"#.to_vec(),
                    truncated: false,
                }),
            ),
            (
                Call::Git(GitCall::Inspect),
                Reply::Git(Box::new(GitFacts {
                    commit: "c".into(),
                    branch: None,
                    tags: vec!["v1".into()],
                    ..GitFacts::default()
                })),
            ),
        ];
        for (call, reply) in cases {
            let written = written(&call, &Ok(reply.clone()), &[], &stable);
            let (key, value) = written.answer.expect("an answer");
            assert_eq!(key, "reply");
            let read = answer::reply(&call.name(), &value).expect("readable");
            assert_eq!(
                read,
                windlass_layers::scripted::Answer::Reply(reply),
                "{value}"
            );
        }
    }

    #[test]
    fn the_usual_is_not_written() {
        let stable = Stable::new(RunId(Default::default()));
        let tag = docker(DockerOp::Tag {
            image: "a".into(),
            new_tag: "b".into(),
        });
        assert!(
            written(&tag, &Ok(Reply::Done), &[], &stable)
                .answer
                .is_none()
        );
        let cookie = Response {
            status: 204,
            headers: vec![("set-cookie".into(), "session=1".into())],
            ..Response::default()
        };
        let written_down = written(&get(), &Ok(Reply::Response(cookie)), &[], &stable);
        assert_eq!(written_down.answer, Some(("reply", json!(204))));
        let error = CallError::new(ErrorKind::Unavailable, "x.y", "gone").retryable();
        assert_eq!(
            written(&tag, &Err(error), &[], &stable).answer,
            Some((
                "error",
                json!({"kind": "unavailable", "code": "x.y", "message": "gone", "retryable": true})
            ))
        );
    }
}
