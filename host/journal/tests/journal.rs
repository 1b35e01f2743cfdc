//! The journal on a real disk: what it promises about order, crashes, two
//! processes, and files that are not as it left them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;
use windlass_journal::{
    BLOB_BYTES_PER_RUN, FILE_NAME, INLINE_BYTES, Journal, JournalError, Origin, Reopened, Stored,
};
use windlass_model::call::{ClockCall, DockerCall, DockerOp, FileCall, SecretCall, SshCall, SshOp};
use windlass_model::event::{Envelope, Event, Level, Outcome, RunFinished, RunStarted, StepState};
use windlass_model::{
    BlobRef, Call, CallError, CallId, Class, Reply, RunId, RunInputs, StepKey, TargetName,
};

/// Time-ordered, as UUIDs of version 7 are.
fn run(number: u128) -> RunId {
    RunId(Uuid::from_u128(
        0x0190_0000_0000_7000_8000_0000_0000_0000 + number * 0x1_0000_0001,
    ))
}

fn envelope(number: u64, event: Event) -> Envelope {
    let at = Timestamp::from_nanosecond(1_700_000_000_123_456_789 + i128::from(number));
    Envelope {
        number,
        at: at.expect("time"),
        event,
    }
}

fn started(run: RunId) -> Event {
    Event::RunStarted(Box::new(RunStarted {
        run,
        windlass: "0.1.0".into(),
        pipeline: "observer".into(),
        environment: "prod".into(),
        tag: "20260124-014658".into(),
        commit: "c0ffee".into(),
        branch: "main".into(),
        dirty: false,
        steps: Vec::new(),
        targets: vec![TargetName::from("prod_1")],
        link: Some("https://ci.example/1".into()),
        who: "ann@laptop".into(),
    }))
}

fn finished(outcome: Outcome) -> Event {
    Event::RunFinished(Box::new(RunFinished {
        outcome,
        error: None,
        failed_step: None,
        releases: Vec::new(),
        duration_ms: 4200,
        exit_code: u8::from(outcome != Outcome::Succeeded),
    }))
}

fn log(step: &StepKey, text: &str) -> Event {
    Event::StepLog {
        step: step.clone(),
        level: Level::Info,
        stream: None,
        text: text.into(),
    }
}

fn step_finished(step: &StepKey, state: StepState, image: &str) -> Event {
    let mut outputs = IndexMap::new();
    outputs.insert("image".to_owned(), json!(image));
    outputs.insert("a".to_owned(), json!({"z": 1, "b": [2]}));
    Event::StepFinished {
        step: step.clone(),
        state,
        duration_ms: 7,
        outputs,
        error: None,
        reason: None,
    }
}

fn build() -> StepKey {
    StepKey::new("build", None)
}

fn deploy() -> StepKey {
    StepKey::new("deploy", Some(TargetName::from("prod_1")))
}

fn call_id(run: RunId, seq: u64) -> CallId {
    CallId {
        run,
        step: deploy(),
        attempt: 1,
        seq,
    }
}

fn exec(script: &str) -> Call {
    Call::Ssh(SshCall {
        target: TargetName::from("prod_1"),
        op: SshOp::Upload {
            path: script.into(),
            content: BlobRef {
                sha256: "0".repeat(64),
                size: 1,
            },
            mode: 0o600,
        },
    })
}

fn sleep(ms: u64) -> Call {
    Call::Clock(ClockCall::Sleep { ms })
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join("a/.windlass");
    let run = run(1);
    let events = vec![
        envelope(1, started(run)),
        envelope(2, log(&build(), "one")),
        envelope(3, step_finished(&build(), StepState::Succeeded, "sha256:1")),
        envelope(4, log(&deploy(), "two")),
        envelope(5, finished(Outcome::Failed)),
    ];
    {
        let journal = Journal::open(&state).expect("open");
        for event in &events {
            journal.record(run, event).await.expect("record");
        }
        assert_eq!(journal.synced_commits(), 1, "only the end is waited for");
        let progress = Event::StepProgress {
            step: build(),
            message: "half".into(),
            done: 1,
            total: 2,
        };
        journal
            .append(run, &envelope(0, progress))
            .await
            .expect("progress is not stored");
    }
    let journal = Journal::open(&state).expect("reopen");
    assert_eq!(journal.events(run).expect("events"), events);
    let summary = journal.find_run("last").expect("run");
    assert_eq!(summary.run, run);
    assert_eq!(summary.started, events[0].at);
    assert_eq!(summary.outcome, Some(Outcome::Failed));
    assert_eq!(summary.duration_ms, Some(4200));
    assert_eq!(summary.link.as_deref(), Some("https://ci.example/1"));
    let texts = |step: Option<&str>, target: Option<&str>| -> Vec<String> {
        journal
            .logs(run, step, target)
            .map(|line| line.expect("line").text)
            .collect()
    };
    assert_eq!(texts(None, None), ["one", "two"]);
    assert_eq!(texts(Some("deploy"), None), ["two"]);
    assert_eq!(texts(Some("deploy"), Some("prod_2")), [""; 0]);
}

