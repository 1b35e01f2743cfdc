//! `windlass lock`: who holds the targets, a lock that keeps deploys away, a lease that
//! is taken from its holder; and how a run waits.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::time::Duration;

use windlass_tests::deploys::{Commands, wait_until};
use windlass_tests::require;
use windlass_tests::windlass::Outcome;

const LIMIT: Duration = Duration::from_secs(60);

fn lock(project: &Commands, who: &str, words: &[&str]) -> Outcome {
    let words = ["lock"].iter().chain(words).copied();
    project
        .workspace
        .windlass(words)
        .env("USER", who)
        .run()
        .unwrap()
}

fn open_project() -> Commands {
    let project = Commands::start("", Commands::gate()).unwrap();
    project.open_gate().unwrap();
    project
}

#[test]
fn a_lock_keeps_deploys_away_until_it_is_released() {
    require!(Sshd, Git, Windlass);
    let project = open_project();
    let free = lock(&project, "ann", &["status"]);
    assert_eq!(
        (free.code, free.stdout.as_str()),
        (Some(0), "prod_1: free\n"),
        "{free}"
    );
    let locked = lock(&project, "ann", &["acquire", "--reason", "a migration"]);
    assert_eq!(locked.code, Some(0), "{locked}");
    assert!(locked.says("locked prod_1 until"), "{locked}");

    let status = lock(&project, "bob", &["status"]);
    for text in ["locked by ann@", "until it is released", "a migration"] {
        assert!(status.stdout.contains(text), "{status}");
    }
    let status = lock(&project, "bob", &["status", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(list[0]["lease"]["reason"], "a migration", "{status}");
    assert_eq!(
        list[0]["lease"]["remaining_ms"],
        serde_json::Value::Null,
        "{status}"
    );

    let run = project.run(&["--wait", "0s"]).run().unwrap();
    assert_eq!(run.code, Some(4), "{run}");
    assert!(
        run.says("locked by ann@") && run.says("a migration"),
        "{run}"
    );
    let twice = lock(&project, "bob", &["acquire"]);
    assert_eq!(twice.code, Some(4), "{twice}");

    let refused = lock(&project, "bob", &["release"]);
    assert_eq!(refused.code, Some(4), "{refused}");
    assert!(refused.says("--force"), "{refused}");
    assert!(project.is_leased());
    let released = lock(&project, "ann", &["release"]);
    assert_eq!(released.code, Some(0), "{released}");
    let run = project.run(&[]).run().unwrap();
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn a_lock_ends_by_itself_and_a_run_waits_for_that() {
    require!(Sshd, Git, Windlass);
    let project = open_project();
    let locked = lock(&project, "ann", &["acquire", "--for", "6s"]);
    assert_eq!(locked.code, Some(0), "{locked}");
    let early = project.run(&["--wait", "1s"]).run().unwrap();
    assert_eq!(early.code, Some(4), "{early}");
    let run = project.run(&["--wait", "60s"]).run().unwrap();
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.says("waiting") && run.says("locked it since"), "{run}");
    assert!(!project.is_leased());
}

#[test]
fn a_run_whose_lease_was_taken_away_ends() {
    require!(Sshd, Git, Windlass);
    let project = Commands::start("lease_ttl = \"3s\"", Commands::gate()).unwrap();
    let mut run = project.run(&["--json"]).env("USER", "ann").spawn().unwrap();
    let started = wait_until(LIMIT, || {
        !run.is_running() || project.log().contains("start")
    });
    assert!(started && run.is_running(), "{}", run.stderr());
    // Not even by the one whose run it is: it may be at work.
    let refused = lock(&project, "ann", &["release"]);
    assert_eq!(refused.code, Some(4), "{refused}");
    assert!(refused.says("ends with code 4"), "{refused}");
    let taken = lock(&project, "bob", &["release", "--force"]);
    assert_eq!(taken.code, Some(0), "{taken}");
    assert!(taken.says("is refused"), "{taken}");
    let run = run.wait().unwrap();
    assert_eq!(run.code, Some(4), "{run}");
    assert_eq!(run.finished()["error"]["code"], "lease.lost", "{run}");
    assert!(!project.is_leased());
}

/// Two targets; the first in their order is down.
fn one_is_down(more: &str) -> Commands {
    let project = open_project();
    project
        .workspace
        .edit("windlass.toml", |text| {
            text.replacen(
                "[environment.prod]\ntargets = [\"prod_1\"]",
                &format!(
                    "[target.prod_0]\nssh = \"nobody@127.0.0.1:1\"\nkey = {{ secret = \"SSH_KEY\" }}\n\
                     known_hosts = \"known_hosts\"\n\n[environment.prod]\n{more}\
                     targets = [\"prod_0\", \"prod_1\"]"
                ),
                1,
            )
        })
        .unwrap();
    project.workspace.commit("Another target").unwrap();
    project
}

#[test]
fn a_target_that_is_down_keeps_nobody_from_the_others() {
    require!(Sshd, Git, Windlass);
    let project = one_is_down("");
    let locked = lock(&project, "ann", &["acquire"]);
    assert_eq!(locked.code, Some(1), "{locked}");
    assert!(locked.says("locked prod_1 until"), "{locked}");
    assert!(
        locked.says("could not be reached is not locked"),
        "{locked}"
    );
    assert!(project.is_leased());
    let run = project.run(&["--wait", "0s"]).run().unwrap();
    assert_eq!(run.code, Some(4), "{run}");
    let released = lock(&project, "ann", &["release"]);
    assert!(released.says("prod_1 is free"), "{released}");
    let run = project.run(&["--json"]).run().unwrap();
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(run.step("hold", "prod_1")["state"], "succeeded", "{run}");
    assert_eq!(run.step("hold", "prod_0")["state"], "failed", "{run}");
}

#[test]
fn one_target_may_stand_for_all() {
    require!(Sshd, Git, Windlass);
    let project = one_is_down("lease_target = \"prod_1\"\n");
    let status = lock(&project, "ann", &["status"]);
    assert_eq!(
        (status.code, status.stdout.as_str()),
        (Some(0), "prod_1: free\n"),
        "{status}"
    );
    // It is the one that is down: nothing is begun.
    project
        .workspace
        .edit("windlass.toml", |text| {
            text.replacen("lease_target = \"prod_1\"", "lease_target = \"prod_0\"", 1)
        })
        .unwrap();
    project.workspace.commit("The other").unwrap();
    let run = project.run(&["--json"]).run().unwrap();
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(project.log(), "", "{run}");
}
