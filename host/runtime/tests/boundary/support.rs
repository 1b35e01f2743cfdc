//! One run of one guest, with everything it is given in the test's hands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_layers::Redactor;
use windlass_model::event::Level;
use windlass_model::{
    Call, CallContext, CallError, Capability, LogSink, LogStream, Reply, RunId, StepKey,
};
use windlass_runtime::{
    Clock, Facts, Finished, Limits, Plugin, Runtime, RuntimeOptions, Setup, StepSink,
};
use windlass_tests::{guests, tools};

/// Nothing in these tests takes as long: who waits for it waits for ever.
pub(crate) const FOREVER: Duration = Duration::from_secs(60);

/// Limits that are quickly reached.
pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: 64 * 1024 * 1024,
        compute: Duration::from_millis(1_500),
        calls: 1_000,
        describe: Duration::from_millis(300),
        cancel_grace: Duration::from_millis(300),
        cleanup: Duration::from_millis(1_500),
    }
}

/// A runtime that keeps compiled code where every test finds it.
pub(crate) fn runtime(limits: Limits) -> Runtime {
    Runtime::new(RuntimeOptions {
        cache: Some(tools::cache_dir().join("boundary")),
        limits,
        ..RuntimeOptions::default()
    })
    .expect("a runtime")
}

/// `guest` with [`limits`].
pub(crate) async fn guest() -> Plugin {
    guest_with(limits()).await
}

pub(crate) async fn guest_with(limits: Limits) -> Plugin {
    let bytes = guests::guest("guest").expect("the guest");
    let loaded = runtime(limits).load("guest", &bytes).await;
    loaded.expect("the guest loads")
}

/// What a step said.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    log: Mutex<Vec<(Level, String)>>,
    progress: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn log(&self) -> Vec<(Level, String)> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn progress(&self) -> Vec<String> {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.log().iter().any(|(_, line)| line.contains(text))
    }
}

impl LogSink for Seen {
    fn line(&self, _stream: LogStream, line: &str) {
        StepSink::log(self, Level::Info, line);
    }

    fn status(&self, status: &str) {
        StepSink::progress(self, status, 0, 0);
    }
}

impl StepSink for Seen {
    fn log(&self, level: Level, text: &str) {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((level, text.to_owned()));
    }

    fn progress(&self, message: &str, _done: u64, _total: u64) {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message.to_owned());
    }
}

/// A clock that moves by a second whenever somebody looks.
#[derive(Debug)]
pub(crate) struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// 2026-01-24T01:46:58Z
pub(crate) const START_MS: u64 = 1_769_219_218_000;

/// A setup, and what the step will have said.
pub(crate) fn setup(config: Json, stack: Arc<dyn Capability>) -> (Setup, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let setup = Setup {
        run: RunId(uuid::Uuid::nil()),
        step: StepKey::new("build", None),
        attempt: 1,
        stack,
        sink: Arc::clone(&seen) as Arc<dyn StepSink>,
        clock: Arc::new(Ticking(AtomicU64::new(START_MS))),
        blobs: Arc::default(),
        deadline: Instant::now() + FOREVER,
        cancel: CancellationToken::new(),
        config,
        facts: Facts::default(),
        who: String::new(),
        report: None,
        seed: 7,
        began_ms: None,
        replaying: Default::default(),
    };
    (setup, seen)
}

/// Runs the guest in a mode, with nothing to call.
pub(crate) async fn run(mode: &str) -> (Finished, Arc<Seen>) {
    run_with(json!({ "mode": mode }), script([])).await
}

pub(crate) async fn run_with(config: Json, stack: Arc<dyn Capability>) -> (Finished, Arc<Seen>) {
    let (setup, seen) = setup(config, stack);
    (in_time(guest().await.run(setup)).await, seen)
}

/// Fails the test instead of waiting for ever.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOREVER, work)
        .await
        .expect("it has to come back")
}

pub(crate) fn failure(finished: &Finished) -> &CallError {
    finished.result.as_ref().expect_err("it has to fail")
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Reply(Reply),
    Error(CallError),
    /// When the call is cancelled, or its deadline passes.
    Hang,
}

/// Answers calls by their name, and keeps what was called. A sleep is over at
/// once, and a container goes when it is told to.
#[derive(Debug)]
pub(crate) struct Script {
    answers: Vec<(&'static str, Answer)>,
    called: Mutex<Vec<String>>,
}

pub(crate) fn script<const N: usize>(answers: [(&'static str, Answer); N]) -> Arc<Script> {
    Arc::new(Script {
        answers: answers.into(),
        called: Mutex::default(),
    })
}

impl Script {
    /// How often the call was made.
    pub(crate) fn count(&self, name: &str) -> usize {
        let called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        called.iter().filter(|called| *called == name).count()
    }
}

#[async_trait]
impl Capability for Script {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let name = call.name();
        self.called
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.clone());
        match self.answers.iter().find(|(known, _)| *known == name) {
            Some((_, Answer::Reply(reply))) => Ok(reply.clone()),
            Some((_, Answer::Error(error))) => Err(error.clone()),
            Some((_, Answer::Hang)) => tokio::select! {
                () = context.cancel.cancelled() => Err(CallError::cancelled()),
                () = tokio::time::sleep_until(context.deadline) => {
                    Err(CallError::timeout("script.hang", format!("{name} did not answer")))
                }
            },
            None if ["clock.sleep", "docker.remove-container"].contains(&name.as_str()) => {
                Ok(Reply::Done)
            }
            None => Err(CallError::internal(
                "script.unexpected",
                format!("{name} was called"),
            )),
        }
    }
}

/// A configuration that runs a command on the target `prod`.
pub(crate) fn exec(mode: &str) -> Json {
    json!({ "mode": mode, "machine": "prod", "argv": ["true"] })
}

/// What happened, in the order in which it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happened(Arc<Mutex<Vec<String>>>);

impl Happened {
    pub(crate) fn note(&self, what: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what.to_owned());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A far side that notes when a call begins, when it is cancelled, and when it
/// ends: `linger` after the cancel. It has no notion of a deadline.
pub(crate) struct FarSide {
    pub(crate) order: Happened,
    pub(crate) linger: Duration,
    /// What it answers in the end.
    pub(crate) answer: Result<Reply, CallError>,
}

impl FarSide {
    pub(crate) fn new(order: &Happened, linger: Duration) -> Arc<Self> {
        Arc::new(Self {
            order: order.clone(),
            linger,
            answer: Err(CallError::cancelled()),
        })
    }
}

#[async_trait]
impl Capability for FarSide {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let name = call.name();
        self.order.note(&format!("{name} begins"));
        if name == "docker.remove-container" {
            return Ok(Reply::Done);
        }
        context.cancel.cancelled().await;
        self.order.note(&format!("{name} is cancelled"));
        tokio::time::sleep(self.linger).await;
        self.order.note(&format!("{name} ends"));
        self.answer.clone()
    }
}

/// Every secret of these tests.
pub(crate) fn redactor() -> Redactor {
    let mut secrets = windlass_model::Secrets::default();
    secrets.insert("TOKEN", SECRET.to_owned().into());
    Redactor::new(&secrets)
}

pub(crate) const SECRET: &str = "s3cr3t-t0k3n/+with=signs";
