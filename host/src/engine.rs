//! Runs a graph: preflight, lease, steps, rollback, notifications; every
//! happening an event.
//!
//! The engine's own effects (lease, releases that are marked good or put back)
//! go through the same layers as a guest's, under the step name `@engine`.

mod away;
mod bus;
mod changes;
mod cleanup;
pub(crate) mod lease;
mod notify;
mod policy;
mod preflight;
pub mod preview;
mod recheck;
pub mod resume;
mod rollback;
mod schedule;
mod step;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_journal::Journal;
use windlass_layers::{Journalled, Redact, Redactor, Replayed};
use windlass_manifest::manifest::RollbackMode;
use windlass_manifest::{Graph, Outputs};
use windlass_model::backend::NoLog;
use windlass_model::event::{
    Event, Level, Outcome, RunFinished, RunResumed, RunStarted, Severity, StepNode, StepState,
};
use windlass_model::grant::Grant;
use windlass_model::reply::GitFacts;
use windlass_model::{
    Blobs, Call, CallContext, CallError, CallId, Capability, ErrorKind, Reply, RunId, Secrets,
    StepKey, TargetName,
};
use windlass_report::Reporters;
use windlass_report::text::duration;
use windlass_runtime::{Clock, Facts};

use crate::exit::Exit;
use crate::plugins::PluginSet;
use away::Away;
pub use bus::Bus;
use changes::{Changes, Place};
pub use policy::{nature_of, policy_for, requests_of, uncovered};
pub use resume::Earlier;

/// Everything a run needs; nothing is looked up on the way.
pub struct RunInput {
    pub run: RunId,
    pub started: Timestamp,
    pub graph: Arc<Graph>,
    /// Of the repository; empty outside one.
    pub git: GitFacts,
    pub plugins: PluginSet,
    pub secrets: Arc<Secrets>,
    /// Absent for what only looks.
    pub journal: Option<Journal>,
    /// What answers calls: the live backends, or a script.
    pub backend: Arc<dyn Capability>,
    pub reporters: Reporters,
    /// Of steps that `--only` or `--from` leave out.
    pub reused: Outputs,
    pub operator: Option<Vec<Grant>>,
    pub cancel: CancellationToken,
    /// What guests see as the time.
    pub clock: Arc<dyn Clock>,
    pub who: String,
    pub link: Option<String>,
    /// What was done before, by this run or by one that is retried.
    pub earlier: Option<Earlier>,
}

/// How the run ended, for the process.
#[derive(Clone, Debug)]
pub struct RunResult {
    pub finished: RunFinished,
    pub exit: Exit,
}

struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
    }
}

/// The time of this machine.
pub fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// What every part of a run shares.
struct Context {
    run: RunId,
    graph: Arc<Graph>,
    plugins: PluginSet,
    /// Fenced, waiting, journal, redact, backend.
    stack: Arc<dyn Capability>,
    bus: Bus,
    redactor: Arc<Redactor>,
    blobs: Arc<Blobs>,
    changes: Changes,
    operator: Option<Vec<Grant>>,
    cancel: CancellationToken,
    leases: Arc<lease::Leases>,
    clock: Arc<dyn Clock>,
    facts: Facts,
    who: String,
    /// Of `@engine`'s calls.
    seq: AtomicU64,
    earlier: Earlier,
    /// Whether an earlier process began it.
    resumes: bool,
    journal: Option<Journal>,
    /// Below the journal.
    bare: Arc<dyn Capability>,
}

impl Context {
    /// A call of the engine's own.
    async fn call(
        &self,
        call: Call,
        limit: Duration,
        cancel: CancellationToken,
    ) -> Result<Reply, CallError> {
        let context = CallContext {
            id: CallId {
                run: self.run,
                step: StepKey::engine(),
                attempt: 1,
                seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            },
            deadline: Instant::now() + limit,
            cancel,
            log: Arc::new(NoLog),
            blobs: Arc::clone(&self.blobs),
            answered: Default::default(),
        };
        // Backends keep deadlines by themselves; this one is for those that
        // do not.
        let guarded = tokio::time::timeout(
            limit + Duration::from_secs(5),
            self.stack.call(&context, call),
        );
        guarded.await.unwrap_or_else(|_| {
            Err(CallError::timeout(
                "engine.call-timeout",
                format!("no answer within {}", duration(millis(limit))),
            ))
        })
    }

    /// The layer that goes on with an attempt; nothing without a journal.
    fn replay(&self, record: &resume::Record) -> Option<Arc<Replayed>> {
        Some(Arc::new(Replayed::new(
            record.calls.clone(),
            record.taken.clone(),
            self.journal.clone()?,
            Arc::clone(&self.redactor),
            Arc::clone(&self.stack),
            Arc::new(waiting::Waiting {
                bus: self.bus.clone(),
                next: Arc::clone(&self.bare),
            }),
        )))
    }

    fn notice(&self, level: Level, message: impl Into<String>, hint: Option<String>) {
        self.bus.emit(Event::Notice {
            level,
            message: self.redactor.clean(&message.into()).into_owned(),
            hint,
        });
    }
}

