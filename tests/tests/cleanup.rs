//! Steps with `cleanup = true`: they run at the end of every run, however it ends.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::time::{Duration, Instant};

use windlass_tests::deploys::{Commands, processes_with, wait_until};
use windlass_tests::require;
use windlass_tests::windlass::{Outcome, Running};

const LIMIT: Duration = Duration::from_secs(60);

/// A step on the server.
fn step(name: &str, keys: &str, command: &str) -> String {
    format!(
        "[step.{name}]\nuses = \"ssh-run\"\non = \"{{{{ environment.targets }}}}\"\n{keys}\n\
         with = {{ dir = \"{{{{ environment.dir }}}}\", argv = [\"sh\", \"-c\", \"{command}\"] }}\n\n"
    )
}

/// One that waits for the gate, one that is written first and cleans up.
fn project(work: &str, cleanup: &str) -> Commands {
    let steps = step("clean", "cleanup = true", cleanup) + &step("work", "", work);
    Commands::start("lease_wait = \"0s\"", &steps).unwrap()
}

const WORK: &str = "echo start >> log; until [ -e go ]; do sleep 0.05; done; echo end >> log";

fn started(project: &Commands) -> Running {
    let mut run = project.run(&["--json"]).spawn().unwrap();
    let started = wait_until(LIMIT, || !run.is_running() || project.log() == "start\n");
    assert!(started && run.is_running(), "{}", run.stderr());
    run
}

fn state(outcome: &Outcome, name: &str) -> String {
    let state = &outcome.step(name, "prod_1")["state"];
    state.as_str().unwrap_or_default().to_owned()
}

#[test]
fn after_a_success_and_after_a_failure() {
    require!(Sshd, Git, Windlass);
    let ok = project(WORK, "echo clean >> log");
    ok.open_gate().unwrap();
    let run = ok.run(&["--json"]).run().unwrap();
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(ok.log(), "start\nend\nclean\n");

    let bad = project("echo bad >> log; exit 3", "echo clean >> log");
    let run = bad.run(&["--json"]).run().unwrap();
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(run.finished()["failed_step"]["name"], "work", "{run}");
    assert_eq!(bad.log(), "bad\nclean\n");
    assert_eq!(state(&run, "clean"), "succeeded", "{run}");

    // A cleanup that fails fails a run that would be good.
    let dirty = project("echo good >> log", "exit 4");
    let run = dirty.run(&["--json"]).run().unwrap();
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(run.finished()["failed_step"]["name"], "clean", "{run}");
    assert!(!dirty.is_leased());
}

#[test]
fn after_a_cancel_by_either_signal() {
    require!(Sshd, Git, Windlass);
    for signal in ["INT", "TERM"] {
        let project = project(WORK, "echo clean >> log");
        let run = started(&project);
        run.signal(signal);
        let run = run.wait().unwrap();
        assert_eq!(run.code, Some(130), "{run}");
        assert_eq!(state(&run, "work"), "cancelled", "{run}");
        assert_eq!(state(&run, "clean"), "succeeded", "{run}");
        assert_eq!(project.log(), "start\nclean\n", "{run}");
        assert!(!project.is_leased(), "{run}");
    }
}

/// Its time after a cancel is what a CI system leaves.
#[test]
fn a_cleanup_that_takes_too_long_is_ended() {
    require!(Sshd, Git, Windlass);
    let mark = format!("mark-cleanup-{}", std::process::id());
    let project = project(WORK, &format!("echo clean >> log; sleep 600; echo {mark}"));
    let run = started(&project);
    let asked = Instant::now();
    run.signal("TERM");
    let run = run.wait().unwrap();
    let took = asked.elapsed();
    assert_eq!(run.code, Some(130), "{run}");
    assert!(took < Duration::from_secs(10), "{took:?} {run}");
    assert_eq!(state(&run, "clean"), "cancelled", "{run}");
    assert_eq!(project.log(), "start\nclean\n", "{run}");
    assert!(!project.is_leased(), "{run}");
    assert!(
        wait_until(Duration::from_secs(2), || processes_with(&mark).is_empty()),
        "it runs on: {run}"
    );
}

/// It cleans up nothing more, but keeps nobody else waiting.
#[test]
fn a_second_sigint_gives_up_the_lease() {
    require!(Sshd, Git, Windlass);
    let project = project(WORK, "echo clean >> log; sleep 600");
    let mut run = started(&project);
    run.signal("INT");
    let cleans = wait_until(LIMIT, || {
        !run.is_running() || project.log().contains("clean")
    });
    assert!(cleans && project.is_leased(), "{}", run.stderr());
    let asked = Instant::now();
    run.signal("INT");
    let run = run.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{run}");
    assert_eq!(run.code, Some(130), "{run}");
    assert!(run.says("interrupted twice"), "{run}");
    assert!(!project.is_leased(), "{run}");
}

/// What was not begun is not cleaned up.
#[test]
fn not_without_the_lease() {
    require!(Sshd, Git, Windlass);
    let project = project(WORK, "echo clean >> log");
    let first = started(&project);
    let second = project.run(&["--json"]).run().unwrap();
    assert_eq!(second.code, Some(4), "{second}");
    assert_eq!(project.log(), "start\n", "{second}");
    project.open_gate().unwrap();
    let first = first.wait().unwrap();
    assert_eq!(first.code, Some(0), "{first}");
}
