//! The lease on a target: two runs stay apart, whatever becomes of one of them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::time::Duration;

use serde_json::Value;
use windlass_tests::deploys::{Commands, wait_until};
use windlass_tests::windlass::{Outcome, Running};
use windlass_tests::{Relay, docker, require, scratch};

const LIMIT: Duration = Duration::from_secs(60);
const AT_ONCE: &str = "lease_wait = \"0s\"\nlease_ttl = \"6s\"";

/// Waits until this many runs passed the gate's first line.
fn started(project: &Commands, run: &mut Running, count: usize) -> bool {
    wait_until(LIMIT, || {
        !run.is_running() || project.log().matches("start").count() >= count
    }) && run.is_running()
}

#[test]
fn the_second_run_waits_for_the_first() {
    require!(Sshd, Git, Windlass);
    let project = Commands::start("lease_wait = \"60s\"", Commands::gate()).unwrap();
    let mut first = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut first, 1), "{}", first.stderr());
    let mut second = project.run(&["--json"]).spawn().unwrap();
    assert!(
        second.wait_for("\"lease-waiting\"", LIMIT),
        "{}",
        second.stderr()
    );
    project.open_gate().unwrap();
    let (first, second) = (first.wait().unwrap(), second.wait().unwrap());
    assert_eq!(
        (first.code, second.code),
        (Some(0), Some(0)),
        "{first}{second}"
    );
    let id = |outcome: &Outcome| {
        outcome.events_of("run-started")[0]["run"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let waiting = &second.events_of("lease-waiting")[0];
    assert_eq!(
        (&waiting["target"], &waiting["run"]),
        (&"prod_1".into(), &id(&first).into()),
        "{second}"
    );
    let (one, two) = (id(&first), id(&second));
    assert_eq!(
        project.log(),
        format!("start {one}\nend {one}\nstart {two}\nend {two}\n")
    );
    assert!(!project.is_leased());
}

#[test]
fn a_run_that_may_not_wait_says_who_holds_the_lease() {
    require!(Sshd, Git, Windlass);
    let project = Commands::start(AT_ONCE, Commands::gate()).unwrap();
    let mut first = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut first, 1), "{}", first.stderr());
    let second = project.run(&["--json"]).run().unwrap();
    assert_eq!(second.code, Some(4), "{second}");
    let error = &second.finished()["error"];
    assert_eq!(error["code"], "lease.held", "{second}");
    let (message, hint) = (
        error["message"].as_str().unwrap(),
        error["hint"].as_str().unwrap(),
    );
    let begun: serde_json::Value =
        serde_json::from_str(first.stdout().lines().next().unwrap()).unwrap();
    for text in [&begun["who"], &begun["run"]] {
        assert!(message.contains(text.as_str().unwrap()), "{second}");
    }
    assert!(hint.contains("gives it up by itself in"), "{second}");
    assert_eq!(project.log().matches("start").count(), 1, "{second}");

    // Ctrl-C gives it up at once.
    first.signal("INT");
    let first = first.wait().unwrap();
    assert_eq!(first.code, Some(130), "{first}");
    assert!(!project.is_leased(), "{first}");
    project.open_gate().unwrap();
    let third = project.run(&[]).run().unwrap();
    assert_eq!(third.code, Some(0), "{third}");
}

#[test]
fn a_run_that_waits_can_be_cancelled() {
    require!(Sshd, Git, Windlass);
    let project = Commands::start("", Commands::gate()).unwrap();
    let mut first = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut first, 1), "{}", first.stderr());
    for signal in ["INT", "TERM"] {
        let mut second = project.run(&["--json"]).spawn().unwrap();
        assert!(
            second.wait_for("\"lease-waiting\"", LIMIT),
            "{}",
            second.stderr()
        );
        second.signal(signal);
        let second = second.wait().unwrap();
        assert_eq!(second.code, Some(130), "{second}");
        assert!(project.is_leased(), "the first one's: {second}");
    }
    project.open_gate().unwrap();
    let first = first.wait().unwrap();
    assert_eq!(first.code, Some(0), "{first}");
}

#[test]
fn the_lease_of_a_killed_run_expires() {
    require!(Sshd, Git, Windlass);
    let project = Commands::start(AT_ONCE, Commands::gate()).unwrap();
    let mut first = project.run(&[]).spawn().unwrap();
    assert!(started(&project, &mut first, 1), "{}", first.stderr());
    first.signal("KILL");
    let first = first.wait().unwrap();
    assert_eq!(first.signal(), Some(9), "{first}");
    assert!(project.is_leased());
    let early = project.run(&[]).run().unwrap();
    assert_eq!(early.code, Some(4), "{early}");
    project.open_gate().unwrap();
    project
        .workspace
        .edit("windlass.toml", |text| {
            text.replacen("\"0s\"", "\"60s\"", 1)
        })
        .unwrap();
    project.workspace.commit("Wait").unwrap();
    let later = project.run(&[]).run().unwrap();
    assert_eq!(later.code, Some(0), "{later}");
    assert!(!project.is_leased());
}

