//! Starts each instance when all that it needs has ended, a bounded number at
//! once.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use windlass_manifest::{Graph, Outputs};
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
    let all = instances(&context.graph, false);
    go(context, all, Ended::default(), reused, away).await
}

/// Runs those that clean up; `ended` is how the others did.
pub(super) async fn run_cleanup(
    context: &Arc<Context>,
    ended: Ended,
    reused: &Outputs,
    away: &Away,
) -> Ended {
    let all = instances(&context.graph, true);
    go(context, all, ended, reused, away).await
}

async fn go(
    context: &Arc<Context>,
    mut waiting: Vec<Waiting>,
    before: Ended,
    reused: &Outputs,
    away: &Away,
) -> Ended {
    // Shared with the steps that run: copied only when one of them ends meanwhile.
    let Ended {
        states: mut ended,
        mut outputs,
        mut failure,
    } = before;
    let mut running = JoinSet::new();
    let limit = context.graph.settings.max_parallel.max(1);

    loop {
        let mut blocked = Vec::new();
        let mut progressed = false;
        for waits in std::mem::take(&mut waiting) {
            if let Some(done) = context.earlier.ended.get(&waits.step) {
                progressed = true;
                let told = context.resumes;
                let done = done.clone();
                let outputs = Arc::make_mut(&mut outputs);
                let duration = (!told).then_some(0);
                let step = &waits.step;
                finish(
                    context,
                    step,
                    done,
                    duration,
                    &mut ended,
                    outputs,
                    &mut failure,
                );
                continue;
            }
            match next(context, &waits, &ended, reused, away) {
                Next::Wait => blocked.push(waits),
                Next::End(done) => {
                    progressed = true;
                    finish(
                        context,
                        &waits.step,
                        done,
                        Some(0),
                        &mut ended,
                        Arc::make_mut(&mut outputs),
                        &mut failure,
                    );
                }
                Next::Start if running.len() >= limit => blocked.push(waits),
                Next::Start => {
                    let context = Arc::clone(context);
                    let outputs = Arc::clone(&outputs);
                    let step = waits.step;
                    running.spawn(async move {
                        let clock = Instant::now();
                        // A panic is this step's, not the run's.
                        let work = AssertUnwindSafe(execute(&context, &step, &outputs));
                        let done = work.catch_unwind().await.unwrap_or_else(|panic| Done {
                            state: StepState::Failed,
                            outputs: Default::default(),
                            error: Some(
                                CallError::internal(
                                    "engine.panicked",
                                    format!(
                                        "the engine panicked in step {step}: {}",
                                        said(&*panic)
                                    ),
                                )
                                .hint("this is a bug of Windlass: please report it"),
                            ),
                            reason: None,
                        });
                        (step, done, millis(clock.elapsed()))
                    });
                }
            }
        }
        waiting = blocked;
        if progressed {
            continue;
        }
        match running.join_next().await {
            Some(Ok((step, done, duration))) => finish(
                context,
                &step,
                done,
                Some(duration),
                &mut ended,
                Arc::make_mut(&mut outputs),
                &mut failure,
            ),
            Some(Err(_)) => {}
            None => break,
        }
    }
    Ended {
        states: ended,
        outputs,
        failure,
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// An instance that was not started yet. It is looked at each time that another one
/// ends, so what does not change is looked up once.
struct Waiting {
    step: StepKey,
    selected: bool,
    dependencies: Vec<StepKey>,
}

fn instances(graph: &Graph, cleanup: bool) -> Vec<Waiting> {
    let nodes = graph.steps.iter().filter(|node| node.cleanup == cleanup);
    let pairs = nodes.flat_map(|node| node.instances().into_iter().map(move |step| (node, step)));
    pairs
        .map(|(node, step)| Waiting {
            dependencies: graph.dependencies(&step),
            selected: node.selected,
            step,
        })
        .collect()
}

enum Next {
    Wait,
    Start,
    End(Done),
}

fn next(
    context: &Context,
    waits: &Waiting,
    ended: &BTreeMap<StepKey, StepState>,
    reused: &Outputs,
    away: &Away,
) -> Next {
    let step = &waits.step;
    if !waits.selected {
        return Next::End(Done {
            state: StepState::Reused,
            outputs: reused.get(step).cloned().unwrap_or_default(),
            error: None,
            reason: Some("left out by --only or --from".to_owned()),
        });
    }
    if context.cancel.is_cancelled() {
        return Next::End(Done {
            state: StepState::Cancelled,
            outputs: Default::default(),
            error: None,
            reason: Some("the run was cancelled before it started".to_owned()),
        });
    }
    for dependency in &waits.dependencies {
        match ended.get(dependency) {
            None => return Next::Wait,
            Some(state) if satisfied(*state) => {}
            Some(state) => {
                let how = match state {
                    StepState::Skipped => "was skipped",
                    StepState::Cancelled => "was cancelled",
                    _ => "failed",
                };
                return Next::End(Done::skipped(format!("{dependency} {how}")));
            }
        }
    }
    let target = step.target.as_ref();
    match target.and_then(|target| away.why(target)) {
        Some(error) => Next::End(Done::failed(error.clone())),
        None => Next::Start,
    }
}

fn finish(
    context: &Context,
    step: &StepKey,
    mut done: Done,
    // Absent for what was told before.
    duration_ms: Option<u64>,
    ended: &mut BTreeMap<StepKey, StepState>,
    outputs: &mut Outputs,
    failure: &mut Option<Failure>,
) {
    let tolerated = context
        .graph
        .step(step.name.as_str())
        .is_some_and(|node| node.continue_on_error);
    if done.state == StepState::Failed && tolerated {
        done.state = StepState::Tolerated;
    }
    if matches!(done.state, StepState::Failed | StepState::Cancelled) && failure.is_none() {
        let error = done.error.clone().unwrap_or_else(CallError::cancelled);
        *failure = Some((Some(step.clone()), error));
    }
    if satisfied(done.state) {
        outputs.insert(step, done.outputs.clone());
    }
    ended.insert(step.clone(), done.state);
    let Some(duration_ms) = duration_ms else {
        return;
    };
    context.bus.emit(Event::StepFinished {
        step: step.clone(),
        state: done.state,
        duration_ms,
        outputs: done.outputs,
        error: done.error,
        reason: done.reason,
    });
}
