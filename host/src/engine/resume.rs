//! Going on with a run: what of it is done, what was cut short, and how that goes
//! on. Made of what the journal has; no effect, no clock.
//!
//! What ended well is not run again. What was cut short goes on from the middle,
//! with the recorded answers, where they are all there; else from its start, where
//! nothing is done twice by that; else somebody has to say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use windlass_journal::{RecordedCall, Reopened};
use windlass_layers::Taken;
use windlass_manifest::Graph;
use windlass_model::call::{SshOp, TargetOp};
use windlass_model::event::{Envelope, Event, StepState};
use windlass_model::reply::{Exit, Outcome, Response};
use windlass_model::{
    Call, CallError, Class, ErrorKind, Inherited, InheritedRelease, InheritedStep, Reply, StepKey,
};

use super::bus::Before;
use super::satisfied;
use super::step::Done;

mod containers;
mod probe;
pub mod records;
mod standing;

use standing::{handed_on, put_back};

pub use containers::{Containers, at_work};
use containers::{ended_by_itself, is_run, scoped};

/// What a run has to know of what was before.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Of the same run: its events go on being counted. `None`: of another run,
    /// whose good steps count as this one's.
    pub(super) same: Option<Before>,
    /// In the order in which they were made.
    pub(super) calls: Vec<RecordedCall>,
    /// Of another run, and this one's now.
    pub(super) releases: Vec<InheritedRelease>,
    pub(super) ended: BTreeMap<StepKey, Done>,
    pub(super) going: BTreeMap<StepKey, Going>,
    /// The highest attempt of each step so far.
    pub(super) attempts: BTreeMap<StepKey, u32>,
    /// Notifications that went out, or may have, since the run was begun or
    /// resumed last; whether that is known.
    pub(super) notified: BTreeMap<String, bool>,
    /// What differs from what the run was begun with, and was accepted.
    pub changed: Vec<String>,
    /// Who resumes it: `user@machine`, or what CI tells.
    pub by: String,
    /// The page of the CI job that does.
    pub link: Option<String>,
    /// What is said at the start of the run, of where it goes on from.
    pub notice: Option<String>,
    /// What places held when it was decided how to go on; looked at again under the
    /// lease.
    pub(super) seen: Vec<records::Seen>,
    /// Probes made on the way, which the engine's own calls are counted on from.
    pub(super) probes: u64,
    /// What they found, for people.
    pub(super) found: Vec<String>,
}

/// How an instance that was cut short goes on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Going {
    /// From its start, as a further attempt.
    Anew,
    /// In the middle, in the same attempt.
    Replay(Box<Record>),
}

/// What is there to be replayed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// By their number within the attempt.
    pub(super) calls: BTreeMap<u64, RecordedCall>,
    /// What the guest was told as the time of its start.
    pub(super) began: Timestamp,
    /// Calls to make anew, with all after them.
    forget: Option<u64>,
    /// What a person or a probe gave in place of the record.
    pub(super) taken: BTreeMap<u64, Taken>,
}

/// What only a person can say.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub step: StepKey,
    /// The call that may have taken place; of a step as a whole, one of those
    /// that did, or may have.
    pub call: RecordedCall,
    /// Why the step cannot go on from the middle; `None`: it can, once it is known
    /// what became of the call.
    pub whole: Option<String>,
    /// What its probe found, where it has one.
    pub found: Option<String>,
}

/// Why a step counts as done of which somebody said so.
const SAID: &str = "taken as done, as somebody said";

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The call, or the step, once more.
    Redo,
    /// It counts as done.
    Skip,
}

