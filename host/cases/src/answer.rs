//! Answers as cases write them: what differs from the usual, and no more.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use windlass_layers::scripted::Answer;
use windlass_model::Reply;
use windlass_model::reply::{
    ContainerInfo, EngineInfo, Exit, GitFacts, Health, ImageInfo, Lease, ManifestInfo, Outcome,
    Release, ReleaseState, Response, Staged, TagCommits, TargetFacts,
};

/// Reads `reply` for a call of this name.
pub(crate) fn reply(call: &str, given: &Json) -> Result<Answer, String> {
    let reply = match call {
        "docker.info" => Reply::Engine(fill(
            EngineInfo {
                version: "28.0.0".into(),
                api_version: "1.48".into(),
                os: "linux".into(),
                architecture: "amd64".into(),
                buildkit: true,
            },
            given,
        )?),
        "docker.build"
        | "docker.push"
        | "docker.pull"
        | "docker.wait-container"
        | "ssh.exec"
        | "releases.activate"
        | "releases.restore" => Reply::Exit(exit(given)?),
        "docker.run" => Reply::Id(text(given)?),
        "docker.container-logs" | "secret.reveal" => Reply::Text(text(given)?),
        "docker.inspect-image" => Reply::Image(
            unless_none(given)
                .map(|given| fill(image(), given))
                .transpose()?
                .map(Box::new),
        ),
        "docker.inspect-container" => {
            let running = ContainerInfo {
                state: "running".into(),
                health: Health::None,
                ..ContainerInfo::default()
            };
            Reply::Container(Box::new(fill(running, &probes(given))?))
        }
        "registry.manifest" => Reply::Manifest(
            unless_none(given)
                .map(|given| fill(ManifestInfo::default(), given))
                .transpose()?,
        ),
        "registry.tags" | "releases.prune" => {
            Reply::Texts(serde_json::from_value(given.clone()).map_err(|error| error.to_string())?)
        }
        "target.inspect" => Reply::Facts(Box::new(fill(
            TargetFacts {
                os: "linux".into(),
                architecture: "amd64".into(),
                user: "deploy".into(),
                compose: "docker compose 2.40.0".into(),
                docker_problem: String::new(),
                docker_version: "28.0.0".into(),
            },
            given,
        )?)),
        "target.apply" => Reply::Outcomes(each(given, |given| {
            fill(
                Outcome {
                    ok: true,
                    ..Outcome::default()
                },
                given,
            )
        })?),
        "ssh.download" | "file.open" | "file.archive" => {
            return Ok(Answer::Bytes(Bytes::from(text(given)?)));
        }
        "releases.stage" => Reply::Staged(fill(
            Staged {
                id: "20260124-014658".into(),
                changed: true,
                ..Staged::default()
            },
            given,
        )?),
        "releases.list" => Reply::Releases(each(given, |given| fill(release(), given))?),
        "lease.acquire" | "lease.renew" | "lease.status" => Reply::Lease(
            unless_none(given)
                .map(|given| {
                    fill(
                        Lease {
                            remaining_ms: Some(30_000),
                            fence: 1,
                            ..Lease::default()
                        },
                        given,
                    )
                })
                .transpose()?,
        ),
        "git.inspect" => {
            let mut facts = fill(
                GitFacts {
                    commit: "9f1c2ab04d5e6f708192a3b4c5d6e7f801234567".into(),
                    branch: Some("main".into()),
                    ..GitFacts::default()
                },
                given,
            )?;
            // A commit that no branch is on.
            facts.branch = facts.branch.filter(|branch| !branch.is_empty());
            Reply::Git(Box::new(facts))
        }
        "git.tag-state" => Reply::Tag(fill(TagCommits::default(), given)?),
        _ if call.starts_with("http.") => Reply::Response(response(given)?),
        _ => return Err(format!("{call} answers nothing that could be given")),
    };
    Ok(Answer::Reply(reply))
}

/// Whether `exit` and log lines make sense for a call of this name.
pub(crate) fn has_exit(call: &str) -> bool {
    matches!(
        call,
        "docker.build"
            | "docker.push"
            | "docker.pull"
            | "docker.wait-container"
            | "ssh.exec"
            | "releases.activate"
            | "releases.restore"
    )
}

/// `"none"` is no image, no manifest, no lease.
fn unless_none(given: &Json) -> Option<&Json> {
    (given != "none").then_some(given)
}

fn text(given: &Json) -> Result<String, String> {
    given
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("it is a text, not {given}"))
}

fn each<T>(given: &Json, read: impl Fn(&Json) -> Result<T, String>) -> Result<Vec<T>, String> {
    given
        .as_array()
        .ok_or_else(|| format!("it is a list, not {given}"))?
        .iter()
        .map(read)
        .collect()
}

