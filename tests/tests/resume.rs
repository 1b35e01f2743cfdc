//! A run goes on after its process was killed, after it was cancelled, and after it
//! failed: what is done is not done again, and nothing is left out.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use windlass_tests::deploys::{Commands, wait_until};
use windlass_tests::killed::Killer;
use windlass_tests::windlass::{Outcome, Running, Windlass};
use windlass_tests::{HttpRecorder, Rig, require};

const LIMIT: Duration = Duration::from_secs(60);

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

/// Goes on with a run. What a server has nothing of did not begin, or what the killed
/// process had sent arrives meanwhile: then it is found, and not begun again.
fn go_on(project: &Commands, words: &[&str]) -> Outcome {
    let outcome = resume(project, words).run().unwrap();
    if outcome.code != Some(6) {
        return outcome;
    }
    assert!(outcome.says("prod_1 has no marker of it"), "{outcome}");
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain(["--on-ambiguous", "redo"])
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
    for commit in (4..).step_by(6) {
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
        // By somebody else, who is not the one that the releases name.
        let resumes = rig.windlass(["resume", "--json"]).env("USER", "other");
        let mut outcome = resumes.run().unwrap();
        if outcome.code == Some(6) {
            assert_eq!(asked_about(&outcome), "migrate", "{outcome}");
            let words = ["resume", "--json", "--on-ambiguous", "redo"];
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

/// One step that is done, one that waits for the file `go`, one after it.
fn held(run: &str) -> Commands {
    let steps = format!(
        "[step.one]\nuses = \"ssh-run\"\non = \"{{{{ environment.targets }}}}\"\n\
         with = {{ dir = \"{{{{ environment.dir }}}}\", argv = [\"sh\", \"-c\", \"echo one >> log\"] }}\n\
         {}\n\
         [step.three]\nuses = \"ssh-run\"\nneeds = [\"hold\"]\non = \"{{{{ environment.targets }}}}\"\n\
         with = {{ dir = \"{{{{ environment.dir }}}}\", argv = [\"sh\", \"-c\", \"echo three >> log\"] }}",
        Commands::gate().replacen("[step.hold]\n", "[step.hold]\nneeds = [\"one\"]\n", 1)
    );
    Commands::start(run, &steps).unwrap()
}

/// Until the second step is under way.
fn begun(project: &Commands) -> Running {
    let mut run = project.run(&["--json"]).spawn().unwrap();
    let begun = wait_until(LIMIT, || {
        !run.is_running() || project.log().contains("start")
    });
    assert!(begun && run.is_running(), "{}", run.stderr());
    run
}

#[test]
fn a_run_that_lives_is_left_alone() {
    require!(Sshd, Git, Windlass);
    let project = held("");
    let run = begun(&project);
    let refused = resume(&project, &[]).run().unwrap();
    assert_eq!(refused.code, Some(4), "{refused}");
    let whose = format!("is under way (pid {})", run.pid());
    assert!(refused.says(&whose), "{refused}");
    project.open_gate().unwrap();
    let outcome = run.wait().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let nothing = resume(&project, &[]).run().unwrap();
    assert_eq!(nothing.code, Some(2), "{nothing}");
    assert!(
        nothing.says("no run since the last one that succeeded"),
        "{nothing}"
    );
}

#[test]
fn a_cancelled_run_goes_on_and_asks_about_what_was_cut() {
    require!(Sshd, Git, Windlass);
    let project = held("");
    let run = begun(&project);
    run.signal("INT");
    let cancelled = run.wait().unwrap();
    assert_eq!(cancelled.code, Some(130), "{cancelled}");
    let asks = resume(&project, &[]).run().unwrap();
    assert_eq!(asks.code, Some(6), "{asks}");
    assert!(
        asks.says("step hold@prod_1 was cut short in ssh.exec"),
        "{asks}"
    );
    // A cancel ends it there, and takes its marker.
    assert!(asks.says("prod_1 has no marker of it"), "{asks}");
    assert!(asks.says("--on-ambiguous redo"), "{asks}");
    assert_eq!(count(&project.log(), "three"), 0, "{asks}");
    let abort = resume(&project, &["--on-ambiguous", "abort"])
        .run()
        .unwrap();
    assert_eq!(abort.code, Some(6), "{abort}");
    project.open_gate().unwrap();
    let outcome = resume(&project, &["--json", "--on-ambiguous", "redo"])
        .run()
        .unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let log = project.log();
    let counts = ["one", "start", "end", "three"].map(|step| count(&log, step));
    assert_eq!(counts, [1, 2, 1, 1], "{log}");
    // It is the same run, and its events are counted on.
    assert_eq!(outcome.finished()["outcome"], "succeeded", "{outcome}");
    let ids = |outcome: &Outcome| outcome.events_of("run-started")[0]["run"].clone();
    assert_eq!(ids(&outcome), ids(&cancelled));
    let shown = project
        .workspace
        .windlass(["show", "--json"])
        .run()
        .unwrap();
    let numbers: Vec<u64> = shown
        .events()
        .iter()
        .map(|event| event["number"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=u64::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, expected, "{shown}");
    assert_eq!(shown.events_of("run-resumed").len(), 1, "{shown}");
    assert_eq!(shown.events_of("run-finished").len(), 2, "{shown}");
    assert!(!project.is_leased());
}

#[test]
fn what_changed_since_is_refused_with_the_difference() {
    require!(Sshd, Git, Windlass);
    let project = held("");
    let run = begun(&project);
    run.signal("KILL");
    run.wait().unwrap();
    project
        .workspace
        .edit("windlass.toml", |text| {
            text.replace("echo three", "echo  three")
        })
        .unwrap();
    project.workspace.commit("Change a step").unwrap();
    let refused = resume(&project, &[]).run().unwrap();
    assert_eq!(refused.code, Some(6), "{refused}");
    project.open_gate().unwrap();
    for place in ["the manifest", "the commit"] {
        assert!(refused.says(&format!("  {place}\n    then ")), "{refused}");
    }
    let outcome = resume(&project, &["--allow-changed"]).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(
        outcome.says("changed since: the manifest, the commit"),
        "{outcome}"
    );
    assert_eq!(count(&project.log(), "three"), 1, "{outcome}");
    assert_eq!(count(&project.log(), "one"), 1, "{outcome}");
}

/// A part of a transaction at the journal's end is no record.
#[test]
fn the_journal_may_end_in_the_middle_of_a_record() {
    require!(Sshd, Git, Windlass);
    let killer = Killer::build().unwrap();
    let project = Commands::start("", THREE).unwrap();
    for commit in [6, 9, 11, 14] {
        let state = format!(".windlass/{commit}");
        let _ = fs::remove_file(project.dir().join("log"));
        let run = project
            .run(&["--state", &state])
            .envs(killer.within(commit));
        let killed = run.run().unwrap();
        assert_eq!(killed.signal(), Some(9), "{killed}");
        let outcome = go_on(&project, &["--state", &state]);
        assert_eq!(outcome.code, Some(0), "commit {commit}: {outcome}");
        let log = project.log();
        let counts = ["one", "two", "three"].map(|step| count(&log, step));
        assert_eq!(counts, [1, 1, 1], "commit {commit}: {log}");
    }
}

/// A small file system, which goes with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let words = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        let mounted = Command::new("mount").args(words).arg(&path).status();
        assert!(mounted.unwrap().success());
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_effects_and_the_run_goes_on_when_there_is_room() {
    require!(Sshd, Git, Windlass, Namespaces);
    let project = held("");
    let disk = Disk::mount(project.workspace.path().join(".windlass"));
    let run = begun(&project);
    let filler = disk.0.join("filler");
    // As much as there is.
    let _ = fs::write(&filler, vec![0; 4 << 20]);
    project.open_gate().unwrap();
    let full = run.wait().unwrap();
    assert_ne!(full.code, Some(0), "{full}");
    assert!(full.says("journal"), "{full}");
    let log = project.log();
    assert_eq!((count(&log, "end"), count(&log, "three")), (1, 0), "{full}");
    fs::remove_file(filler).unwrap();
    // The server kept the answer that found no room here.
    let outcome = resume(&project, &[]).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let log = project.log();
    let counts = ["one", "start", "end", "three"].map(|step| count(&log, step));
    assert_eq!(counts, [1, 1, 1, 1], "{log}{outcome}");
    assert!(!project.is_leased(), "{outcome}");
}

#[test]
fn only_what_failed_is_retried() {
    require!(Sshd, Git, Windlass);
    let steps = THREE.replace("echo two $SAID", "test -e go && echo two $SAID");
    let project = Commands::start("", &steps).unwrap();
    let failed = project.run(&["--json"]).run().unwrap();
    assert_eq!(failed.code, Some(1), "{failed}");
    project.open_gate().unwrap();
    let words = ["retry-failed", "--json"];
    let outcome = project.workspace.windlass(words).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(project.log(), "one\ntwo seven\nthree\n", "{outcome}");
    assert_eq!(
        outcome.step("one", "prod_1")["state"],
        "reused",
        "{outcome}"
    );
    let id = |outcome: &Outcome| outcome.events_of("run-started")[0]["run"].clone();
    assert_ne!(id(&outcome), id(&failed), "it is a run of its own");
    let tag = |outcome: &Outcome| outcome.events_of("run-started")[0]["tag"].clone();
    assert_eq!(tag(&outcome), tag(&failed));
    let nothing = project.workspace.windlass(["retry-failed"]).run().unwrap();
    assert_eq!(nothing.code, Some(2), "{nothing}");
}

/// What the failed run put up was taken down again, so that it counts as not done.
#[test]
fn what_was_rolled_back_is_deployed_again() {
    require!(Docker, Registry, Sshd, Compose, Observer, Git, Windlass);
    let mut rig = Rig::start().unwrap();
    rig.quick().unwrap();
    rig.change("windlass.toml", |text| {
        text.replacen(
            "[vars]\n",
            "[vars]\nunhealthy = { env = \"UNHEALTHY\", default = \"\" }\n",
            1,
        )
        .replacen(
            "env = { OBSERVER_PORT",
            "env = { UNHEALTHY = \"{{ vars.unhealthy }}\", OBSERVER_PORT",
            1,
        )
    })
    .unwrap();
    rig.container_env("OBSERVER_UNHEALTHY", "${UNHEALTHY}")
        .unwrap();
    let good = rig.deploy("v1").unwrap();
    assert_eq!(good.code, Some(0), "{good}");
    rig.workspace.set_env("UNHEALTHY", "1");
    let failed = rig.deploy("v2").unwrap();
    assert_eq!(failed.code, Some(1), "{failed}");
    assert_eq!(rig.version(), "v1", "{failed}");
    rig.workspace.set_env("UNHEALTHY", "0");
    let refused = rig.windlass(["resume"]).run().unwrap();
    assert_eq!(refused.code, Some(6), "{refused}");
    assert!(refused.says("variable UNHEALTHY"), "{refused}");
    let words = ["resume", "--json", "--allow-changed"];
    let outcome = rig.windlass(words).run().unwrap();
    // The variable is the recorded one only where it is not set now.
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(rig.version(), "v2", "{outcome}");
    assert_eq!(rig.state(&rig.current().unwrap()), "good", "{outcome}");
    assert!(!rig.is_leased(), "{outcome}");
}

/// A script that is not the one that was sent stops the replay, with nothing done.
#[test]
fn a_replay_that_diverges_stops() {
    require!(Sshd, Git, Windlass);
    let steps = "[step.hold]\nuses = \"ssh-run\"\non = \"{{ environment.targets }}\"\n\
                 with = { dir = \"{{ environment.dir }}\", script = \"hold.sh\" }";
    let project = Commands::start("", steps).unwrap();
    let script = "#!/bin/sh\necho start >> log\nuntil [ -e go ]; do sleep 0.05; done\n";
    project.workspace.write("hold.sh", script).unwrap();
    project.workspace.commit("Add the script").unwrap();
    let run = begun(&project);
    run.signal("KILL");
    run.wait().unwrap();
    let other = script.replace("start", "other");
    project.workspace.write("hold.sh", other).unwrap();
    project.workspace.commit("Change the script").unwrap();
    project.open_gate().unwrap();
    let words = ["--json", "--allow-changed"];
    let diverged = resume(&project, &words).run().unwrap();
    assert_eq!(diverged.code, Some(6), "{diverged}");
    let error = &diverged.finished()["error"];
    assert_eq!(error["code"], "resume.diverged", "{diverged}");
    assert_eq!(count(&project.log(), "other"), 0, "{diverged}");
    assert!(!project.is_leased(), "{diverged}");
    let words = ["retry-failed", "--allow-changed"];
    let again = project.workspace.windlass(words).run().unwrap();
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(count(&project.log(), "other"), 1, "{again}");
}

/// Whoever asks after the kill is told once, or not again.
#[test]
fn a_notification_goes_out_at_most_once() {
    require!(Sshd, Git, Windlass);
    let killer = Killer::build().unwrap();
    let recorder = HttpRecorder::start().unwrap();
    let steps = format!(
        "{THREE}\n[notify.slack]\nuses = \"slack-notify\"\nevents = [\"succeeded\"]\n\
         with = {{ webhook = {{ secret = \"SLACK_WEBHOOK\" }} }}"
    );
    let mut project = Commands::start("", &steps).unwrap();
    let hook = recorder.url("/services/T00000000/B00000000/a-token-of-this-test");
    project.workspace.set_env("SLACK_WEBHOOK", hook);
    let whole = project.run(&[]).run().unwrap();
    assert_eq!(whole.code, Some(0), "{whole}");
    let mut told = recorder.requests().len();
    assert_eq!(told, 1, "{whole}");
    let mut before = 0;
    for commit in 12.. {
        let state = format!(".windlass/{commit}");
        let run = project.run(&["--state", &state]).envs(killer.at(commit));
        let killed = run.run().unwrap();
        if killed.code == Some(0) {
            break;
        }
        let sent = recorder.requests().len() > told;
        let outcome = go_on(&project, &["--state", &state]);
        // It may have ended before the kill.
        assert!(
            matches!(outcome.code, Some(0 | 2)),
            "commit {commit}: {outcome}"
        );
        let now = recorder.requests().len();
        assert!(now - told <= 1, "commit {commit}: {outcome}");
        if !sent {
            let warned = outcome.says("was being notified when the run was cut short");
            assert!(warned || now - told == 1, "commit {commit}: {outcome}");
            before += 1;
        }
        told = now;
    }
    assert!(before > 0, "no kill came before the notification");
}

#[test]
fn a_secret_that_was_given_as_a_variable_is_not_kept() {
    require!(Sshd, Git, Windlass);
    let steps = r#"[vars]
word = ""
[step.one]
uses = "ssh-run"
on = "{{ environment.targets }}"
with = { argv = ["sh", "-c", "exit 3"], env = { TOKEN = { secret = "TOKEN" }, WORD = "{{ vars.word }}" } }"#;
    let mut project = Commands::start("", steps).unwrap();
    project.workspace.set_env("TOKEN", "correct-horse-battery");
    let failed = project
        .run(&["--var", "word=correct-horse-battery"])
        .run()
        .unwrap();
    assert_eq!(failed.code, Some(1), "{failed}");
    for entry in fs::read_dir(project.workspace.path().join(".windlass")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes
                .windows(21)
                .any(|part| part == b"correct-horse-battery");
            assert!(!found, "{}", path.display());
        }
    }
    let refused = resume(&project, &[]).run().unwrap();
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(
        refused.says("variable word") && refused.says("held a secret"),
        "{refused}"
    );
}
