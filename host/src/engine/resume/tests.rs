use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use windlass_journal::{Answer, Journal, Stored};
use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Inputs, Manifest};
use windlass_model::call::{
    DockerCall, DockerOp, LeaseCall, LeaseOp, ReleasesCall, ReleasesOp, SshCall, StageSpec,
};
use windlass_model::event::{RunFinished, StepState};
use windlass_model::reply::Trace;
use windlass_model::{CallContext, CallId, Capability, RunId, Secrets, TargetName};

use super::super::changes::Changes;
use super::*;

const MANIFEST: &str = r#"
[pipeline]
name = "app"
[target.prod_1]
ssh = "deploy@example.org"
[environment.prod]
targets = ["prod_1"]
[step.build]
uses = "docker-build"
with = { tags = ["app:1"] }
[step.deploy]
uses = "ssh-run"
needs = ["build"]
on = "{{ environment.targets }}"
with = { argv = ["true"] }
[step.health]
uses = "http-probe"
needs = ["deploy"]
on = "{{ environment.targets }}"
with = { url = "http://localhost/" }
"#;

const TIDY: &str = r#"
[step.tidy]
uses = "ssh-run"
cleanup = true
on = "{{ environment.targets }}"
with = { argv = ["true"] }
"#;

fn graph() -> Graph {
    graph_of(MANIFEST)
}

fn graph_with_tidy() -> Graph {
    graph_of(&format!("{MANIFEST}{TIDY}"))
}

fn graph_of(text: &str) -> Graph {
    let (manifest, problems) = Manifest::examine("windlass.toml", text);
    assert!(!problems.has_errors(), "{problems:?}");
    let inputs = Inputs {
        run: RunFacts {
            tag: Some("v1".into()),
            ..RunFacts::default()
        },
        ..Inputs::default()
    };
    let (graph, problems) = Graph::examine(&Arc::new(manifest.expect("manifest")), &inputs);
    assert!(!problems.has_errors(), "{problems:?}");
    graph
}

fn build() -> StepKey {
    StepKey::new("build", None)
}

fn on_prod(name: &str) -> StepKey {
    StepKey::new(name, Some(TargetName::from("prod_1")))
}

fn second(number: u64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + i64::try_from(number).expect("small")).expect("time")
}

/// Numbered, a second apart.
fn told(events: Vec<Event>) -> Vec<Envelope> {
    let numbered = events.into_iter().zip(1..);
    numbered
        .map(|(event, number)| Envelope {
            number,
            at: second(number * 10),
            event,
        })
        .collect()
}

fn started(step: StepKey) -> Event {
    Event::StepStarted { step, attempt: 1 }
}

fn ended(step: StepKey, state: StepState) -> Event {
    Event::StepFinished {
        step,
        state,
        duration_ms: 1,
        outputs: Default::default(),
        error: None,
        reason: None,
    }
}

fn finished() -> Event {
    Event::RunFinished(Box::new(RunFinished {
        outcome: windlass_model::event::Outcome::Failed,
        error: None,
        failed_step: None,
        releases: Vec::new(),
        duration_ms: 1,
        exit_code: 1,
    }))
}

type Said = Option<Result<Reply, CallError>>;

fn recorded(step: StepKey, seq: u64, at: u64, call: Call, said: Said) -> RecordedCall {
    RecordedCall {
        id: CallId {
            run: RunId(Default::default()),
            step,
            attempt: 1,
            seq,
        },
        name: call.name(),
        class: call.class(),
        asked: second(at),
        call: Stored::Here(call),
        answer: said.map(|result| Answer {
            at: second(at),
            result: Stored::Here(result),
        }),
    }
}

fn docker(op: DockerOp) -> Call {
    Call::Docker(DockerCall {
        engine: TargetName::local(),
        op,
    })
}

fn exec(word: &str) -> Call {
    Call::Ssh(SshCall {
        target: TargetName::from("prod_1"),
        op: SshOp::Exec {
            argv: vec![word.into()],
            env: Vec::new(),
            stdin: None,
            dir: None,
        },
    })
}

fn releases(op: ReleasesOp) -> Call {
    Call::Releases(ReleasesCall {
        target: TargetName::from("prod_1"),
        dir: "/srv/app".into(),
        op,
    })
}

fn of_run(events: Vec<Event>, calls: Vec<RecordedCall>) -> (Earlier, Vec<Question>) {
    with_containers(events, calls, &Containers::default())
}

