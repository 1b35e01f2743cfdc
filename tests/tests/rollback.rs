//! Going back: by itself when a deploy fails, and by hand. Image, compose file and
//! environment go together.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::net::TcpListener;

use serde_json::Value;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Rig, docker, require};

/// A rig whose pipeline gives the service a variable of its own: `GREETING` in the step's
/// `env`, so that it stands in the release's `.env`, and in the container.
fn rig() -> Rig {
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "env = { OBSERVER_PORT",
            "env = { GREETING = \"hello {{ run.tag }}\", OBSERVER_PORT",
            1,
        )
    })
    .unwrap();
    rig.container_env("GREETING", "${GREETING}").unwrap();
    rig
}

fn ok(rig: &Rig, tag: &str) -> String {
    let outcome = rig.deploy(tag).unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(rig.version(), tag);
    rig.current().unwrap()
}

/// The environment of the one container that runs.
fn environment(rig: &Rig) -> String {
    let containers = rig.containers().unwrap();
    assert_eq!(containers.len(), 1);
    docker::run(["inspect", "--format", "{{.Config.Env}}", &containers[0]]).unwrap()
}

/// What is served is `tag`, whole: link, image, compose file, environment.
fn assert_serves(rig: &Rig, release: &str, tag: &str, outcome: &Outcome) {
    assert_eq!(rig.current().as_deref(), Some(release), "{outcome}");
    assert_eq!(rig.version(), tag, "{outcome}");
    let environment = environment(rig);
    assert!(
        environment.contains(&format!("GREETING=hello {tag}")),
        "{environment}\n{outcome}"
    );
    assert!(
        !environment.contains("OBSERVER_"),
        "{environment}\n{outcome}"
    );
    assert!(!rig.is_leased(), "{outcome}");
}

fn state_of(listed: &Value, tag: &str) -> (String, bool) {
    let releases = listed[0]["releases"].as_array().unwrap();
    let release = releases
        .iter()
        .find(|release| release["tag"] == tag)
        .unwrap();
    (
        release["state"].as_str().unwrap().to_owned(),
        release["is_current"] == true,
    )
}

fn listed(rig: &Rig) -> Value {
    let outcome = rig.windlass(["releases", "--json"]).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome}"))
}

/// A failed run after a good one: what must hold however it failed after the switch.
fn assert_put_back(rig: &Rig, good: &str, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert_eq!(outcome.finished()["outcome"], "failed", "{outcome}");
    assert_eq!(
        outcome.finished()["failed_step"]["name"],
        "health",
        "{outcome}"
    );
    assert_eq!(outcome.finished()["releases"][0][1], good, "{outcome}");
    let back = &outcome.events_of("rollback-finished")[0];
    assert_eq!(
        (&back["target"], &back["release"]),
        (&"prod_1".into(), &good.into()),
        "{outcome}"
    );
    assert!(back["error"].is_null(), "{outcome}");
    assert_serves(rig, good, "v1", outcome);
}

#[test]
fn a_deploy_that_never_gets_healthy_goes_back_whole() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig();
    let good = ok(&rig, "v1");

    // It answers 503 for ever, and brings a service that the release before has not.
    let compose = rig.workspace.read("docker-compose.server.yml").unwrap();
    rig.change("docker-compose.server.yml", |text| {
        format!("{text}      OBSERVER_UNHEALTHY: \"1\"\n  worker:\n    image: \"${{IMAGE:-x}}\"\n")
    })
    .unwrap();
    let manifest = rig.workspace.read("windlass.toml").unwrap();
    rig.change("windlass.toml", |text| {
        let one = "services = { observer = \"{{ steps.push.ref }}\" }";
        let two =
            "services = { observer = \"{{ steps.push.ref }}\", worker = \"{{ steps.push.ref }}\" }";
        text.replacen(one, two, 1)
    })
    .unwrap();
    let outcome = rig.deploy("v2").unwrap();
    assert_put_back(&rig, &good, &outcome);
    let error = &outcome.step("health", "prod_1")["error"];
    assert_eq!(error["code"], "http-probe.no-success", "{outcome}");
    assert!(
        error["message"].as_str().unwrap().contains("503"),
        "{outcome}"
    );
    assert_eq!(
        fs::read_to_string(rig.far("current/compose.yml")).unwrap(),
        compose
    );
    assert!(
        fs::read_to_string(rig.far("current/.env"))
            .unwrap()
            .contains("hello v1")
    );
    let releases = listed(&rig);
    assert_eq!(state_of(&releases, "v1"), ("good".to_owned(), true));
    assert_eq!(state_of(&releases, "v2"), ("failed".to_owned(), false));
    // The summary says what was put back, where.
    let summary = outcome.stderr.rsplit("run ").next().unwrap();
    assert!(
        summary.contains(&format!("prod_1 is back on {good}")),
        "{outcome}"
    );

    // It is healthy, but is not what was deployed.
    rig.workspace
        .write("docker-compose.server.yml", compose)
        .unwrap();
    rig.workspace.write("windlass.toml", manifest).unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "args = { VERSION = \"{{ run.tag }}\" }",
            "args = { VERSION = \"stale\" }",
            1,
        )
    })
    .unwrap();
    let outcome = rig.deploy("v3").unwrap();
    assert_put_back(&rig, &good, &outcome);
    let error = outcome.step("health", "prod_1")["error"]["message"].to_string();
    assert!(error.contains("stale") && error.contains("v3"), "{outcome}");
}

