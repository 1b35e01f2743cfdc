//! What the host keeps for one run of one guest: its handles, its budget, and
//! the one way out, [`Guest::invoke`].

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indexmap::IndexMap;
use serde_json::Value as Json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use windlass_model::call::{DockerCall, DockerOp, HttpBody, HttpCall};
use windlass_model::event::Level;
use windlass_model::{
    Answered, Blobs, Call, CallContext, CallError, CallId, Capability, LogSink, Reply, RunId,
    Segment, StepKey, TargetName, Text,
};

use crate::bindings::windlass::plugin::values::Part;
use crate::job::Job;
use crate::limits::{self, Limits};

/// Where a step's own log and progress go. Implementations do not block.
pub trait StepSink: LogSink {
    fn log(&self, level: Level, text: &str);
    /// Replaces what was said before; both 0 when unknown.
    fn progress(&self, message: &str, done: u64, total: u64);
}

/// The time, as an argument: real in runs, virtual in tests.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> u64;
}

/// What `context.facts` tells.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub pipeline: String,
    pub environment: String,
    pub tag: String,
    pub commit: String,
    pub branch: String,
    pub link: Option<String>,
    /// RFC 3339.
    pub started: String,
}

/// Everything a guest is given.
pub struct Setup {
    pub run: RunId,
    pub step: StepKey,
    pub attempt: u32,
    /// The outermost layer.
    pub stack: Arc<dyn Capability>,
    pub sink: Arc<dyn StepSink>,
    pub clock: Arc<dyn Clock>,
    pub blobs: Arc<Blobs>,
    pub deadline: Instant,
    pub cancel: CancellationToken,
    /// The evaluated configuration, with `{"$secret": NAME}` for handles and
    /// `{"$unknown": WHAT}` for what is not known yet.
    pub config: Json,
    pub facts: Facts,
    /// `user@machine`, or what CI tells.
    pub who: String,
    /// For notifications.
    pub report: Option<String>,
    /// Seeds what the guest sees as random.
    pub seed: u64,
    /// What the guest is told as the time of its start, in milliseconds since 1970;
    /// the clock's when absent.
    pub began_ms: Option<u64>,
    /// Whether the guest hears what was recorded. Meanwhile it may not ask for what
    /// no journal has: the events of its jobs.
    pub replaying: Arc<AtomicBool>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("run", &self.run)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct ValueEntry(pub(crate) Text);

#[derive(Debug)]
pub struct BlobEntry(pub(crate) Arc<windlass_model::Blob>);

#[derive(Debug)]
pub struct EngineEntry(pub(crate) TargetName);

#[derive(Debug)]
pub struct ContainerEntry {
    pub(crate) engine: TargetName,
    pub(crate) id: String,
}

#[derive(Debug)]
pub struct RequestEntry {
    pub(crate) call: HttpCall,
    /// Bytes that it counts for among those that the guest holds.
    pub(crate) held: usize,
}

impl RequestEntry {
    pub(crate) fn new(method: String, url: Text) -> Self {
        Self {
            held: 0,
            call: HttpCall {
                method,
                url,
                headers: Vec::new(),
                body: HttpBody::Empty,
                timeout_ms: 30_000,
                max_redirects: 0,
                via: None,
                max_body: 64 * 1024,
            },
        }
    }
}

/// The guest's view of time: that of the last answer. Shared with WASI.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastAnswer(Arc<AtomicU64>);

impl LastAnswer {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }
}

impl wasmtime_wasi::HostWallClock for LastAnswer {
    fn resolution(&self) -> std::time::Duration {
        std::time::Duration::from_millis(1)
    }

    fn now(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.get())
    }
}

impl wasmtime_wasi::HostMonotonicClock for LastAnswer {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.get().saturating_mul(1_000_000)
    }
}

