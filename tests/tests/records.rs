//! A run whose journal is gone: what the records on the targets say of it is gone on
//! with, and nothing that they do not say is taken for granted.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::time::Duration;

use serde_json::Value;
use windlass_tests::deploys::wait_until;
use windlass_tests::fleet::{Fleet, current, releases, state};
use windlass_tests::require;
use windlass_tests::windlass::{Outcome, Running};

const LIMIT: Duration = Duration::from_secs(90);

/// The second of two machines cannot pull: its release stays staged.
fn cut_off(fleet: &Fleet, cut: bool) {
    let address = fleet.registry.address();
    let port = address.rsplit(':').next().unwrap();
    let what = if cut { "-I" } else { "-D" };
    let rule = ["iptables", what, "OUTPUT", "-p", "tcp", "--dport", port];
    let host = fleet.hosts.host(1);
    host.inside(rule.into_iter().chain(["-j", "DROP"])).unwrap();
}

fn is_done(stdout: &str, step: &str) -> bool {
    let events = stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut events = events.filter(|event: &Value| event["event"] == "step-finished");
    events.any(|event| event["step"]["name"] == step && event["step"]["target"] == "prod_1")
}

/// Two machines, and a run that has put its release on the first, where `until` has ended,
/// and is held up in its pull on the second.
fn held_up(change: impl FnOnce(String) -> String, until: &str) -> (Fleet, Running) {
    let fleet = Fleet::start(2, "root").unwrap();
    let short = "[run]\nlease_ttl = \"6s\"\n";
    fleet
        .change("windlass.toml", |text| {
            change(text.replacen("[run]\n", short, 1))
        })
        .unwrap();
    cut_off(&fleet, true);
    let words = ["run", "--json", "--tag", "v1"];
    let mut run = fleet.workspace.windlass(words).spawn().unwrap();
    let there = wait_until(LIMIT, || {
        let second = releases(fleet.hosts.host(1));
        let staged = second.first().is_some_and(|path| state(path) == "staged");
        !run.is_running() || (staged && is_done(&run.stdout(), until))
    });
    assert!(
        there && run.is_running(),
        "{}{}",
        run.stdout(),
        run.stderr()
    );
    (fleet, run)
}

/// The same killed there, and what it knew is gone.
fn killed(change: impl FnOnce(String) -> String, until: &str) -> Fleet {
    let (fleet, run) = held_up(change, until);
    run.signal("KILL");
    run.wait().unwrap();
    cut_off(&fleet, false);
    forget(&fleet);
    fleet
}

/// As CI does that keeps no files.
fn forget(fleet: &Fleet) {
    fs::remove_dir_all(fleet.workspace.path().join(".windlass")).unwrap();
}

fn windlass(fleet: &Fleet, words: &[&str]) -> Outcome {
    let words = words.iter().copied();
    fleet.workspace.windlass(words).run().unwrap()
}

fn images(release: &std::path::Path) -> String {
    fs::read_to_string(release.join("images")).unwrap()
}

/// One release on each machine, both good, both of one image, which both serve.
fn assert_deployed(fleet: &Fleet, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(fleet.versions(), ["v1", "v1"], "{outcome}");
    let mut seen = Vec::new();
    for host in fleet.hosts.all() {
        let newest = releases(host).pop().unwrap();
        assert!(newest.ends_with(current(host).unwrap()), "{outcome}");
        assert_eq!(state(&newest), "good", "{outcome}");
        seen.push(images(&newest));
        assert!(!host.srv().join("app/.windlass-lease/holder").exists());
    }
    assert!(seen[0].contains("@sha256:"), "{seen:?}");
    assert_eq!(seen[0], seen[1], "{outcome}");
}

#[test]
fn what_the_records_tell_is_not_done_again() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let fleet = killed(|text| text, "deploy");
    let first = fleet.hosts.host(0);
    let containers = || first.inside(["docker", "ps", "-q", "--no-trunc"]).unwrap();
    let (release, before) = (current(first).unwrap(), containers());
    let tags = fleet.registry.tags("observer").unwrap();

    let outcome = windlass(&fleet, &["resume", "--json"]);
    assert_deployed(&fleet, &outcome);
    for (step, target) in [("build", ""), ("push", ""), ("deploy", "prod_1")] {
        assert_eq!(outcome.step(step, target)["state"], "reused", "{outcome}");
    }
    let started = outcome.events_of("step-started");
    let started: Vec<&str> = started
        .iter()
        .filter_map(|event| event["step"]["name"].as_str())
        .collect();
    assert_eq!(
        started.iter().filter(|name| **name == "deploy").count(),
        1,
        "{outcome}"
    );
    assert_eq!(outcome.step("health", "prod_1")["state"], "succeeded");
    assert_eq!(outcome.step("health", "prod_2")["state"], "succeeded");
    assert_eq!((current(first).unwrap(), containers()), (release, before));
    assert_eq!(fleet.registry.tags("observer").unwrap(), tags);
    assert!(
        outcome.says("left no journal here") && outcome.says("the release on prod_1 needed it"),
        "{outcome}"
    );
    let notice = &outcome.events_of("notice")[0]["message"];
    assert!(
        notice.as_str().unwrap().contains("from the records"),
        "{outcome}"
    );

    // It is a run like any other; and without it, the records tell that it ended well.
    let nothing = windlass(&fleet, &["resume"]);
    assert_eq!(nothing.code, Some(2), "{nothing}");
    forget(&fleet);
    let nothing = windlass(&fleet, &["resume"]);
    assert_eq!(nothing.code, Some(2), "{nothing}");
    assert!(nothing.says("nothing to go on with"), "{nothing}");
}

