//! One trait for everything that answers calls: backends, and the layers
//! around them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blob::Blobs;
use crate::call::Call;
use crate::error::CallError;
use crate::id::CallId;
use crate::reply::Reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    /// Bytes of the longest line that a backend passes on: one that is longer comes in
    /// pieces of this length, so that output without line ends cannot fill the memory.
    pub const LONGEST_LINE: usize = 16 * 1024;
}

/// Where a call's output goes while it runs, a line at a time. Implementations
/// do not block and do not panic.
pub trait LogSink: Send + Sync {
    /// One line, without its end. It may hold anything the far side printed.
    fn line(&self, stream: LogStream, line: &str);
    /// Progress that replaces what was said before.
    fn status(&self, status: &str);
}

/// Discards what it is given.
#[derive(Debug)]
pub struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _stream: LogStream, _line: &str) {}
    fn status(&self, _status: &str) {}
}

/// What goes with a call through every layer.
#[derive(Clone)]
pub struct CallContext {
    pub id: CallId,
    /// Backends give up by then. Every call has one.
    pub deadline: Instant,
    /// Backends stop the far side, too, when this fires.
    pub cancel: CancellationToken,
    pub log: Arc<dyn LogSink>,
    pub blobs: Arc<Blobs>,
    pub answered: Answered,
}

/// The time that was recorded with the answer: set by the layer that records, and
/// the guest's clock from then on, so that a replay sees the same. The answer to an
/// effect is on disk by then, so a backend may drop what it keeps for the case that
/// the answer is lost.
#[derive(Clone, Debug, Default)]
pub struct Answered(Arc<AtomicI64>);

impl Answered {
    pub fn set(&self, at: Timestamp) {
        self.0.store(at.as_millisecond(), Ordering::Release);
    }

    /// Milliseconds since 1970; nothing while no answer was recorded.
    pub fn get(&self) -> Option<u64> {
        u64::try_from(self.0.load(Ordering::Acquire))
            .ok()
            .filter(|ms| *ms > 0)
    }
}

impl CallContext {
    /// Time left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext").field("id", &self.id).finish()
    }
}

#[async_trait]
pub trait Capability: Send + Sync {
    /// Answers a call. Dropping the future abandons the wait, not the effect:
    /// to stop the work, fire `context.cancel` and await the answer.
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError>;
}
