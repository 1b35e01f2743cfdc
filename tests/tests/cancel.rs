//! Ctrl-C in every kind of step, on this side and on the far one: exit 130, and neither
//! container nor process nor lease left. What a kill leaves, the next run removes.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use windlass_tests::deploys::{Commands, processes_with, wait_until};
use windlass_tests::recorder::Reply;
use windlass_tests::windlass::{Outcome, Running};
use windlass_tests::{HttpRecorder, Relay, Rig, Workspace, docker, require, scratch};

const LIMIT: Duration = Duration::from_secs(60);
/// From the signal to the end: 2 s for the steps, 7 s for what they left.
const CLEANUP: Duration = Duration::from_secs(12);

/// Ctrl-C, as a person types it, and the end.
fn interrupt(run: Running) -> Outcome {
    stop(run, "INT")
}

fn stop(run: Running, signal: &str) -> Outcome {
    let asked = Instant::now();
    run.signal(signal);
    let outcome = run.wait().unwrap();
    let took = asked.elapsed();
    assert_eq!(outcome.code, Some(130), "{outcome}");
    assert!(took < CLEANUP, "{took:?} {outcome}");
    outcome
}

/// Containers, running or not, of an image.
fn containers_of(image: &str) -> Vec<String> {
    docker::containers(&format!("ancestor={image}")).unwrap()
}

fn wait_for_container(image: &str, run: &mut Running) -> bool {
    wait_until(LIMIT, || {
        !run.is_running()
            || docker::containers(&format!("ancestor={image}")).is_ok_and(|ids| !ids.is_empty())
    }) && run.is_running()
}

/// A rig whose image gets healthy only after an hour.
fn rig_that_waits_for_healthy() -> Rig {
    let rig = Rig::start().unwrap();
    rig.change("Dockerfile", |text| {
        text.replace("--retries=5", "--retries=3600")
    })
    .unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "with = { image = \"{{ steps.build.image }}\" }",
            "with = { image = \"{{ steps.build.image }}\", timeout = \"600s\", env = { OBSERVER_READY_AFTER = \"3600\" } }",
            1,
        )
    })
    .unwrap();
    rig
}

#[test]
fn in_a_build() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    // Its last instruction is the service itself, which does not end.
    let mark = format!("{}-in-a-build", rig.name());
    rig.change("Dockerfile", |text| {
        format!("{text}ENV MARK={mark} PORT=0\nRUN [\"/observer\", \"serve\"]\n")
    })
    .unwrap();
    let mut run = rig
        .windlass(["run", "--json", "--verbose", "--tag", "v1"])
        .spawn()
        .unwrap();
    let building = || processes_with(&format!("MARK={mark}"));
    assert!(
        wait_until(LIMIT, || !run.is_running() || !building().is_empty()) && run.is_running(),
        "{}",
        run.stderr()
    );
    let outcome = interrupt(run);
    assert_eq!(outcome.step("build", "")["state"], "cancelled", "{outcome}");
    assert_eq!(outcome.finished()["outcome"], "cancelled", "{outcome}");
    assert!(
        wait_until(CLEANUP, || building().is_empty()),
        "the build goes on in the engine"
    );
    assert!(!rig.is_leased());
}

#[test]
fn in_a_check_of_an_image() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig_that_waits_for_healthy();
    let image = format!("{}:v1", rig.registry.repository("observer"));
    let mut run = rig
        .windlass(["run", "--json", "--tag", "v1"])
        .spawn()
        .unwrap();
    assert!(wait_for_container(&image, &mut run), "{}", run.stderr());
    let outcome = stop(run, "TERM");
    assert_eq!(
        outcome.step("verify", "")["state"],
        "cancelled",
        "{outcome}"
    );
    assert_eq!(outcome.step("push", "")["state"], "cancelled", "{outcome}");
    assert_eq!(containers_of(&image), Vec::<String>::new(), "{outcome}");
    assert!(!rig.is_leased());
}

#[test]
fn what_a_kill_left_is_removed_by_the_next_run() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig_that_waits_for_healthy();
    let image = format!("{}:v1", rig.registry.repository("observer"));
    let mut run = rig.windlass(["run", "--tag", "v1"]).spawn().unwrap();
    assert!(wait_for_container(&image, &mut run), "{}", run.stderr());
    run.signal("KILL");
    let killed = run.wait().unwrap();
    assert_eq!(killed.signal(), Some(9), "{killed}");
    let left = containers_of(&image);
    assert_eq!(left.len(), 1, "{killed}");
    // Its lease would be waited for: the next run only looks at what was left.
    rig.change("windlass.toml", |text| {
        text.replacen(
            "timeout = \"600s\", env = { OBSERVER_READY_AFTER = \"3600\" }",
            "timeout = \"60s\"",
            1,
        )
        .replacen("[run]\n", "[run]\nlease_wait = \"0s\"\n", 1)
    })
    .unwrap();
    let next = rig.windlass(["run", "--tag", "v2"]).run().unwrap();
    assert!(
        next.says("removed what an earlier run left on local"),
        "{next}"
    );
    assert_eq!(next.code, Some(4), "{next}");
    let left = docker::containers(&format!("id={}", left[0])).unwrap();
    assert_eq!(left, Vec::<String>::new(), "{next}");
}