fn with_containers(
    events: Vec<Event>,
    calls: Vec<RecordedCall>,
    containers: &Containers,
) -> (Earlier, Vec<Question>) {
    Earlier::of_run(
        &graph(),
        told(events),
        9,
        calls,
        &Inherited::default(),
        &|_| true,
        containers,
    )
}

/// How `build`, which was cut short after these calls, goes on.
fn cut_short(calls: Vec<(Call, Said)>) -> (Going, Vec<Question>) {
    let calls = calls.into_iter().zip(1..);
    let calls = calls.map(|((call, said), seq)| recorded(build(), seq, 11, call, said));
    let (earlier, questions) = of_run(vec![started(build())], calls.collect());
    (earlier.going[&build()].clone(), questions)
}

fn is_replay(going: &Going) -> bool {
    matches!(going, Going::Replay(_))
}

#[test]
fn what_is_recorded_is_replayed_and_only_what_nobody_knows_is_asked() {
    let done = Some(Ok(Reply::Exit(Exit::default())));
    let (going, questions) = cut_short(vec![(exec("a"), done.clone())]);
    assert!(is_replay(&going) && questions.is_empty(), "{questions:?}");
    let (going, questions) = cut_short(vec![(exec("a"), done), (exec("b"), None)]);
    assert!(is_replay(&going));
    assert_eq!(questions.len(), 1);
    assert_eq!((questions[0].call.id.seq, &questions[0].whole), (2, &None));
    let push = docker(DockerOp::Push {
        image: "app:1".into(),
    });
    let (going, questions) = cut_short(vec![(push, None)]);
    assert!(is_replay(&going) && questions.is_empty(), "{questions:?}");
}

#[test]
fn a_step_that_did_nothing_runs_again() {
    let (going, questions) = cut_short(vec![(docker(DockerOp::Info), None)]);
    assert_eq!((going, questions), (Going::Anew, Vec::new()));
}

#[test]
fn a_container_that_was_only_looked_at_is_started_again() {
    let run = docker(DockerOp::Run(Default::default()));
    let id = Some(Ok(Reply::Id("c1".into())));
    let (going, questions) = cut_short(vec![(run.clone(), id.clone())]);
    assert_eq!((going, questions), (Going::Anew, Vec::new()));
    // One that works, and whose end nobody saw, is a person's to judge.
    let wait = docker(DockerOp::WaitContainer { id: "c1".into() });
    let (going, questions) = cut_short(vec![(run.clone(), id.clone()), (wait.clone(), None)]);
    assert_eq!(going, Going::Anew);
    assert!(questions[0].whole.is_some(), "{questions:?}");
    let over = Some(Ok(Reply::Exit(Exit::default())));
    let (going, questions) = cut_short(vec![(run, id), (wait, over)]);
    assert!(is_replay(&going) && questions.is_empty(), "{questions:?}");
}

#[test]
fn a_container_at_work_that_is_there_still_is_gone_on_with() {
    let run = docker(DockerOp::Run(Default::default()));
    let wait = docker(DockerOp::WaitContainer { id: "c1".into() });
    let look = docker(DockerOp::InspectContainer { id: "c1".into() });
    let id = Some(Ok(Reply::Id("c1".into())));
    let record = |calls: &[(&Call, &Said)]| -> Vec<RecordedCall> {
        let calls = calls.iter().zip(1..);
        calls
            .map(|((call, said), seq)| recorded(build(), seq, 11, (*call).clone(), (*said).clone()))
            .collect()
    };
    let there = |calls: &[RecordedCall]| {
        let ids = at_work(calls)
            .into_iter()
            .map(|call| (call, "c1".to_owned()));
        Containers::new(ids.collect())
    };
    for calls in [
        record(&[(&run, &None)]),
        record(&[(&run, &id)]),
        record(&[(&run, &id), (&wait, &None)]),
    ] {
        let containers = there(&calls);
        let (earlier, questions) =
            with_containers(vec![started(build())], calls.clone(), &containers);
        assert_eq!(questions, []);
        let Going::Replay(record) = &earlier.going[&build()] else {
            panic!("{calls:?}");
        };
        let unknown = calls[0].answer.is_none();
        assert_eq!(record.taken.contains_key(&1), unknown, "{record:?}");
        assert!(earlier.found[0].contains("its container is there still"));
        let stamp = calls[0].id.stamp();
        assert_eq!(earlier.goes_on_with(&containers), [stamp].into());
    }
    // One that was looked at, one that ended, another one under the same name.
    let over = Some(Ok(Reply::Exit(Exit::default())));
    let looked = record(&[(&run, &id), (&look, &None)]);
    assert!(at_work(&looked).is_empty());
    assert!(at_work(&record(&[(&run, &id), (&wait, &over)])).is_empty());
    let other = Some(Ok(Reply::Id("c2".into())));
    let calls = record(&[(&run, &other)]);
    let containers = there(&calls);
    let (earlier, _) = with_containers(vec![started(build())], calls, &containers);
    assert_eq!(earlier.going[&build()], Going::Anew);
    assert!(earlier.goes_on_with(&containers).is_empty());
}

