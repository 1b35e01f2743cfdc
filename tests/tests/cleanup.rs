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

/// A cleanup that says when it begins and when it is done, and waits in between.
const SLOW: &str = "echo clean >> log; until [ -e done ]; do sleep 0.05; done; echo cleaned >> log";

fn count(project: &Commands, word: &str) -> usize {
    project.log().lines().filter(|line| *line == word).count()
}

fn wait_for_cleanup(project: &Commands, run: &mut Running) {
    let cleans = wait_until(LIMIT, || !run.is_running() || count(project, "clean") > 0);
    assert!(cleans && run.is_running(), "{}", run.stderr());
}

fn kill(run: Running) {
    run.signal("KILL");
    let killed = run.wait().unwrap();
    assert_eq!(killed.signal(), Some(9), "{killed}");
}

fn resume(project: &Commands) -> Outcome {
    let words = ["resume", "--json", "--on-ambiguous", "redo"];
    project.workspace.windlass(words).run().unwrap()
}

/// As CI systems end a job: a signal, and no patience. What ran again since was not
/// cleaned up after.
#[test]
fn a_resumed_run_cleans_up_again() {
    require!(Sshd, Git, Windlass);
    for killed in [true, false] {
        let project = project(WORK, SLOW);
        let mut run = started(&project);
        if !killed {
            std::fs::write(project.dir().join("done"), "").unwrap();
        }
        run.signal("INT");
        if killed {
            wait_for_cleanup(&project, &mut run);
            kill(run);
        } else {
            let run = run.wait().unwrap();
            assert_eq!(run.code, Some(130), "{run}");
        }
        std::fs::write(project.dir().join("done"), "").unwrap();
        let first = wait_until(LIMIT, || count(&project, "cleaned") == 1);
        assert!(first, "{}", project.log());
        project.open_gate().unwrap();
        let resumed = resume(&project);
        assert_eq!(resumed.code, Some(0), "{resumed}");
        assert_eq!(state(&resumed, "clean"), "succeeded", "{resumed}");
        let order = "start\nclean\ncleaned\nstart\nend\nclean\ncleaned\n";
        assert_eq!(project.log(), order, "{resumed}");
        assert!(!resumed.says("step clean@prod_1 would"), "{resumed}");
        assert!(!project.is_leased(), "{resumed}");
    }
}

/// Nothing ran since: what is left of the cleanup is done, and nothing of it twice.
#[test]
fn a_cleanup_that_was_cut_short_goes_on() {
    require!(Sshd, Git, Windlass);
    let project = project("echo work >> log; exit 3", SLOW);
    let mut run = project.run(&["--json"]).spawn().unwrap();
    wait_for_cleanup(&project, &mut run);
    kill(run);
    std::fs::write(project.dir().join("done"), "").unwrap();
    let resumed = resume(&project);
    // The failure was decided.
    assert_eq!(resumed.code, Some(1), "{resumed}");
    assert_eq!(
        resumed.finished()["failed_step"]["name"],
        "work",
        "{resumed}"
    );
    assert_eq!(state(&resumed, "clean"), "succeeded", "{resumed}");
    assert_eq!(project.log(), "work\nclean\ncleaned\n", "{resumed}");
    assert!(!project.is_leased(), "{resumed}");
}
