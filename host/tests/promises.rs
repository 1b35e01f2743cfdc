//! Random graphs with random faults: whatever happens to the steps, the engine keeps what
//! `docs/guarantees.md` says of every run.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use windlass::engine::{self, RunInput, RunResult};
use windlass::plugins::PluginSet;
use windlass_journal::Journal;
use windlass_layers::scripted::usual_reply;
use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Graph, Inputs, Lock, Manifest, Outputs};
use windlass_model::call::{LeaseOp, SshOp};
use windlass_model::event::{Envelope, Event, Outcome, StepState};
use windlass_model::reply::{Exit, GitFacts};
use windlass_model::{Call, CallContext, CallError, Capability, Reply, RunId, StepKey};
use windlass_report::{Reporter, Reporters};
use windlass_runtime::{Runtime, RuntimeOptions};

/// What becomes of a step's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// It ends with a code.
    Exits,
    /// The line is cut: nobody knows.
    Cut,
    /// It does not end before its step's deadline.
    Hangs,
    /// The backend itself has a bug.
    Panics,
}

#[derive(Clone, Debug)]
struct Step {
    /// Numbers of earlier steps.
    needs: BTreeSet<usize>,
    /// Of the two, where it runs.
    targets: (bool, bool),
    fate: Fate,
    tolerated: bool,
    attempts: u32,
}

#[derive(Clone, Debug)]
struct Plan {
    steps: Vec<Step>,
    parallel: u32,
    /// The run is cancelled when this many commands were begun.
    cancel_at: Option<usize>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let fate = prop_oneof![
        6 => Just(Fate::Good),
        1 => Just(Fate::Exits),
        1 => Just(Fate::Cut),
        1 => Just(Fate::Hangs),
        1 => Just(Fate::Panics),
    ];
    let step = (
        prop::collection::btree_set(0_usize..8, 0..3),
        prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))],
        fate,
        prop::bool::weighted(0.2),
        1_u32..3,
    );
    let steps = prop::collection::vec(step, 1..8);
    let cancel = prop::option::weighted(0.3, 1_usize..6);
    (steps, 1_u32..5, cancel).prop_map(|(steps, parallel, cancel_at)| Plan {
        steps: steps
            .into_iter()
            .enumerate()
            .map(
                |(index, (needs, targets, fate, tolerated, attempts))| Step {
                    needs: needs.into_iter().filter(|need| *need < index).collect(),
                    targets,
                    fate,
                    tolerated,
                    attempts,
                },
            )
            .collect(),
        parallel,
        cancel_at,
    })
}

impl Step {
    fn targets(&self) -> Vec<&'static str> {
        let named = [(self.targets.0, "a"), (self.targets.1, "b")];
        named
            .iter()
            .filter(|(there, _)| *there)
            .map(|(_, name)| *name)
            .collect()
    }
}

impl Plan {
    fn manifest(&self) -> String {
        let mut text = format!(
            "[pipeline]\nname = \"p\"\n[run]\nmax_parallel = {}\n\
             [target.a]\nssh = \"deploy@a.example\"\n[target.b]\nssh = \"deploy@b.example\"\n\
             [environment.e]\ntargets = [\"a\", \"b\"]\n",
            self.parallel
        );
        for (index, step) in self.steps.iter().enumerate() {
            let needs: Vec<String> = step.needs.iter().map(|need| format!("s{need}")).collect();
            text.push_str(&format!(
                "[step.s{index}]\nuses = \"ssh-run\"\non = {:?}\nneeds = {needs:?}\n\
                 timeout = {:?}\ncontinue_on_error = {}\n\
                 retry = {{ attempts = {}, delay = \"1ms\" }}\nwith = {{ argv = [\"work\"] }}\n",
                step.targets(),
                // Only what hangs is to meet its deadline, however slow the machine.
                if step.fate == Fate::Hangs {
                    "300ms"
                } else {
                    "60s"
                },
                step.tolerated,
                step.attempts,
            ));
        }
        text
    }

    /// Of an instance.
    fn step(&self, key: &StepKey) -> &Step {
        let number = key.name.as_str().trim_start_matches('s');
        &self.steps[number.parse::<usize>().unwrap()]
    }

    /// Instances that have to end well before this one begins.
    fn before(&self, key: &StepKey) -> Vec<StepKey> {
        let step = self.step(key);
        let mut keys = Vec::new();
        for need in &step.needs {
            let other = &self.steps[*need];
            let name = format!("s{need}");
            let target = key.target.as_ref().map(|target| target.as_str());
            // The same targets pair up; else all of them come first.
            let paired = other.targets == step.targets;
            for there in other.targets() {
                if !paired || Some(there) == target {
                    keys.push(StepKey::new(name.as_str(), Some(there.into())));
                }
            }
        }
        keys
    }
}