#[cfg(unix)]
#[tokio::test]
async fn only_this_user_reads_it_and_git_does_not_see_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join(".windlass");
    let journal = Journal::open(&state).expect("open");
    let run = run(1);
    journal
        .append(run, &envelope(1, started(run)))
        .await
        .expect("append");
    let mode = |path: &Path| std::fs::metadata(path).expect("file").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for entry in std::fs::read_dir(&state).expect("dir") {
        let path = entry.expect("entry").path();
        if path.file_name().is_some_and(|name| name == ".gitignore") {
            assert_eq!(std::fs::read_to_string(path).expect("text"), "*\n");
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_directory_that_was_never_used_holds_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let state = dir.path().join(".windlass");
    assert!(Journal::open_existing(&state).expect("look").is_none());
    assert!(!state.exists());
    let journal = Journal::open(&state).expect("open");
    assert!(matches!(
        journal.find_run("last"),
        Err(JournalError::NoRuns)
    ));
}

#[tokio::test]
async fn a_log_longer_than_a_page_comes_back_whole() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    let run = run(1);
    for number in 1..=2500 {
        let line = envelope(number, log(&build(), &format!("line {number}")));
        journal.append_relaxed(run, &line).await.expect("append");
    }
    journal.flush().await.expect("flush");
    assert_eq!(journal.logs(run, Some("build"), None).count(), 2500);
    assert_eq!(journal.events(run).expect("events").len(), 2500);
    assert!(
        journal.synced_commits() < 10,
        "log lines are not synced one by one: {}",
        journal.synced_commits()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    let run = run(1);
    let ids: Vec<CallId> = (1..=200).map(|seq| call_id(run, seq)).collect();
    let call = exec("/srv/x");
    futures_util::future::try_join_all(ids.iter().map(|id| journal.intent(id, &call)))
        .await
        .expect("intents");
    assert_eq!(journal.calls(run).expect("calls").len(), 200);
    let commits = journal.synced_commits();
    assert!(commits >= 1);
    assert!(commits < 50, "200 intents took {commits} syncs");
}

#[tokio::test]
async fn calls_and_answers_come_back() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run(1);
    let journal = Journal::open(dir.path()).expect("open");
    // Before RunStarted: the run's facts come from git.
    let inspect = Call::Docker(DockerCall {
        engine: TargetName::local(),
        op: DockerOp::Info,
    });
    journal
        .read_call(&call_id(run, 1), &inspect)
        .await
        .expect("read");
    let at = journal
        .reply(&call_id(run, 1), Class::Read, &Ok(Reply::Text("20".into())))
        .await
        .expect("reply");
    journal
        .intent(&call_id(run, 2), &exec("/srv/a"))
        .await
        .expect("intent");
    let refused = CallError::conflict("x.y", "no").hint("do").retryable();
    journal
        .reply(&call_id(run, 2), Class::Convergent, &Err(refused.clone()))
        .await
        .expect("reply");
    journal
        .intent(&call_id(run, 3), &exec("/srv/b"))
        .await
        .expect("intent");
    let calls = journal.calls(run).expect("calls");
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].call, Stored::Here(inspect));
    assert_eq!(calls[0].name, "docker.info");
    let answer = calls[0].answer.as_ref().expect("answer");
    assert_eq!(answer.at, at, "the guest's clock is what was recorded");
    assert_eq!(answer.result, Stored::Here(Ok(Reply::Text("20".into()))));
    assert_eq!(calls[1].class, Class::Convergent);
    assert_eq!(
        calls[1].answer.as_ref().expect("answer").result,
        Stored::Here(Err(refused))
    );
    assert_eq!(calls[2].answer, None, "an open effect is ambiguous");
    assert!(journal.runs(9).expect("runs").is_empty(), "not started yet");

    let again = journal.intent(&call_id(run, 3), &exec("/srv/b")).await;
    again.expect("a resumed run asks again what was not answered");
    let other = journal.intent(&call_id(run, 3), &exec("/srv/c")).await;
    assert!(other.is_err(), "an identity is one call's");
    let twice = journal.intent(&call_id(run, 2), &exec("/srv/a")).await;
    assert!(twice.is_err(), "what was answered is not asked again");
    let unknown = journal
        .reply(&call_id(run, 9), Class::Once, &Ok(Reply::Done))
        .await;
    assert!(unknown.is_err(), "an answer needs its call");
}

