//! What the journal gives back, and the form in which bodies are stored.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use windlass_model::backend::LogStream;
use windlass_model::event::{Level, Outcome};
use windlass_model::{Call, CallError, CallId, Class, Reply, RunId, StepKey};

/// A line of `windlass runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSummary {
    pub run: RunId,
    pub started: Timestamp,
    pub pipeline: String,
    pub environment: String,
    pub tag: String,
    pub commit: String,
    pub dirty: bool,
    /// `None`: it still runs, or was killed.
    pub outcome: Option<Outcome>,
    pub exit_code: Option<u8>,
    pub duration_ms: Option<u64>,
    pub link: Option<String>,
}

/// A line that a step printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub number: u64,
    pub at: Timestamp,
    pub step: StepKey,
    pub level: Level,
    pub stream: Option<LogStream>,
    pub text: String,
}

/// Where outputs that are used again have to come from: a run of the same
/// pipeline, environment, commit and tag.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    pub pipeline: &'a str,
    pub environment: &'a str,
    pub commit: &'a str,
    pub tag: &'a str,
    /// Whether the tree differs from the commit now. A clean run takes nothing
    /// from a dirty one: that was not the commit.
    pub dirty: bool,
}

/// What a stored call or answer is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored<T> {
    Here(T),
    /// Past the run's cap: only its hash is known.
    TooLarge {
        sha256: String,
        bytes: u64,
    },
    /// What a secret said.
    Withheld,
}

impl<T> Stored<T> {
    pub fn here(&self) -> Option<&T> {
        match self {
            Self::Here(value) => Some(value),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub at: Timestamp,
    pub result: Stored<Result<Reply, CallError>>,
}

/// A call as it was made. Without an answer, nobody knows whether an effect
/// took place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    pub id: CallId,
    pub name: String,
    pub class: Class,
    pub asked: Timestamp,
    pub call: Stored<Call>,
    pub answer: Option<Answer>,
}

/// An attempt that goes on from the middle: its calls from this number on are
/// made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    pub step: StepKey,
    pub attempt: u32,
    pub from: u64,
}

/// JSON on its way into the journal.
pub(crate) struct Body {
    pub(crate) json: String,
    /// Of bodies that do not fit into a row.
    pub(crate) sha256: Option<String>,
}

impl Body {
    pub(crate) fn new<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_string(value)?;
        let sha256 = (json.len() > crate::INLINE_BYTES).then(|| hex::encode(Sha256::digest(&json)));
        Ok(Self { json, sha256 })
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.json.len())
    }
}

/// As serde names unit variants: `kebab-case` words for columns.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(crate) fn from_word<T: DeserializeOwned>(word: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
}

pub(crate) fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}
