//! Starts each instance when all that it needs has ended, a bounded number at
//! once.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use windlass_manifest::Outputs;
use windlass_model::event::{Event, StepState};
use windlass_model::{CallError, StepKey};

use super::away::Away;
use super::step::{Done, execute};
use super::{Context, Failure, millis, satisfied};

/// How the steps ended.
#[derive(Default)]
pub(super) struct Ended {
    pub(super) states: BTreeMap<StepKey, StepState>,
    pub(super) outputs: Arc<Outputs>,
    /// The first one.
    pub(super) failure: Option<Failure>,
}

/// Runs all instances but those that clean up, and none on a target that is away.
pub(super) async fn run(context: &Arc<Context>, reused: &Outputs, away: &Away) -> Ended {
    go(context, false, Ended::default(), reused, away).await
}

/// Runs those that clean up; `ended` is how the others did.
pub(super) async fn run_cleanup(
    context: &Arc<Context>,
    ended: Ended,
    reused: &Outputs,
    away: &Away,
) -> Ended {
    go(context, true, ended, reused, away).await
}

async fn go(
    context: &Arc<Context>,
    cleanup: bool,
    mut ended: Ended,
    reused: &Outputs,
    away: &Away,
) -> Ended {
    let mut waiting = Waiting::new(context, cleanup, &ended.states);
    let mut running = JoinSet::new();
    let limit = context.graph.settings.max_parallel.max(1);
    loop {
        while running.len() < limit
            && let Some(index) = waiting.next()
        {
            let instance = &waiting.instances[index];
            let step = instance.step.clone();
            let done = if let Some(done) = context.earlier.ended.get(&step) {
                // A run that is resumed told of it before.
                Some((done.clone(), (!context.resumes).then_some(0)))
            } else {
                let done = without_running(context, instance, &ended.states, reused, away);
                done.map(|done| (done, Some(0)))
            };
            match done {
                Some((done, duration)) => {
                    let satisfied = ended.take(context, &step, done, duration);
                    waiting.ended(index, satisfied);
                }
                None => {
                    let outputs = Arc::clone(&ended.outputs);
                    let mut work = Box::pin(timed(Arc::clone(context), index, step, outputs));
                    // What waits for nothing ends here, without a task of its own. A guest
                    // that computes gives way when the epoch moves.
                    match poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
                        Poll::Ready(end) => ended.add(context, &mut waiting, end),
                        Poll::Pending => drop(running.spawn(work)),
                    }
                }
            }
        }
        match running.join_next().await {
            Some(Ok(end)) => ended.add(context, &mut waiting, end),
            Some(Err(_)) => {}
            None => return ended,
        }
    }
}