impl Earlier {
    /// Of the same run, which `resume` goes on with.
    ///
    /// `inherited` is what it took over from another run; `same_plugin` says whether a
    /// step's plugin has the bytes that it had then; `containers` are those at work that
    /// are there still.
    pub fn of_run(
        graph: &Graph,
        events: Vec<Envelope>,
        number: u64,
        calls: Vec<RecordedCall>,
        inherited: &Inherited,
        same_plugin: &dyn Fn(&StepKey) -> bool,
        containers: &Containers,
    ) -> (Self, Vec<Question>) {
        let read = Reading::of(&events);
        let mut earlier = Self::kept(graph, &read, &calls, inherited);
        earlier.releases.clone_from(&inherited.releases);
        let mut questions = Vec::new();
        let goes_on = earlier.goes_on(graph);
        for step in graph.instances() {
            let Some(attempt) = earlier.attempts.get(&step).copied() else {
                continue;
            };
            if earlier.ended.contains_key(&step) || (goes_on && cleans_up(graph, &step)) {
                continue;
            }
            let of_attempt: Vec<&RecordedCall> = calls
                .iter()
                .filter(|call| call.id.step == step && call.id.attempt == attempt)
                .collect();
            let cut = match read.last.get(&step) {
                // Its own end, or what came of it was taken back.
                Some(StepState::Cancelled) => Cut::by_cancel(&of_attempt),
                Some(_) => {
                    let lost = of_attempt.iter().find(|call| unresolved(call));
                    let question = lost.map(|call| Question {
                        step: step.clone(),
                        call: (*call).clone(),
                        whole: Some("it failed, and would run again from its start".to_owned()),
                        found: None,
                    });
                    questions.extend(question);
                    earlier.going.insert(step, Going::Anew);
                    continue;
                }
                None => Cut::default(),
            };
            let began = read.began.get(&(step.clone(), attempt)).copied();
            let same_plugin = same_plugin(&step);
            let (going, asked) = course(&step, &of_attempt, cut, began, same_plugin, containers);
            questions.extend(asked);
            if let Going::Replay(record) = &going {
                earlier.note(&step, record, containers);
            }
            earlier.going.insert(step, going);
        }
        for call in &calls {
            let name = call.id.step.name.as_str().strip_prefix("notify.");
            if let Some(name) = name
                && read.ended.is_none_or(|ended| call.asked > ended)
                && call.class == Class::Once
            {
                let known = call.answer.is_some();
                let entry = earlier.notified.entry(name.to_owned()).or_insert(known);
                *entry = *entry && known;
            }
        }
        for name in read.notified {
            earlier.notified.insert(name, true);
        }
        let history = events
            .into_iter()
            .filter(|envelope| !matches!(envelope.event, Event::RunFinished(_)))
            .collect();
        earlier.same = Some(Before { number, history });
        earlier.calls = calls;
        (earlier, questions)
    }

    /// Of another run, whose failed, skipped and cancelled steps are run again;
    /// `inherited` is what that one took over itself.
    pub fn of_failed(
        graph: &Graph,
        events: &[Envelope],
        calls: &[RecordedCall],
        inherited: &Inherited,
    ) -> Self {
        let read = Reading::of(events);
        let mut earlier = Self::kept(graph, &read, calls, inherited);
        earlier.attempts.clear();
        // What was let pass failed, too.
        earlier
            .ended
            .retain(|_, done| done.state != StepState::Tolerated);
        earlier.close(graph);
        for done in earlier.ended.values_mut() {
            done.state = StepState::Reused;
            done.reason = Some("done in the run that is retried".to_owned());
            done.error = None;
        }
        // The releases that good steps put up are this run's to mark as good.
        let good = calls.iter();
        let good = good.filter(|call| earlier.ended.contains_key(&call.id.step));
        let good: Vec<RecordedCall> = good.cloned().collect();
        let mut kept = inherited.releases.clone();
        kept.retain(|one| earlier.ended.contains_key(&one.step));
        earlier.releases = handed_on(&kept, &good);
        earlier
    }

    fn kept(graph: &Graph, read: &Reading, calls: &[RecordedCall], inherited: &Inherited) -> Self {
        let before = inherited.steps.iter().map(|one| {
            let done = Done::reused(one.outputs.clone(), &one.reason);
            (one.step.clone(), done)
        });
        let mut earlier = Self {
            ended: before.chain(read.steps.clone()).collect(),
            attempts: read.attempts.clone(),
            ..Self::default()
        };
        for call in calls.iter().filter(|call| call.id.attempt > 0) {
            let attempt = earlier.attempts.entry(call.id.step.clone()).or_default();
            *attempt = (*attempt).max(call.id.attempt);
        }
        for step in put_back(read.ended, calls, &inherited.releases) {
            earlier.ended.remove(&step);
        }
        earlier.close(graph);
        earlier
    }