#[test]
fn what_no_record_tells_is_not_guessed() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let warm = "[step.warm]\nuses = \"ssh-run\"\nneeds = [\"deploy\"]\non = \"{{ environment.targets }}\"\n\
                with = { argv = [\"sh\", \"-c\", \"echo warm >> /srv/app/warmed\"] }\n\n[rollback]\n";
    let fleet = killed(|text| text.replacen("[rollback]\n", warm, 1), "warm");
    let warmed = |index: usize| {
        let file = fleet.hosts.host(index).srv().join("app/warmed");
        fs::read_to_string(file).unwrap_or_default().lines().count()
    };
    assert_eq!((warmed(0), warmed(1)), (1, 0));
    let untouched = |outcome: &Outcome| {
        assert_eq!(outcome.code, Some(6), "{outcome}");
        assert_eq!((warmed(0), warmed(1)), (1, 0), "{outcome}");
        let second = releases(fleet.hosts.host(1));
        assert_eq!((second.len(), state(&second[0])), (1, "staged".into()));
    };

    // A target that is away.
    fleet.hosts.host(1).blackhole().unwrap();
    let away = windlass(&fleet, &["resume", "--on-ambiguous", "skip"]);
    let listed = windlass(&fleet, &["releases", "--json"]);
    fleet.hosts.host(1).restore().unwrap();
    untouched(&away);
    for text in ["what is on prod_2 is not known", "while a target does not"] {
        assert!(away.says(text), "{text} {away}");
    }
    assert_eq!(listed.code, Some(1), "{listed}");
    assert!(listed.says("what is on prod_2 is not known"), "{listed}");
    let list: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(list[0]["releases"][0]["state"], "current", "{listed}");
    assert_eq!(list[1]["target"], "prod_2", "{listed}");
    assert_eq!(list[1]["releases"], Value::Null, "{listed}");

    // Another commit.
    fleet.workspace.write("more", "").unwrap();
    fleet.workspace.commit("Go on").unwrap();
    let other = windlass(&fleet, &["resume", "--on-ambiguous", "skip"]);
    untouched(&other);
    assert!(other.says("  the commit\n    then "), "{other}");
    fleet.workspace.git(["reset", "--hard", "HEAD~1"]).unwrap();

    // A command leaves no record; where the deploy before it never came up, it cannot
    // have run.
    let asks = windlass(&fleet, &["resume"]);
    untouched(&asks);
    assert!(asks.says("step warm@prod_1 may have run"), "{asks}");
    assert!(!asks.says("step warm@prod_2 may have run"), "{asks}");
    assert!(asks.says("--on-ambiguous redo"), "{asks}");

    // `retry-failed` has nothing to go by.
    let retry = windlass(&fleet, &["retry-failed"]);
    assert_eq!(retry.code, Some(2), "{retry}");
    assert!(retry.says("`windlass resume` goes on"), "{retry}");

    let outcome = windlass(&fleet, &["resume", "--json", "--on-ambiguous", "skip"]);
    assert_deployed(&fleet, &outcome);
    assert_eq!((warmed(0), warmed(1)), (1, 1), "{outcome}");
}

#[test]
fn a_run_that_went_on_meanwhile_is_not_gone_on_with() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let (fleet, run) = held_up(|text| text, "deploy");
    // Elsewhere nobody knows that it lives, but for its lease.
    let words = ["resume", "--json", "--state", "elsewhere"];
    let mut resumed = fleet.workspace.windlass(words).spawn().unwrap();
    let waits = resumed.wait_for("\"lease-waiting\"", LIMIT);
    assert!(waits, "{}{}", resumed.stdout(), resumed.stderr());
    cut_off(&fleet, false);
    let first = run.wait().unwrap();
    assert_deployed(&fleet, &first);
    let outcome = resumed.wait().unwrap();
    assert_eq!(outcome.code, Some(6), "{outcome}");
    assert!(outcome.says("changed since it was decided"), "{outcome}");
    assert_eq!(outcome.events_of("step-started").len(), 0, "{outcome}");
    for host in fleet.hosts.all() {
        assert_eq!(releases(host).len(), 1, "{outcome}");
        assert!(!host.srv().join("app/.windlass-lease/holder").exists());
    }
}
