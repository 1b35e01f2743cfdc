//! A run goes on after its process was killed, after it was cancelled, and after it
//! failed: what is done is not done again, and nothing is left out.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::time::Duration;

use windlass_tests::deploys::Commands;
use windlass_tests::killed::Killer;
use windlass_tests::windlass::{Outcome, Windlass};
use windlass_tests::{Rig, require};

/// Commands that each write a line into `log`: they must not run twice.
const THREE: &str = r#"[step.one]
uses = "ssh-run"
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo one >> log; echo seven"] }
[step.two]
uses = "ssh-run"
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo two $SAID >> log"], env = { SAID = "{{ steps.one.stdout_tail }}" } }
[step.three]
uses = "ssh-run"
needs = ["two"]
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo three >> log"] }"#;

fn resume(project: &Commands, words: &[&str]) -> Windlass {
    project
        .workspace
        .windlass(["resume"].iter().chain(words).copied())
}

/// How often a step wrote its line.
fn count(log: &str, step: &str) -> usize {
    let of_step = |line: &&str| line.split(' ').next() == Some(step);
    log.lines().filter(of_step).count()
}

/// The step that a refused resume asks about.
fn asked_about(outcome: &Outcome) -> &str {
    let rest = outcome.stderr.split("step ").nth(1).unwrap_or_default();
    rest.split('@').next().unwrap_or_default()
}

/// Goes on with a run, and answers as a person does who looks at the server.
fn go_on(project: &Commands, words: &[&str]) -> Outcome {
    let outcome = resume(project, words).run().unwrap();
    if outcome.code != Some(6) {
        return outcome;
    }
    // What the killed process had sent still arrives.
    std::thread::sleep(Duration::from_millis(300));
    let done = count(&project.log(), asked_about(&outcome)) > 0;
    let said = if done { "skip" } else { "redo" };
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain(["--on-ambiguous", said])
        .collect();
    resume(project, &words).run().unwrap()
}

#[test]
fn killed_at_every_commit_of_the_journal() {
    require!(Sshd, Git, Windlass);
    let killer = Killer::build().unwrap();
    let project = Commands::start("", THREE).unwrap();
    let mut resumed = 0;
    for commit in 1.. {
        let state = format!(".windlass/{commit}");
        let _ = fs::remove_file(project.dir().join("log"));
        let killed = project
            .run(&["--state", &state])
            .envs(killer.at(commit))
            .run()
            .unwrap();
        if killed.code == Some(0) {
            // The journal has no further commit.
            assert!(commit > 12, "{killed}");
            break;
        }
        assert_eq!(killed.signal(), Some(9), "{killed}");
        let outcome = go_on(&project, &["--state", &state]);
        if outcome.code == Some(2) && project.log().is_empty() {
            // It had not begun.
            assert!(!project.is_leased(), "{outcome}");
            continue;
        }
        if outcome.code == Some(2) {
            // It had ended.
            let runs = project
                .workspace
                .windlass(["runs", "--json", "--state", &state]);
            assert!(
                runs.run().unwrap().says("\"outcome\": \"succeeded\""),
                "{outcome}"
            );
            continue;
        }
        assert_eq!(outcome.code, Some(0), "commit {commit}: {outcome}");
        resumed += 1;
        let log = project.log();
        for step in ["one", "two", "three"] {
            assert_eq!(count(&log, step), 1, "commit {commit}: {log}{outcome}");
        }
        assert!(!project.is_leased(), "commit {commit}: {outcome}");
    }
    assert!(resumed > 10, "{resumed} resumed");
}

/// The whole pipeline, with a command that must not run twice, killed at commits spread
/// over its journal. What is there in the end is what an undisturbed run leaves.
#[test]
fn the_observer_pipeline_killed_here_and_there() {
    require!(Docker, Registry, Sshd, Compose, Observer, Git, Windlass);
    let killer = Killer::build().unwrap();
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "[step.health]",
            "[step.migrate]\nuses = \"ssh-run\"\nneeds = [\"deploy\"]\non = \"{{ environment.targets }}\"\n\
             with = { argv = [\"sh\", \"-c\", \"echo $TAG >> $DIR/migrated\"], env = { TAG = \"{{ run.tag }}\", DIR = \"{{ environment.dir }}\" } }\n\n\
             [step.health]",
            1,
        )
        .replacen("needs = [\"deploy\"]\non = \"{{ environment.targets }}\"\nwith = { url", "needs = [\"migrate\"]\non = \"{{ environment.targets }}\"\nwith = { url", 1)
    })
    .unwrap();
    let good = rig.deploy("v0").unwrap();
    assert_eq!(good.code, Some(0), "{good}");
    let mut kills = 0;
    // The stride meets each kind of step: some 60 commits in all.
    for commit in (4..).step_by(5) {
        let tag = format!("v{commit}");
        let killed = rig
            .windlass(["run", "--json", "--tag", &tag])
            .envs(killer.at(commit))
            .run()
            .unwrap();
        if killed.code == Some(0) {
            break;
        }
        assert_eq!(killed.signal(), Some(9), "{killed}");
        kills += 1;
        let mut outcome = rig.windlass(["resume", "--json"]).run().unwrap();
        if outcome.code == Some(6) {
            assert_eq!(asked_about(&outcome), "migrate", "{outcome}");
            std::thread::sleep(Duration::from_millis(300));
            let done = migrations(&rig, &tag) > 0;
            let said = if done { "skip" } else { "redo" };
            let words = ["resume", "--json", "--on-ambiguous", said];
            outcome = rig.windlass(words).run().unwrap();
        }
        if outcome.code == Some(2) {
            // It had ended already, or not begun.
            let served = rig.version() == tag;
            assert_eq!(migrations(&rig, &tag), usize::from(served), "{outcome}");
            continue;
        }
        assert_eq!(outcome.code, Some(0), "commit {commit}: {outcome}");
        assert_eq!(rig.version(), tag, "commit {commit}: {outcome}");
        assert_eq!(migrations(&rig, &tag), 1, "commit {commit}: {outcome}");
        let of_tag = |release: &String| release.contains(&format!("-{tag}-"));
        let releases: Vec<String> = rig.releases().into_iter().filter(of_tag).collect();
        assert_eq!(releases.len(), 1, "commit {commit}: {releases:?} {outcome}");
        assert_eq!(rig.current().as_ref(), releases.first(), "{outcome}");
        assert_eq!(
            rig.state(&releases[0]),
            "good",
            "commit {commit}: {outcome}"
        );
        assert_eq!(rig.containers().unwrap().len(), 1, "{outcome}");
        assert!(rig.registry.digest("observer", &tag).unwrap().is_some());
        assert!(!rig.is_leased(), "commit {commit}: {outcome}");
    }
    assert!(kills >= 6, "{kills} kills");
}

fn migrations(rig: &Rig, tag: &str) -> usize {
    let log = fs::read_to_string(rig.far("migrated")).unwrap_or_default();
    log.lines().filter(|line| *line == tag).count()
}