    /// Takes out what follows a step that is run again, and what cleans up after it.
    fn close(&mut self, graph: &Graph) {
        close(graph, &mut self.ended);
        if self.goes_on(graph) {
            self.ended.retain(|step, _| !cleans_up(graph, step));
        }
    }

    /// Whether a step runs again, or for the first time, that does not clean up: then
    /// what cleans up has to do so once more, whatever it did before.
    fn goes_on(&self, graph: &Graph) -> bool {
        let mut steps = graph.instances().into_iter();
        steps.any(|step| !cleans_up(graph, &step) && !self.ended.contains_key(&step))
    }

    /// Whether nothing is left to do but what follows the steps.
    pub fn is_whole(&self, graph: &Graph) -> bool {
        let instances = graph.instances();
        instances.iter().all(|step| self.ended.contains_key(step))
    }

    /// Steps that are not run again.
    pub fn ended(&self) -> Vec<StepKey> {
        self.ended.keys().cloned().collect()
    }

    /// What a run that takes over all this keeps of it, should it be cut short in turn.
    pub fn handed_on(&self) -> Inherited {
        let steps = self.ended.iter().map(|(step, done)| InheritedStep {
            step: step.clone(),
            outputs: done.outputs.clone(),
            reason: done.reason.clone().unwrap_or_default(),
        });
        Inherited {
            steps: steps.collect(),
            releases: self.releases.clone(),
        }
    }

    /// What a person said.
    pub fn decide(&mut self, question: &Question, decision: Decision) {
        match (&question.whole, decision) {
            (Some(_), Decision::Redo) => {
                self.going.insert(question.step.clone(), Going::Anew);
            }
            (Some(_), Decision::Skip) => {
                self.going.remove(&question.step);
                let done = Done::reused(Default::default(), SAID);
                self.ended.insert(question.step.clone(), done);
            }
            (None, Decision::Redo) => {}
            (None, Decision::Skip) => {
                if let Some(reply) = question.call.call.here().and_then(assumed) {
                    self.take(question, Taken::Reply(reply));
                }
            }
        }
    }

    /// What stands for the answer that the journal does not have.
    fn take(&mut self, question: &Question, taken: Taken) {
        if let Some(Going::Replay(record)) = self.going.get_mut(&question.step) {
            record.taken.insert(question.call.id.seq, taken);
        }
    }

    /// Says which containers a step goes on with.
    fn note(&mut self, step: &StepKey, record: &Record, containers: &Containers) {
        for call in record.calls.values() {
            if containers.id(call).is_some() {
                let on = call.call.here().and_then(Call::target);
                let on = on.map_or_else(String::new, |engine| format!(" on {engine}"));
                self.found.push(format!(
                    "step {step} goes on with {}{on}: its container is there still",
                    call.name
                ));
            }
        }
    }

    /// The containers that steps go on with, by the stamps of their calls.
    pub fn goes_on_with(&self, containers: &Containers) -> BTreeSet<String> {
        let records = self.going.values().filter_map(|going| match going {
            Going::Replay(record) => Some(record),
            Going::Anew => None,
        });
        let calls = records.flat_map(|record| record.calls.values());
        calls
            .filter(|call| containers.id(call).is_some())
            .map(|call| call.id.stamp())
            .collect()
    }

    /// What the journal has to forget.
    pub fn reopened(&self) -> Vec<Reopened> {
        let mut goes = Vec::new();
        for (step, going) in &self.going {
            if let Going::Replay(record) = going
                && let Some(from) = record.forget
            {
                goes.push(Reopened {
                    step: step.clone(),
                    attempt: self.attempts.get(step).copied().unwrap_or(1),
                    from,
                });
            }
        }
        goes
    }

    /// The attempt that an instance begins with now.
    pub(super) fn attempt(&self, step: &StepKey) -> u32 {
        let so_far = self.attempts.get(step).copied().unwrap_or(0);
        match self.going.get(step) {
            Some(Going::Replay(_)) => so_far,
            _ => so_far + 1,
        }
    }

