//! What can be found out before the first effect: all steps at once, reads
//! only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::Instant;
use windlass_layers::Guard;
use windlass_manifest::Outputs;
use windlass_model::event::{Event, Level};
use windlass_model::{Call, CallContext, CallError, Capability, ErrorKind, Reply, StepKey};
use windlass_runtime::Finding;

use super::away::Away;
use super::policy::complete;
use super::step::setup;
use super::{Context, Failure, is_problem, policy_for};

/// A preflight that takes longer is a problem of its own.
const LIMIT: Duration = Duration::from_secs(60);

/// Lets reads through and nothing else.
pub(super) struct ReadsOnly(pub(super) Arc<dyn Capability>);

#[async_trait]
impl Capability for ReadsOnly {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if call.class().is_effect() {
            return Err(CallError::denied(
                "preflight.effect",
                format!("preflight called {}, which changes something", call.name()),
            )
            .hint("this is a bug of the plugin: preflight only reads"));
        }
        self.0.call(context, call).await
    }
}

/// Asks every selected step that has a preflight. The first problem, in the
/// order of the graph, is the failure; all are shown. Gives the targets that
/// cannot be reached while others can.
pub(super) async fn check(context: &Arc<Context>, reused: &Outputs) -> Result<Away, Failure> {
    let mut asked = JoinSet::new();
    for (order, step) in context.graph.instances().into_iter().enumerate() {
        let context = Arc::clone(context);
        let reused = reused.clone();
        asked.spawn(async move {
            let answer = ask(&context, &step, &reused).await;
            (order, step, answer)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(order, ..)| *order);
    let mut first = None;
    let mut away = Away::default();
    for (_, step, answer) in answers {
        match answer {
            Ok(findings) => {
                for finding in findings {
                    let message = context.redactor.clean(&finding.message).into_owned();
                    if is_problem(finding.severity) && first.is_none() {
                        let mut error =
                            CallError::new(ErrorKind::Invalid, "preflight.problem", &message);
                        error.hint = finding.hint.clone();
                        first = Some((Some(step.clone()), error));
                    }
                    context.bus.emit(Event::Finding {
                        step: step.clone(),
                        severity: finding.severity,
                        message,
                        hint: finding.hint,
                    });
                }
            }
            Err(error) if error.code == "value.unknown" => context.bus.emit(Event::StepLog {
                step,
                level: Level::Debug,
                stream: None,
                text: format!("preflight stopped: {}", error.message),
            }),
            Err(error) => {
                context.bus.emit(Event::Finding {
                    step: step.clone(),
                    severity: windlass_model::event::Severity::Problem,
                    message: error.message.clone(),
                    hint: error.hint.clone(),
                });
                let noted = match &step.target {
                    Some(target) => away.note(context, target, error),
                    None => Err(error),
                };
                if let Err(error) = noted {
                    first.get_or_insert((Some(step), error));
                }
            }
        }
    }
    match first {
        Some(failure) => Err(failure),
        None => Ok(away),
    }
}

async fn ask(
    context: &Arc<Context>,
    step: &StepKey,
    reused: &Outputs,
) -> Result<Vec<Finding>, CallError> {
    let Some(node) = context.graph.step(step.name.as_str()) else {
        return Ok(Vec::new());
    };
    let Some(loaded) = context.plugins.get(&node.uses) else {
        return Ok(Vec::new());
    };
    let ended = context.earlier.ended.contains_key(step);
    if !node.selected || ended || !loaded.plugin.description.has_preflight {
        return Ok(Vec::new());
    }
    let scope = context.graph.preview_scope(step, reused);
    if node.when(&scope).map_err(CallError::from)? == Some(false) {
        return Ok(Vec::new());
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
    let reads = Arc::new(ReadsOnly(Arc::clone(&context.stack)));
    let stack = Arc::new(Guard::new(policy, reads));
    // Attempt 0: its calls are told apart from those of the run itself.
    let setup = setup(
        context,
        step,
        0,
        stack,
        resolved.value,
        Instant::now() + LIMIT,
        None,
    );
    loaded.plugin.preflight(setup).await
}
