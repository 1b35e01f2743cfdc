//! Takes secrets out of everything that comes back, directly above live: guest,
//! journal, recorder and reporters see the same, clean bytes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use aho_corasick::{AhoCorasick, MatchKind};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value as Json;
use windlass_model::call::SecretCall;
use windlass_model::{
    Call, CallContext, CallError, Capability, LogSink, LogStream, Reply, Secrets,
};

/// Masking shorter ones would mangle ordinary text and hide nothing.
const SHORTEST: usize = 4;
/// Below this a guess is cheap, and the user is warned.
const SHORT: usize = 8;

/// Finds secrets in text, also as base64 (at each of its three alignments), as
/// percent-encoding and as a JSON string.
pub struct Redactor {
    search: Option<AhoCorasick>,
    patterns: Vec<String>,
    /// The replacement for each pattern.
    masks: Vec<String>,
    /// Names of secrets too short to be masked with certainty.
    pub short: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor")
            .field("patterns", &self.masks.len())
            .finish()
    }
}

impl Redactor {
    pub fn new(secrets: &Secrets) -> Self {
        let mut patterns: Vec<String> = Vec::new();
        // A key has many lines, and each of them many forms.
        let mut known: HashSet<String> = HashSet::new();
        let mut masks = Vec::new();
        let mut short = Vec::new();
        for name in secrets.names() {
            let Ok(secret) = secrets.expose(name) else {
                continue;
            };
            let trimmed = secret.trim();
            if trimmed.len() < SHORT {
                short.push(name.to_owned());
            }
            if trimmed.len() < SHORTEST {
                continue;
            }
            let mask = format!("[secret:{name}]");
            let mut add = |pattern: String| {
                if pattern.len() >= SHORTEST && known.insert(pattern.clone()) {
                    patterns.push(pattern);
                    masks.push(mask.clone());
                }
            };
            for text in std::iter::once(trimmed).chain(
                // Logs come line by line: a key shows as its lines.
                trimmed
                    .lines()
                    .map(str::trim)
                    .filter(|line| line.len() >= SHORT && !line.starts_with("-----")),
            ) {
                add(text.to_owned());
                percent_encoded(text).for_each(&mut add);
                if let Ok(json) = serde_json::to_string(text) {
                    add(json[1..json.len() - 1].to_owned());
                }
                if text.len() >= SHORT {
                    base64_forms(text.as_bytes()).for_each(&mut add);
                }
            }
        }
        let search = if patterns.is_empty() {
            None
        } else {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
                .ok()
        };
        Self {
            search,
            patterns,
            masks,
            short,
        }
    }

