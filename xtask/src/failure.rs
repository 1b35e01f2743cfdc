//! How a command of xtask fails: what, why, and what to do next.

use std::fmt;
use std::process::ExitCode;

/// A failure as it is shown.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: String,
    next: String,
    code: u8,
}

impl Failure {
    /// `what` fits after "failed to"; `next` is the way out.
    pub(crate) fn new(
        what: impl Into<String>,
        why: impl fmt::Display,
        next: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
            next: next.into(),
            code: 1,
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(why: impl Into<String>, usage: &str) -> Self {
        let what = "read the command line".to_owned();
        Self {
            what,
            why: why.into(),
            next: usage.to_owned(),
            code: 2,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: failed to {}", self.what)?;
        for line in self.why.trim_end().lines() {
            write!(f, "\n  {line}")?;
        }
        write!(f, "\nnext: {}", self.next)
    }
}

/// A part of the rig that did not start: its error says which and why.
impl From<windlass_tests::Error> for Failure {
    fn from(error: windlass_tests::Error) -> Self {
        Self::new(
            error.to_string(),
            "it is a part of the test rig",
            "run `cargo xtask setup`, and look at what the part printed above",
        )
    }
}