#[test]
fn what_the_journal_does_not_have_cannot_be_replayed() {
    let large = |call: Call| {
        let mut call = recorded(build(), 1, 11, call, Some(Ok(Reply::Done)));
        if let Some(answer) = &mut call.answer {
            answer.result = Stored::TooLarge {
                sha256: "0".repeat(64),
                bytes: 1 << 30,
            };
        }
        of_run(vec![started(build())], vec![call])
    };
    let (earlier, questions) = large(docker(DockerOp::Push { image: "a".into() }));
    assert_eq!(earlier.going[&build()], Going::Anew);
    assert_eq!(questions, []);
    let (mut earlier, questions) = large(exec("a"));
    let whole = questions[0].whole.as_deref().unwrap_or_default();
    assert!(whole.contains("too large"), "{whole}");
    earlier.decide(&questions[0], Decision::Skip);
    assert_eq!(earlier.ended[&build()].state, StepState::Reused);
}

#[test]
fn another_plugin_is_not_told_what_the_first_one_heard() {
    let call = recorded(build(), 1, 11, exec("a"), Some(Ok(Reply::Done)));
    let events = told(vec![started(build())]);
    let (earlier, questions) = Earlier::of_run(
        &graph(),
        events,
        1,
        vec![call],
        &Inherited::default(),
        &|_| false,
        &Containers::default(),
    );
    assert_eq!(earlier.going[&build()], Going::Anew);
    assert_eq!(questions.len(), 1);
}

#[test]
fn a_cancel_is_taken_out_of_the_record() {
    let calls = vec![
        recorded(build(), 1, 11, exec("a"), Some(Ok(Reply::Done))),
        recorded(build(), 2, 12, exec("b"), Some(Err(CallError::cancelled()))),
        recorded(
            build(),
            3,
            13,
            docker(DockerOp::Info),
            Some(Err(CallError::cancelled())),
        ),
    ];
    let events = vec![
        started(build()),
        ended(build(), StepState::Cancelled),
        finished(),
    ];
    let (earlier, questions) = of_run(events, calls);
    assert!(is_replay(&earlier.going[&build()]));
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].call.id.seq, 2);
    let reopened = earlier.reopened();
    assert_eq!((reopened[0].attempt, reopened[0].from), (1, 2));
    assert_eq!(earlier.attempt(&build()), 1);
}

#[test]
fn a_failure_stands_until_the_run_has_ended() {
    let events = vec![
        started(build()),
        ended(build(), StepState::Succeeded),
        started(on_prod("deploy")),
        ended(on_prod("deploy"), StepState::Failed),
        ended(on_prod("health"), StepState::Skipped),
    ];
    let (earlier, _) = of_run(events.clone(), Vec::new());
    assert!(earlier.is_whole(&graph()), "it goes on to its end");
    let (earlier, _) = of_run([events, vec![finished()]].concat(), Vec::new());
    assert_eq!(earlier.ended(), [build()]);
    assert_eq!(earlier.attempt(&on_prod("deploy")), 2);
}

/// A run with these ends of its steps, in order, and a cleanup that began.
fn tidied(ends: [StepState; 3], after: Vec<Event>) -> Vec<Event> {
    let steps = [build(), on_prod("deploy"), on_prod("health")];
    let mut events = Vec::new();
    for (step, state) in steps.into_iter().zip(ends) {
        events.extend([started(step.clone()), ended(step, state)]);
    }
    events.push(started(on_prod("tidy")));
    events.extend(after);
    events
}

