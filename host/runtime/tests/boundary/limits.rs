//! Each limit is reached, the error names plugin and limit, and others go on.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windlass_model::{CallError, ErrorKind, Reply};
use windlass_runtime::{Limits, limits};
use windlass_tests::require;

use crate::support::{
    Answer, exec, failure, guest, guest_with, in_time, run, run_with, script, setup,
};

/// Runs into a limit that stops the guest.
async fn stopped_at(mode: &str, limit: &str) {
    let stack = script([("ssh.exec", Answer::Hang)]);
    let (finished, _) = run_with(exec(mode), stack).await;
    let error = failure(&finished);
    assert_eq!(error.kind, ErrorKind::Exhausted, "{mode}: {error:?}");
    assert_eq!(error.code, "plugin.limit", "{mode}: {error:?}");
    assert_eq!(error.message, format!("plugin guest reached {limit}"));
    assert!(error.hint.is_some(), "{mode}");
    let (after, _) = run("noop").await;
    assert_eq!(after.result, Ok(()), "a guest after {mode}");
}

macro_rules! stops {
    ($($name:ident: $mode:literal, $limit:literal;)+) => {$(
        #[tokio::test]
        async fn $name() {
            require!(Guests);
            stopped_at($mode, $limit).await;
        }
    )+};
}

stops! {
    computing: "loop", "its limit of 1.5 s of computing";
    the_stack: "recurse", "its stack limit of 1024 KiB";
    memory: "allocate", "its memory limit of 64 MiB";
    handles_of_values: "handles", "its limit of 4096 handles";
    handles_of_blobs: "blobs", "its limit of 4096 handles";
    bytes_of_values: "values", "its limit of 64 MiB in values and requests";
    bytes_of_requests: "requests", "its limit of 64 MiB in values and requests";
    calls: "calls", "its limit of 1000 calls";
    log_lines: "flood", "its log limit of 20000 lines and 8 MiB";
    log_bytes: "flood_bytes", "its log limit of 20000 lines and 8 MiB";
    one_log_message: "huge_log", "its limit of 64 KiB for one log message";
    one_text: "long_text", "its limit of 1024 KiB for one text; a blob may be larger";
    one_text_of_values: "long_text_of_values",
        "its limit of 1024 KiB for one text; a blob may be larger";
    lent_handles: "select_far_too_many", "its limit of 4096 handles";
    jobs_to_wait_for: "select_many", "its limit of 64 jobs in one `select`";
}

/// Runs into a limit that the call's answer tells the guest of.
async fn refused_at(mode: &str, code: &str, message: &str) -> CallError {
    let (finished, _) = run(mode).await;
    let error = failure(&finished);
    assert_eq!(error.code, code, "{mode}: {error:?}");
    assert_eq!(error.message, message, "{mode}");
    error.clone()
}

#[tokio::test]
async fn bytes_of_blobs() {
    require!(Guests);
    let message = "the step made more than 64 MiB of blobs";
    let error = refused_at("blob_bytes", "limit.blobs", message).await;
    assert_eq!(error.kind, ErrorKind::Exhausted);
}

#[tokio::test]
async fn outputs() {
    require!(Guests);
    let message = "a step has at most 64 outputs";
    refused_at("outputs", "context.output", message).await;
    let message = "output text is larger than 64 KiB";
    refused_at("large_output", "limit.output", message).await;
}

#[tokio::test]
async fn jobs() {
    require!(Guests);
    let stack = script([("ssh.exec", Answer::Hang)]);
    let (finished, _) = run_with(exec("jobs"), stack.clone()).await;
    let error = failure(&finished);
    assert_eq!(error.code, "limit.jobs");
    assert_eq!(error.message, "the step has 64 jobs open");
    // Every one of them has ended by now.
    assert_eq!(stack.count("ssh.exec"), limits::MAX_JOBS);
}

#[tokio::test]
async fn containers() {
    require!(Guests);
    let answer = Answer::Reply(Reply::Id("c0ffee".into()));
    let stack = script([("docker.run", answer)]);
    let config = json!({ "mode": "containers", "image": "app:1" });
    let (finished, _) = run_with(config, stack.clone()).await;
    let error = failure(&finished);
    assert_eq!(error.code, "limit.containers");
    assert_eq!(error.message, "the step has 64 containers");
    assert_eq!(stack.count("docker.run"), limits::MAX_CONTAINERS);
    // They all have the same id here.
    assert_eq!(stack.count("docker.remove-container"), 1);
}

#[tokio::test]
async fn what_a_guest_prints() {
    require!(Guests);
    // 1 MB on each stream: the rest is dropped, the guest goes on.
    let config = json!({ "mode": "flood_stdout", "count": 1_000 });
    let (finished, seen) = run_with(config, script([])).await;
    assert_eq!(finished.result, Ok(()));
    let bytes: usize = seen.log().iter().map(|(_, line)| line.len()).sum();
    assert!(bytes > 0 && bytes <= 2 * limits::MAX_OUTPUT_STREAM_BYTES);
}

#[tokio::test]
async fn progress() {
    require!(Guests);
    let config = json!({ "mode": "flood_progress", "count": 100 });
    let (finished, seen) = run_with(config, script([])).await;
    assert_eq!(finished.result, Ok(()));
    assert!(seen.progress().iter().all(|line| line.len() <= 1024));
}

#[tokio::test]
async fn what_a_guest_says_of_its_failure() {
    require!(Guests);
    let (finished, _) = run("large_error").await;
    let error = failure(&finished);
    assert!(error.code.len() < 200);
    assert!(error.message.len() < 20_000);
    assert!(error.message.ends_with("[…]"));
    assert!(error.hint.as_ref().is_some_and(|hint| hint.len() < 20_000));
}

#[tokio::test]
async fn memory_at_the_peak_is_told() {
    require!(Guests);
    let (finished, _) = run("noop").await;
    assert!(finished.peak_memory > 64 * 1024);
    assert!(finished.peak_memory < 8 * 1024 * 1024);
}

/// One thread for all: a guest that computes gives way to the others.
#[tokio::test(flavor = "current_thread")]
async fn a_busy_guest_does_not_hold_the_engine() {
    require!(Guests);
    let busy = guest_with(Limits {
        compute: Duration::from_secs(600),
        ..crate::support::limits()
    })
    .await;
    let (looping, _) = setup(json!({ "mode": "loop" }), script([]));
    let cancel = looping.cancel.clone();
    let looping = tokio::spawn(async move { busy.run(looping).await });
    let other = guest().await;
    for _ in 0..5 {
        let (quick, _) = setup(json!({ "mode": "echo" }), script([]));
        assert_eq!(in_time(other.run(quick)).await.result, Ok(()));
    }
    assert!(!looping.is_finished());
    let before = Instant::now();
    cancel.cancel();
    let finished = in_time(looping).await.expect("joined");
    assert_eq!(failure(&finished), &CallError::cancelled());
    assert!(before.elapsed() >= crate::support::limits().cancel_grace);
}