    /// The text without secrets.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.search {
            Some(search) if search.is_match(text) => {
                Cow::Owned(search.replace_all(text, &self.masks))
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// A piece of a longer line without secrets, nor the part of one that a cut left
    /// at its beginning or at its end.
    fn clean_piece<'a>(&self, piece: &'a str) -> Cow<'a, str> {
        let clean = self.clean(piece);
        let longest = |cut: &dyn Fn(&str) -> usize| {
            let found = self.patterns.iter().zip(&self.masks);
            found
                .map(|(pattern, mask)| (cut(pattern), mask))
                .filter(|(length, _)| *length > 0)
                .max_by_key(|(length, _)| *length)
        };
        let parts = |pattern: &str| (SHORTEST..pattern.len()).rev();
        let text = clean.as_bytes();
        let begins = longest(&|pattern| {
            parts(pattern)
                .find(|length| text.starts_with(&pattern.as_bytes()[pattern.len() - length..]))
                .unwrap_or(0)
        });
        let ends = longest(&|pattern| {
            parts(pattern)
                .find(|length| text.ends_with(&pattern.as_bytes()[..*length]))
                .unwrap_or(0)
        });
        if begins.is_none() && ends.is_none() {
            return clean;
        }
        let (skip, before) = begins.map_or((0, ""), |(length, mask)| (length, mask.as_str()));
        let (drop, after) = ends.map_or((0, ""), |(length, mask)| (length, mask.as_str()));
        let middle = text.get(skip..text.len().saturating_sub(drop));
        let middle = String::from_utf8_lossy(middle.unwrap_or_default());
        Cow::Owned(format!("{before}{middle}{after}"))
    }

    /// Bytes without secrets.
    pub fn clean_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        match &self.search {
            Some(search) if search.is_match(&bytes) => {
                search.replace_all_bytes(&bytes, &self.masks)
            }
            _ => bytes,
        }
    }

    /// Every string of a JSON value without secrets, keys too.
    pub fn clean_json(&self, value: Json) -> Json {
        match value {
            Json::String(text) => match self.clean(&text) {
                Cow::Borrowed(_) => Json::String(text),
                Cow::Owned(clean) => Json::String(clean),
            },
            Json::Array(list) => {
                Json::Array(list.into_iter().map(|item| self.clean_json(item)).collect())
            }
            Json::Object(table) => Json::Object(
                table
                    .into_iter()
                    .map(|(key, value)| (self.clean(&key).into_owned(), self.clean_json(value)))
                    .collect(),
            ),
            other => other,
        }
    }

    /// A call without what it has of secrets in plain text; handles are names already.
    pub fn clean_call<'a>(&self, call: &'a Call) -> Result<Cow<'a, Call>, CallError> {
        let Some(search) = &self.search else {
            return Ok(Cow::Borrowed(call));
        };
        let failed = |error: serde_json::Error| {
            CallError::internal("engine.redact", format!("redact a call: {error}"))
        };
        // A secret is looked for as JSON writes it, too.
        let text = serde_json::to_string(call).map_err(failed)?;
        if !search.is_match(&text) {
            return Ok(Cow::Borrowed(call));
        }
        let json = serde_json::from_str(&text).map_err(failed)?;
        serde_json::from_value(self.clean_json(json))
            .map(Cow::Owned)
            .map_err(failed)
    }

    pub fn clean_error(&self, mut error: CallError) -> CallError {
        error.message = self.clean(&error.message).into_owned();
        error.hint = error.hint.map(|hint| self.clean(&hint).into_owned());
        error
    }

    fn clean_reply(&self, mut reply: Reply) -> Result<Reply, CallError> {
        if self.search.is_none() {
            return Ok(reply);
        }
        if let Reply::Response(mut response) = reply {
            response.body = self.clean_bytes(response.body);
            for (name, value) in &mut response.headers {
                *name = self.clean(name).into_owned();
                *value = self.clean(value).into_owned();
            }
            return Ok(Reply::Response(response));
        }
        if let Reply::Exit(exit) = &mut reply {
            // The end of a log, which may begin in the middle of a line.
            exit.tail = self.clean_piece(&exit.tail).into_owned();
        }
        let failed = |error: serde_json::Error| {
            CallError::internal("engine.redact", format!("redact a reply: {error}"))
        };
        let json = serde_json::to_value(&reply).map_err(failed)?;
        let clean = self.clean_json(json.clone());
        if clean == json {
            return Ok(reply);
        }
        serde_json::from_value(clean).map_err(failed)
    }
}

/// What encoders leave as it is, besides letters, digits and `-._`: of RFC 3986's
/// unreserved characters, of the URL standard's component and whole URL (JavaScript's
/// encodeURIComponent and encodeURI), of a path segment, and of a form.
const LEFT_BY_ENCODERS: [&[u8]; 5] = [
    b"~",
    b"~!'()*",
    b"~!'()*;,/?:@&=+$#",
    b"~!$&'()*+,;=:@",
    b"*",
];

/// Each way in which encoders write a text in a URL or a form, with upper-case and
/// with lower-case digits.
fn percent_encoded(text: &str) -> impl Iterator<Item = String> {
    let write = move |left: &[u8], space: &str, lower: bool| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b' ' => out.push_str(space),
                _ if byte.is_ascii_alphanumeric()
                    || b"-._".contains(&byte)
                    || left.contains(&byte) =>
                {
                    out.push(char::from(byte));
                }
                _ if lower => out.push_str(&format!("%{byte:02x}")),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    LEFT_BY_ENCODERS.into_iter().flat_map(move |left| {
        ["%20", "+"]
            .into_iter()
            .flat_map(move |space| [false, true].map(|lower| write(left, space, lower)))
    })
}

