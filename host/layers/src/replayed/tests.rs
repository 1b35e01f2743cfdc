use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use windlass_journal::{Answer, Stored};
use windlass_model::backend::NoLog;
use windlass_model::call::{DockerCall, DockerOp, SshCall};
use windlass_model::reply::Exit;
use windlass_model::{BlobRef, CallId, RunId, Secrets, StepKey, TargetName};

use super::*;
use crate::Journalled;

/// Counts what reaches the world.
struct World(AtomicUsize, Result<Reply, CallError>, Mutex<Vec<Call>>);

#[async_trait]
impl Capability for World {
    async fn call(&self, _context: &CallContext, call: Call) -> Result<Reply, CallError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.2.lock().expect("lock").push(call);
        self.1.clone()
    }
}

struct Stage {
    world: Arc<World>,
    replay: Replayed,
    journal: Journal,
    _dir: tempfile::TempDir,
}

fn context(seq: u64) -> CallContext {
    CallContext {
        id: CallId {
            run: RunId(Default::default()),
            step: StepKey::new("migrate", None),
            attempt: 1,
            seq,
        },
        deadline: Instant::now() + Duration::from_secs(60),
        cancel: Default::default(),
        log: Arc::new(NoLog),
        blobs: Default::default(),
        answered: Default::default(),
    }
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

fn then() -> Timestamp {
    Timestamp::from_second(1_769_219_218).expect("time")
}

fn recorded(seq: u64, call: &Call, result: Option<Result<Reply, CallError>>) -> RecordedCall {
    RecordedCall {
        id: context(seq).id,
        name: call.name(),
        class: call.class(),
        asked: then(),
        call: Stored::Here(call.clone()),
        answer: result.map(|result| Answer {
            at: then(),
            result: Stored::Here(result),
        }),
    }
}

/// The journal has the calls as intents.
async fn stage(
    calls: Vec<RecordedCall>,
    taken: BTreeMap<u64, Taken>,
    says: Result<Reply, CallError>,
) -> Stage {
    let dir = tempfile::tempdir().expect("directory");
    let journal = Journal::open(dir.path()).expect("journal");
    for call in &calls {
        let intent = journal
            .intent(&call.id, call.call.here().expect("call"))
            .await;
        intent.expect("intent");
    }
    let world = Arc::new(World(AtomicUsize::new(0), says, Mutex::default()));
    let mut secrets = Secrets::default();
    secrets.insert("TOKEN", "hunter2hunter2".to_owned().into());
    let redactor = Arc::new(crate::Redactor::new(&secrets));
    let next = Journalled::new(
        journal.clone(),
        Arc::clone(&redactor),
        Arc::clone(&world) as Arc<dyn Capability>,
    );
    let calls = calls.into_iter().map(|call| (call.id.seq, call)).collect();
    let again = Arc::clone(&world) as Arc<dyn Capability>;
    Stage {
        replay: Replayed::new(
            calls,
            taken,
            journal.clone(),
            redactor,
            Arc::new(next),
            again,
        ),
        world,
        journal,
        _dir: dir,
    }
}

impl Stage {
    fn made(&self) -> usize {
        self.world.0.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn the_record_answers_until_it_ends() {
    let once = exec("migrate");
    let record = vec![recorded(1, &once, Some(Ok(Reply::Exit(Exit::default()))))];
    let stage = stage(record, BTreeMap::new(), Ok(Reply::Done)).await;
    let replaying = stage.replay.replaying();
    assert!(replaying.load(Ordering::Relaxed));
    let first = context(1);
    let answer = stage.replay.call(&first, once).await;
    assert_eq!(answer, Ok(Reply::Exit(Exit::default())));
    let at = u64::try_from(then().as_millisecond()).ok();
    assert_eq!(
        first.answered.get(),
        at,
        "the guest's clock is that of then"
    );
    assert_eq!(
        stage.made(),
        0,
        "what is recorded as done is not done again"
    );
    assert!(!replaying.load(Ordering::Relaxed));
    let answer = stage.replay.call(&context(2), exec("restart")).await;
    assert_eq!((answer, stage.made()), (Ok(Reply::Done), 1));
    assert_eq!(
        stage.journal.calls(context(1).id.run).expect("calls").len(),
        2
    );
}

#[tokio::test]
async fn another_call_than_then_stops_all_that_follows() {
    let record = vec![
        recorded(1, &exec("migrate"), Some(Ok(Reply::Done))),
        recorded(2, &exec("restart"), None),
    ];
    let stage = stage(record, BTreeMap::new(), Ok(Reply::Done)).await;
    let error = stage.replay.call(&context(1), exec("drop")).await;
    let error = error.expect_err("diverged");
    assert_eq!(error.code, DIVERGED);
    for shown in ["migrate", "drop", "step migrate"] {
        assert!(error.message.contains(shown), "{error:?}");
    }
    let after = stage.replay.call(&context(2), exec("restart")).await;
    assert_eq!(after.expect_err("stopped").code, DIVERGED);
    assert_eq!(stage.replay.stopped().expect("stopped").code, DIVERGED);
    assert_eq!(stage.made(), 0);
}

#[tokio::test]
async fn a_call_without_an_answer_is_made_again_under_its_own_number() {
    let push = Call::Docker(DockerCall {
        engine: TargetName::local(),
        op: DockerOp::Push {
            image: "app:1".into(),
        },
    });
    let record = vec![recorded(1, &push, None)];
    let stage = stage(record, BTreeMap::new(), Ok(Reply::Done)).await;
    assert_eq!(stage.replay.call(&context(1), push).await, Ok(Reply::Done));
    assert_eq!(stage.made(), 1);
    let calls = stage.journal.calls(context(1).id.run).expect("calls");
    assert_eq!(calls.len(), 1);
    assert!(calls[0].answer.is_some());
}

#[tokio::test]
async fn what_a_person_takes_as_done_is_recorded_and_not_made() {
    let record = vec![recorded(1, &exec("migrate"), None)];
    let taken = BTreeMap::from([(1, Taken::Reply(Reply::Exit(Exit::default())))]);
    let stage = stage(record, taken, Ok(Reply::Done)).await;
    let answer = stage.replay.call(&context(1), exec("migrate")).await;
    assert_eq!(answer, Ok(Reply::Exit(Exit::default())));
    assert_eq!(stage.made(), 0);
    let calls = stage.journal.calls(context(1).id.run).expect("calls");
    assert!(calls[0].answer.is_some());
}

/// A cancel takes the intent of the call that it cut, and all after it, out of the journal.
#[tokio::test]
async fn it_is_recorded_where_the_journal_forgot_the_call() {
    let record = vec![recorded(1, &exec("migrate"), None)];
    let taken = BTreeMap::from([(1, Taken::Reply(Reply::Exit(Exit::default())))]);
    let stage = stage(record, taken, Ok(Reply::Done)).await;
    let run = context(1).id.run;
    let goes = windlass_journal::Reopened {
        step: context(1).id.step,
        attempt: 1,
        from: 1,
    };
    stage.journal.reopen(run, vec![goes]).await.expect("reopen");
    assert_eq!(stage.journal.calls(run).expect("calls"), []);
    let answer = stage.replay.call(&context(1), exec("migrate")).await;
    let calls = stage.journal.calls(run).expect("calls");
    let kept = calls[0].answer.as_ref().expect("answer").result.here();
    assert_eq!(kept, Some(&answer));
}

#[tokio::test]
async fn what_a_probe_found_is_gone_on_with_and_recorded_as_the_calls_own_answer() {
    let record = vec![recorded(1, &exec("migrate"), None)];
    let rejoin = exec("migrate").rejoin().expect("rejoin");
    let taken = BTreeMap::from([(1, Taken::Rejoin(rejoin.clone()))]);
    let exit = Exit {
        code: 3,
        tail: "two of three\n".into(),
        values: Vec::new(),
    };
    let stage = stage(record, taken, Ok(Reply::Exit(exit.clone()))).await;
    let first = context(1);
    let answer = stage.replay.call(&first, exec("migrate")).await;
    assert_eq!(answer, Ok(Reply::Exit(exit)));
    assert_eq!(*stage.world.2.lock().expect("lock"), [rejoin]);
    assert!(first.answered.get().is_some(), "it is on disk");
    let calls = stage.journal.calls(first.id.run).expect("calls");
    assert_eq!(
        (calls.len(), calls[0].call.here()),
        (1, Some(&exec("migrate")))
    );
    let kept = calls[0].answer.as_ref().expect("answer").result.here();
    assert_eq!(kept, Some(&answer));
}

#[tokio::test]
async fn bytes_are_read_again_and_must_be_the_same() {
    let open = Call::File(FileCall::Open {
        path: "run.sh".into(),
    });
    let blob = |digit: &str| {
        Reply::Blob(BlobRef {
            sha256: digit.repeat(64),
            size: 1,
        })
    };
    for (now, same) in [("a", true), ("b", false)] {
        let record = vec![recorded(1, &open, Some(Ok(blob("a"))))];
        let stage = stage(record, BTreeMap::new(), Ok(blob(now))).await;
        let answer = stage.replay.call(&context(1), open.clone()).await;
        assert_eq!(stage.made(), 1);
        match answer {
            Ok(reply) => assert!(same && reply == blob("a")),
            Err(error) => assert!(!same && error.code == DIVERGED),
        }
    }
}

#[tokio::test]
async fn a_secret_in_a_call_is_neither_kept_nor_a_difference() {
    let stage = stage(Vec::new(), BTreeMap::new(), Ok(Reply::Done)).await;
    let call = exec("--token=hunter2hunter2");
    let answer = stage.replay.call(&context(1), call.clone()).await;
    assert_eq!(answer, Ok(Reply::Done));
    let kept = stage.journal.calls(context(1).id.run).expect("calls");
    assert_eq!(kept[0].call.here(), Some(&exec("--token=[secret:TOKEN]")));

    let record = vec![recorded(
        1,
        &exec("--token=[secret:TOKEN]"),
        Some(Ok(Reply::Done)),
    )];
    let stage = self::stage(record, BTreeMap::new(), Ok(Reply::Done)).await;
    let answer = stage.replay.call(&context(1), call).await;
    assert_eq!((answer, stage.made()), (Ok(Reply::Done), 0));
}