#[test]
fn what_cleaned_up_does_so_again_when_a_step_goes_on() {
    let (graph, tidy) = (graph_with_tidy(), on_prod("tidy"));
    let cut = recorded(tidy.clone(), 1, 71, exec("rm"), None);
    let cancelled = [
        StepState::Succeeded,
        StepState::Cancelled,
        StepState::Cancelled,
    ];
    // It ended well, it failed, it was cancelled; and it was killed in the middle.
    for after in [
        vec![ended(tidy.clone(), StepState::Succeeded), finished()],
        vec![ended(tidy.clone(), StepState::Failed), finished()],
        vec![ended(tidy.clone(), StepState::Cancelled), finished()],
        vec![ended(tidy.clone(), StepState::Succeeded)],
        vec![],
    ] {
        let events = told(tidied(cancelled, after.clone()));
        let (earlier, questions) = Earlier::of_run(
            &graph,
            events,
            9,
            vec![cut.clone()],
            &Inherited::default(),
            &|_| true,
            &Containers::default(),
        );
        assert_eq!(earlier.ended(), [build()], "{after:?}");
        // Nobody is asked about a call of a cleanup that is over.
        assert!(questions.is_empty(), "{after:?}");
        assert!(!earlier.going.contains_key(&tidy), "{after:?}");
        assert_eq!(earlier.attempt(&tidy), 2, "{after:?}");
    }
}

#[test]
fn what_cleaned_up_counts_when_nothing_ran_since() {
    let (graph, tidy) = (graph_with_tidy(), on_prod("tidy"));
    let resumed = |ends, after, call: RecordedCall| {
        let events = told(tidied(ends, after));
        Earlier::of_run(
            &graph,
            events,
            9,
            vec![call],
            &Inherited::default(),
            &|_| true,
            &Containers::default(),
        )
    };
    let done = recorded(tidy.clone(), 1, 71, exec("rm"), Some(Ok(Reply::Done)));
    let cut = recorded(tidy.clone(), 1, 71, exec("rm"), None);
    let good = [StepState::Succeeded; 3];
    let bad = [StepState::Succeeded, StepState::Failed, StepState::Skipped];
    for ends in [good, bad] {
        // Killed on the way to the end, after the cleanup: only the end is missing.
        let ended_well = vec![ended(tidy.clone(), StepState::Succeeded)];
        let (earlier, questions) = resumed(ends, ended_well, done.clone());
        assert!(earlier.is_whole(&graph) && questions.is_empty());
        // Killed in the middle of it: it goes on there, and asks as any other step.
        let (mut earlier, questions) = resumed(ends, Vec::new(), cut.clone());
        assert!(is_replay(&earlier.going[&tidy]));
        assert_eq!(questions.len(), 1);
        earlier.decide(&questions[0], Decision::Skip);
        assert!(earlier.reopened().is_empty());
    }
    // It failed alone, and is said to be done: then it is.
    let after = vec![ended(tidy.clone(), StepState::Failed), finished()];
    let (mut earlier, questions) = resumed(good, after, cut);
    assert_eq!(questions.len(), 1);
    earlier.decide(&questions[0], Decision::Skip);
    assert!(earlier.is_whole(&graph));
}

#[test]
fn a_retry_cleans_up_after_itself() {
    let (graph, tidy) = (graph_with_tidy(), on_prod("tidy"));
    let retried = |ends, of_tidy| {
        let after = vec![ended(tidy.clone(), of_tidy), finished()];
        Earlier::of_failed(
            &graph,
            &told(tidied(ends, after)),
            &[],
            &Inherited::default(),
        )
    };
    let bad = [StepState::Succeeded, StepState::Failed, StepState::Skipped];
    let earlier = retried(bad, StepState::Succeeded);
    assert_eq!(earlier.ended(), [build()]);
    let good = [StepState::Succeeded; 3];
    assert!(retried(good, StepState::Succeeded).is_whole(&graph));
    let earlier = retried(good, StepState::Failed);
    assert!(!earlier.is_whole(&graph) && earlier.ended().len() == 3);
}