    /// The number of the engine's own last call.
    pub(super) fn engine_calls(&self) -> u64 {
        let engine = StepKey::engine();
        let own = self.calls.iter().filter(|call| call.id.step == engine);
        own.map(|call| call.id.seq).max().unwrap_or(0) + self.probes
    }
}

/// What the events say.
#[derive(Default)]
struct Reading {
    /// Instances that ended, and whose end still counts.
    steps: BTreeMap<StepKey, Done>,
    /// How they ended last, whether that counts or not.
    last: BTreeMap<StepKey, StepState>,
    attempts: BTreeMap<StepKey, u32>,
    began: BTreeMap<(StepKey, u32), Timestamp>,
    /// When the run ended last.
    ended: Option<Timestamp>,
    notified: BTreeSet<String>,
}

impl Reading {
    fn of(events: &[Envelope]) -> Self {
        let mut read = Self::default();
        for envelope in events {
            match &envelope.event {
                Event::StepStarted { step, attempt } => {
                    read.steps.remove(step);
                    read.last.remove(step);
                    let known = read.attempts.entry(step.clone()).or_default();
                    *known = (*known).max(*attempt);
                    // Of an attempt that was resumed, its first start.
                    let began = (step.clone(), *attempt);
                    read.began.entry(began).or_insert(envelope.at);
                }
                Event::StepRetried { step, .. } => {
                    read.last.insert(step.clone(), StepState::Failed);
                }
                Event::StepFinished {
                    step,
                    state,
                    outputs,
                    error,
                    reason,
                    ..
                } => {
                    read.last.insert(step.clone(), *state);
                    let done = Done {
                        state: *state,
                        outputs: outputs.clone(),
                        error: error.clone(),
                        reason: reason.clone(),
                    };
                    read.steps.insert(step.clone(), done);
                }
                Event::NotificationFinished { name, .. } => {
                    read.notified.insert(name.to_string());
                }
                Event::RunFinished(_) => {
                    // It is for the run that goes on to do better.
                    read.steps.retain(|_, done| satisfied(done.state));
                    read.ended = Some(envelope.at);
                    read.notified.clear();
                }
                _ => {}
            }
        }
        // A run that was killed while it was cancelled.
        read.steps
            .retain(|_, done| done.state != StepState::Cancelled);
        read
    }
}

fn cleans_up(graph: &Graph, step: &StepKey) -> bool {
    graph
        .step(step.name.as_str())
        .is_some_and(|node| node.cleanup)
}

/// Takes out what follows a step that is run again.
fn close(graph: &Graph, ended: &mut BTreeMap<StepKey, Done>) {
    for node in &graph.steps {
        if !node.selected {
            continue;
        }
        for step in node.instances() {
            let again = |need: &StepKey| {
                let selected = graph
                    .step(need.name.as_str())
                    .is_some_and(|node| node.selected);
                selected && !ended.contains_key(need)
            };
            if graph.dependencies(&step).iter().any(again) {
                ended.remove(&step);
            }
        }
    }
}

/// Whether nobody knows if a call that must not happen twice did happen.
fn unresolved(call: &RecordedCall) -> bool {
    call.class == Class::Once
        && match call.answer.as_ref().map(|answer| answer.result.here()) {
            None => true,
            Some(Some(Err(error))) => super::changes::lost(error),
            Some(_) => false,
        }
}

/// What a cancel left of an attempt's record.
#[derive(Default)]
struct Cut {
    /// The first call that the cancel answered.
    from: Option<u64>,
    /// A call after it that cannot be taken out.
    late: Option<String>,
}

impl Cut {
    fn by_cancel(calls: &[&RecordedCall]) -> Self {
        let cancelled = |call: &&&RecordedCall| {
            let answer = call.answer.as_ref().and_then(|answer| answer.result.here());
            matches!(
                answer,
                Some(Err(CallError {
                    kind: ErrorKind::Cancelled,
                    ..
                }))
            )
        };
        let from = calls.iter().filter(cancelled).map(|call| call.id.seq).min();
        let late = calls.iter().find(|call| {
            let after = from.is_some_and(|from| call.id.seq > from);
            after && call.class.is_effect() && call.name != "docker.remove-container"
        });
        Self {
            from,
            late: late.map(|call| call.name.clone()),
        }
    }
}

