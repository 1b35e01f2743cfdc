//! Deadlines, cancels, and what a guest leaves behind.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windlass_model::event::Level;
use windlass_model::{CallError, Capability, ErrorKind, Reply};
use windlass_runtime::{Finished, Limits};
use windlass_tests::require;

use crate::support::{
    Answer, FarSide, Happened, exec, failure, guest, guest_with, in_time, limits, run, run_with,
    script, setup,
};

const SHORT: Duration = Duration::from_millis(300);
const NEVER: Duration = Duration::from_secs(3_600);

fn patient() -> Limits {
    Limits {
        compute: NEVER,
        ..limits()
    }
}

#[tokio::test]
async fn a_busy_loop_ends_at_the_deadline() {
    require!(Guests);
    let plugin = guest_with(patient()).await;
    let (mut setup, _) = setup(json!({ "mode": "loop" }), script([]));
    setup.deadline = Instant::now() + SHORT;
    let grace_over = setup.deadline + limits().cancel_grace;
    let finished = in_time(plugin.run(setup)).await;
    assert!(Instant::now() >= grace_over);
    let error = failure(&finished);
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert_eq!(error.code, "step.timeout");
    assert_eq!(error.message, "plugin guest did not end by its deadline");
}

#[tokio::test]
async fn guests_that_do_not_heed_a_cancel_are_stopped() {
    require!(Guests);
    let plugin = guest_with(patient()).await;
    for mode in ["loop", "ignore_cancel", "std_sleep"] {
        let far = FarSide::new(&Happened::default(), Duration::ZERO);
        let (setup, _) = setup(json!({ "mode": mode }), far);
        let cancel = setup.cancel.clone();
        let running = tokio::spawn({
            let plugin = plugin.clone();
            async move { plugin.run(setup).await }
        });
        tokio::time::sleep(SHORT).await;
        assert!(!running.is_finished(), "{mode}");
        let cancelled = Instant::now();
        cancel.cancel();
        let finished = in_time(running).await.expect("joined");
        assert!(cancelled.elapsed() >= limits().cancel_grace, "{mode}");
        assert_eq!(failure(&finished), &CallError::cancelled(), "{mode}");
    }
}

