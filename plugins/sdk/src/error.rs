//! Building [`Error`], which is the interface's own record: an error of a
//! capability goes on with `?` as it is.

use crate::{Error, ErrorKind, Finding, Severity};

impl Error {
    /// `code` is stable and machine-readable (`http-probe.no-success`);
    /// `message` is a lower-case fragment that says what failed and where.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            retryable: false,
        }
    }

    /// The arguments are wrong; trying again does not help.
    #[must_use]
    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, message)
    }

    /// The other side cannot be reached, or does not work for now.
    #[must_use]
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, code, message)
    }

    /// The plugin, or the host, did what it should not.
    #[must_use]
    pub fn internal(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, code, message)
    }

    /// What the person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was being done before the message: `pull of x: not found`.
    #[must_use]
    pub fn context(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Trying again may help. Advice only.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Whether the step has to stop at once, whatever it was trying: the run
    /// was cancelled, or no grant allows the call.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Cancelled | ErrorKind::Denied | ErrorKind::Internal
        )
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::invalid("json.invalid", format!("JSON: {error}"))
    }
}

impl Finding {
    /// Stops the run before its first effect.
    #[must_use]
    pub fn problem(message: impl Into<String>) -> Self {
        Self::with(Severity::Problem, message)
    }

    /// Is shown; the run goes on.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self::with(Severity::Warning, message)
    }

    /// Is shown where everything is.
    #[must_use]
    pub fn note(message: impl Into<String>) -> Self {
        Self::with(Severity::Note, message)
    }

    /// What the person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn with(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
            hint: None,
        }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        Self {
            severity: Severity::Problem,
            message: error.message,
            hint: error.hint,
        }
    }
}