/// In the middle of `compose up`, which waits for a service that never gets healthy.
#[test]
fn in_a_deploy() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    let good = rig.deploy("v1").unwrap();
    assert_eq!(good.code, Some(0), "{good}");
    let current = rig.current();
    rig.change("docker-compose.server.yml", |text| {
        format!(
            "{text}    depends_on:\n      gate:\n        condition: service_healthy\n  gate:\n    image: \"${{IMAGE:-x}}\"\n    \
             environment:\n      OBSERVER_UNHEALTHY: \"1\"\n    healthcheck:\n      retries: 3600\n"
        )
    })
    .unwrap();
    rig.change("windlass.toml", |text| {
        let one = "services = { observer = \"{{ steps.push.ref }}\" }";
        text.replacen(
            one,
            "services = { observer = \"{{ steps.push.ref }}\", gate = \"{{ steps.push.ref }}\" }",
            1,
        )
    })
    .unwrap();
    let mut run = rig
        .windlass(["run", "--json", "--verbose", "--tag", "v2"])
        .spawn()
        .unwrap();
    let gate = format!("label=com.docker.compose.project={}", rig.name());
    let up = wait_until(LIMIT, || {
        let of_gate = docker::run([
            "ps",
            "--quiet",
            "--filter",
            &gate,
            "--filter",
            "label=com.docker.compose.service=gate",
        ]);
        !run.is_running() || of_gate.is_ok_and(|ids| !ids.is_empty())
    });
    assert!(up && run.is_running(), "{}", run.stderr());
    let outcome = interrupt(run);
    assert_eq!(
        outcome.step("deploy", "prod_1")["state"],
        "cancelled",
        "{outcome}"
    );
    assert!(!rig.is_leased(), "{outcome}");
    // Nobody wants half of it: what served before serves again, alone.
    assert_eq!(rig.current(), current, "{outcome}");
    assert_eq!(rig.containers().unwrap().len(), 1, "{outcome}");
    rig.wait_until_healthy(Duration::from_secs(5)).unwrap();
    assert_eq!(rig.version(), "v1", "{outcome}");
    let compose = processes_with(&format!("-p {} ", rig.name()));
    assert!(compose.is_empty(), "compose still runs on the server");
}

#[test]
fn in_a_probe() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "attempts = 20, every = \"100ms\"",
            "attempts = 900, every = \"1s\"",
            1,
        )
    })
    .unwrap();
    rig.container_env("OBSERVER_UNHEALTHY", "1").unwrap();
    let mut run = rig
        .windlass(["run", "--json", "--verbose", "--tag", "v1"])
        .spawn()
        .unwrap();
    assert!(run.wait_for("attempt 1/900", LIMIT), "{}", run.stderr());
    let outcome = stop(run, "TERM");
    assert_eq!(
        outcome.step("health", "prod_1")["state"],
        "cancelled",
        "{outcome}"
    );
    assert!(!rig.is_leased(), "{outcome}");
}

/// A relay before the registry, with the images that are named after it.
struct Line(Relay);

impl Line {
    fn before_the_registry(rig: &mut Rig) -> Self {
        let relay = Relay::to(rig.registry.address().parse().unwrap()).unwrap();
        rig.registry_through(&relay);
        Self(relay)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let prefix = format!("{}/", self.0.address());
        let _ = docker::remove_images(|name| name.starts_with(&prefix));
    }
}