#[tokio::test]
async fn what_a_secret_says_is_not_stored() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run(1);
    let id = call_id(run, 1);
    {
        let journal = Journal::open(dir.path()).expect("open");
        let reveal = Call::Secret(SecretCall::Reveal {
            name: "TOKEN".into(),
        });
        journal.read_call(&id, &reveal).await.expect("read");
        journal
            .reply(&id, Class::Read, &Ok(Reply::Text("hunter2-hunter2".into())))
            .await
            .expect("reply");
        journal.flush().await.expect("flush");
        let calls = journal.calls(run).expect("calls");
        let answer = calls[0].answer.as_ref().expect("answer");
        assert_eq!(answer.result, Stored::Withheld);
    }
    for entry in std::fs::read_dir(dir.path()).expect("dir") {
        let bytes = std::fs::read(entry.expect("entry").path()).expect("bytes");
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
}

#[tokio::test]
async fn large_answers_are_blobs_up_to_a_cap() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    let run = run(1);
    let open = Call::File(FileCall::Open { path: "x".into() });
    let answer = |letter: &str, size: usize| Ok(Reply::Text(letter.repeat(size)));
    // The second and the third are the same bytes, stored once.
    let third = usize::try_from(BLOB_BYTES_PER_RUN / 3).expect("size");
    let sizes = [
        ("a", INLINE_BYTES + 1),
        ("b", third * 2),
        ("b", third * 2),
        ("c", third * 2),
        ("d", 10),
    ];
    for (seq, (letter, size)) in sizes.into_iter().enumerate() {
        let id = call_id(run, seq as u64 + 1);
        journal.read_call(&id, &open).await.expect("read");
        journal
            .reply(&id, Class::Read, &answer(letter, size))
            .await
            .expect("reply");
    }
    journal.flush().await.expect("flush");
    let calls = journal.calls(run).expect("calls");
    let result = |index: usize| &calls[index].answer.as_ref().expect("answer").result;
    for index in [0, 1, 2, 4] {
        let (letter, size) = sizes[index];
        assert!(
            result(index) == &Stored::Here(answer(letter, size)),
            "answer {index}"
        );
    }
    assert!(matches!(
        result(3),
        Stored::TooLarge { bytes, .. } if *bytes > third as u64 * 2
    ));
}

#[tokio::test]
async fn runs_are_found_by_what_people_type() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    for number in 1..=3 {
        let run = run(number);
        journal
            .append(run, &envelope(1, started(run)))
            .await
            .expect("append");
    }
    journal
        .append(run(2), &envelope(2, finished(Outcome::Succeeded)))
        .await
        .expect("append");
    let newest: Vec<RunId> = journal
        .runs(2)
        .expect("runs")
        .iter()
        .map(|run| run.run)
        .collect();
    assert_eq!(newest, [run(3), run(2)]);
    let open: Vec<RunId> = journal
        .unfinished()
        .expect("runs")
        .iter()
        .map(|run| run.run)
        .collect();
    assert_eq!(open, [run(3), run(1)]);
    let found = |text: &str| journal.find_run(text).map(|found| found.run);
    assert_eq!(found("last").expect("last"), run(3));
    assert_eq!(found(&run(1).to_string()).expect("whole"), run(1));
    assert_eq!(found(&run(2).short()).expect("short"), run(2));
    assert_eq!(
        found(&run(2).0.simple().to_string().to_uppercase()).expect("no dashes"),
        run(2)
    );
    match found("0190") {
        Err(JournalError::AmbiguousRun { candidates, .. }) => assert_eq!(candidates.len(), 3),
        other => panic!("{other:?}"),
    }
    for nothing in ["", "ffff", "-", "%", "x' OR '1'='1", "letzte"] {
        assert!(
            matches!(found(nothing), Err(JournalError::NoSuchRun { .. })),
            "{nothing}"
        );
    }
}

