//! One instance of a step, with its attempts.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::Value as Json;
use tokio::time::Instant;
use windlass_layers::Guard;
use windlass_manifest::Outputs;
use windlass_model::event::{Event, StepState};
use windlass_model::{CallError, Capability, ErrorKind, StepKey};
use windlass_runtime::Setup;

use super::policy::complete;
use super::resume::Going;
use super::{Context, policy_for};

/// How an instance ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Done {
    pub(super) state: StepState,
    pub(super) outputs: IndexMap<String, Json>,
    pub(super) error: Option<CallError>,
    pub(super) reason: Option<String>,
}

impl Done {
    pub(super) fn failed(error: CallError) -> Self {
        Self {
            state: if error.kind == ErrorKind::Cancelled {
                StepState::Cancelled
            } else {
                StepState::Failed
            },
            outputs: IndexMap::new(),
            error: Some(error),
            reason: None,
        }
    }

    pub(super) fn reused(outputs: IndexMap<String, Json>, reason: &str) -> Self {
        Self {
            state: StepState::Reused,
            outputs,
            error: None,
            reason: Some(reason.to_owned()),
        }
    }

    pub(super) fn skipped(reason: impl Into<String>) -> Self {
        Self {
            state: StepState::Skipped,
            outputs: IndexMap::new(),
            error: None,
            reason: Some(reason.into()),
        }
    }
}

/// What a guest is given for one attempt.
pub(super) fn setup(
    context: &Context,
    step: &StepKey,
    attempt: u32,
    stack: Arc<dyn Capability>,
    config: Json,
    deadline: Instant,
    report: Option<String>,
) -> Setup {
    Setup {
        run: context.run,
        step: step.clone(),
        attempt,
        stack,
        sink: context.bus.sink(step.clone()),
        clock: Arc::clone(&context.clock),
        blobs: Arc::clone(&context.blobs),
        deadline,
        cancel: context.cancel.child_token(),
        config,
        facts: context.facts.clone(),
        who: context.who.clone(),
        report,
        seed: seed(context, step, attempt),
        began_ms: None,
        replaying: Arc::default(),
    }
}

/// The same for the same attempt of the same run, so that a replay sees what
/// the run saw.
fn seed(context: &Context, step: &StepKey, attempt: u32) -> u64 {
    use sha2::Digest as _;
    let text = format!("{}/{step}/{attempt}", context.run);
    let digest = sha2::Sha256::digest(text.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}

/// Runs it, attempts and all.
pub(super) async fn execute(context: &Arc<Context>, step: &StepKey, outputs: &Outputs) -> Done {
    match attempt_all(context, step, outputs).await {
        Ok(done) => done,
        Err(error) => Done::failed(error),
    }
}

async fn attempt_all(
    context: &Arc<Context>,
    step: &StepKey,
    outputs: &Outputs,
) -> Result<Done, CallError> {
    let missing = || CallError::internal("engine.step", format!("step {step} is not in the graph"));
    let node = context.graph.step(step.name.as_str()).ok_or_else(missing)?;
    let loaded = context.plugins.get(&node.uses).ok_or_else(missing)?;
    let scope = context.graph.scope(step, outputs);
    if node.when(&scope).map_err(CallError::from)? == Some(false) {
        return Ok(Done::skipped("its `when` is false"));
    }
    let resolved = complete(&context.graph, loaded, node.config(&scope))?;
    let policy = policy_for(
        &context.graph,
        format!("step.{}", step.name),
        loaded,
        &resolved,
        step.target.as_ref().map(|target| target.as_str()),
        &node.grants,
        context.operator.clone(),
    )?;
    let deadline = Instant::now() + node.timeout;
    let mut delay = node.retry.delay;
    let first = context.earlier.attempt(step);
    let mut record = match context.earlier.going.get(step) {
        Some(Going::Replay(record)) => Some(record),
        _ => None,
    };
    let mut attempt = first;
    loop {
        let record = record.take();
        let began_ms = context.clock.now_ms();
        let began = Timestamp::from_millisecond(i64::try_from(began_ms).unwrap_or_default());
        let started = Event::StepStarted {
            step: step.clone(),
            attempt,
        };
        context.bus.emit_at(started, began.unwrap_or_default());
        let replay = record.and_then(|record| context.replay(record));
        let stack = match &replay {
            Some(replay) => Arc::clone(replay) as Arc<dyn Capability>,
            None => Arc::clone(&context.stack),
        };
        let watch = context.changes.watch(stack);
        let guard = Arc::new(Guard::new(
            policy.clone(),
            Arc::clone(&watch) as Arc<dyn Capability>,
        ));
        let mut setup = setup(
            context,
            step,
            attempt,
            guard,
            resolved.value.clone(),
            deadline,
            None,
        );
        setup.began_ms = Some(match record {
            Some(record) => u64::try_from(record.began.as_millisecond()).unwrap_or_default(),
            None => began_ms,
        });
        if let Some(replay) = &replay {
            setup.replaying = replay.replaying();
        }
        let finished = loaded.plugin.run(setup).await;
        // Whatever the guest made of it.
        if let Some(error) = replay.as_ref().and_then(|replay| replay.stopped()) {
            return Err(context.redactor.clean_error(error));
        }
        let error = match finished.result {
            Ok(()) => {
                let outputs = finished
                    .outputs
                    .into_iter()
                    .map(|(name, value)| (name, context.redactor.clean_json(value)))
                    .collect();
                return Ok(Done {
                    state: StepState::Succeeded,
                    outputs,
                    error: None,
                    reason: None,
                });
            }
            Err(error) => context.redactor.clean_error(error),
        };
        // A guest may answer a cancel with an error of its own.
        if context.cancel.is_cancelled() {
            return Err(CallError::cancelled());
        }
        let error = match finished.denied {
            // What a guest makes of a denial must not hide it.
            Some(denied) if error.kind != ErrorKind::Denied => context
                .redactor
                .clean_error(denied)
                .hint_if_none(error.message),
            _ => error,
        };
        let stop = attempt - first + 1 >= node.retry.attempts
            || error.code.starts_with(RESUME)
            || matches!(error.kind, ErrorKind::Denied | ErrorKind::Cancelled)
            || Instant::now() + delay >= deadline;
        if stop || watch.unresolved_once() {
            return Err(error);
        }
        context.bus.emit(Event::StepRetried {
            step: step.clone(),
            attempt,
            error,
            delay_ms: super::millis(delay),
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = context.cancel.cancelled() => return Err(CallError::cancelled()),
        }
        attempt += 1;
        delay = Duration::from_secs_f64(
            (delay.as_secs_f64() * node.retry.backoff).min(node.timeout.as_secs_f64()),
        );
    }
}

/// What codes of a resume that needs a person begin with.
pub(super) const RESUME: &str = "resume.";

trait HintIfNone {
    fn hint_if_none(self, hint: String) -> Self;
}

impl HintIfNone for CallError {
    fn hint_if_none(mut self, hint: String) -> Self {
        self.hint.get_or_insert(hint);
        self
    }
}
