//! Why the journal could not be opened, written or read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;
use windlass_model::{CallError, ErrorKind};

/// Cheap to clone: one failed commit is told to everyone who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("write the journal {}: no permission", path.display())]
    NotWritable { path: PathBuf },
    #[error("write the journal {}: the disk is full", path.display())]
    Full { path: PathBuf },
    #[error("write the journal {}: another process keeps it locked", path.display())]
    Busy { path: PathBuf },
    #[error(
        "open the journal {}: a newer windlass wrote it (format {found}, this one knows {known})",
        path.display()
    )]
    NewerSchema {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("read the journal {}: {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("use the journal {}", path.display())]
    Sql {
        path: PathBuf,
        source: Arc<rusqlite::Error>,
    },
    #[error("write a record to the journal: {detail}")]
    Record { detail: String },
    #[error("start an effect: earlier records of this run were lost: {first}")]
    Torn { first: Box<JournalError> },
    #[error("write the journal: its writer has ended")]
    Closed,
    #[error("no run is recorded yet")]
    NoRuns,
    #[error("no run `{wanted}` is recorded in {}", dir.display())]
    NoSuchRun { wanted: String, dir: PathBuf },
    #[error("more than one run is called `{wanted}`: {}", candidates.join(", "))]
    AmbiguousRun {
        wanted: String,
        candidates: Vec<String>,
    },
}

impl JournalError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path: path.into() }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path: path.into() }
            }
            _ => Self::Io {
                action,
                path: path.into(),
                source: Arc::new(source),
            },
        }
    }

    pub(crate) fn sql(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::NotWritable { path }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => Self::Sql {
                path,
                source: Arc::new(source),
            },
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { .. } | Self::NotWritable { .. } => {
                "give this user the directory, or name another one with --state DIR".to_owned()
            }
            Self::Full { .. } => {
                "free some space, or put the journal elsewhere with --state DIR".to_owned()
            }
            Self::Busy { path } => format!(
                "see which process holds it (`fuser {}`), wait for it or end it",
                path.display()
            ),
            Self::NewerSchema { .. } => {
                "use that windlass or a later one, or another --state DIR".to_owned()
            }
            Self::Corrupt { path, .. } => format!(
                "move {}* aside: a new journal is started, and what runs on the targets is not \
                 touched; `windlass releases` still lists it",
                path.display()
            ),
            Self::NoSuchRun { .. } => "`windlass runs` lists them".to_owned(),
            Self::AmbiguousRun { .. } => "give more digits of the id".to_owned(),
            Self::Torn { first } => return first.hint(),
            Self::NoRuns => {
                "`windlass run` records one; --state names another directory".to_owned()
            }
            Self::Sql { .. } | Self::Record { .. } | Self::Closed => return None,
        })
    }

    fn code(&self) -> (ErrorKind, &'static str) {
        match self {
            Self::Io { .. } => (ErrorKind::Unavailable, "journal.io"),
            Self::NotWritable { .. } => (ErrorKind::Denied, "journal.not-writable"),
            Self::Full { .. } => (ErrorKind::Exhausted, "journal.full"),
            Self::Busy { .. } => (ErrorKind::Unavailable, "journal.busy"),
            Self::NewerSchema { .. } => (ErrorKind::Invalid, "journal.newer"),
            Self::Corrupt { .. } => (ErrorKind::Internal, "journal.corrupt"),
            Self::Sql { .. } => (ErrorKind::Internal, "journal.sql"),
            Self::Record { .. } => (ErrorKind::Internal, "journal.record"),
            Self::Torn { .. } => (ErrorKind::Internal, "journal.torn"),
            Self::Closed => (ErrorKind::Internal, "journal.closed"),
            Self::NoRuns | Self::NoSuchRun { .. } => (ErrorKind::NotFound, "journal.no-such-run"),
            Self::AmbiguousRun { .. } => (ErrorKind::Invalid, "journal.ambiguous-run"),
        }
    }
}

impl From<JournalError> for CallError {
    fn from(error: JournalError) -> Self {
        let (kind, code) = error.code();
        let mut message = error.to_string();
        match &error {
            JournalError::Io { source, .. } => message = format!("{message}: {source}"),
            JournalError::Sql { source, .. } => message = format!("{message}: {source}"),
            _ => {}
        }
        let mut call_error = Self::new(kind, code, message);
        call_error.hint = error.hint();
        call_error
    }
}