#[tokio::test]
async fn outputs_come_from_the_newest_good_step_of_the_same_origin() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    let first = [
        envelope(1, started(run(1))),
        envelope(2, step_finished(&build(), StepState::Succeeded, "old")),
        envelope(3, step_finished(&deploy(), StepState::Failed, "no")),
    ];
    let second = [
        envelope(1, started(run(2))),
        envelope(2, step_finished(&build(), StepState::Reused, "new")),
    ];
    let mut dirty = started(run(3));
    if let Event::RunStarted(started) = &mut dirty {
        started.dirty = true;
    }
    let third = [
        envelope(1, dirty),
        envelope(2, step_finished(&build(), StepState::Succeeded, "dirty")),
    ];
    for (number, events) in [(1, &first[..]), (2, &second), (3, &third)] {
        for event in events {
            journal.append(run(number), event).await.expect("append");
        }
    }
    let mut origin = Origin {
        pipeline: "observer",
        environment: "prod",
        commit: "c0ffee",
        tag: "20260124-014658",
        dirty: false,
    };
    let image = |origin: &Origin<'_>, step: &StepKey| {
        journal
            .last_good_outputs(origin, step)
            .expect("query")
            .map(|outputs| outputs["image"].clone())
    };
    assert_eq!(image(&origin, &build()), Some(json!("new")));
    assert_eq!(image(&origin, &deploy()), None);
    origin.dirty = true;
    assert_eq!(image(&origin, &build()), Some(json!("dirty")));
    origin.tag = "other";
    assert_eq!(image(&origin, &build()), None);
}

#[tokio::test]
async fn prune_keeps_the_newest_and_gives_the_space_back() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    for number in 1..=5 {
        let run = run(number);
        journal
            .append(run, &envelope(1, started(run)))
            .await
            .expect("append");
        let id = call_id(run, 1);
        journal.intent(&id, &exec("/a")).await.expect("intent");
        let text = Reply::Text(number.to_string().repeat(1_000_000));
        journal
            .reply(&id, Class::Once, &Ok(text))
            .await
            .expect("reply");
    }
    assert_eq!(journal.prune(2).await.expect("prune"), 3);
    let left: Vec<RunId> = journal
        .runs(9)
        .expect("runs")
        .iter()
        .map(|run| run.run)
        .collect();
    assert_eq!(left, [run(5), run(4)]);
    assert!(journal.calls(run(1)).expect("calls").is_empty());
    assert_eq!(journal.calls(run(5)).expect("calls").len(), 1);
    drop(journal);
    let size = std::fs::metadata(dir.path().join(FILE_NAME))
        .expect("file")
        .len();
    assert!(size < 3_000_000, "{size} bytes are left");
}

#[tokio::test]
async fn a_torn_tail_leaves_a_prefix() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal::open(dir.path()).expect("open");
    let run = run(1);
    for seq in 1..=40 {
        journal
            .read_call(&call_id(run, seq * 2), &sleep(seq))
            .await
            .expect("read");
        journal
            .intent(&call_id(run, seq * 2 + 1), &exec("/srv"))
            .await
            .expect("intent");
    }
    // What a power cut leaves: the files as they are now, some bytes less.
    let copy = |to: &Path| {
        for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
            std::fs::copy(dir.path().join(&name), to.join(&name)).expect("copy");
        }
    };
    let wal = format!("{FILE_NAME}-wal");
    let mut fewest = usize::MAX;
    for cut in [1_u64, 100, 4096, 5000, 20_000, 60_000] {
        for garble in [false, true] {
            let torn = tempfile::tempdir().expect("dir");
            copy(torn.path());
            let path = torn.path().join(&wal);
            let length = std::fs::metadata(&path).expect("wal").len();
            assert!(length > 100_000, "the test wants a long tail: {length}");
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("wal");
            if garble {
                use std::io::{Seek, SeekFrom};
                file.seek(SeekFrom::Start(length - cut)).expect("seek");
                let noise = vec![0xA5; usize::try_from(cut).expect("size")];
                file.write_all(&noise).expect("garble");
            } else {
                file.set_len(length - cut).expect("cut");
            }
            drop(file);
            let journal = Journal::open(torn.path()).expect("opens");
            let calls = journal.calls(run).expect("calls");
            let seqs: Vec<u64> = calls.iter().map(|call| call.id.seq).collect();
            let prefix: Vec<u64> = (2..).take(calls.len()).collect();
            assert_eq!(seqs, prefix, "no hole: an effect implies all before it");
            assert!(calls.len() < 80);
            fewest = fewest.min(calls.len());
            journal
                .intent(&call_id(run, 1000), &exec("/srv"))
                .await
                .expect("goes on");
        }
    }
    assert!(fewest > 0);
}