/// What stays the same of a text's base64 wherever it stands in a longer one:
/// each of three alignments, without the characters that neighbours share.
fn base64_forms(text: &[u8]) -> impl Iterator<Item = String> {
    (0..3_usize).flat_map(move |shift| {
        let mut padded = vec![0; shift];
        padded.extend_from_slice(text);
        let skip = [0, 2, 3][shift];
        let whole = padded.len() * 8 / 6;
        [
            STANDARD_NO_PAD.encode(&padded),
            URL_SAFE_NO_PAD.encode(&padded),
        ]
        .map(|encoded| encoded[skip..whole.min(encoded.len())].to_owned())
    })
}

/// The layer.
pub struct Redact {
    redactor: Arc<Redactor>,
    next: Arc<dyn Capability>,
}

impl Redact {
    pub fn new(redactor: Arc<Redactor>, next: Arc<dyn Capability>) -> Self {
        Self { redactor, next }
    }
}

#[async_trait]
impl Capability for Redact {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        // What a step was granted to read, it reads.
        let reveals = matches!(call, Call::Secret(SecretCall::Reveal { .. }));
        let mut context = context.clone();
        context.log = Arc::new(CleanLog {
            redactor: Arc::clone(&self.redactor),
            next: Arc::clone(&context.log),
            cut: Default::default(),
        });
        match self.next.call(&context, call).await {
            Ok(reply) if reveals => Ok(reply),
            Ok(reply) => self.redactor.clean_reply(reply),
            Err(error) => Err(self.redactor.clean_error(error)),
        }
    }
}

struct CleanLog {
    redactor: Arc<Redactor>,
    next: Arc<dyn LogSink>,
    /// Whether the last line of a stream, stdout or stderr, was a piece of a longer one.
    cut: [AtomicBool; 2],
}

impl LogSink for CleanLog {
    fn line(&self, stream: LogStream, line: &str) {
        // Backends cut a line that does not end, wherever that is.
        let cut = line.len() >= LogStream::LONGEST_LINE;
        let goes_on = self.cut[usize::from(stream == LogStream::Stderr)].swap(cut, Relaxed);
        let clean = if cut || goes_on {
            self.redactor.clean_piece(line)
        } else {
            self.redactor.clean(line)
        };
        self.next.line(stream, &clean);
    }