/// A call that the guest waits for. It is kept beside the guest, so that it is
/// not lost with a guest that is stopped: it may be an effect under way.
struct Pending {
    answer: Pin<Box<dyn Future<Output = Result<Reply, CallError>> + Send>>,
    /// Where the call starts a container, its engine.
    starts: Option<TargetName>,
}

pub(crate) struct Guest {
    pub(crate) setup: Setup,
    pub(crate) limits: Arc<Limits>,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    pub(crate) limiter: limits::Limiter,
    /// The configuration as the guest sees it.
    pub(crate) config: String,
    /// What `{"$value": N}` stands for.
    pub(crate) values: Vec<Text>,
    pub(crate) outputs: IndexMap<String, Json>,
    pub(crate) now: LastAnswer,
    seq: u64,
    log_lines: u64,
    log_bytes: u64,
    pub(crate) blob_bytes: u64,
    /// Bytes of values and prepared requests.
    held: usize,
    /// Bytes of text in the call that is being made.
    call_text: usize,
    pub(crate) jobs: usize,
    /// Epochs left to compute.
    pub(crate) compute: u64,
    /// Containers that the guest started and that are still there.
    pub(crate) containers: Vec<(TargetName, String)>,
    pending: Option<Pending>,
    /// The token of every call and job: fires when the guest has ended.
    calls: CancellationToken,
    /// The jobs that have not ended, whether the guest has a handle or not.
    running: TaskTracker,
    /// Calls that were denied, for the report of a step that then fails.
    pub(crate) denied: Option<CallError>,
    /// Whether it asked for what no journal has, while it heard the record.
    pub(crate) unreplayable: bool,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// A guest's mistake about a handle, or a limit: it traps.
pub(crate) type Trapped<T> = wasmtime::Result<T>;

impl Guest {
    pub(crate) fn new(setup: Setup, limits: Arc<Limits>, wasi: WasiCtx, now: LastAnswer) -> Self {
        let mut values = Vec::new();
        let config = hide_handles(&setup.config, &mut values).to_string();
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::MAX_HANDLES);
        now.set(setup.began_ms.unwrap_or_else(|| setup.clock.now_ms()));
        let calls = setup.cancel.child_token();
        let epochs = limits.compute.as_millis() / limits::EPOCH.as_millis();
        Self {
            setup,
            table,
            wasi,
            limiter: limits::Limiter::new(limits.memory_bytes),
            config,
            values,
            outputs: IndexMap::new(),
            now,
            seq: 0,
            log_lines: 0,
            log_bytes: 0,
            blob_bytes: 0,
            held: 0,
            call_text: 0,
            jobs: 0,
            compute: u64::try_from(epochs).unwrap_or(u64::MAX).max(1),
            containers: Vec::new(),
            pending: None,
            calls,
            running: TaskTracker::new(),
            denied: None,
            unreplayable: false,
            limits,
        }
    }

    fn context(&mut self, log: Arc<dyn LogSink>, cancel: CancellationToken) -> CallContext {
        self.seq += 1;
        self.call_text = 0;
        CallContext {
            id: CallId {
                run: self.setup.run,
                step: self.setup.step.clone(),
                attempt: self.setup.attempt,
                seq: self.seq,
            },
            deadline: self.setup.deadline,
            cancel,
            log,
            blobs: Arc::clone(&self.setup.blobs),
            answered: Default::default(),
        }
    }

    /// Remembers the limit, and gives what traps the guest.
    pub(crate) fn reached(&mut self, limit: String) -> wasmtime::Error {
        let error = wasmtime::format_err!("the guest reached {limit}");
        self.limiter.reached = Some(limit);
        error
    }

    /// Whether a call may start: traps when the budget is used up, refuses
    /// when the step is over. What a guest does in its grace is for itself.
    fn admit(&mut self) -> Trapped<Result<(), CallError>> {
        if self.seq >= self.limits.calls {
            let limit = format!("its limit of {} calls", self.limits.calls);
            return Err(self.reached(limit));
        }
        if self.setup.cancel.is_cancelled() {
            return Ok(Err(CallError::cancelled()));
        }
        if Instant::now() >= self.setup.deadline {
            return Ok(Err(CallError::timeout(
                "step.timeout",
                "the step's time is over",
            )));
        }
        Ok(Ok(()))
    }