impl Context {
    fn new(input: RunInput) -> (Arc<Self>, Outputs) {
        let mut earlier = input.earlier.unwrap_or_default();
        let resumes = earlier.same.is_some();
        let redactor = Arc::new(Redactor::new(&input.secrets));
        let bus = Bus::start(
            input.run,
            input.journal.clone(),
            input.reporters,
            Arc::clone(&redactor),
            earlier.same.take(),
        );
        let bare: Arc<dyn Capability> = Arc::new(Redact::new(Arc::clone(&redactor), input.backend));
        let stack: Arc<dyn Capability> = match input.journal.clone() {
            Some(journal) => Arc::new(Told {
                bus: bus.clone(),
                next: Journalled::new(journal, Arc::clone(&redactor), Arc::clone(&bare)),
            }),
            None => Arc::clone(&bare),
        };
        let stack = Arc::new(waiting::Waiting {
            bus: bus.clone(),
            next: stack,
        });
        let leases = Arc::<lease::Leases>::default();
        let stack = Arc::new(lease::Fenced {
            leases: Arc::clone(&leases),
            cancel: input.cancel.clone(),
            next: stack,
        });
        let environment = input.graph.environment.as_ref();
        let facts = Facts {
            pipeline: input.graph.pipeline.clone(),
            environment: environment
                .map(|environment| environment.name.clone())
                .unwrap_or_default(),
            tag: input.graph.tag.clone(),
            commit: input.git.commit.clone(),
            branch: input.git.branch.clone().unwrap_or_default(),
            link: input.link.clone(),
            started: input.started.to_string(),
        };
        let context = Self {
            run: input.run,
            graph: input.graph,
            plugins: input.plugins,
            stack,
            bus,
            redactor,
            blobs: Arc::new(Blobs::default()),
            changes: Changes::of(&earlier.releases, &earlier.calls),
            operator: input.operator,
            cancel: input.cancel,
            leases,
            clock: input.clock,
            facts,
            who: input.who,
            seq: AtomicU64::new(earlier.engine_calls()),
            journal: input.journal,
            bare,
            resumes,
            earlier,
        };
        if resumes {
            context.bus.emit(Event::RunResumed(Box::new(RunResumed {
                run: context.run,
                windlass: env!("CARGO_PKG_VERSION").to_owned(),
                who: context.earlier.by.clone(),
                link: context.earlier.link.clone(),
                ended: context.earlier.ended(),
                changed: context.earlier.changed.clone(),
            })));
            for found in &context.earlier.found {
                context.notice(Level::Info, found, None);
            }
        } else {
            context.bus.emit(Event::RunStarted(Box::new(RunStarted {
                run: context.run,
                windlass: env!("CARGO_PKG_VERSION").to_owned(),
                pipeline: context.facts.pipeline.clone(),
                environment: context.facts.environment.clone(),
                tag: context.facts.tag.clone(),
                commit: context.facts.commit.clone(),
                branch: context.facts.branch.clone(),
                dirty: input.git.dirty,
                steps: nodes(&context.graph),
                targets: context.graph.active.clone(),
                link: input.link,
                who: context.who.clone(),
            })));
        }
        if let Some(notice) = &context.earlier.notice {
            context.notice(Level::Info, notice.clone(), None);
        }
        for name in &context.redactor.short {
            context.notice(
                Level::Warning,
                format!("secret {name} is shorter than 8 characters: masking it is unreliable"),
                Some("use a longer one".to_owned()),
            );
        }
        (Arc::new(context), input.reused)
    }

    /// Says how it ended, and ends the reporters.
    async fn finish(
        &self,
        failure: Option<&Failure>,
        restored: &BTreeMap<Place, String>,
        clock: Instant,
        lease: Option<lease::Holding>,
    ) -> RunResult {
        let outcome = outcome_of(failure);
        let exit = match failure {
            None => Exit::Succeeded,
            Some((_, error)) => Exit::for_error(error),
        };
        let finished = RunFinished {
            outcome,
            error: failure.map(|(_, error)| error.clone()),
            failed_step: failure.and_then(|(step, _)| step.clone()),
            releases: self.changes.current(restored),
            duration_ms: millis(clock.elapsed()),
            exit_code: exit.code(),
        };
        self.leases.settle();
        notify::send(self, &finished).await;
        lease::release(self, lease).await;
        self.bus
            .emit(Event::RunFinished(Box::new(finished.clone())));
        let exit = match self.bus.finish().await {
            Some(_) if exit == Exit::Succeeded => Exit::Engine,
            _ => exit,
        };
        RunResult { finished, exit }
    }
}

fn outcome_of(failure: Option<&Failure>) -> Outcome {
    match failure {
        None => Outcome::Succeeded,
        Some((_, error)) if error.kind == ErrorKind::Cancelled => Outcome::Cancelled,
        Some(_) => Outcome::Failed,
    }
}

