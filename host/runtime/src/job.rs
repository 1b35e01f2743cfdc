//! A call that takes a while, as a guest sees it: events, an end, a cancel.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_model::{Answered, CallError, LogSink, LogStream, Reply};

/// Lines that wait for a guest that does not read them; the oldest go first.
/// They are in the step's log all the same.
const MAX_WAITING: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) enum JobEvent {
    Log(LogStream, String),
    Status(String),
    Ended,
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<JobEvent>,
    result: Option<Result<Reply, CallError>>,
}

/// Hands a job's output to the step's log, and to the guest if it asks.
pub(crate) struct JobLog {
    step: Arc<dyn LogSink>,
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Notify>,
}

impl JobLog {
    fn push(&self, event: JobEvent) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.waiting.len() == MAX_WAITING {
            shared.waiting.pop_front();
        }
        shared.waiting.push_back(event);
        drop(shared);
        self.changed.notify_waiters();
    }
}

impl LogSink for JobLog {
    fn line(&self, stream: LogStream, line: &str) {
        self.step.line(stream, line);
        self.push(JobEvent::Log(stream, line.to_owned()));
    }

    fn status(&self, status: &str) {
        self.step.status(status);
        self.push(JobEvent::Status(status.to_owned()));
    }
}

/// The host's end of the resource `job`.
pub struct Job {
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Notify>,
    pub(crate) cancel: CancellationToken,
    /// When its answer was recorded.
    pub(crate) answered: Answered,
    task: JoinHandle<()>,
    ended_seen: bool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("finished", &self.task.is_finished())
            .finish()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // The work dies with its handle; the far side hears of it by the
        // token, and the task ends when the far side has answered.
        self.cancel.cancel();
    }
}

impl Job {
    /// Starts `work`, which gets the sink for its output. `running` knows of it
    /// until it has ended.
    pub(crate) fn start<F>(
        step: Arc<dyn LogSink>,
        cancel: CancellationToken,
        answered: Answered,
        running: &TaskTracker,
        work: impl FnOnce(Arc<dyn LogSink>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<Reply, CallError>> + Send + 'static,
    {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let changed = Arc::new(Notify::new());
        let work = work(Arc::new(JobLog {
            step,
            shared: Arc::clone(&shared),
            changed: Arc::clone(&changed),
        }));
        let task = running.spawn({
            let shared = Arc::clone(&shared);
            let changed = Arc::clone(&changed);
            async move {
                let result = work.await;
                shared.lock().unwrap_or_else(PoisonError::into_inner).result = Some(result);
                changed.notify_waiters();
            }
        });
        Self {
            shared,
            changed,
            cancel,
            answered,
            task,
            ended_seen: false,
        }
    }

    fn take_event(&mut self) -> Option<JobEvent> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = shared.waiting.pop_front() {
            return Some(event);
        }
        if shared.result.is_some() && !self.ended_seen {
            self.ended_seen = true;
            return Some(JobEvent::Ended);
        }
        None
    }

    pub(crate) fn is_ready(&self) -> bool {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        !shared.waiting.is_empty() || shared.result.is_some()
    }

    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// The next event; nothing when the time is over first.
    pub(crate) async fn next(&mut self, timeout: std::time::Duration) -> Option<JobEvent> {
        let end = tokio::time::Instant::now() + timeout;
        loop {
            let changed = Arc::clone(&self.changed);
            let changed = changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that nothing is missed between.
            changed.as_mut().enable();
            if let Some(event) = self.take_event() {
                return Some(event);
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                return self.take_event();
            }
        }
    }

    /// The reply; asked again, the same.
    pub(crate) async fn wait(&mut self) -> Result<Reply, CallError> {
        loop {
            let changed = Arc::clone(&self.changed);
            let changed = changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let result = {
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.waiting.clear();
                shared.result.clone()
            };
            if let Some(result) = result {
                return result;
            }
            if self.task.is_finished() {
                // It ended without a result: it panicked.
                let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                return shared.result.clone().unwrap_or_else(|| {
                    Err(CallError::internal(
                        "engine.job-panicked",
                        "the host's work on this call panicked",
                    )
                    .hint("this is a bug of Windlass: please report it"))
                });
            }
            // The pause covers a task that panics and so never notifies.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), changed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use windlass_model::backend::NoLog;

    use super::*;

    #[tokio::test]
    async fn events_then_end_then_result() {
        let mut job = Job::start(
            Arc::new(NoLog),
            CancellationToken::new(),
            Answered::default(),
            &TaskTracker::new(),
            |log| async move {
                log.line(LogStream::Stdout, "one");
                Ok(Reply::Done)
            },
        );
        assert!(matches!(
            job.next(Duration::from_secs(5)).await,
            Some(JobEvent::Log(LogStream::Stdout, line)) if line == "one"
        ));
        assert!(matches!(
            job.next(Duration::from_secs(5)).await,
            Some(JobEvent::Ended)
        ));
        assert!(job.next(Duration::from_millis(5)).await.is_none());
        assert_eq!(job.wait().await, Ok(Reply::Done));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        async fn work(explode: bool) -> Result<Reply, CallError> {
            assert!(!explode, "on purpose");
            Ok(Reply::Done)
        }
        let mut job = Job::start(
            Arc::new(NoLog),
            CancellationToken::new(),
            Answered::default(),
            &TaskTracker::new(),
            |_| work(true),
        );
        assert_eq!(
            job.wait().await.expect_err("panicked").code,
            "engine.job-panicked"
        );
    }
}