/// Runs it, and cancels as soon as the far side has the call.
async fn cancelled(mode: &str, far: Arc<FarSide>) -> (Finished, Arc<crate::support::Seen>) {
    let order = far.order.clone();
    let mut config = exec(mode);
    config["image"] = "app:1".into();
    let (setup, seen) = setup(config, far as Arc<dyn Capability>);
    let cancel = setup.cancel.clone();
    let plugin = guest().await;
    let running = tokio::spawn(async move { plugin.run(setup).await });
    in_time(async {
        while order.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    cancel.cancel();
    let finished = in_time(running).await.expect("joined");
    order.note("the step ended");
    (finished, seen)
}

#[tokio::test]
async fn a_pending_call_answers_cancelled() {
    require!(Guests);
    let order = Happened::default();
    let (finished, _) = cancelled("wait", FarSide::new(&order, Duration::ZERO)).await;
    assert_eq!(failure(&finished).kind, ErrorKind::Cancelled);
    assert_eq!(
        order.all(),
        [
            "ssh.exec begins",
            "ssh.exec is cancelled",
            "ssh.exec ends",
            "the step ended"
        ]
    );
}

/// The guest is stopped before the far side has answered; what it does must
/// not go on beside the clean-up of the run, and its answer must be recorded.
#[tokio::test]
async fn a_call_is_waited_for_when_its_guest_is_stopped() {
    require!(Guests);
    let order = Happened::default();
    let linger = limits().cancel_grace * 2;
    let (finished, seen) = cancelled("sleep", FarSide::new(&order, linger)).await;
    assert_eq!(failure(&finished), &CallError::cancelled());
    assert_eq!(
        order.all(),
        [
            "clock.sleep begins",
            "clock.sleep is cancelled",
            "clock.sleep ends",
            "the step ended"
        ]
    );
    assert_eq!(seen.log(), []);
}

#[tokio::test]
async fn a_far_side_that_never_answers_is_told_of() {
    require!(Guests);
    let order = Happened::default();
    let (finished, seen) = cancelled("sleep", FarSide::new(&order, NEVER)).await;
    assert_eq!(failure(&finished), &CallError::cancelled());
    assert!(!order.all().contains(&"clock.sleep ends".to_owned()));
    assert!(seen.says("a call did not end within 1 s of its cancel"));
}

#[tokio::test]
async fn a_pending_call_is_cancelled_when_the_deadline_passes() {
    require!(Guests);
    let order = Happened::default();
    let far = FarSide::new(&order, Duration::ZERO);
    let plugin = guest().await;
    let (mut setup, _) = setup(json!({ "mode": "sleep" }), far);
    setup.deadline = Instant::now() + SHORT;
    let finished = in_time(plugin.run(setup)).await;
    assert_eq!(failure(&finished).code, "step.timeout");
    assert_eq!(
        order.all().last().map(String::as_str),
        Some("clock.sleep ends")
    );
}

#[tokio::test]
async fn nothing_starts_after_a_cancel() {
    require!(Guests);
    let order = Happened::default();
    let far = FarSide::new(&order, Duration::ZERO);
    let (finished, _) = cancelled("call_after_cancel", far).await;
    let error = failure(&finished);
    assert_eq!(
        error.message,
        "Some(\"cancelled\") then Some(\"cancelled\")"
    );
    assert!(!order.all().contains(&"ssh.exec begins".to_owned()));
}

#[tokio::test]
async fn a_job_that_is_left_open_has_ended_when_the_step_has() {
    require!(Guests);
    let order = Happened::default();
    let far = FarSide::new(&order, SHORT);
    let (setup, _) = setup(exec("job_left"), far);
    let finished = in_time(guest().await.run(setup)).await;
    order.note("the step ended");
    assert_eq!(finished.result, Ok(()));
    assert_eq!(
        order.all(),
        [
            "ssh.exec begins",
            "ssh.exec is cancelled",
            "ssh.exec ends",
            "the step ended"
        ]
    );
}

/// Only a run's own cancel cancels a step.
#[tokio::test]
async fn a_guest_cannot_claim_that_the_run_was_cancelled() {
    require!(Guests);
    let (finished, _) = run("forged_cancel").await;
    assert_eq!(failure(&finished).kind, ErrorKind::Unavailable);
    let far = FarSide::new(&Happened::default(), Duration::ZERO);
    let (finished, _) = run_with(exec("job_cancelled"), far).await;
    assert_eq!(failure(&finished).kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn containers_go_with_their_guest() {
    require!(Guests);
    for mode in ["run", "container_left", "container_trap"] {
        let answer = Answer::Reply(Reply::Id("c0ffee".into()));
        let stack = script([("docker.run", answer)]);
        let config = json!({ "mode": mode, "image": "app:1" });
        let (finished, _) = run_with(config, stack.clone()).await;
        match mode {
            "container_trap" => assert_eq!(failure(&finished).code, "plugin.trapped"),
            _ => assert_eq!(finished.result, Ok(()), "{mode}"),
        }
        assert_eq!(stack.count("docker.remove-container"), 1, "{mode}");
    }
}

#[tokio::test]
async fn a_container_goes_with_a_guest_that_hangs() {
    require!(Guests);
    let answer = Answer::Reply(Reply::Id("c0ffee".into()));
    let stack = script([("docker.run", answer)]);
    let config = json!({ "mode": "container_hang", "image": "app:1" });
    let plugin = guest_with(patient()).await;
    let (mut setup, _) = setup(config, stack.clone());
    setup.deadline = Instant::now() + SHORT;
    let finished = in_time(plugin.run(setup)).await;
    // It makes its sleeps answer at once, so it is either of the two.
    let code = &failure(&finished).code;
    assert!(
        ["plugin.limit", "step.timeout"].contains(&code.as_str()),
        "{code}"
    );
    assert_eq!(stack.count("docker.remove-container"), 1);
}

/// The engine answers only after the guest was stopped: nobody has a handle.
#[tokio::test]
async fn a_container_that_starts_too_late_is_removed() {
    require!(Guests);
    let order = Happened::default();
    let far = Arc::new(FarSide {
        order: order.clone(),
        linger: limits().cancel_grace * 2,
        answer: Ok(Reply::Id("c0ffee".into())),
    });
    let (finished, _) = cancelled("run", far).await;
    assert_eq!(failure(&finished), &CallError::cancelled());
    assert_eq!(
        order.all(),
        [
            "docker.run begins",
            "docker.run is cancelled",
            "docker.run ends",
            "docker.remove-container begins",
            "the step ended"
        ]
    );
}

#[tokio::test]
async fn an_engine_that_does_not_remove_a_container_is_told_of() {
    require!(Guests);
    let stack = script([
        ("docker.run", Answer::Reply(Reply::Id("c0ffee".into()))),
        (
            "docker.remove-container",
            Answer::Error(CallError::unavailable("docker.gone", "the engine is gone")),
        ),
    ]);
    let config = json!({ "mode": "container_left", "image": "app:1" });
    let (finished, seen) = run_with(config, stack).await;
    assert_eq!(finished.result, Ok(()));
    assert_eq!(
        seen.log(),
        [(
            Level::Warning,
            "container c0ffee could not be removed: the engine is gone".to_owned()
        )]
    );
}