/// What is given, over a base; keys that the base does not have are refused.
fn fill<T: Serialize + DeserializeOwned>(base: T, given: &Json) -> Result<T, String> {
    let given = given
        .as_object()
        .ok_or_else(|| format!("it is a table, not {given}"))?;
    let Ok(Json::Object(mut whole)) = serde_json::to_value(base) else {
        return Err("its base is no table".to_owned());
    };
    for (key, value) in given {
        let Some(slot) = whole.get_mut(key) else {
            let known: Vec<&str> = whole.keys().map(String::as_str).collect();
            return Err(format!(
                "there is no {key:?} in it; it has {}",
                known.join(", ")
            ));
        };
        *slot = match (slot.is_array(), value) {
            // Pairs.
            (true, Json::Object(table)) => table
                .iter()
                .map(|(name, value)| json!([name, value]))
                .collect(),
            _ => value.clone(),
        };
    }
    serde_json::from_value(Json::Object(whole)).map_err(|error| error.to_string())
}

/// `code` and `tail`; everything else is one of its values.
fn exit(given: &Json) -> Result<Exit, String> {
    let given = given
        .as_object()
        .ok_or_else(|| format!("it is a table, not {given}"))?;
    let mut exit = Exit::default();
    for (key, value) in given {
        match key.as_str() {
            "code" => {
                exit.code = value
                    .as_i64()
                    .and_then(|code| i32::try_from(code).ok())
                    .ok_or_else(|| format!("`code` is a number, not {value}"))?;
            }
            "tail" => exit.tail = text(value)?,
            name => exit.values.push((name.to_owned(), text(value)?.into())),
        }
    }
    Ok(exit)
}

fn image() -> ImageInfo {
    ImageInfo {
        id: format!("sha256:{}", "a".repeat(64)),
        os: "linux".into(),
        architecture: "amd64".into(),
        size: 10_000_000,
        has_healthcheck: true,
        health_interval_ms: 1_000,
        ..ImageInfo::default()
    }
}

fn release() -> Release {
    Release {
        id: String::new(),
        state: ReleaseState::Good,
        created: "2026-01-24T01:46:58Z".into(),
        run: String::new(),
        tag: String::new(),
        commit: String::new(),
        who: "ci".into(),
        images: vec![],
        is_current: false,
        pipeline: String::new(),
        environment: String::new(),
        compose_sha256: String::new(),
    }
}

/// Probes with what they leave out.
fn probes(given: &Json) -> Json {
    let mut given = given.clone();
    if let Some(probes) = given.get_mut("probes").and_then(Json::as_array_mut) {
        for probe in probes {
            if let Json::Object(probe) = probe {
                probe.entry("exit_code").or_insert(json!(1));
                probe.entry("output").or_insert(json!(""));
            }
        }
    }
    given
}

/// A status alone, or a table with `status`, `headers`, `body` or `json`.
fn response(given: &Json) -> Result<Response, String> {
    let ok = Response {
        status: 200,
        ..Response::default()
    };
    if let Some(status) = given.as_u64() {
        let status = u16::try_from(status).map_err(|_| format!("{status} is no HTTP status"))?;
        return Ok(Response { status, ..ok });
    }
    let mut given: Map<String, Json> = given
        .as_object()
        .cloned()
        .ok_or_else(|| format!("it is a status or a table, not {given}"))?;
    if let Some(json) = given.remove("json") {
        if given.contains_key("body") {
            return Err("`json` and `body` are both given".to_owned());
        }
        given.insert("body".to_owned(), json.to_string().into());
    }
    fill(ok, &Json::Object(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        let of = |call, given| reply(call, &given).expect("a reply");
        assert_eq!(
            of("http.GET", json!(503)),
            Answer::Reply(Reply::Response(Response {
                status: 503,
                ..Response::default()
            }))
        );
        let Answer::Reply(Reply::Response(response)) =
            of("http.GET", json!({"json": {"a": 1}, "headers": {"x": "y"}}))
        else {
            panic!("no response");
        };
        assert_eq!(response.body, b"{\"a\":1}");
        assert_eq!(response.headers, [("x".to_owned(), "y".to_owned())]);
        assert_eq!(
            of("docker.inspect-image", json!("none")),
            Answer::Reply(Reply::Image(None))
        );
        let Answer::Reply(Reply::Exit(exit)) = of("docker.build", json!({"image": "i"})) else {
            panic!("no exit");
        };
        assert_eq!(exit.values, [("image".to_owned(), "i".into())]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = reply("docker.info", &json!({"versoin": "1"})).expect_err("refused");
        assert!(error.contains("versoin"), "{error}");
        assert!(reply("docker.tag", &json!({})).is_err());
    }
}
