//! Between the words of the interface and those of the model.

use windlass_model::{CallError, ErrorKind, Reply};

use crate::bindings::exports::windlass::plugin::preflight;
use crate::bindings::windlass::plugin::types;
use crate::limits;

/// Expects one kind of reply, and gives the interface's error otherwise.
macro_rules! reply {
    ($answer:expr, $call:literal, $pattern:pat => $value:expr) => {
        match $answer {
            Ok($pattern) => Ok($value),
            Ok(other) => Err(windlass_model::CallError::wrong_reply($call, other.kind()).into()),
            Err(error) => Err(error.into()),
        }
    };
}
pub(super) use reply;

impl From<ErrorKind> for types::ErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Denied => Self::Denied,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Exhausted => Self::Exhausted,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

impl From<types::ErrorKind> for ErrorKind {
    fn from(kind: types::ErrorKind) -> Self {
        match kind {
            types::ErrorKind::Denied => Self::Denied,
            types::ErrorKind::NotFound => Self::NotFound,
            types::ErrorKind::Invalid => Self::Invalid,
            types::ErrorKind::Conflict => Self::Conflict,
            types::ErrorKind::Timeout => Self::Timeout,
            types::ErrorKind::Cancelled => Self::Cancelled,
            types::ErrorKind::Unavailable => Self::Unavailable,
            types::ErrorKind::Exhausted => Self::Exhausted,
            types::ErrorKind::Internal => Self::Internal,
        }
    }
}

impl From<CallError> for types::Error {
    fn from(error: CallError) -> Self {
        Self {
            kind: error.kind.into(),
            code: error.code,
            message: error.message,
            hint: error.hint,
            retryable: error.retryable,
        }
    }
}

/// No more of a guest's words than people read.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push_str(" […]");
    }
    text
}

impl From<types::Error> for CallError {
    fn from(error: types::Error) -> Self {
        Self {
            kind: error.kind.into(),
            code: cut(error.code, limits::MAX_NAME_BYTES),
            message: cut(error.message, limits::MAX_MESSAGE_BYTES),
            hint: error.hint.map(|hint| cut(hint, limits::MAX_MESSAGE_BYTES)),
            retryable: error.retryable,
        }
    }
}

impl From<preflight::Severity> for windlass_model::event::Severity {
    fn from(severity: preflight::Severity) -> Self {
        match severity {
            preflight::Severity::Note => Self::Note,
            preflight::Severity::Warning => Self::Warning,
            preflight::Severity::Problem => Self::Problem,
        }
    }
}

/// `Reply::Done` or an error.
pub(super) fn done(
    call: &'static str,
    answer: Result<Reply, CallError>,
) -> Result<(), types::Error> {
    match answer {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(CallError::wrong_reply(call, other.kind()).into()),
        Err(error) => Err(error.into()),
    }
}