/// A stopped engine finds out that it lost its lease, and touches nothing any more.
#[test]
fn a_run_whose_lease_went_to_another_ends() {
    require!(Sshd, Git, Windlass);
    let run = "lease_wait = \"60s\"\nlease_ttl = \"3s\"";
    let project = Commands::start(run, Commands::gate()).unwrap();
    let mut frozen = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut frozen, 1), "{}", frozen.stderr());
    frozen.signal("STOP");
    let mut second = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut second, 2), "{}", second.stderr());
    frozen.signal("CONT");
    let frozen = frozen.wait().unwrap();
    assert_eq!(frozen.code, Some(4), "{frozen}");
    assert!(frozen.says("the lease on prod_1 was lost"), "{frozen}");
    assert!(project.is_leased(), "the other one's lease stays");
    project.open_gate().unwrap();
    let second = second.wait().unwrap();
    assert_eq!(second.code, Some(0), "{second}");
}

/// It does not know yet that it lost the lease when it goes on: the target knows.
#[test]
fn what_a_stopped_engine_does_next_does_not_happen() {
    require!(Sshd, Git, Windlass);
    let next = format!(
        "{}\n{}",
        Commands::gate(),
        r#"[step.next]
uses = "ssh-run"
needs = ["hold"]
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo next $RUN >> log"], env = { RUN = "{{ run.id }}" } }"#
    );
    let run = "lease_wait = \"60s\"\nlease_ttl = \"3s\"";
    let project = Commands::start(run, &next).unwrap();
    let mut frozen = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut frozen, 1), "{}", frozen.stderr());
    frozen.signal("STOP");
    // Its command ends on the target; the engine has not seen it yet.
    project.open_gate().unwrap();
    let second = project.run(&["--json"]).run().unwrap();
    assert_eq!(second.code, Some(0), "{second}");
    frozen.signal("CONT");
    let frozen = frozen.wait().unwrap();
    assert_eq!(frozen.code, Some(4), "{frozen}");
    assert_eq!(frozen.finished()["error"]["code"], "lease.lost", "{frozen}");
    let id = |outcome: &Outcome| {
        let begun = outcome.events_of("run-started");
        begun[0]["run"].as_str().unwrap().to_owned()
    };
    let log = project.log();
    assert!(log.contains(&format!("next {}", id(&second))), "{log}");
    assert!(!log.contains(&format!("next {}", id(&frozen))), "{log}");
}

/// Docker's API goes past the target, which cannot refuse: the engine looks by itself,
/// and has to wait for the answer, since the line is slow.
#[test]
fn a_stopped_engine_looks_before_its_next_docker_call() {
    require!(Docker, Sshd, Git, Windlass);
    let name = scratch::unique_name();
    // The gate is here, so that nothing but the lease goes over the line.
    let steps = format!(
        "{}\n\n[step.next]\nuses = \"docker-build\"\nneeds = [\"hold\"]\n\
         with = {{ tags = [\"{name}:{{{{ run.id }}}}\"], for_targets = [] }}\n",
        Commands::gate().replace("{{ environment.targets }}", "local"),
    );
    let run = "lease_wait = \"60s\"\nlease_ttl = \"6s\"";
    let mut project = Commands::start(run, &steps).unwrap();
    let relay = Relay::to(project.sshd.address()).unwrap();
    project.through(&relay).unwrap();
    project
        .workspace
        .edit("windlass.toml", |text| {
            text.replacen(
                "targets = [\"prod_1\"]",
                "targets = [\"prod_1\"]\nlease_target = \"prod_1\"",
                1,
            )
        })
        .unwrap();
    project
        .workspace
        .write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        .unwrap();
    project.workspace.commit("Build").unwrap();
    let mut frozen = project.run(&["--json"]).spawn().unwrap();
    assert!(started(&project, &mut frozen, 1), "{}", frozen.stderr());
    frozen.signal("STOP");
    project.open_gate().unwrap();
    let second = project.run(&["--json"]).run().unwrap();
    assert_eq!(second.code, Some(0), "{second}");
    // A build takes less than a second.
    relay.set_latency(Duration::from_millis(800));
    frozen.signal("CONT");
    let frozen = frozen.wait().unwrap();
    let built = docker::run(["images", "--format", "{{.Tag}}", &name]);
    let _ = docker::remove_images(|repository| repository == name);
    assert_eq!(frozen.code, Some(4), "{frozen}");
    assert_eq!(frozen.finished()["error"]["code"], "lease.lost", "{frozen}");
    // It had ended before the engine went on: the next step was due at once.
    assert_eq!(
        frozen.step("hold", "local")["state"],
        "succeeded",
        "{frozen}"
    );
    let begun = frozen.events_of("step-started");
    assert_eq!(begun.last().unwrap()["step"]["name"], "next", "{frozen}");
    let id = second.events_of("run-started")[0]["run"].clone();
    assert_eq!(Value::from(built.unwrap()), id, "{frozen}");
}