/// In place of the servers.
struct World {
    plan: Plan,
    cancel: CancellationToken,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Commands begun, by instance.
    begun: BTreeMap<StepKey, u32>,
    /// Those that ended well.
    well: BTreeSet<StepKey>,
    under_way: u32,
    most_at_once: u32,
    leases: BTreeSet<String>,
    /// Commands begun without a lease on their target.
    unguarded: Vec<StepKey>,
}

impl World {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self, context: &CallContext) -> Result<Reply, CallError> {
        let key = context.id.step.clone();
        let target = key.target.as_ref().map(ToString::to_string);
        {
            let mut seen = self.seen();
            *seen.begun.entry(key.clone()).or_default() += 1;
            seen.under_way += 1;
            seen.most_at_once = seen.most_at_once.max(seen.under_way);
            if !seen.leases.contains(&target.unwrap_or_default()) {
                seen.unguarded.push(key.clone());
            }
            let all: u32 = seen.begun.values().sum();
            if self.plan.cancel_at.is_some_and(|at| all as usize >= at) {
                self.cancel.cancel();
            }
        }
        let fate = self.plan.step(&key).fate;
        let answer = match fate {
            Fate::Good => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok(Reply::Exit(Exit::default()))
            }
            Fate::Exits => Ok(Reply::Exit(Exit {
                code: 3,
                ..Exit::default()
            })),
            Fate::Cut => Err(CallError::unavailable("ssh.lost", "the line was cut")),
            Fate::Hangs => tokio::select! {
                () = context.cancel.cancelled() => Err(CallError::cancelled()),
                () = tokio::time::sleep_until(context.deadline) => {
                    Err(CallError::timeout("ssh.timeout", "the deadline passed"))
                }
            },
            Fate::Panics => {
                self.seen().under_way -= 1;
                std::panic::resume_unwind(Box::new("a bug of the backend"));
            }
        };
        let mut seen = self.seen();
        seen.under_way -= 1;
        if fate == Fate::Good {
            seen.well.insert(key);
        }
        answer
    }
}

#[async_trait]
impl Capability for World {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        match &call {
            Call::Ssh(ssh) if matches!(ssh.op, SshOp::Exec { .. }) => self.work(context).await,
            Call::Lease(lease) => {
                let target = lease.target.to_string();
                match lease.op {
                    LeaseOp::Acquire { .. } => drop(self.seen().leases.insert(target)),
                    LeaseOp::Release => drop(self.seen().leases.remove(&target)),
                    _ => {}
                }
                usual_reply(&call).ok_or_else(CallError::cancelled)
            }
            _ => usual_reply(&call).ok_or_else(|| {
                CallError::internal("test.call", format!("nobody answers {}", call.name()))
            }),
        }
    }
}

#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<Envelope>>>);

impl Reporter for Collect {
    fn event(&mut self, envelope: &Envelope) -> std::io::Result<()> {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(envelope.clone());
        Ok(())
    }
}

/// The plugin is compiled once.
static LOADED: LazyLock<(tokio::runtime::Runtime, Runtime, PluginSet)> = LazyLock::new(|| {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let runtime = Runtime::new(RuntimeOptions::default()).unwrap();
    let text = "[pipeline]\nname = \"p\"\n[target.a]\nlocal = true\n\
                [step.s0]\nuses = \"ssh-run\"\non = [\"a\"]\nwith = { argv = [\"work\"] }\n";
    let graph = graph(text, None);
    let (plugins, problems) = tokio.block_on(PluginSet::load(
        &runtime,
        &graph,
        Path::new("."),
        &Lock::default(),
    ));
    assert!(!problems.has_errors(), "{}", problems.render(false, 100));
    (tokio, runtime, plugins)
});

fn graph(text: &str, environment: Option<&str>) -> Graph {
    let (manifest, problems) = Manifest::examine("windlass.toml", text);
    let shown = problems.render(false, 100);
    let manifest = Arc::new(manifest.unwrap_or_else(|| panic!("{shown}\n{text}")));
    let inputs = Inputs {
        environment: environment.map(str::to_owned),
        run: RunFacts {
            tag: Some("v1".to_owned()),
            ..RunFacts::default()
        },
        ..Inputs::default()
    };
    let (graph, problems) = Graph::examine(&manifest, &inputs);
    assert!(
        !problems.has_errors(),
        "{}\n{text}",
        problems.render(false, 100)
    );
    graph
}

struct Ended {
    events: Vec<Envelope>,
    result: RunResult,
    journal: Journal,
    run: RunId,
    // Removed at the end.
    _dir: tempfile::TempDir,
}