#[test]
fn what_was_put_back_is_done_again_with_what_follows() {
    let stage = releases(ReleasesOp::Stage(Box::<StageSpec>::default()));
    let restore = releases(ReleasesOp::Restore { id: "r0".into() });
    let calls = vec![
        recorded(on_prod("deploy"), 1, 31, stage, Some(Ok(Reply::Done))),
        recorded(StepKey::engine(), 1, 55, restore, Some(Ok(Reply::Done))),
    ];
    let events = vec![
        started(build()),
        ended(build(), StepState::Succeeded),
        started(on_prod("deploy")),
        ended(on_prod("deploy"), StepState::Succeeded),
        ended(on_prod("health"), StepState::Failed),
        finished(),
    ];
    let (earlier, _) = of_run(events.clone(), calls.clone());
    assert_eq!(earlier.ended(), [build()]);
    let retried = Earlier::of_failed(&graph(), &told(events), &calls, &Inherited::default());
    assert_eq!(retried.ended(), [build()]);
    assert_eq!(retried.ended[&build()].state, StepState::Reused);
    assert_eq!(retried.attempt(&on_prod("deploy")), 1, "it is another run");
}

#[test]
fn releases_of_good_steps_are_the_retrys_to_mark() {
    let staged = Reply::Staged(windlass_model::reply::Staged {
        id: "r1".into(),
        changed: true,
        previous: Some("r0".into()),
        missing_images: Vec::new(),
    });
    let activate = releases(ReleasesOp::Activate {
        id: "r1".into(),
        timeout_ms: 1,
        remove_orphans: false,
    });
    let stage = releases(ReleasesOp::Stage(Box::<StageSpec>::default()));
    let calls = vec![
        recorded(on_prod("deploy"), 1, 31, stage, Some(Ok(staged))),
        recorded(on_prod("deploy"), 2, 32, activate, Some(Ok(Reply::Done))),
    ];
    let events = told(vec![
        ended(build(), StepState::Succeeded),
        ended(on_prod("deploy"), StepState::Succeeded),
        ended(on_prod("health"), StepState::Failed),
        finished(),
    ]);
    let retried = Earlier::of_failed(&graph(), &events, &calls, &Inherited::default());
    let changes = Changes::of(&retried.releases, &retried.calls).all();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].1.active && changes[0].1.release == "r1");
    // Also when the retry is cut short before it said or did anything.
    let inherited = retried.handed_on();
    let none = Vec::new();
    let containers = Containers::default();
    let (resumed, _) = Earlier::of_run(
        &graph(),
        none,
        1,
        Vec::new(),
        &inherited,
        &|_| true,
        &containers,
    );
    assert_eq!(resumed.ended(), retried.ended());
    assert_eq!(resumed.releases, retried.releases);
    let again = Earlier::of_failed(&graph(), &told(vec![finished()]), &[], &inherited);
    assert_eq!(again.ended(), retried.ended());
    assert_eq!(again.releases, retried.releases);
}

#[test]
fn what_was_taken_over_and_put_back_is_done_again() {
    let inherited = Inherited {
        steps: vec![inherited(build()), inherited(on_prod("deploy"))],
        releases: vec![InheritedRelease {
            step: on_prod("deploy"),
            target: TargetName::from("prod_1"),
            dir: "/srv/app".into(),
            release: "r1".into(),
            previous: Some("r0".into()),
            changed: true,
        }],
    };
    let restore = releases(ReleasesOp::Restore { id: "r0".into() });
    let restored = recorded(StepKey::engine(), 1, 2, restore, Some(Ok(Reply::Done)));
    let events = told(vec![
        ended(on_prod("health"), StepState::Failed),
        finished(),
    ]);
    let calls = vec![restored];
    let containers = Containers::default();
    let (resumed, _) = Earlier::of_run(
        &graph(),
        events,
        4,
        calls,
        &inherited,
        &|_| true,
        &containers,
    );
    assert_eq!(resumed.ended(), [build()]);
}

fn inherited(step: StepKey) -> InheritedStep {
    InheritedStep {
        step,
        outputs: Default::default(),
        reason: "done in the run that is retried".into(),
    }
}

#[test]
fn the_engine_counts_its_own_calls_on() {
    let release = Call::Lease(LeaseCall {
        target: TargetName::from("prod_1"),
        path: "~/lease".into(),
        op: LeaseOp::Release,
    });
    let calls = vec![recorded(
        StepKey::engine(),
        7,
        1,
        release,
        Some(Ok(Reply::Done)),
    )];
    let (earlier, _) = of_run(Vec::new(), calls);
    assert_eq!(earlier.engine_calls(), 7);
}

