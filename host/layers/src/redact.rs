//! Takes secrets out of everything that comes back, directly above live: guest,
//! journal, recorder and reporters see the same, clean bytes.

use std::borrow::Cow;
use std::sync::Arc;

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
    patterns: Option<AhoCorasick>,
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
                if pattern.len() >= SHORTEST && !patterns.contains(&pattern) {
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
                add(percent_encoded(text));
                if let Ok(json) = serde_json::to_string(text) {
                    add(json[1..json.len() - 1].to_owned());
                }
                if text.len() >= SHORT {
                    base64_forms(text.as_bytes()).for_each(&mut add);
                }
            }
        }
        let patterns = if patterns.is_empty() {
            None
        } else {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
                .ok()
        };
        Self {
            patterns,
            masks,
            short,
        }
    }

    /// The text without secrets.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.patterns {
            Some(patterns) if patterns.is_match(text) => {
                Cow::Owned(patterns.replace_all(text, &self.masks))
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// Bytes without secrets.
    pub fn clean_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        match &self.patterns {
            Some(patterns) if patterns.is_match(&bytes) => {
                patterns.replace_all_bytes(&bytes, &self.masks)
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

    pub fn clean_error(&self, mut error: CallError) -> CallError {
        error.message = self.clean(&error.message).into_owned();
        error.hint = error.hint.map(|hint| self.clean(&hint).into_owned());
        error
    }

    fn clean_reply(&self, reply: Reply) -> Result<Reply, CallError> {
        if self.patterns.is_none() {
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

/// RFC 3986: all but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
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
}

impl LogSink for CleanLog {
    fn line(&self, stream: LogStream, line: &str) {
        self.next.line(stream, &self.redactor.clean(line));
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
            percent_encoded(secret),
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
    fn lines_of_a_key_are_masked() {
        let redactor =
            redactor("-----BEGIN KEY-----\nabcdefghijkl\nmnopqrstuvwx\n-----END KEY-----");
        assert_eq!(redactor.clean("> mnopqrstuvwx <"), "> [secret:TOKEN] <");
        assert_eq!(redactor.clean("-----BEGIN KEY-----"), "-----BEGIN KEY-----");
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
