//! The grant grammar, `CAPABILITY.VERB PATTERN [to SINK]`: one text in
//! `describe`, in the manifest, in a policy and in a denial.
//!
//! In a pattern `*` stands for any characters but `/`, `**` for any at all,
//! and a `*` alone for everything. `\` takes the next character as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::need::Need;

/// Every verb, with what its pattern is matched against. HTTP methods are
/// open-ended and listed once.
pub const VERBS: &[(&str, &str)] = &[
    ("docker.build", "TAG"),
    ("docker.run", "IMAGE"),
    ("docker.tag", "NEW-TAG"),
    ("docker.push", "REPOSITORY:TAG"),
    ("docker.pull", "IMAGE"),
    ("docker.remove", "IMAGE"),
    ("docker.inspect", "*"),
    ("docker.engine", "TARGET"),
    ("docker.mount", "SOURCE"),
    ("docker.network", "NETWORK"),
    ("docker.privileged", "IMAGE"),
    ("registry.read", "REPOSITORY"),
    ("registry.push", "REPOSITORY"),
    ("target.inspect", "TARGET"),
    ("target.apply", "TARGET"),
    ("ssh.exec", "TARGET"),
    ("ssh.upload", "TARGET:PATH"),
    ("ssh.download", "TARGET:PATH"),
    ("releases.deploy", "TARGET:DIR"),
    ("releases.read", "TARGET:DIR"),
    ("http.METHOD", "URL"),
    ("http.via", "TARGET"),
    ("git.read", "REMOTE"),
    ("git.tag", "TAG"),
    ("git.push", "REMOTE"),
    ("file.read", "PATH"),
    ("secret.send", "NAME to SINK"),
    ("secret.reveal", "NAME"),
];

/// Longer patterns are refused: matching is quadratic, and patterns come from
/// plugins.
const MAX_PATTERN: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Piece {
    Literal(String),
    /// `*`
    Within,
    /// `**`
    Across,
}

