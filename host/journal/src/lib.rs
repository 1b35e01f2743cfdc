//! What happened, on disk before anybody hears of it: the events of each run,
//! and each call with its answer.
//!
//! One SQLite file, written by one thread a process; appends that
//! wait at the same time share one transaction and one sync to disk. What is
//! read goes through a connection of its own ([`Reader`]). Neighbours: the
//! engine appends, its journal layer records calls, reporters replay stored
//! events. Two processes may use one journal at once.
//!
//! The rule that resume stands on: an intent is on disk before its effect
//! starts. Records are written in the order in which they were given, so the
//! sync of an intent covers the reads before it, and a lost tail holds no
//! effect.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use windlass_model::event::{Envelope, Event};
use windlass_model::{Call, CallError, CallId, Class, Reply, RunId, RunInputs};

mod directory;
mod error;
mod reader;
mod record;
mod schema;
mod writer;

pub use error::JournalError;
pub use reader::{Logs, Reader};
pub use record::{Answer, LogLine, Origin, RecordedCall, Reopened, RunSummary, Stored};
pub use writer::{BLOB_BYTES_PER_RUN, INLINE_BYTES};

use record::Body;
use writer::{CallRow, EventRow, Job, Writer};

/// The name of the file within the state directory.
pub const FILE_NAME: &str = "journal.db";

/// A journal open for writing; it can be read, too. Clones share the writer;
/// when the last one is dropped, what waits is written and synced.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Arc<Writer>,
    reader: Arc<Reader>,
}

impl Deref for Journal {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Journal {
    /// Opens the journal in a state directory, and makes both when missing:
    /// the directory for this user only and unseen by git, the file likewise.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let file = directory::prepare(directory)?;
        let connection = schema::open(&file)?;
        let reader = Reader::open(&file)?;
        Ok(Self {
            writer: Arc::new(Writer::start(connection, file)?),
            reader: Arc::new(reader),
        })
    }

    /// For commands that only look: makes nothing. `None` when there is no
    /// journal yet.
    pub fn open_existing(directory: &Path) -> Result<Option<Reader>, JournalError> {
        let file = directory.join(FILE_NAME);
        match file.try_exists() {
            Ok(true) => {
                // It may be one of an older Windlass.
                drop(schema::open(&file)?);
                Reader::open(&file).map(Some)
            }
            Ok(false) => Ok(None),
            Err(source) => Err(JournalError::io("look for", &file, source)),
        }
    }

    /// What a run was asked for, before its first event: in the file when this
    /// returns, and on disk with the first intent.
    pub async fn begin(&self, run: RunId, inputs: &RunInputs) -> Result<(), JournalError> {
        let body = serde_json::to_string(inputs).map_err(|source| self.unreadable(&source))?;
        self.writer.written(Job::Inputs { run, body }).await
    }

    /// Makes a run that was cut short, or that ended, one that goes on: on disk
    /// when this returns. What preflight read then is read again, so it goes; so
    /// do the calls of an attempt that goes on before them.
    pub async fn reopen(&self, run: RunId, goes: Vec<Reopened>) -> Result<(), JournalError> {
        self.writer.durable(Job::Reopen { run, goes }).await
    }

    /// Stores an event as its kind needs it. A log line is queued, in order. The
    /// end of a run is on disk when this returns, since somebody acts on it.
    /// All else is in the file when this returns, so that it outlives this
    /// process, and on disk with the next intent: a sync costs milliseconds,
    /// and what a power cut could take is no effect. Progress is not stored.
    pub async fn record(&self, run: RunId, envelope: &Envelope) -> Result<(), JournalError> {
        self.record_all(run, std::slice::from_ref(envelope)).await
    }

