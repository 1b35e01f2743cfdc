//! Why a call did not succeed.

use serde::{Deserialize, Serialize};

/// The kinds of the interface `types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    Denied,
    NotFound,
    Invalid,
    Conflict,
    Timeout,
    Cancelled,
    Unavailable,
    Exhausted,
    Internal,
}

/// An expected failure of a call or a step. It crosses every boundary: the
/// guest's, the journal's, the reporter's; so it must be clean of secrets by
/// the time it leaves the redact layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    pub kind: ErrorKind,
    /// Stable and machine-readable: `ssh.unknown-host-key`.
    pub code: String,
    /// What, where and whose: a fragment that fits after "failed to …:".
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Advice only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
}

impl CallError {
    pub fn new(kind: ErrorKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            hint: None,
            retryable: false,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    pub fn denied(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, code, message)
    }

    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, message)
    }

    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, code, message)
    }

    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, code, message)
    }

    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, code, message)
    }

    pub fn timeout(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, code, message)
    }

    pub fn exhausted(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exhausted, code, message)
    }

    pub fn internal(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, code, message)
    }

    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled", "cancelled")
    }

    /// A backend answered a call with a reply of another kind.
    pub fn wrong_reply(call: &str, reply: &str) -> Self {
        Self::internal(
            "engine.wrong-reply",
            format!("{call} was answered with {reply}"),
        )
    }
}
