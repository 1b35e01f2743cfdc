//! What can go wrong with a part. A rig's error ends a test: it must say enough to
//! find the cause without a second run, so it carries the part's own log.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Result of the rig's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A part that could not be found, started or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the rig is not installed.
    #[error("find {program}; {hint}")]
    Missing {
        /// The program or file.
        program: String,
        /// How to get it.
        hint: &'static str,
    },
    /// A file or socket of the rig.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket or process operation without a path.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("run `{command}`: it ended with {status}\n{output}")]
    Program {
        /// The command line.
        command: String,
        /// Exit status as text.
        status: String,
        /// What it printed, both streams.
        output: String,
    },
    /// A part started, but did not become usable.
    #[error("get an answer from {part} within {} s; its log:\n{log}", waited.as_secs())]
    NotReady {
        /// The part.
        part: String,
        /// How long it was waited for.
        waited: Duration,
        /// Its output so far.
        log: String,
    },
    /// An answer that is not what the protocol says.
    #[error("read the answer of {from}: {problem}")]
    Answer {
        /// Who answered.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The command outlived its hard limit and was killed.
    #[error("finish `{command}` within {} s; it was killed\n{output}", limit.as_secs())]
    TimedOut {
        /// The command line.
        command: String,
        /// The limit.
        limit: Duration,
        /// What it had printed.
        output: String,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// For `map_err` on sockets and processes.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}