/// The registry takes the first bytes and then nothing more.
fn in_a_push(signal: &str) {
    let mut rig = Rig::start().unwrap();
    rig.quick().unwrap();
    let line = Line::before_the_registry(&mut rig);
    let mut run = rig
        .windlass(["run", "--json", "--verbose", "--tag", "v1"])
        .spawn()
        .unwrap();
    let begun = "\"event\":\"step-started\",\"step\":{\"name\":\"push\"";
    assert!(run.wait_for(begun, LIMIT), "{}", run.stderr());
    // Each request takes a second from here on, so that an upload is seen to begin.
    line.0.set_latency(Duration::from_millis(500));
    let uploads = || rig.registry.log().contains("/blobs/uploads/");
    assert!(
        wait_until(LIMIT, || !run.is_running() || uploads()) && run.is_running(),
        "{}",
        run.stderr()
    );
    line.0.blackhole();
    let outcome = stop(run, signal);
    assert_eq!(outcome.step("push", "")["state"], "cancelled", "{outcome}");
    assert_eq!(
        outcome.step("deploy", "prod_1")["state"],
        "cancelled",
        "{outcome}"
    );
    assert!(!rig.is_leased(), "{outcome}");
    line.0.restore();
    line.0.set_latency(Duration::ZERO);
    let tags = || rig.registry.tags("observer").unwrap();
    assert_eq!(tags(), Vec::<String>::new(), "{outcome}");

    let resumed = rig.windlass(["resume", "--json"]).run().unwrap();
    assert_eq!(resumed.code, Some(0), "{resumed}");
    assert_eq!(tags(), ["latest", "v1"], "{resumed}");
    assert_eq!(rig.version(), "v1", "{resumed}");
    // Built once: the image was there.
    let builds = resumed.events_of("step-started");
    let builds = builds
        .iter()
        .filter(|event| event["step"]["name"] == "build");
    assert_eq!(builds.count(), 1, "{resumed}");
}

#[test]
fn in_a_push_by_sigint() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    in_a_push("INT");
}

#[test]
fn in_a_push_by_sigterm() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    in_a_push("TERM");
}

/// The registry is silent from the beginning: nothing was begun, and nothing is left.
#[test]
fn in_the_preflight() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    for signal in ["INT", "TERM"] {
        let mut rig = Rig::start().unwrap();
        rig.quick().unwrap();
        let line = Line::before_the_registry(&mut rig);
        line.0.blackhole();
        let mut run = rig
            .windlass(["run", "--json", "--tag", "v1"])
            .spawn()
            .unwrap();
        let asked = wait_until(LIMIT, || !run.is_running() || line.0.connections() > 0);
        assert!(asked && run.is_running(), "{}", run.stderr());
        let outcome = stop(run, signal);
        assert!(outcome.events_of("step-started").is_empty(), "{outcome}");
        assert_eq!(outcome.finished()["outcome"], "cancelled", "{outcome}");
        assert!(!rig.far(".windlass-lease").exists(), "{outcome}");
    }
}

const TAG: &str =
    "[pipeline]\nname = \"app\"\n\n[run]\ntag = \"v1\"\n\n[step.tag]\nuses = \"git-tag\"\n";

/// The remote takes the tag and thinks about it.
#[test]
fn in_the_push_of_a_tag() {
    require!(Git, Windlass);
    for signal in ["INT", "TERM"] {
        let workspace = Workspace::with_manifest(TAG).unwrap();
        workspace.write(".gitignore", ".windlass/\n").unwrap();
        workspace.commit("Ignore").unwrap();
        let hook = workspace.origin().join("hooks/pre-receive");
        // Told apart by a length of its own.
        let sleeps = format!("sleep\0600.{}", std::process::id());
        let thinks = format!("#!/bin/sh\n{}\n", sleeps.replace('\0', " "));
        scratch::write(&hook, thinks).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let mut run = workspace.windlass(["run", "--json"]).spawn().unwrap();
        let thinking = || !processes_with(&sleeps).is_empty();
        assert!(
            wait_until(LIMIT, || !run.is_running() || thinking()) && run.is_running(),
            "{}",
            run.stderr()
        );
        let outcome = stop(run, signal);
        assert_eq!(outcome.step("tag", "")["state"], "cancelled", "{outcome}");
        let over = wait_until(CLEANUP, || !thinking());
        assert!(over, "git still pushes: {outcome}");
        let far = || workspace.git(["ls-remote", "--tags", "origin"]).unwrap();
        assert_eq!(far(), "", "{outcome}");
        fs::remove_file(&hook).unwrap();
        let resumed = workspace.windlass(["resume", "--json"]).run().unwrap();
        assert_eq!(resumed.code, Some(0), "{resumed}");
        assert!(far().contains("refs/tags/v1"), "{resumed}");
    }
}