    fn status(&self, status: &str) {
        self.next.status(&self.redactor.clean(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(value: &str) -> Redactor {
        let mut secrets = Secrets::default();
        secrets.insert("TOKEN", value.to_owned().into());
        Redactor::new(&secrets)
    }

    #[test]
    fn plain_and_encoded_forms() {
        let secret = "s3cr\"et/+val ue";
        let redactor = redactor(secret);
        let b64 = base64::engine::general_purpose::STANDARD;
        for text in [
            secret.to_owned(),
            format!("x{secret}y"),
            "s3cr%22et%2F%2Bval%20ue".to_owned(),
            "s3cr%22et%2f%2bval%20ue".to_owned(),
            "s3cr%22et%2f%2bval+ue".to_owned(),
            "s3cr%22et/+val%20ue".to_owned(),
            serde_json::to_string(secret).expect("json"),
            b64.encode(secret),
            b64.encode(format!("u:{secret}")),
            b64.encode(format!("us:{secret}")),
            b64.encode(format!("usr:{secret}!")),
        ] {
            let clean = redactor.clean(&text);
            assert!(clean.contains("[secret:TOKEN]"), "{text} -> {clean}");
        }
        assert_eq!(redactor.clean("nothing here"), "nothing here");
    }

    #[test]
    fn calls_are_clean() {
        let redactor = redactor("hunter2\"hunter2");
        let exec = |word: &str| {
            Call::Ssh(windlass_model::call::SshCall {
                target: windlass_model::TargetName::local(),
                op: windlass_model::call::SshOp::Exec {
                    argv: vec!["login".into(), word.into()],
                    env: vec![("TOKEN".into(), windlass_model::Text::secret("TOKEN"))],
                    stdin: None,
                    dir: None,
                },
            })
        };
        let call = exec("hunter2");
        assert!(matches!(redactor.clean_call(&call), Ok(Cow::Borrowed(_))));
        let call = exec("as:hunter2\"hunter2");
        let clean = redactor.clean_call(&call).expect("clean");
        assert_eq!(*clean, exec("as:[secret:TOKEN]"));
    }

    #[test]
    fn lines_of_a_key_are_masked() {
        let redactor =
            redactor("-----BEGIN KEY-----\nabcdefghijkl\nmnopqrstuvwx\n-----END KEY-----");
        assert_eq!(redactor.clean("> mnopqrstuvwx <"), "> [secret:TOKEN] <");
        assert_eq!(redactor.clean("-----BEGIN KEY-----"), "-----BEGIN KEY-----");
    }

    #[test]
    fn a_piece_of_a_line_shows_no_part_of_a_secret() {
        let redactor = redactor("hunter2hunter2");
        let clean = redactor.clean_piece("r2hunter2 and hunter2hunter2 and hunter2h");
        assert_eq!(
            clean,
            "[secret:TOKEN] and [secret:TOKEN] and [secret:TOKEN]"
        );
        assert_eq!(redactor.clean_piece("hunting"), "hunting");
    }

    #[test]
    fn a_line_that_comes_in_pieces_shows_no_part_of_a_secret() {
        #[derive(Default)]
        struct Seen(std::sync::Mutex<Vec<String>>);
        impl LogSink for Seen {
            fn line(&self, _: LogStream, line: &str) {
                self.0.lock().expect("lock").push(line.to_owned());
            }
            fn status(&self, _: &str) {}
        }
        let seen = Arc::new(Seen::default());
        let log = CleanLog {
            redactor: Arc::new(redactor("hunter2hunter2")),
            next: Arc::<Seen>::clone(&seen),
            cut: Default::default(),
        };
        let first = format!("{}hunter2", "x".repeat(LogStream::LONGEST_LINE - 7));
        log.line(LogStream::Stdout, &first);
        log.line(LogStream::Stderr, "hunter2 of another stream");
        log.line(LogStream::Stdout, "hunter2 and more");
        log.line(LogStream::Stdout, "hunter2 of another line");
        let seen = seen.0.lock().expect("lock");
        assert!(seen[0].ends_with("xx[secret:TOKEN]"), "{}", seen[0].len());
        assert_eq!(
            seen[1..],
            [
                "hunter2 of another stream",
                "[secret:TOKEN] and more",
                "hunter2 of another line"
            ]
        );
    }

    #[test]
    fn short_secrets_are_named() {
        let redactor = redactor("abc");
        assert_eq!(redactor.short, ["TOKEN"]);
        assert_eq!(redactor.clean("abc"), "abc");
    }

    #[test]
    fn replies_are_clean() {
        let redactor = redactor("hunter2hunter2");
        let reply = Reply::Exit(windlass_model::reply::Exit {
            code: 1,
            tail: "login hunter2hunter2 failed".into(),
            values: vec![],
        });
        let clean = redactor.clean_reply(reply).expect("clean");
        assert!(!format!("{clean:?}").contains("hunter2"));
        let body = Reply::Response(windlass_model::reply::Response {
            status: 200,
            body: [b"\xff".as_slice(), b"hunter2hunter2"].concat(),
            ..Default::default()
        });
        let clean = redactor.clean_reply(body).expect("clean");
        let Reply::Response(response) = clean else {
            panic!("kind changed");
        };
        assert_eq!(response.body, b"\xff[secret:TOKEN]");
    }
}