/// A parsed pattern. `Display` gives back text that parses to the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            return Self(vec![Piece::Across]);
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '\\' => literal.extend(chars.next()),
                '*' => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    if chars.next_if_eq(&'*').is_some() {
                        pieces.push(Piece::Across);
                    } else {
                        pieces.push(Piece::Within);
                    }
                }
                char => literal.push(char),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Self(pieces)
    }

    /// The text, with what has a meaning in patterns escaped.
    pub fn escape(text: &str) -> String {
        text.replace('\\', "\\\\").replace('*', "\\*")
    }

    /// Whether the pattern names exactly one subject.
    pub fn is_literal(&self) -> bool {
        !self
            .0
            .iter()
            .any(|piece| matches!(piece, Piece::Within | Piece::Across))
    }

    /// The one subject of a literal pattern, unescaped; stars stay stars.
    pub fn to_subject(&self) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Within => "*",
                Piece::Across => "**",
            })
            .collect()
    }

    /// Time and memory are bounded by pieces × length, whatever the pattern.
    pub fn matches(&self, subject: &str) -> bool {
        // The set of positions in `subject` that the pieces so far can reach.
        let mut reached = vec![false; subject.len() + 1];
        reached[0] = true;
        for piece in &self.0 {
            let mut next = vec![false; subject.len() + 1];
            match piece {
                Piece::Literal(literal) => {
                    for (at, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
                        if subject.as_bytes()[at..].starts_with(literal.as_bytes()) {
                            next[at + literal.len()] = true;
                        }
                    }
                }
                Piece::Within | Piece::Across => {
                    let mut open = false;
                    for at in 0..=subject.len() {
                        open |= reached[at];
                        next[at] = open;
                        if *piece == Piece::Within && subject.as_bytes().get(at) == Some(&b'/') {
                            open = false;
                        }
                    }
                }
            }
            reached = next;
        }
        reached[subject.len()]
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => f.write_str(&Self::escape(text))?,
                Piece::Within => f.write_str("*")?,
                Piece::Across => f.write_str("**")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Grant {
    pub verb: String,
    pub pattern: Pattern,
    pub sink: Option<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GrantError {
    pub message: String,
    pub hint: Option<String>,
}

impl GrantError {
    fn new(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self {
            message: message.into(),
            hint: hint.map(str::to_owned),
        }
    }
}

fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether a verb is one of [`VERBS`].
pub fn is_verb(verb: &str) -> bool {
    verb != "http.METHOD"
        && (verb.strip_prefix("http.").is_some_and(is_method)
            || VERBS.iter().any(|(known, _)| *known == verb))
}

impl Grant {
    /// `CAPABILITY.VERB PATTERN [to SINK]`; without a pattern, everything.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        if text.len() > MAX_PATTERN {
            return Err(GrantError::new(
                format!("the grant is longer than {MAX_PATTERN} bytes"),
                None,
            ));
        }
        let mut words = text.split_whitespace();
        let Some(verb) = words.next() else {
            return Err(GrantError::new(
                "the grant is empty",
                Some("write CAPABILITY.VERB PATTERN, as in \"docker.push ghcr.io/acme/app:*\""),
            ));
        };
        if !is_verb(verb) {
            return Err(GrantError::new(
                format!("there is no capability verb {verb:?}"),
                Some("docs/grants.md lists them; `windlass plugin inspect` shows a plugin's"),
            ));
        }
        let pattern = words.next().unwrap_or("*");
        let sink = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("to"), Some(sink), None) => Some(Pattern::parse(sink)),
            _ => {
                return Err(GrantError::new(
                    format!("the grant {text:?} has words after its pattern"),
                    Some("only `to SINK` may follow; escape a space within a pattern by using *"),
                ));
            }
        };
        if verb == "secret.send" && sink.is_none() {
            return Err(GrantError::new(
                "a secret is granted to a sink",
                Some("add `to http:https://HOST`, `to build`, `to env:TARGET` or `to container`"),
            ));
        }
        Ok(Self {
            verb: verb.to_owned(),
            pattern: Pattern::parse(pattern),
            sink,
        })
    }

    pub fn allows(&self, need: &Need) -> bool {
        self.verb == need.verb
            && self.pattern.matches(&need.subject)
            && match (&self.sink, &need.sink) {
                (None, None) => true,
                (Some(pattern), Some(sink)) => pattern.matches(sink),
                // A grant without a sink never lets a secret out, and one with
                // a sink says nothing about calls that have none.
                _ => false,
            }
    }

    /// The line that would allow exactly this.
    pub fn line_for(need: &Need) -> String {
        let subject = if need.subject.ends_with("/**") || need.subject == "*" {
            need.subject.clone()
        } else {
            Pattern::escape(&need.subject)
        };
        match &need.sink {
            Some(sink) => format!("{} {subject} to {}", need.verb, Pattern::escape(sink)),
            None => format!("{} {subject}", need.verb),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.pattern)?;
        match &self.sink {
            Some(sink) => write!(f, " to {sink}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Grant {
    type Error = GrantError;

    fn try_from(text: String) -> Result<Self, GrantError> {
        Self::parse(&text)
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> Self {
        grant.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(grant: &str, verb: &str, subject: &str, sink: Option<&str>) -> bool {
        Grant::parse(grant).expect(grant).allows(&Need {
            verb: verb.into(),
            subject: subject.into(),
            sink: sink.map(Into::into),
        })
    }

    #[test]
    fn stars_stop_at_slashes() {
        assert!(allows(
            "docker.push ghcr.io/acme/*",
            "docker.push",
            "ghcr.io/acme/app:1",
            None
        ));
        assert!(!allows(
            "docker.push ghcr.io/*",
            "docker.push",
            "ghcr.io/acme/app:1",
            None
        ));
        assert!(allows(
            "docker.push ghcr.io/**",
            "docker.push",
            "ghcr.io/acme/app:1",
            None
        ));
        assert!(allows(
            "docker.push *",
            "docker.push",
            "ghcr.io/acme/app:1",
            None
        ));
        assert!(!allows("docker.push", "docker.pull", "x", None));
    }

    #[test]
    fn literals_do_not_match_more() {
        let escaped = Pattern::escape("a*b\\c");
        assert!(Pattern::parse(&escaped).matches("a*b\\c"));
        assert!(!Pattern::parse(&escaped).matches("aXb\\c"));
        assert_eq!(Pattern::parse(&escaped).to_string(), escaped);
    }

    #[test]
    fn secrets_need_their_sink() {
        let grant = "secret.send TOKEN to http:https://api.example.com";
        assert!(allows(
            grant,
            "secret.send",
            "TOKEN",
            Some("http:https://api.example.com")
        ));
        assert!(!allows(
            grant,
            "secret.send",
            "TOKEN",
            Some("http:https://evil.example.com")
        ));
        assert!(!allows(
            grant,
            "secret.send",
            "OTHER",
            Some("http:https://api.example.com")
        ));
        assert!(Grant::parse("secret.send TOKEN").is_err());
    }

    #[test]
    fn hostile_patterns_are_quick() {
        let pattern = Pattern::parse(&"*a".repeat(500));
        assert!(!pattern.matches(&"a".repeat(400)));
    }

    #[test]
    fn unknown_verbs_are_refused() {
        for text in [
            "",
            "docker.pusj x",
            "http.METHOD x",
            "docker.push a b",
            "docker.push a to",
        ] {
            assert!(Grant::parse(text).is_err(), "{text}");
        }
        assert!(Grant::parse("http.PATCH https://x/**").is_ok());
    }
}