#[tokio::test]
async fn files_that_are_not_a_journal_are_told_apart() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join(FILE_NAME);
    std::fs::write(
        &file,
        b"this is not a database, though long enough to be read as one",
    )
    .expect("write");
    let error = Journal::open(dir.path()).expect_err("garbage");
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains(FILE_NAME));
    assert!(error.hint().expect("hint").contains("aside"));

    std::fs::remove_file(&file).expect("remove");
    drop(Journal::open(dir.path()).expect("open"));
    let database = rusqlite::Connection::open(&file).expect("sqlite");
    database
        .pragma_update(None, "user_version", 99)
        .expect("pragma");
    drop(database);
    let error = Journal::open(dir.path()).expect_err("newer");
    assert!(
        matches!(error, JournalError::NewerSchema { found: 99, .. }),
        "{error:?}"
    );

    std::fs::remove_file(&file).expect("remove");
    let other = rusqlite::Connection::open(&file).expect("sqlite");
    other
        .execute_batch("PRAGMA user_version = 1; CREATE TABLE t (x)")
        .expect("table");
    drop(other);
    let error = Journal::open(dir.path()).expect_err("another program's");
    assert!(error.to_string().contains("another program"), "{error}");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("write");
    let error = Journal::open(&file.join("state")).expect_err("below a file");
    assert!(error.to_string().contains("file/state"), "{error}");
    let error = CallError::from(error);
    assert!(error.code.starts_with("journal."));
    assert!(error.hint.expect("hint").contains("--state"));
}

/// The directory in which the child processes of this test work.
const CHILD: &str = "WINDLASS_JOURNAL_TEST_DIRECTORY";

/// Not a test by itself: what the children of the tests below do.
#[tokio::test]
#[ignore = "runs as a child of the other tests"]
#[allow(clippy::print_stdout, reason = "the parent reads what is durable")]
async fn child() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let count: u64 = std::env::var("COUNT").map_or(50, |text| text.parse().expect("count"));
    let number: u128 = std::env::var("RUN").map_or(1, |text| text.parse().expect("run"));
    let run = run(number);
    let journal = Journal::open(Path::new(&directory)).expect("open");
    journal
        .append(run, &envelope(1, started(run)))
        .await
        .expect("append");
    for seq in 1..=count {
        journal
            .append_relaxed(run, &envelope(seq + 1, log(&build(), "line")))
            .await
            .expect("log");
        journal
            .intent(&call_id(run, seq), &exec("/srv"))
            .await
            .expect("intent");
        println!("durable {seq}");
    }
}

fn spawn_child(directory: &Path, run: u32, count: u64) -> std::process::Child {
    Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD, directory)
        .env("RUN", run.to_string())
        .env("COUNT", count.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn")
}

#[tokio::test]
async fn processes_share_a_journal() {
    let dir = tempfile::tempdir().expect("dir");
    // All of them make the file at once, too.
    let children: Vec<_> = (1..=4)
        .map(|run| spawn_child(dir.path(), run, 50))
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("child");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    let journal = Journal::open(dir.path()).expect("open");
    for number in 1..=4 {
        assert_eq!(journal.calls(run(number)).expect("calls").len(), 50);
        assert_eq!(journal.events(run(number)).expect("events").len(), 51);
    }
}