#[test]
fn a_notification_goes_out_once() {
    let post = |said| {
        let call = Call::Http(windlass_model::call::HttpCall {
            method: "POST".into(),
            url: "https://example.org/".into(),
            headers: Vec::new(),
            body: windlass_model::call::HttpBody::Empty,
            timeout_ms: 1,
            max_redirects: 0,
            via: None,
            max_body: 1,
        });
        recorded(StepKey::new("notify.slack", None), 1, 95, call, said)
    };
    let known = |said: Said| of_run(Vec::new(), vec![post(said)]).0.notified["slack"];
    assert!(known(Some(Ok(Reply::Done))));
    assert!(!known(None), "nobody knows whether it arrived");
    // That of the end before is another one.
    let events = vec![finished(); 10];
    let (earlier, _) = of_run(events, vec![post(None)]);
    assert!(earlier.notified.is_empty());
}

/// Answers all probes alike, and keeps them.
struct Target(Result<Trace, CallError>, Mutex<Vec<Call>>);

#[async_trait]
impl Capability for Target {
    async fn call(&self, _context: &CallContext, call: Call) -> Result<Reply, CallError> {
        self.1.lock().expect("lock").push(call);
        self.0.clone().map(Reply::Trace)
    }
}

/// What comes of a command without an answer, and of one whose step failed with it
/// lost, when the target says this of each. `build`'s record and the questions left.
async fn probed(said: Result<Trace, CallError>) -> (Earlier, Vec<Question>, Vec<Call>) {
    let lost = Some(Err(CallError::unavailable("ssh.lost", "it went")));
    let calls = vec![
        recorded(build(), 1, 11, exec("a"), None),
        recorded(on_prod("deploy"), 1, 12, exec("b"), lost),
    ];
    let events = vec![
        started(build()),
        started(on_prod("deploy")),
        ended(on_prod("deploy"), StepState::Failed),
        finished(),
    ];
    let (mut earlier, questions) = of_run(events, calls);
    // `deploy` needs `build`: it is asked about all the same.
    assert_eq!(questions.len(), 2, "{questions:?}");
    let dir = tempfile::tempdir().expect("directory");
    let journal = Journal::open(dir.path()).expect("journal");
    let target = Arc::new(Target(said, Default::default()));
    let secrets = Secrets::default();
    let backend = Arc::clone(&target) as Arc<dyn Capability>;
    let left = earlier.probe(questions, journal.clone(), &secrets, backend);
    let left = left.await;
    journal.flush().await.expect("flushed");
    let kept = journal.calls(RunId(Default::default())).expect("calls");
    assert!(
        kept.iter()
            .all(|call| call.class == Class::Read && call.answer.is_some())
    );
    assert_eq!((kept.len(), earlier.engine_calls()), (2, 2));
    let asked = target.1.lock().expect("lock").clone();
    (earlier, left, asked)
}

#[tokio::test]
async fn what_a_target_knows_is_not_asked() {
    for said in [Trace::Running, Trace::Ended { code: 7 }] {
        let (earlier, left, asked) = probed(Ok(said)).await;
        let id = recorded(build(), 1, 11, exec("a"), None).id;
        assert_eq!(Some(&asked[0]), exec("a").probe(&id).as_ref());
        // Its step runs again from its start: the answer is of no use to it.
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].step, on_prod("deploy"));
        let found = left[0].found.as_deref().unwrap_or_default();
        assert!(found.starts_with("it "), "{found}");
        let Going::Replay(record) = &earlier.going[&build()] else {
            panic!("{earlier:?}");
        };
        let rejoin = exec("a").rejoin().expect("a way to go on");
        assert_eq!(record.taken[&1], Taken::Rejoin(rejoin));
        assert_eq!(earlier.found.len(), 1, "{:?}", earlier.found);
    }
}

#[tokio::test]
async fn what_it_does_not_know_is_asked_and_told() {
    let away = CallError::unavailable("ssh.unreachable", "nobody is there");
    let cases = [
        (Ok(Trace::None), "prod_1 has no marker of it"),
        (Ok(Trace::Died), "before it told how it ended"),
        (Err(away), "prod_1 could not be asked: nobody is there"),
    ];
    for (said, told) in cases {
        let (earlier, left, _) = probed(said).await;
        assert_eq!(left.len(), 2, "{left:?}");
        for question in &left {
            let found = question.found.as_deref().unwrap_or_default();
            assert!(found.contains(told), "{found}");
        }
        assert_eq!(earlier.found, Vec::<String>::new());
    }
}