#[test]
fn a_first_release_that_fails_says_that_there_is_none_before() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig();
    rig.change("docker-compose.server.yml", |text| {
        format!("{text}      OBSERVER_UNHEALTHY: \"1\"\n")
    })
    .unwrap();
    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let back = &outcome.events_of("rollback-finished")[0];
    assert_eq!(back["error"]["code"], "rollback.first-release", "{outcome}");
    assert!(
        outcome.stderr.contains("had no release before"),
        "{outcome}"
    );
    assert!(!rig.is_leased());
    let by_hand = rig.windlass(["rollback"]).run().unwrap();
    assert_eq!(by_hand.code, Some(1), "{by_hand}");
    assert!(
        by_hand.says("no good release before the current one"),
        "{by_hand}"
    );
    // It is no release to go back to: the next one that fails does not choose it.
    let outcome = rig.deploy("v2").unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert_ne!(state_of(&listed(&rig), "v1").0, "good");
}

#[test]
fn a_container_that_exits_at_once_is_found_before_the_switch() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig();
    let compose = rig.workspace.read("docker-compose.server.yml").unwrap();
    let exits = format!("{compose}      OBSERVER_EXIT: \"3\"\n");

    // As the first release: nothing is current.
    rig.change("docker-compose.server.yml", |_| exits.clone())
        .unwrap();
    let outcome = rig.deploy("v0").unwrap();
    let error = outcome.step("deploy", "prod_1")["error"].clone();
    assert_eq!(
        (outcome.code, &error["code"]),
        (Some(1), &"releases.not-running".into()),
        "{outcome}"
    );
    assert!(
        error["message"].as_str().unwrap().contains("exit code 3"),
        "{outcome}"
    );
    assert_eq!(rig.current(), None);

    // After a good one: that one is put back.
    rig.change("docker-compose.server.yml", |_| compose)
        .unwrap();
    let good = ok(&rig, "v1");
    rig.change("docker-compose.server.yml", |_| exits).unwrap();
    let outcome = rig.deploy("v2").unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let message = outcome.step("deploy", "prod_1")["error"]["message"].to_string();
    assert!(
        message.contains(&format!("release {good} was put back")),
        "{outcome}"
    );
    assert_serves(&rig, &good, "v1", &outcome);
    assert_eq!(rig.state(&good), "good");
}

#[test]
fn a_failed_up_puts_the_last_good_release_back() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let mut rig = rig();
    let good = ok(&rig, "v1");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    rig.workspace.set_env("OBSERVER_PORT", port.to_string());
    let outcome = rig.deploy("v2").unwrap();
    let error = outcome.step("deploy", "prod_1")["error"].clone();
    assert_eq!(
        (outcome.code, &error["code"]),
        (Some(1), &"releases.up-failed".into()),
        "{outcome}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&port.to_string()) && message.contains("was put back"),
        "{outcome}"
    );
    assert_eq!(
        outcome.step("health", "prod_1")["state"],
        "skipped",
        "{outcome}"
    );
    assert_serves(&rig, &good, "v1", &outcome);
    assert_eq!(
        state_of(&listed_with(&mut rig), "v2"),
        ("failed".to_owned(), false)
    );
}

fn listed_with(rig: &mut Rig) -> Value {
    let port = rig.port().to_string();
    rig.workspace.set_env("OBSERVER_PORT", port);
    listed(rig)
}

#[test]
fn by_hand_to_the_one_before_to_a_release_and_to_a_tag() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = rig();
    let nothing = rig.windlass(["releases"]).run().unwrap();
    assert_eq!(nothing.code, Some(0), "{nothing}");
    assert!(nothing.stderr.contains("has no release"), "{nothing}");
    let nothing = rig.windlass(["rollback"]).run().unwrap();
    assert_eq!(nothing.code, Some(1), "{nothing}");
    assert!(nothing.says("nothing was deployed there yet"), "{nothing}");

    let first = ok(&rig, "v1");
    let before = rig.windlass(["rollback"]).run().unwrap();
    assert_eq!(before.code, Some(1), "{before}");
    assert!(
        before.says("no good release before the current one"),
        "{before}"
    );
    assert_serves(&rig, &first, "v1", &before);

    let second = ok(&rig, "v2");
    let third = ok(&rig, "v3");
    assert_eq!(
        state_of(&listed(&rig), "v2"),
        ("superseded".to_owned(), false)
    );
    let table = rig.windlass(["releases"]).run().unwrap();
    for text in [&first, &second, &third, "superseded", "good", "prod_1"] {
        assert!(table.stdout.contains(text), "{text} in {table}");
    }
    let mark = table
        .stdout
        .lines()
        .find(|line| line.contains('◆'))
        .unwrap();
    assert!(mark.contains(&third), "{table}");

    let to = |target: &[&str], release: &str, tag: &str| {
        let words = ["rollback", "--json"].iter().chain(target);
        let outcome = rig.windlass(words.copied()).run().unwrap();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert_eq!(
            outcome.events_of("rollback-finished")[0]["release"],
            release,
            "{outcome}"
        );
        assert_serves(&rig, release, tag, &outcome);
        assert_eq!(state_of(&listed(&rig), tag), ("good".to_owned(), true));
    };
    to(&[], &second, "v2");
    to(&[], &first, "v1");
    to(&["--to", &third], &third, "v3");
    to(&["--to", "v2"], &second, "v2");

    let unknown = rig.windlass(["rollback", "--to", "v9"]).run().unwrap();
    assert_eq!(unknown.code, Some(1), "{unknown}");
    assert!(
        unknown.says("has no release v9") && unknown.says(&first),
        "{unknown}"
    );
    assert_serves(&rig, &second, "v2", &unknown);
}