/// Runs it. Always ends with `RunFinished`, whatever happens on the way.
pub async fn run(input: RunInput) -> RunResult {
    let clock = Instant::now();
    let (context, reused) = Context::new(input);
    let (mut failure, held) = body(&context, &reused).await;
    let mut restored = BTreeMap::new();
    match outcome_of(failure.as_ref()) {
        Outcome::Succeeded => rollback::mark_good(&context).await,
        // Before the lease, nobody may touch what is there; and what needs a person
        // is left as it is.
        _ if !held.began || needs_person(failure.as_ref()) => {}
        outcome => {
            let all = outcome == Outcome::Failed && context.graph.rollback == RollbackMode::Failure;
            let extent = if all {
                rollback::Extent::Changed
            } else {
                rollback::Extent::Torn
            };
            restored = rollback::put_back(&context, failure.as_ref(), extent).await;
        }
    }
    if held.began && !needs_person(failure.as_ref()) {
        failure = cleanup::run(&context, held.ended, failure, &reused, &held.away).await;
    }
    context
        .finish(failure.as_ref(), &restored, clock, held.lease)
        .await
}

/// Puts an earlier release back on every place: `to`, or the good one before
/// the current.
pub async fn restore(
    input: RunInput,
    places: Vec<(TargetName, String)>,
    to: Option<String>,
) -> RunResult {
    let clock = Instant::now();
    let (context, _) = Context::new(input);
    let mut away = Away::default();
    let (failure, lease, restored) = match lease::acquire(&context, &mut away).await {
        Err(error) => (Some((None, error)), None, BTreeMap::new()),
        Ok(lease) => {
            let (failure, restored) = rollback::to_release(&context, places, to).await;
            (failure, lease, restored)
        }
    };
    context
        .finish(failure.as_ref(), &restored, clock, lease)
        .await
}

type Failure = (Option<StepKey>, CallError);

fn needs_person(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|(_, error)| error.code.starts_with(step::RESUME))
}

/// Has what was said so far in the journal before an effect, so that the end of a
/// step is never behind what follows it.
struct Told {
    bus: Bus,
    next: Journalled,
}

#[async_trait]
impl Capability for Told {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if call.class().is_effect() {
            self.bus.flush().await;
        }
        self.next.call(context, call).await
    }
}

#[derive(Default)]
struct Held {
    lease: Option<lease::Holding>,
    /// Whether it came to the steps.
    began: bool,
    ended: schedule::Ended,
    away: Away,
}

/// Preflight, lease, steps. Gives the first failure.
async fn body(context: &Arc<Context>, reused: &Outputs) -> (Option<Failure>, Held) {
    let mut held = Held::default();
    let mut away = match preflight::check(context, reused).await {
        Ok(away) => away,
        Err(failure) => return (Some(failure), held),
    };
    match lease::acquire(context, &mut away).await {
        Ok(holding) => {
            held.lease = holding;
            if let Err(error) = recheck::check(context).await {
                return (Some((None, error)), held);
            }
            held.began = true;
        }
        Err(error) => return (Some((None, error)), held),
    }
    let limit = context.graph.settings.timeout;
    let overrun = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut steps = Box::pin(schedule::run(context, reused, &away));
    let overrun = tokio::select! {
        ended = &mut steps => {
            held.ended = ended;
            None
        }
        () = overrun => {
            context.cancel.cancel();
            held.ended = steps.as_mut().await;
            let limit = duration(millis(limit.unwrap_or_default()));
            Some((None, CallError::timeout(
                "run.timeout",
                format!("the run did not end within its {limit}"),
            ).hint("raise `timeout` under [run]")))
        }
    };
    drop(steps);
    held.away = away;
    let failure = overrun.or_else(|| held.ended.failure.clone());
    let lost = context.leases.lost();
    (lost.map(|error| (None, error)).or(failure), held)
}

/// The steps as reporters need them.
pub fn nodes(graph: &Graph) -> Vec<StepNode> {
    graph
        .steps
        .iter()
        .map(|step| StepNode {
            name: step.name.clone(),
            uses: step.uses.clone(),
            needs: step.needs.clone(),
            targets: step.targets.clone(),
        })
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether what needs a step may run after it ended like this.
fn satisfied(state: StepState) -> bool {
    matches!(
        state,
        StepState::Succeeded | StepState::Tolerated | StepState::Reused
    )
}

fn is_problem(severity: Severity) -> bool {
    severity == Severity::Problem
}

/// Where releases of the active targets are, from what steps ask for.
pub fn release_directories(
    graph: &Graph,
    plugins: &PluginSet,
) -> Vec<(StepKey, TargetName, String)> {
    let mut found = Vec::new();
    for step in graph.instances() {
        for grant in
            requests_of(graph, plugins, &step, &Outputs::default(), true).unwrap_or_default()
        {
            if grant.grant.verb != "releases.deploy" || !grant.grant.pattern.is_literal() {
                continue;
            }
            let text = grant.grant.pattern.to_subject();
            if let Some((target, dir)) = text.split_once(':') {
                let place = (step.clone(), TargetName::new(target), dir.to_owned());
                if !found.contains(&place) {
                    found.push(place);
                }
            }
        }
    }
    found
}