    /// Makes a call and waits for its answer. The only way out of a guest.
    pub(crate) async fn invoke(&mut self, call: Call) -> Trapped<Result<Reply, CallError>> {
        if let Err(error) = self.admit()? {
            return Ok(Err(error));
        }
        let starts = match &call {
            Call::Docker(DockerCall {
                engine,
                op: DockerOp::Run(_),
            }) => Some(engine.clone()),
            _ => None,
        };
        let sink: Arc<dyn LogSink> = Arc::new(Forward(Arc::clone(&self.setup.sink)));
        // A secret is read again by a replay, so it must not tell the time.
        let timeless = matches!(call, Call::Secret(_));
        let context = self.context(sink, self.calls.child_token());
        let answered = context.answered.clone();
        let stack = Arc::clone(&self.setup.stack);
        let answer = Box::pin(async move { stack.call(&context, call).await });
        self.pending = Some(Pending { answer, starts });
        let answer = std::future::poll_fn(|task| match &mut self.pending {
            Some(pending) => pending.answer.as_mut().poll(task),
            None => std::task::Poll::Ready(Err(CallError::internal(
                "engine.call-lost",
                "the call that was waited for is gone",
            ))),
        })
        .await;
        self.pending = None;
        if timeless {
            self.note_denial(answer.as_ref().err());
        } else {
            self.answered(&answered, answer.as_ref().err());
        }
        Ok(answer)
    }

    /// Makes a call that goes on while the guest does other things.
    pub(crate) fn start(&mut self, call: Call) -> Trapped<Result<Resource<Job>, CallError>> {
        if let Err(error) = self.admit()? {
            return Ok(Err(error));
        }
        if self.jobs >= limits::MAX_JOBS {
            return Ok(Err(CallError::exhausted(
                "limit.jobs",
                format!("the step has {} jobs open", limits::MAX_JOBS),
            )
            .hint("wait for one, or drop it, before starting another")));
        }
        let cancel = self.calls.child_token();
        let step: Arc<dyn LogSink> = Arc::new(Forward(Arc::clone(&self.setup.sink)));
        let mut context = self.context(Arc::clone(&step), cancel.clone());
        let stack = Arc::clone(&self.setup.stack);
        let answered = context.answered.clone();
        let job = Job::start(step, cancel, answered, &self.running, |log| {
            context.log = log;
            async move { stack.call(&context, call).await }
        });
        let handle = self.table.push(job)?;
        self.jobs += 1;
        Ok(Ok(handle))
    }

    /// Moves the guest's clock to the time of an answer: the recorded one, where
    /// there is a journal.
    pub(crate) fn answered(&mut self, answered: &Answered, error: Option<&CallError>) {
        let denied = error.is_some_and(|error| error.kind == windlass_model::ErrorKind::Denied);
        match answered.get() {
            Some(ms) => self.now.set(ms),
            // The guard's word is not recorded, and takes no time.
            None if denied => {}
            None => self.now.set(self.setup.clock.now_ms()),
        }
        self.note_denial(error);
    }

    /// Traps while the guest hears what was recorded: which of a job's events came
    /// when is not.
    pub(crate) fn sees_events(&mut self) -> Trapped<()> {
        if !self.setup.replaying.load(Ordering::Acquire) {
            return Ok(());
        }
        self.unreplayable = true;
        Err(wasmtime::format_err!(
            "the guest looked at the events of a job, which the journal does not have"
        ))
    }

    fn note_denial(&mut self, error: Option<&CallError>) {
        if let Some(error) = error
            && error.kind == windlass_model::ErrorKind::Denied
        {
            self.denied = Some(error.clone());
        }
    }

