//! Waiting for work, reading what it gave, and cleaning up after it.

use crate::docker::Container;
use crate::jobs::{Exit, Job};
use crate::{Error, Value, format};

/// Lines of a failed command's log that its error repeats.
const ERROR_LINES: usize = 5;

impl Job {
    /// Waits for the end; an exit code other than 0 is an error that names
    /// `what` and repeats the end of the log.
    ///
    /// # Errors
    ///
    /// Those of the work itself, and `job.failed` for an exit code.
    pub fn finish(&self, what: &str) -> Result<Exit, Error> {
        let exit = self.wait()?;
        if exit.code == 0 {
            return Ok(exit);
        }
        Err(exit.error("job.failed", what))
    }
}

impl Exit {
    /// A value that the work gave, by name.
    ///
    /// # Errors
    ///
    /// `job.no-value` when it did not.
    pub fn value(&self, name: &str) -> Result<&Value, Error> {
        self.values
            .iter()
            .find_map(|(known, value)| (known == name).then_some(value))
            .ok_or_else(|| Error::internal("job.no-value", format!("the work gave no `{name}`")))
    }

    /// `what exited with CODE`, followed by the end of the log.
    #[must_use]
    pub fn error(&self, code: &str, what: &str) -> Error {
        let mut message = format!("{what} exited with {}", self.code);
        let last = format::last_lines(&self.tail, ERROR_LINES);
        if !last.is_empty() {
            message.push_str(":\n");
            message.push_str(&format::indent(&last));
        }
        Error::unavailable(code, message)
    }
}

/// A container that is removed when the scope is left, by `?` too. (The host
/// removes it in any case, after a trap as well; this does it in time.)
#[derive(Debug)]
pub struct Cleanup {
    container: Container,
    grace_ms: u32,
}

impl Cleanup {
    /// `grace_ms` lies between SIGTERM and SIGKILL.
    #[must_use]
    pub fn new(container: Container, grace_ms: u32) -> Self {
        Self {
            container,
            grace_ms,
        }
    }
}

impl std::ops::Deref for Cleanup {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // What fails is tried again by the host, which tells of it.
        let _ = self.container.remove(self.grace_ms);
    }
}
