//! Containers that a process started and did not live to see the end of. One that was
//! started for the plugin to look at is started again; one that does work of its own
//! goes on, if it is there still.

use std::collections::{BTreeMap, BTreeSet};

use windlass_journal::RecordedCall;
use windlass_model::call::DockerOp;
use windlass_model::{Call, Reply};

/// Those that are there still, and were started: ids by the stamps of their calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers(BTreeMap<String, String>);

impl Containers {
    pub fn new(ids: BTreeMap<String, String>) -> Self {
        Self(ids)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The container of a call that started one, if it is there.
    pub(super) fn id(&self, run: &RecordedCall) -> Option<&str> {
        let id = self.0.get(&run.id.stamp()).filter(|_| is_run(run))?;
        container(run).is_none_or(|known| known == id).then_some(id)
    }
}

/// The stamps of calls that started a container to work by itself, whose end the
/// record does not have: its plugin waited for it, or had no time to do anything else.
pub fn at_work(calls: &[RecordedCall]) -> BTreeSet<String> {
    let of_attempt = |run: &RecordedCall| {
        let (step, attempt) = (run.id.step.clone(), run.id.attempt);
        let same = move |call: &&RecordedCall| call.id.step == step && call.id.attempt == attempt;
        calls.iter().filter(same)
    };
    let runs = calls.iter().filter(|call| is_run(call));
    runs.filter(|run| {
        let is_last = of_attempt(run).all(|call| call.id.seq <= run.id.seq);
        (is_last || !scoped(run, of_attempt(run))) && !ended_by_itself(run, of_attempt(run))
    })
    .map(|run| run.id.stamp())
    .collect()
}

pub(super) fn is_run(call: &RecordedCall) -> bool {
    matches!(
        call.call.here(),
        Some(Call::Docker(call)) if matches!(call.op, DockerOp::Run(_))
    )
}

/// The container that a call started.
fn container(call: &RecordedCall) -> Option<&str> {
    match call.answer.as_ref()?.result.here()? {
        Ok(Reply::Id(id)) if is_run(call) => Some(id),
        _ => None,
    }
}

/// Whether the end of the container that a call started is in the record.
pub(super) fn ended_by_itself<'a>(
    run: &RecordedCall,
    mut calls: impl Iterator<Item = &'a RecordedCall>,
) -> bool {
    if matches!(
        run.answer.as_ref().map(|answer| answer.result.here()),
        Some(Some(Err(_)))
    ) {
        return true;
    }
    let Some(container) = container(run) else {
        return false;
    };
    calls.any(|call| {
        let Some(Call::Docker(docker)) = call.call.here() else {
            return false;
        };
        let about = match &docker.op {
            DockerOp::WaitContainer { id } | DockerOp::RemoveContainer { id, .. } => id,
            _ => return false,
        };
        let answered = call.answer.as_ref().and_then(|answer| answer.result.here());
        about == container && matches!(answered, Some(Ok(_)))
    })
}

/// Whether a container was there for its plugin only, which looked at it: then it
/// is gone, and may be started again. One whose end the plugin waited for does work
/// of its own.
pub(super) fn scoped<'a>(
    run: &RecordedCall,
    mut calls: impl Iterator<Item = &'a RecordedCall>,
) -> bool {
    if !is_run(run) {
        return false;
    }
    let started = container(run);
    !calls.any(|call| match call.call.here() {
        Some(Call::Docker(docker)) => match &docker.op {
            DockerOp::WaitContainer { id } => started == Some(id),
            _ => false,
        },
        _ => false,
    })
}