async fn go(plan: &Plan, world: &Arc<World>) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let collect = Collect::default();
    let mut reporters = Reporters::new();
    reporters.add("test", collect.clone());
    let run = RunId(uuid::Uuid::now_v7());
    let result = engine::run(RunInput {
        run,
        started: Timestamp::now(),
        graph: Arc::new(graph(&plan.manifest(), Some("e"))),
        git: GitFacts::default(),
        plugins: LOADED.2.clone(),
        secrets: Arc::default(),
        journal: Some(journal.clone()),
        backend: Arc::clone(world) as Arc<dyn Capability>,
        reporters,
        reused: Outputs::default(),
        operator: None,
        cancel: world.cancel.clone(),
        clock: engine::system_clock(),
        who: "test@windlass".to_owned(),
        link: None,
        earlier: None,
    })
    .await;
    let events = collect.0.lock().unwrap().clone();
    Ended {
        events,
        result,
        journal,
        run,
        _dir: dir,
    }
}

/// Every promise, of one run.
fn check(plan: &Plan, world: &World, ended: &Ended) {
    let seen = world.seen();
    let events: Vec<&Envelope> = ended
        .events
        .iter()
        .filter(|envelope| envelope.event.is_durable())
        .collect();

    // The first and the last event; numbers without gaps; the journal has the same.
    assert!(matches!(events[0].event, Event::RunStarted(_)));
    let last = |event: &Event| matches!(event, Event::RunFinished(_));
    assert_eq!(
        events
            .iter()
            .filter(|envelope| last(&envelope.event))
            .count(),
        1
    );
    assert!(last(&events[events.len() - 1].event));
    for (index, envelope) in events.iter().enumerate() {
        assert_eq!(envelope.number, index as u64 + 1);
    }
    let stored = ended.journal.events(ended.run).unwrap();
    assert_eq!(stored.len(), events.len());

    // Each instance ends once, and those that needed it began afterwards.
    let mut states: BTreeMap<StepKey, StepState> = BTreeMap::new();
    for envelope in &events {
        match &envelope.event {
            Event::StepStarted { step, .. } => {
                for before in plan.before(step) {
                    let state = states.get(&before);
                    let well = matches!(state, Some(StepState::Succeeded | StepState::Tolerated));
                    assert!(well, "{step} began although {before} is {state:?}");
                }
            }
            Event::StepFinished { step, state, .. } => {
                assert_eq!(
                    states.insert(step.clone(), *state),
                    None,
                    "{step} ended twice"
                );
            }
            _ => {}
        }
    }
    let all: usize = plan.steps.iter().map(|step| step.targets().len()).sum();
    assert_eq!(states.len(), all, "some instance did not end");

    for (key, state) in &states {
        let step = plan.step(key);
        let begun = seen.begun.get(key).copied().unwrap_or(0);
        // What may not happen twice is not tried again when nobody knows whether it did.
        let most = match step.fate {
            Fate::Cut | Fate::Hangs | Fate::Panics => 1,
            Fate::Good | Fate::Exits => step.attempts,
        };
        assert!(begun <= most, "{key} began {begun} times: {step:?}");
        let expected = match (state, step.fate) {
            (StepState::Succeeded, Fate::Good) => begun == 1,
            (StepState::Failed, Fate::Good) => false,
            (StepState::Failed, _) => !step.tolerated && begun > 0,
            (StepState::Tolerated, fate) => step.tolerated && fate != Fate::Good,
            (StepState::Skipped, _) => begun == 0,
            (StepState::Cancelled, _) => world.cancel.is_cancelled(),
            _ => false,
        };
        assert!(expected, "{key} is {state:?} after {begun} of {step:?}");
    }
    assert!(seen.most_at_once <= plan.parallel, "{}", seen.most_at_once);

    // Under a lease from the first command to the last, and none is left.
    assert!(seen.unguarded.is_empty(), "{:?}", seen.unguarded);
    assert!(seen.leases.is_empty(), "{:?}", seen.leases);

    // The outcome, the exit code and the states say the same.
    let failed = states.values().any(|state| *state == StepState::Failed);
    let cancelled = states.values().any(|state| *state == StepState::Cancelled);
    let finished = &ended.result.finished;
    match finished.outcome {
        Outcome::Succeeded => assert!(!failed && !cancelled && finished.exit_code == 0),
        Outcome::Failed => assert!(failed && !matches!(finished.exit_code, 0 | 130)),
        Outcome::Cancelled => assert!(cancelled && finished.exit_code == 130),
    }

    // No intent without an answer: the process lived, so it knows.
    for call in ended.journal.calls(ended.run).unwrap() {
        assert!(
            call.answer.is_some() || plan.steps.iter().any(|step| step.fate == Fate::Panics),
            "{} has no answer",
            call.id
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_steps_a_run_keeps_its_promises(plan in plans()) {
        let world = Arc::new(World {
            plan: plan.clone(),
            cancel: CancellationToken::new(),
            seen: Mutex::default(),
        });
        let ended = LOADED.0.block_on(go(&plan, &world));
        check(&plan, &world, &ended);
    }
}