/// The run has ended, so its code is its own; but it does not wait for a service that
/// does not answer.
#[test]
fn in_a_notification() {
    require!(Git, Windlass);
    for signal in ["INT", "TERM"] {
        let slack =
            HttpRecorder::answering(|_| Reply::new(200, "ok").after(Duration::from_secs(50)))
                .unwrap();
        let mut workspace = Workspace::with_manifest(
            "[pipeline]\nname = \"app\"\n\n[run]\ntag = \"v1\"\n\n[step.one]\nuses = \"ssh-run\"\n\
             on = \"local\"\nwith = { argv = [\"true\"] }\n\n[notify.slack]\nuses = \"slack-notify\"\n\
             with = { webhook = { secret = \"SLACK_WEBHOOK\" } }\n",
        )
        .unwrap();
        workspace.set_env("SLACK_WEBHOOK", slack.url("/services/webhook-of-this-test"));
        let mut run = workspace.windlass(["run", "--json"]).spawn().unwrap();
        let sent = wait_until(LIMIT, || !run.is_running() || !slack.requests().is_empty());
        assert!(sent && run.is_running(), "{}", run.stderr());
        let asked = Instant::now();
        run.signal(signal);
        let outcome = run.wait().unwrap();
        assert!(asked.elapsed() < CLEANUP, "{outcome}");
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert_eq!(outcome.finished()["outcome"], "succeeded", "{outcome}");
        let told = &outcome.events_of("notification-finished")[0];
        assert_eq!(told["error"]["kind"], "cancelled", "{outcome}");
    }
}

/// A command on the server that would run for ten minutes, told apart by its argument.
fn long_command(mark: &str) -> String {
    format!(
        "[step.long]\nuses = \"ssh-run\"\non = \"{{{{ environment.targets }}}}\"\n\
         with = {{ argv = [\"sh\", \"-c\", \"echo begun; sleep 600; echo\", \"{mark}\"] }}\n"
    )
}

fn begun(project: &Commands) -> Running {
    let mut run = project.run(&["--json", "--verbose"]).spawn().unwrap();
    assert!(
        run.wait_for("\"text\":\"begun\"", LIMIT),
        "{}",
        run.stderr()
    );
    run
}

#[test]
fn in_a_command_on_the_server() {
    require!(Sshd, Git, Windlass);
    let mark = format!("mark-a-{}", std::process::id());
    let project = Commands::start("", &long_command(&mark)).unwrap();
    let run = begun(&project);
    assert!(!processes_with(&mark).is_empty());
    let outcome = interrupt(run);
    assert_eq!(
        outcome.step("long", "prod_1")["state"],
        "cancelled",
        "{outcome}"
    );
    assert!(!project.is_leased(), "{outcome}");
    assert!(
        wait_until(Duration::from_secs(2), || processes_with(&mark).is_empty()),
        "it runs on: {outcome}"
    );
}

/// CI systems send SIGINT, then SIGTERM: the second one does not cut the cleanup short.
#[test]
fn a_sigterm_after_a_sigint_is_one_request() {
    require!(Sshd, Git, Windlass);
    let mark = format!("mark-b-{}", std::process::id());
    let project = Commands::start("", &long_command(&mark)).unwrap();
    let run = begun(&project);
    run.signal("INT");
    run.signal("TERM");
    let outcome = run.wait().unwrap();
    assert_eq!(outcome.code, Some(130), "{outcome}");
    assert!(!outcome.says("interrupted twice"), "{outcome}");
    assert_eq!(outcome.finished()["outcome"], "cancelled", "{outcome}");
    assert!(!project.is_leased(), "{outcome}");
    assert!(
        wait_until(Duration::from_secs(2), || processes_with(&mark).is_empty()),
        "it runs on: {outcome}"
    );
}

/// The line is dead, so the cleanup waits for it; a second Ctrl-C does not.
#[test]
fn a_second_sigint_stops_at_once() {
    require!(Sshd, Git, Windlass);
    let mark = format!("mark-c-{}", std::process::id());
    let mut project = Commands::start("", &long_command(&mark)).unwrap();
    let relay = Relay::to(project.sshd.address()).unwrap();
    project.through(&relay).unwrap();
    let mut run = begun(&project);
    relay.blackhole();
    run.signal("INT");
    assert!(run.wait_for("cancelling", LIMIT), "{}", run.stderr());
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    run.signal("INT");
    let outcome = run.wait().unwrap();
    assert_eq!(outcome.code, Some(130), "{outcome}");
    assert!(outcome.says("interrupted twice"), "{outcome}");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?} {outcome}",
        asked.elapsed()
    );
}

/// The same line, without a second Ctrl-C: the cleanup has its own end.
#[test]
fn a_dead_line_does_not_hold_the_end() {
    require!(Sshd, Git, Windlass);
    let mark = format!("mark-d-{}", std::process::id());
    let mut project = Commands::start("", &long_command(&mark)).unwrap();
    let relay = Relay::to(project.sshd.address()).unwrap();
    project.through(&relay).unwrap();
    let run = begun(&project);
    relay.blackhole();
    interrupt(run);
}