#[tokio::test]
async fn a_killed_process_leaves_all_that_it_was_told_is_there() {
    for kill_after in [1_u64, 7, 40] {
        let dir = tempfile::tempdir().expect("dir");
        let mut child = spawn_child(dir.path(), 1, 1_000_000);
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut told = 0;
        while told < kill_after {
            let line = lines.next().expect("line").expect("line");
            // The harness's own words may precede the first.
            if let Some((_, seq)) = line.split_once("durable ") {
                told = seq.parse().expect("number");
            }
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        let journal = Journal::open(dir.path()).expect("open");
        let calls = journal.calls(run(1)).expect("calls");
        assert!(calls.len() as u64 >= told, "{} < {told}", calls.len());
        let lines = journal.logs(run(1), None, None).count();
        assert!(lines >= calls.len(), "what came before an intent is there");
        assert_eq!(journal.unfinished().expect("runs").len(), 1);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
async fn a_full_disk_refuses_effects_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().expect("dir");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=640k", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var("CI").is_err(),
            "needs root, to mount a small tmpfs: {mounted:?}"
        );
        eprintln!("SKIPPED: needs root, to mount a small tmpfs");
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(dir.path());
    let state = dir.path().join("state");
    let journal = Journal::open(&state).expect("open");
    let run = run(1);
    let mut durable = 0;
    let error = loop {
        let id = call_id(run, durable + 1);
        match journal.intent(&id, &exec(&"x".repeat(20_000))).await {
            Ok(()) => durable += 1,
            Err(error) => break error,
        }
        assert!(durable < 1000, "the disk never fills");
    };
    assert!(matches!(error, JournalError::Full { .. }), "{error:?}");
    assert!(durable > 3);
    assert_eq!(journal.calls(run).expect("calls").len() as u64, durable);
    // A record that nobody waits for is lost, so no effect of this run may
    // follow, even when there is room again.
    let ballast = dir.path().join("ballast");
    let _ = std::fs::write(&ballast, vec![0_u8; 1 << 20]);
    journal
        .read_call(&call_id(run, 5000), &exec_read(&"y".repeat(2_000_000)))
        .await
        .expect("queued");
    journal.flush().await.expect_err("still full");
    std::fs::remove_file(&ballast).expect("remove");
    let grown = Command::new("mount")
        .args(["-o", "remount,size=16m"])
        .arg(dir.path())
        .status();
    assert!(grown.expect("mount").success());
    let refused = journal.intent(&call_id(run, 5001), &exec("/a")).await;
    assert!(
        matches!(refused, Err(JournalError::Torn { .. })),
        "{refused:?}"
    );
    let other = self::run(2);
    journal
        .intent(&call_id(other, 1), &exec("/a"))
        .await
        .expect("another run goes on");
}

fn exec_read(path: &str) -> Call {
    Call::File(FileCall::Open { path: path.into() })
}

#[tokio::test]
async fn a_run_goes_on_where_it_was_cut_short() {
    let dir = tempfile::tempdir().expect("dir");
    let run = run(1);
    let journal = Journal::open(dir.path()).expect("open");
    let mut inputs = RunInputs {
        tag: "v1".into(),
        ..RunInputs::default()
    };
    inputs.vars.insert("host".into(), "one".into());
    journal.begin(run, &inputs).await.expect("begin");
    journal
        .record_all(
            run,
            &[
                envelope(1, started(run)),
                envelope(2, log(&build(), "line")),
                envelope(3, finished(Outcome::Failed)),
            ],
        )
        .await
        .expect("events");
    let preflight = CallId {
        attempt: 0,
        ..call_id(run, 1)
    };
    journal
        .read_call(&preflight, &sleep(1))
        .await
        .expect("read");
    for seq in 1..=3 {
        let intent = journal.intent(&call_id(run, seq), &exec("/srv/a")).await;
        intent.expect("intent");
    }
    let from = Reopened {
        step: deploy(),
        attempt: 1,
        from: 3,
    };
    journal.reopen(run, vec![from]).await.expect("reopen");
    let calls = journal.calls(run).expect("calls");
    let kept: Vec<(u32, u64)> = calls
        .iter()
        .map(|call| (call.id.attempt, call.id.seq))
        .collect();
    assert_eq!(kept, [(1, 1), (1, 2)]);
    assert_eq!(journal.unfinished().expect("unfinished").len(), 1);
    assert_eq!(journal.inputs(run).expect("inputs"), Some(inputs));
    let (events, last) = journal.happenings(run).expect("happenings");
    assert_eq!((events.len(), last), (2, 3), "logs are left out");
}