    /// Joins parts. A part that is a handle is looked up, never read.
    pub(crate) fn text(&mut self, parts: Vec<Part>) -> Trapped<Text> {
        let mut text = Text::default();
        let mut bytes = 0;
        for part in parts {
            let piece = match part {
                Part::Text(plain) => plain.into(),
                Part::Value(handle) => self.table.get(&handle)?.0.clone(),
            };
            bytes += size(&piece);
            if bytes > limits::MAX_TEXT_BYTES {
                let limit = limits::MAX_TEXT_BYTES / 1024;
                return Err(self.reached(format!(
                    "its limit of {limit} KiB for one text; a blob may be larger"
                )));
            }
            text.append(piece);
        }
        self.call_text += bytes;
        if self.call_text > limits::MAX_HELD_BYTES {
            let limit = limits::MAX_HELD_BYTES / (1024 * 1024);
            return Err(self.reached(format!("its limit of {limit} MiB of text in one call")));
        }
        Ok(text)
    }

    pub(crate) fn texts(&mut self, list: Vec<Vec<Part>>) -> Trapped<Vec<Text>> {
        list.into_iter().map(|parts| self.text(parts)).collect()
    }

    /// Counts bytes that a handle keeps on the host's side.
    pub(crate) fn hold(&mut self, bytes: usize) -> Trapped<()> {
        self.held = self.held.saturating_add(bytes);
        // Counted here from now on.
        self.call_text = 0;
        if self.held > limits::MAX_HELD_BYTES {
            let limit = limits::MAX_HELD_BYTES / (1024 * 1024);
            return Err(self.reached(format!("its limit of {limit} MiB in values and requests")));
        }
        Ok(())
    }

