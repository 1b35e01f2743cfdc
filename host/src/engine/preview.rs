//! What a run would do: the same plugin bytes against capabilities that only
//! read. Steps run one after the other, in the order of the graph; what only
//! an effect could give is unknown to those after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use windlass_layers::{Effect, Guard, Preview, Read, UNKNOWN};
use windlass_manifest::Outputs;
use windlass_model::event::Envelope;
use windlass_model::{CallError, Capability, StepKey};

use super::policy::complete;
use super::step::setup;
use super::{Context, RunInput, policy_for, preflight, requests_of};

/// A preview waits for nothing but reads.
const LIMIT: Duration = Duration::from_secs(120);

/// How far the preview of an instance got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Extent {
    /// Every effect is listed.
    Whole,
    /// The plugin had to know what cannot be known; from there on it may do at
    /// most what it is granted.
    Stopped {
        reason: String,
        at_most: Vec<String>,
    },
    /// Whether it runs depends on what is not known yet.
    Maybe {
        reason: String,
        at_most: Vec<String>,
    },
    Skipped {
        reason: String,
    },
    /// It would fail.
    Failed {
        error: CallError,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreviewedStep {
    pub step: StepKey,
    pub uses: String,
    #[serde(flatten)]
    pub extent: Extent,
    pub effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
pub struct Previewed {
    pub steps: Vec<PreviewedStep>,
    pub reads: Vec<Read>,
    /// With what preflight found.
    pub events: Vec<Envelope>,
    pub failure: Option<CallError>,
}

impl Previewed {
    /// Whether a run would change something, as far as can be known.
    pub fn changes(&self) -> bool {
        self.steps.iter().any(|step| {
            !step.effects.is_empty()
                || matches!(step.extent, Extent::Stopped { .. } | Extent::Maybe { .. })
        })
    }
}

/// Preflight, then each step in turn. Nothing is changed anywhere.
pub async fn preview(input: RunInput) -> Previewed {
    let (context, reused) = Context::new(input);
    let mut failure = preflight::check(&context, &reused)
        .await
        .err()
        .map(|(_, error)| error);
    let mut steps = Vec::new();
    let mut reads = Vec::new();
    if failure.is_none() {
        let mut outputs = reused;
        let mut state = State::default();
        for step in context.graph.instances() {
            if context.cancel.is_cancelled() {
                failure = Some(CallError::cancelled());
                break;
            }
            let done = one(&context, &step, &mut outputs, &mut state, &mut reads).await;
            if let Extent::Failed { error } = &done.extent {
                failure.get_or_insert_with(|| error.clone());
            }
            steps.push(done);
        }
    }
    context.bus.flush().await;
    let events = context.bus.history();
    context.bus.finish().await;
    Previewed {
        steps,
        reads,
        events,
        failure,
    }
}

#[derive(Default)]
struct State {
    /// Instances that have effects, or come after some that have.
    effects: BTreeSet<StepKey>,
    /// Those that do not run, with the reason.
    without: BTreeMap<StepKey, String>,
}

async fn one(
    context: &Arc<Context>,
    step: &StepKey,
    outputs: &mut Outputs,
    state: &mut State,
    reads: &mut Vec<Read>,
) -> PreviewedStep {
    let uses = context
        .graph
        .step(step.name.as_str())
        .map(|node| node.uses.clone())
        .unwrap_or_default();
    let dependencies = context.graph.dependencies(step);
    let after_effects = dependencies
        .iter()
        .any(|dependency| state.effects.contains(dependency));
    let blocked = dependencies
        .iter()
        .find(|dependency| state.without.contains_key(dependency));
    let (extent, effects) = match blocked {
        Some(blocked) => {
            let reason = format!("{blocked} does not run");
            (Extent::Skipped { reason }, Vec::new())
        }
        None => run(context, step, after_effects, outputs, reads)
            .await
            .unwrap_or_else(|error| (Extent::Failed { error }, Vec::new())),
    };
    match &extent {
        Extent::Skipped { reason } => {
            let left_out = context
                .graph
                .step(step.name.as_str())
                .is_some_and(|node| !node.selected);
            if !left_out {
                state.without.insert(step.clone(), reason.clone());
            }
        }
        Extent::Failed { error } => {
            state.without.insert(step.clone(), error.message.clone());
        }
        Extent::Stopped { .. } | Extent::Maybe { .. } => {
            state.effects.insert(step.clone());
        }
        Extent::Whole => {}
    }
    if after_effects || !effects.is_empty() {
        state.effects.insert(step.clone());
    }
    PreviewedStep {
        step: step.clone(),
        uses,
        extent,
        effects,
    }
}

async fn run(
    context: &Arc<Context>,
    step: &StepKey,
    after_effects: bool,
    outputs: &mut Outputs,
    reads: &mut Vec<Read>,
) -> Result<(Extent, Vec<Effect>), CallError> {
    let missing = || CallError::internal("engine.step", format!("step {step} is not in the graph"));
    let node = context.graph.step(step.name.as_str()).ok_or_else(missing)?;
    let loaded = context.plugins.get(&node.uses).ok_or_else(missing)?;
    if !node.selected {
        let reason = "left out by --only or --from".to_owned();
        return Ok((Extent::Skipped { reason }, Vec::new()));
    }
    let scope = context.graph.preview_scope(step, outputs);
    let at_most = || -> Vec<String> {
        requests_of(&context.graph, &context.plugins, step, outputs, true)
            .unwrap_or_default()
            .into_iter()
            .map(|request| request.grant.to_string())
            .collect()
    };
    match node.when(&scope).map_err(CallError::from)? {
        Some(true) => {}
        Some(false) => {
            let reason = "its `when` is false".to_owned();
            return Ok((Extent::Skipped { reason }, Vec::new()));
        }
        None => {
            let extent = Extent::Maybe {
                reason: "its `when` depends on what is not known yet".to_owned(),
                at_most: at_most(),
            };
            return Ok((extent, Vec::new()));
        }
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
    let preview = Arc::new(Preview::new(
        step.clone(),
        after_effects,
        Arc::clone(&context.stack),
    ));
    let guard: Arc<dyn Capability> = Arc::new(Guard::new(
        policy,
        Arc::clone(&preview) as Arc<dyn Capability>,
    ));
    let finished = loaded
        .plugin
        .run(setup(
            context,
            step,
            1,
            guard,
            resolved.value.clone(),
            Instant::now() + LIMIT,
            None,
        ))
        .await;
    let seen = preview.seen();
    reads.extend(seen.reads);
    let extent = match finished.result {
        // A guest may make an error of its own of it, or go on without.
        _ if seen.stopped.is_some() => Extent::Stopped {
            reason: seen.stopped.unwrap_or_default(),
            at_most: at_most(),
        },
        Ok(()) => Extent::Whole,
        Err(error) if error.code == UNKNOWN => Extent::Stopped {
            reason: context.redactor.clean_error(error).message,
            at_most: at_most(),
        },
        Err(error) => Extent::Failed {
            error: context.redactor.clean_error(error),
        },
    };
    // After an effect, no output is what it will be.
    if extent == Extent::Whole && seen.effects.is_empty() {
        outputs.insert(step, finished.outputs);
    }
    Ok((extent, seen.effects))
}