    /// [`Journal::record`] for several, waiting once.
    pub async fn record_all(&self, run: RunId, envelopes: &[Envelope]) -> Result<(), JournalError> {
        let awaited = envelopes.iter().rposition(|envelope| {
            envelope.event.is_durable() && !matches!(envelope.event, Event::StepLog { .. })
        });
        let sync = envelopes.iter().any(|envelope| !may_wait(&envelope.event));
        for (index, envelope) in envelopes.iter().enumerate() {
            let Some(job) = self.event(run, envelope)? else {
                continue;
            };
            if Some(index) != awaited {
                self.writer.relaxed(job).await?;
            } else if sync {
                self.writer.durable(job).await?;
            } else {
                self.writer.written(job).await?;
            }
        }
        Ok(())
    }

    /// On disk when it returns, whatever it is.
    pub async fn append(&self, run: RunId, envelope: &Envelope) -> Result<(), JournalError> {
        match self.event(run, envelope)? {
            Some(job) => self.writer.durable(job).await,
            None => Ok(()),
        }
    }

    /// In order, and written soon, but synced only with the next durable
    /// record. Waits when too much is queued.
    pub async fn append_relaxed(
        &self,
        run: RunId,
        envelope: &Envelope,
    ) -> Result<(), JournalError> {
        match self.event(run, envelope)? {
            Some(job) => self.writer.relaxed(job).await,
            None => Ok(()),
        }
    }

    fn event(&self, run: RunId, envelope: &Envelope) -> Result<Option<Job>, JournalError> {
        if !envelope.event.is_durable() {
            return Ok(None);
        }
        let row = EventRow::new(run, envelope).map_err(|source| self.unreadable(&source))?;
        Ok(Some(Job::Event(Box::new(row))))
    }

    /// Before an effect: on disk when it returns. Refused when an earlier
    /// record of the run was lost, because a resume could not trust the rest.
    pub async fn intent(&self, id: &CallId, call: &Call) -> Result<(), JournalError> {
        let job = self.call(id, call)?;
        self.writer.durable(job).await
    }

    /// Before a read: appended unsynced. An effect that comes here is treated
    /// as one.
    pub async fn read_call(&self, id: &CallId, call: &Call) -> Result<(), JournalError> {
        let job = self.call(id, call)?;
        if call.class().is_effect() {
            self.writer.durable(job).await
        } else {
            self.writer.relaxed(job).await
        }
    }

    fn call(&self, id: &CallId, call: &Call) -> Result<Job, JournalError> {
        let body = Body::new(call).map_err(|source| self.unreadable(&source))?;
        Ok(Job::Call(Box::new(CallRow {
            id: id.clone(),
            name: call.name(),
            class: call.class(),
            at: Timestamp::now(),
            body,
        })))
    }

    /// After a call, with its class: on disk for an effect, unsynced for a
    /// read. Gives the time that was recorded with the answer, which is the
    /// guest's clock from now on. What a secret said is never stored.
    pub async fn reply(
        &self,
        id: &CallId,
        class: Class,
        result: &Result<Reply, CallError>,
    ) -> Result<Timestamp, JournalError> {
        let at = Timestamp::now();
        let job = Job::Reply {
            id: Box::new(id.clone()),
            at,
            ok: result.is_ok(),
            body: Body::new(result).map_err(|source| self.unreadable(&source))?,
        };
        if class.is_effect() {
            self.writer.durable(job).await?;
        } else {
            self.writer.relaxed(job).await?;
        }
        Ok(at)
    }

    /// Everything given so far is on disk when it returns; else it says why a
    /// record was lost.
    pub async fn flush(&self) -> Result<(), JournalError> {
        self.writer.durable(Job::Flush).await
    }

    /// Removes all but the newest `keep` runs, and says how many went.
    pub async fn prune(&self, keep: usize) -> Result<u64, JournalError> {
        self.writer.prune(keep).await
    }

    /// How many syncs to disk this process has waited for.
    pub fn synced_commits(&self) -> u64 {
        self.writer.synced_commits()
    }

    fn unreadable(&self, source: &serde_json::Error) -> JournalError {
        JournalError::Record {
            detail: source.to_string(),
        }
    }
}

/// Whether an event may wait for the next sync: all but the end of the run,
/// on which somebody acts.
pub fn may_wait(event: &Event) -> bool {
    !matches!(event, Event::RunFinished(_))
}