    pub(crate) fn let_go(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    pub(crate) fn push_value(&mut self, text: Text) -> Trapped<Resource<ValueEntry>> {
        self.hold(size(&text))?;
        Ok(self.table.push(ValueEntry(text))?)
    }

    /// Lines of the guest's own log, up to the step's budget.
    pub(crate) fn write_log(&mut self, level: Level, message: &str) -> Trapped<()> {
        if message.len() > limits::MAX_LOG_CALL_BYTES {
            let limit = limits::MAX_LOG_CALL_BYTES / 1024;
            return Err(self.reached(format!("its limit of {limit} KiB for one log message")));
        }
        for line in message.lines() {
            self.log_lines += 1;
            self.log_bytes += line.len() as u64;
            if self.log_lines > limits::MAX_LOG_LINES || self.log_bytes > limits::MAX_LOG_BYTES {
                return Err(self.reached(format!(
                    "its log limit of {} lines and {} MiB",
                    limits::MAX_LOG_LINES,
                    limits::MAX_LOG_BYTES / (1024 * 1024)
                )));
            }
            self.setup.sink.log(level, line);
        }
        Ok(())
    }

    /// Ends what the guest left open: its pending call, jobs, containers.
    /// Nothing of them goes on when it returns, unless the far side does not
    /// answer. Runs under its own deadline, also after a cancel, a trap or a
    /// timeout.
    pub(crate) async fn clean_up(&mut self) {
        let deadline = Instant::now() + self.limits.cleanup;
        self.calls.cancel();
        self.running.close();
        let (pending, running) = (self.pending.take(), self.running.clone());
        let calls = async move {
            let mut started = None;
            if let Some(pending) = pending {
                let answer = pending.answer.await;
                if let (Some(engine), Ok(Reply::Id(id))) = (pending.starts, answer) {
                    started = Some((engine, id));
                }
            }
            running.wait().await;
            started
        };
        let calls = tokio::time::timeout_at(deadline, calls);
        let (ended, ()) = tokio::join!(calls, self.remove_containers(deadline));
        match ended {
            Ok(None) => {}
            Ok(Some(container)) => {
                // It came to be while the guest was being stopped.
                self.containers.push(container);
                self.remove_containers(deadline).await;
            }
            Err(_) => self.setup.sink.log(
                Level::Warning,
                &format!(
                    "a call did not end within {} s of its cancel: what it does may go on",
                    self.limits.cleanup.as_secs()
                ),
            ),
        }
    }

    async fn remove_containers(&mut self, deadline: Instant) {
        for (engine, id) in self.containers.clone() {
            if let Err(error) = self.remove_container(engine, id.clone(), 0, deadline).await {
                self.setup.sink.log(
                    Level::Warning,
                    &format!("container {id} could not be removed: {}", error.message),
                );
            }
        }
        self.containers.clear();
    }

    /// Removes a container even when the step is cancelled.
    pub(crate) async fn remove_container(
        &mut self,
        engine: TargetName,
        id: String,
        grace_ms: u32,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let gone = (engine.clone(), id.clone());
        let sink: Arc<dyn LogSink> = Arc::new(Forward(Arc::clone(&self.setup.sink)));
        let mut context = self.context(sink, CancellationToken::new());
        context.deadline = deadline;
        let answered = context.answered.clone();
        let stack = Arc::clone(&self.setup.stack);
        let call = Call::Docker(DockerCall {
            engine,
            op: DockerOp::RemoveContainer { id, grace_ms },
        });
        let answer = tokio::time::timeout_at(deadline, stack.call(&context, call))
            .await
            .unwrap_or_else(|_| {
                Err(CallError::timeout(
                    "docker.remove-timeout",
                    "the engine did not answer in time",
                ))
            });
        self.answered(&answered, None);
        if answer.is_ok() {
            // Only now: a guest that is stopped meanwhile leaves it to the end.
            self.containers.retain(|known| *known != gone);
        }
        answer.map(|_| ())
    }
}

/// What a text takes of the host's memory, roughly.
pub(crate) fn size(text: &Text) -> usize {
    let piece = |segment: &Segment| match segment {
        Segment::Plain(text) => text.len(),
        Segment::Secret { secret: name } | Segment::Unknown { unknown: name } => 64 + name.len(),
    };
    text.segments().iter().map(piece).sum()
}

/// A step's sink as the plain sink that calls want.
struct Forward(Arc<dyn StepSink>);

impl LogSink for Forward {
    fn line(&self, stream: windlass_model::LogStream, line: &str) {
        self.0.line(stream, line);
    }

    fn status(&self, status: &str) {
        self.0.status(status);
    }
}

/// Puts `{"$value": N}` where the configuration has a handle.
fn hide_handles(config: &Json, values: &mut Vec<Text>) -> Json {
    match config {
        Json::Object(table) => {
            let handle = match (table.len(), table.get("$secret"), table.get("$unknown")) {
                (1, Some(Json::String(name)), None) => Some(Text::secret(name.as_str())),
                (1, None, Some(Json::String(what))) => Some(Text::unknown(what.as_str())),
                _ => None,
            };
            match handle {
                Some(text) => {
                    values.push(text);
                    serde_json::json!({ "$value": values.len() - 1 })
                }
                None => Json::Object(
                    table
                        .iter()
                        .map(|(key, value)| (key.clone(), hide_handles(value, values)))
                        .collect(),
                ),
            }
        }
        Json::Array(list) => {
            Json::Array(list.iter().map(|item| hide_handles(item, values)).collect())
        }
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_numbered_and_hidden() {
        let mut values = Vec::new();
        let seen = hide_handles(
            &serde_json::json!({"a": {"$secret": "X"}, "b": ["c", {"$unknown": "steps.d.e"}]}),
            &mut values,
        );
        assert_eq!(
            seen,
            serde_json::json!({"a": {"$value": 0}, "b": ["c", {"$value": 1}]})
        );
        assert_eq!(values[0], Text::secret("X"));
        assert_eq!(values[1], Text::unknown("steps.d.e"));
    }
}
