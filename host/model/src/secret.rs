//! Secret bytes. Their `Debug` tells nothing, and nothing serialises them.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::error::CallError;
use crate::text::{Segment, Text};

/// The secrets of a run, by name. Only the redact layer and live backends may
/// see the bytes.
#[derive(Default)]
pub struct Secrets(BTreeMap<String, SecretString>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    pub fn insert(&mut self, name: impl Into<String>, value: SecretString) {
        self.0.insert(name.into(), value);
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The bytes. Call this from the redact layer and live backends only.
    pub fn expose(&self, name: &str) -> Result<&str, CallError> {
        self.0
            .get(name)
            .map(ExposeSecret::expose_secret)
            .ok_or_else(|| {
                CallError::not_found("secret.missing", format!("secret {name} has no value"))
                    .hint(format!("set the environment variable {name}"))
            })
    }

    /// Puts the bytes of secrets into a text. The result is wiped when dropped.
    pub fn resolve(&self, text: &Text) -> Result<Zeroizing<String>, CallError> {
        let mut resolved = Zeroizing::new(String::new());
        for segment in text.segments() {
            match segment {
                Segment::Plain(plain) => resolved.push_str(plain),
                Segment::Secret { secret } => resolved.push_str(self.expose(secret)?),
                Segment::Unknown { unknown } => {
                    return Err(CallError::internal(
                        "engine.unknown-value",
                        format!("a value that is not known yet reached a backend: {unknown}"),
                    ));
                }
            }
        }
        Ok(resolved)
    }
}