/// How an attempt that was cut short goes on, and what has to be asked before.
fn course(
    step: &StepKey,
    calls: &[&RecordedCall],
    cut: Cut,
    began: Option<Timestamp>,
    same_plugin: bool,
    containers: &Containers,
) -> (Going, Vec<Question>) {
    if !calls.iter().any(|call| call.class.is_effect()) {
        return (Going::Anew, Vec::new());
    }
    let question = |call: &RecordedCall, whole: Option<String>| Question {
        step: step.clone(),
        call: call.clone(),
        whole,
        found: None,
    };
    let kept: BTreeMap<u64, RecordedCall> = calls
        .iter()
        .filter(|call| cut.from.is_none_or(|from| call.id.seq <= from))
        .map(|call| (call.id.seq, (*call).clone()))
        .map(|(seq, mut call)| {
            if Some(seq) == cut.from {
                call.answer = None;
            }
            (seq, call)
        })
        .collect();
    let refused = match (began, cut.late) {
        (None, _) => Some("its start is not in the journal".to_owned()),
        (_, Some(late)) => Some(format!("it made {late} while it was cancelled")),
        _ if !same_plugin => Some("its plugin is not the one that it was".to_owned()),
        _ => kept
            .values()
            .find_map(|call| unreplayable(call, &kept, containers)),
    };
    match (refused, began) {
        (None, Some(began)) => {
            let open = kept
                .values()
                .filter(|call| call.class == Class::Once && call.answer.is_none());
            let (started, open): (Vec<_>, Vec<_>) =
                open.partition(|call| containers.id(call).is_some());
            let asked = open.into_iter().map(|call| question(call, None)).collect();
            let taken = started.into_iter().filter_map(|call| {
                let id = containers.id(call)?.to_owned();
                Some((call.id.seq, Taken::Reply(Reply::Id(id))))
            });
            let taken = taken.collect();
            let record = Record {
                calls: kept,
                began,
                forget: cut.from,
                taken,
            };
            (Going::Replay(Box::new(record)), asked)
        }
        (refused, _) => {
            // The whole attempt counts here, what a cancel left of it, too.
            let lasting = calls
                .iter()
                .find(|call| call.class == Class::Once && !scoped(call, calls.iter().copied()));
            let asked = lasting.map(|call| question(call, refused)).into_iter();
            (Going::Anew, asked.collect())
        }
    }
}

/// Why an attempt cannot be replayed because of this call.
fn unreplayable(
    call: &RecordedCall,
    all: &BTreeMap<u64, RecordedCall>,
    containers: &Containers,
) -> Option<String> {
    let name = &call.name;
    if call.call.here().is_none() {
        return Some(format!("its call {name} is too large for the journal"));
    }
    let answer = call.answer.as_ref().map(|answer| answer.result.here());
    if answer == Some(None) {
        return Some(format!("the answer to {name} is too large for the journal"));
    }
    if is_run(call) && !ended_by_itself(call, all.values()) && containers.id(call).is_none() {
        return Some("its container went with the process".to_owned());
    }
    None
}

/// What a call answers that is taken as done: success, and nothing more.
fn assumed(call: &Call) -> Option<Reply> {
    match call {
        Call::Ssh(ssh) if matches!(ssh.op, SshOp::Exec { .. }) => {
            Some(Reply::Exit(Exit::default()))
        }
        Call::Target(target) => match &target.op {
            TargetOp::Apply { ops } => {
                let done = Outcome {
                    ok: true,
                    changed: true,
                    ..Outcome::default()
                };
                Some(Reply::Outcomes(vec![done; ops.len()]))
            }
            TargetOp::Inspect => None,
        },
        Call::Http(_) => Some(Reply::Response(Response {
            status: 200,
            ..Response::default()
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