/// Runs one instance. Says which it was, how it ended, and after how many
/// milliseconds.
async fn timed(
    context: Arc<Context>,
    index: usize,
    step: StepKey,
    outputs: Arc<Outputs>,
) -> (usize, Done, u64) {
    let clock = Instant::now();
    // A panic is this step's, not the run's.
    let work = AssertUnwindSafe(execute(&context, &step, &outputs));
    let done = work.catch_unwind().await.unwrap_or_else(|panic| {
        let error = CallError::internal(
            "engine.panicked",
            format!("the engine panicked in step {step}: {}", said(&*panic)),
        );
        Done::failed(error.hint("this is a bug of Windlass: please report it"))
    });
    (index, done, millis(clock.elapsed()))
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// One run of a step, on one target or on none.
struct Instance {
    step: StepKey,
    selected: bool,
    dependencies: Vec<StepKey>,
}

/// The instances that are left, and what keeps each from its turn. Counted, so that the
/// end of one costs as much as others wait for it, however many there are.
struct Waiting {
    instances: Vec<Instance>,
    /// Of each instance, how many of its dependencies have not ended.
    open: Vec<usize>,
    /// Of each instance, those that depend on it.
    dependents: Vec<Vec<usize>>,
    /// Those whose turn it is, in the manifest's order.
    ready: BTreeSet<usize>,
    /// Those that had their turn.
    had: Vec<bool>,
}

impl Waiting {
    fn new(context: &Context, cleanup: bool, ended: &BTreeMap<StepKey, StepState>) -> Self {
        let graph = &context.graph;
        let nodes = graph.steps.iter().filter(|node| node.cleanup == cleanup);
        let steps =
            nodes.flat_map(|node| node.instances().into_iter().map(move |step| (node, step)));
        let instances: Vec<Instance> = steps
            .map(|(node, step)| Instance {
                dependencies: graph.dependencies(&step),
                selected: node.selected,
                step,
            })
            .collect();
        let places: BTreeMap<&StepKey, usize> = instances
            .iter()
            .enumerate()
            .map(|(index, instance)| (&instance.step, index))
            .collect();
        let mut open = vec![0; instances.len()];
        let mut dependents = vec![Vec::new(); instances.len()];
        let mut ready = BTreeSet::new();
        for (index, instance) in instances.iter().enumerate() {
            for dependency in &instance.dependencies {
                if !ended.contains_key(dependency) {
                    open[index] += 1;
                    if let Some(&place) = places.get(dependency) {
                        dependents[place].push(index);
                    }
                }
            }
            // What is left out waits for nothing. What ended earlier waits as others do: what
            // needs it may need those before it, too.
            if open[index] == 0 || !instance.selected {
                ready.insert(index);
            }
        }
        Self {
            had: vec![false; instances.len()],
            instances,
            open,
            dependents,
            ready,
        }
    }

    /// The next one whose turn it is.
    fn next(&mut self) -> Option<usize> {
        let index = self.ready.pop_first()?;
        self.had[index] = true;
        Some(index)
    }

    /// An instance has ended. One that is not `satisfied` gives those that depend on it
    /// their turn at once: they are skipped.
    fn ended(&mut self, index: usize, satisfied: bool) {
        for &dependent in &self.dependents[index] {
            self.open[dependent] -= 1;
            if (self.open[dependent] == 0 || !satisfied) && !self.had[dependent] {
                self.ready.insert(dependent);
            }
        }
    }
}

/// How an instance ends whose turn it is and that is not run. `None`: it is run.
fn without_running(
    context: &Context,
    instance: &Instance,
    ended: &BTreeMap<StepKey, StepState>,
    reused: &Outputs,
    away: &Away,
) -> Option<Done> {
    let step = &instance.step;
    if !instance.selected {
        return Some(Done {
            state: StepState::Reused,
            outputs: reused.get(step).cloned().unwrap_or_default(),
            error: None,
            reason: Some("left out by --only or --from".to_owned()),
        });
    }
    if context.cancel.is_cancelled() {
        return Some(Done {
            state: StepState::Cancelled,
            outputs: Default::default(),
            error: None,
            reason: Some("the run was cancelled before it started".to_owned()),
        });
    }
    for dependency in &instance.dependencies {
        let how = match ended.get(dependency) {
            Some(state) if !satisfied(*state) => match state {
                StepState::Skipped => "was skipped",
                StepState::Cancelled => "was cancelled",
                _ => "failed",
            },
            _ => continue,
        };
        return Some(Done::skipped(format!("{dependency} {how}")));
    }
    let target = step.target.as_ref();
    let error = target.and_then(|target| away.why(target))?;
    Some(Done::failed(error.clone()))
}

impl Ended {
    /// Takes how an instance ended that was run.
    fn add(
        &mut self,
        context: &Context,
        waiting: &mut Waiting,
        (index, done, duration_ms): (usize, Done, u64),
    ) {
        let step = waiting.instances[index].step.clone();
        let satisfied = self.take(context, &step, done, Some(duration_ms));
        waiting.ended(index, satisfied);
    }

    /// Takes how an instance ended, and tells it, with the time that it took; absent for
    /// what was told before. Says whether those that depend on it may run.
    fn take(
        &mut self,
        context: &Context,
        step: &StepKey,
        mut done: Done,
        duration_ms: Option<u64>,
    ) -> bool {
        let node = context.graph.step(step.name.as_str());
        if done.state == StepState::Failed && node.is_some_and(|node| node.continue_on_error) {
            done.state = StepState::Tolerated;
        }
        if matches!(done.state, StepState::Failed | StepState::Cancelled) && self.failure.is_none()
        {
            let error = done.error.clone().unwrap_or_else(CallError::cancelled);
            self.failure = Some((Some(step.clone()), error));
        }
        let satisfied = satisfied(done.state);
        if satisfied {
            // Shared with the steps that run: copied only when one of them runs meanwhile.
            Arc::make_mut(&mut self.outputs).insert(step, done.outputs.clone());
        }
        self.states.insert(step.clone(), done.state);
        if let Some(duration_ms) = duration_ms {
            context.bus.emit(Event::StepFinished {
                step: step.clone(),
                state: done.state,
                duration_ms,
                outputs: done.outputs,
                error: done.error,
                reason: done.reason,
            });
        }
        satisfied
    }
}
