//! One step more: two runs that differ by many steps, and the guest alone in this
//! process. Steps that change nothing are synced to disk with the end of their run, so
//! the difference holds no sync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_model::backend::LogStream;
use windlass_model::event::Level;
use windlass_model::{Call, CallContext, CallError, Capability, LogSink, Reply, RunId, StepKey};
use windlass_runtime::{Clock, Facts, Plugin, Runtime, RuntimeOptions, Setup, StepSink};
use windlass_tests::Workspace;

use crate::noop::Container;
use crate::sample::{Sample, Way, in_turns, time, timed};
use crate::table::Table;
use crate::{Context, Result, guests, project};

/// So many that what a longer run costs once does not count.
const MORE: u32 = 800;

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let (one, many) = (Workspace::empty()?, Workspace::empty()?);
    project::add(context, &one, "noop", &project::chain(1))?;
    project::add(context, &many, "noop", &project::chain(1 + MORE as usize))?;
    let container = Container::start()?;
    let inside = Inside::new()?;
    let ways: [Way<'_>; 4] = [
        Box::new(|| timed(&mut project::windlass(context, &one, &["run", "--quiet"]))),
        Box::new(|| timed(&mut project::windlass(context, &many, &["run", "--quiet"]))),
        Box::new(|| inside.run(MORE)),
        Box::new(|| timed(&mut container.exec())),
    ];
    let [one, many, inside, exec] = in_turns(context.rounds(31), ways)?;
    let more = many.median().saturating_sub(one.median()) / MORE;
    table.row(
        "one more no-op step, in a run (of 801 instead of 1)",
        time(more),
        "`docker exec`",
        exec.text(),
        more.as_secs_f64() / exec.seconds(),
        "100 µs",
    );
    let inside = Sample::new(vec![inside.median() / MORE]);
    table.row(
        "instantiate and call a no-op guest, in process",
        time(inside.median()),
        "`docker exec`",
        exec.text(),
        inside.seconds() / exec.seconds(),
        "100 µs",
    );
    Ok(())
}

/// The guest without engine, journal and reporters.
struct Inside {
    tokio: tokio::runtime::Runtime,
    plugin: Plugin,
}

impl Inside {
    fn new() -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let bytes = std::fs::read(guests::component("noop")?)?;
        let runtime = Runtime::new(RuntimeOptions::default())?;
        let plugin = tokio.block_on(runtime.load("noop", &bytes))?;
        Ok(Self { tokio, plugin })
    }

    fn run(&self, times: u32) -> Result<Duration> {
        self.tokio.block_on(async {
            let begun = Instant::now();
            for _ in 0..times {
                self.plugin.run(setup()).await.result?;
            }
            Ok(begun.elapsed())
        })
    }
}

fn setup() -> Setup {
    Setup {
        run: RunId(Default::default()),
        step: StepKey::new("noop", None),
        attempt: 1,
        stack: Arc::new(Nothing),
        sink: Arc::new(Nothing),
        clock: Arc::new(Nothing),
        blobs: Arc::default(),
        deadline: tokio::time::Instant::now() + Duration::from_secs(60),
        cancel: Default::default(),
        config: serde_json::json!({}),
        facts: Facts::default(),
        who: String::new(),
        report: None,
        seed: 1,
        began_ms: None,
        replaying: Default::default(),
    }
}

/// No guest of this benchmark calls anything.
struct Nothing;

#[async_trait::async_trait]
impl Capability for Nothing {
    async fn call(
        &self,
        _context: &CallContext,
        call: Call,
    ) -> std::result::Result<Reply, CallError> {
        Err(CallError::internal(
            "bench.call",
            format!("a no-op called {}", call.name()),
        ))
    }
}

impl LogSink for Nothing {
    fn line(&self, _stream: LogStream, _line: &str) {}
    fn status(&self, _status: &str) {}
}

impl StepSink for Nothing {
    fn log(&self, _level: Level, _text: &str) {}
    fn progress(&self, _message: &str, _done: u64, _total: u64) {}
}

impl Clock for Nothing {
    fn now_ms(&self) -> u64 {
        0
    }
}
