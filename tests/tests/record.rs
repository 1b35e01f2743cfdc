//! `windlass test --record` and `--update`: from a run on real parts to a case that
//! needs none, and to the same case after the pipeline changed.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use windlass_tests::windlass::{Outcome, Windlass};
use windlass_tests::{HttpRecorder, Rig, Workspace, guests, require};

/// `windlass test` where neither engine nor server nor registry can be reached, and with
/// none of the variables that the run had.
fn alone(rig: &Rig, args: &[&str]) -> Outcome {
    without_parts(&rig.workspace, args)
}

fn without_parts(workspace: &Workspace, args: &[&str]) -> Outcome {
    Windlass::new(&workspace.path(), [&["test"], args].concat())
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .env("HOME", "/nonexistent")
        .run()
        .unwrap()
}

#[test]
fn a_real_run_becomes_a_case_that_needs_nothing() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");

    let whole = "tests/recorded/whole.toml";
    let recorded = alone(&rig, &["--record", "last", "--out", whole]);
    assert_eq!(recorded.code, Some(0), "{recorded}");
    let text = rig.workspace.read(whole).unwrap();
    let passed = alone(&rig, &[whole]);
    assert_eq!(passed.code, Some(0), "{passed}\n{text}");

    // Secrets by name, nothing of which run it was; the server is told of.
    let run = outcome.events_of("run-started")[0]["run"].to_string();
    let private_key = rig.sshd.private_key().lines().nth(1).unwrap().to_owned();
    for leak in [run.trim_matches('"'), rig.registry.password(), &private_key] {
        assert!(!text.contains(leak), "{leak}\n{text}");
    }
    assert!(
        text.contains("GHCR_TOKEN = \"fake-value-of-GHCR_TOKEN\""),
        "{text}"
    );
    assert!(recorded.says("127.0.0.1 (line "), "{recorded}");
    // The same run gives the same bytes.
    let again = alone(&rig, &["--record", "last"]);
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(again.stdout.replace("../windlass", "../../windlass"), text);

    // Its steps, each by itself.
    for step in ["build", "verify", "push", "deploy", "health@prod_1"] {
        let wanted = format!("last/{step}");
        let file = format!("tests/recorded/{step}.toml");
        let recorded = alone(&rig, &["--record", &wanted, "--out", &file]);
        let text = rig.workspace.read(&file).unwrap();
        assert_eq!(recorded.code, Some(0), "{recorded}\n{text}");
    }
    let all = alone(&rig, &["tests/recorded"]);
    assert_eq!(all.code, Some(0), "{all}");

    // Another manifest makes other calls: the first that differs is shown, both ways.
    rig.change("windlass.toml", |text| {
        let text = text.replacen(
            "VERSION = \"{{ run.tag }}\"",
            "VERSION = \"{{ run.tag }}-rc\"",
            1,
        );
        text.replacen(", \"{{ vars.registry }}/observer:latest\"", "", 1)
    })
    .unwrap();
    let failed = alone(&rig, &[whole]);
    assert_eq!(failed.code, Some(1), "{failed}");
    assert!(
        failed.says("docker.build, was not expected of step build"),
        "{failed}"
    );
    assert!(
        failed.says("\"v1\"") && failed.says("\"v1-rc\""),
        "{failed}"
    );
    let shown = alone(&rig, &[whole, "--update"]);
    assert_eq!(shown.code, Some(1), "{shown}");
    assert!(shown.says("+with.args.VERSION = \"v1-rc\""), "{shown}");
    assert_eq!(rig.workspace.read(whole).unwrap(), text);
    let accepted = alone(&rig, &[whole, "--update", "--yes"]);
    assert_eq!(accepted.code, Some(0), "{accepted}");
    let passed = alone(&rig, &[whole]);
    assert_eq!(passed.code, Some(0), "{passed}");
    let text = rig.workspace.read(whole).unwrap();
    assert!(!text.contains("observer:latest"), "{text}");
    assert!(text.contains("\n# verify\n\n[[expect]]\n"), "{text}");
}

#[test]
fn a_run_that_failed_and_was_put_back_becomes_a_case_too() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    rig.change("docker-compose.server.yml", |text| {
        format!("{text}    environment:\n      OBSERVER_UNHEALTHY: \"1\"\n")
    })
    .unwrap();
    let outcome = rig.deploy("v2").unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");

    let file = "tests/failed.toml";
    let recorded = alone(&rig, &["--record", "last", "--out", file]);
    let text = rig.workspace.read(file).unwrap();
    assert_eq!(recorded.code, Some(0), "{recorded}\n{text}");
    for part in [
        "error.code = \"http-probe.no-success\"\nerror.step = \"health@prod_1\"\n",
        "steps.\"health@prod_1\" = \"failed\"\n",
        "restored.prod_1 = \"20260124T014658Z-v1-",
        "step = \"@engine\"\ncall = \"releases.restore\"\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let passed = alone(&rig, &[file]);
    assert_eq!(passed.code, Some(0), "{passed}\n{text}");

    // What is there stays; steps that are not there are told.
    let again = alone(&rig, &["--record", "last", "--out", file]);
    assert_eq!(again.code, Some(2), "{again}");
    assert!(again.says("is there already"), "{again}");
    for (wanted, message) in [
        ("last/nope", "step nope did not start in run"),
        ("99999999", "no run `99999999` is recorded in"),
    ] {
        let refused = alone(&rig, &["--record", wanted]);
        assert_eq!(refused.code, Some(2), "{refused}");
        assert!(refused.says(message), "{refused}");
    }
    // A secret that a step put into a call: here by chance.
    let commit = outcome.events_of("run-started")[0]["commit"].clone();
    let commit = commit.as_str().unwrap();
    let masked = Windlass::new(&rig.workspace.path(), ["test", "--record", "last"])
        .env("GHCR_TOKEN", commit)
        .run()
        .unwrap();
    assert_eq!(masked.code, Some(1), "{masked}");
    assert!(masked.says("secret GHCR_TOKEN in plain text"), "{masked}");
    assert!(!masked.stdout.contains(commit), "{masked}");
    assert!(
        masked.stdout.contains("commit = \"[secret:GHCR_TOKEN]\""),
        "{masked}"
    );
}

const LOCAL: &str = r#"
[pipeline]
name = "app"

[run]
tag = "v1"
allow_dirty = true

[vars]
word = { env = "WORD", default = "nothing" }
other = "nothing"

[step.talk]
uses = "ssh-run"
on = ["local"]
retry = { attempts = 2, delay = "1s" }
with = { argv = ["sh", "-c", "echo {{ vars.word }} {{ vars.other }}; sleep 0.3; echo to-stderr >&2; test -e tried || { touch tried; exit 3; }"] }

[step.reads]
uses = "./guest.wasm"
needs = ["talk"]
grant = ["secret.reveal TOKEN"]
with = { mode = "secret_log", text = { secret = "TOKEN" } }

[notify.slack]
uses = "slack-notify"
events = ["succeeded"]
with = { webhook = { secret = "SLACK_WEBHOOK" } }
"#;

#[test]
fn what_a_run_was_given_said_and_read_is_in_its_case() {
    require!(Guests, Windlass, Git);
    let slack = HttpRecorder::start().unwrap();
    let mut workspace = Workspace::with_manifest(LOCAL).unwrap();
    workspace
        .write("guest.wasm", guests::guest("guest").unwrap())
        .unwrap();
    let locked = workspace.windlass(["plugin", "lock"]).run().unwrap();
    assert_eq!(locked.code, Some(0), "{locked}");
    workspace.set_env("SLACK_WEBHOOK", slack.url("/services/webhook-of-this-test"));
    workspace.set_env("TOKEN", "t0ken-of-this-test");
    workspace.set_env("WORD", "word-of-the-environment");
    let run = workspace
        .windlass(["run", "--var", "other=secret-t0ken-of-this-test"])
        .run()
        .unwrap();
    assert_eq!(run.code, Some(0), "{run}");

    let file = "tests/local.toml";
    let recorded = without_parts(&workspace, &["--record", "last", "--out", file]);
    let text = workspace.read(file).unwrap();
    assert_eq!(recorded.code, Some(0), "{recorded}\n{text}");
    for part in [
        "env.WORD = \"word-of-the-environment\"\n",
        // Somebody gave a secret as a variable: the journal has its name, in calls too.
        "vars.other = \"secret-[secret:TOKEN]\"\n",
        "log = [\n  \"word-of-the-environment secret-[secret:TOKEN]\",\n  { text = \"to-stderr\", after = \"",
        "stderr = true },\n]\n",
        "exit = 3\n",
        "reveals = [\"TOKEN\"]\n",
        "notifications.slack = \"sent\"\n",
        "# notify.slack\n\n[[expect]]\nstep = \"notify.slack\"\ncall = \"http.POST\"\n\
         with.url = [{ secret = \"SLACK_WEBHOOK\" }]\n",
        "with.body = { any = true }\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    for leak in ["t0ken-of-this-test", "webhook-of-this-test"] {
        assert!(!text.contains(leak), "{leak}\n{text}");
    }
    let passed = without_parts(&workspace, &[file]);
    assert_eq!(passed.code, Some(0), "{passed}\n{text}");
    assert_eq!(slack.requests().len(), 1);

    // One step by itself: its last attempt, which did not fail.
    let step = without_parts(&workspace, &["--record", "last/talk@local"]);
    assert_eq!(step.code, Some(0), "{step}");
    assert!(step.stdout.contains("attempt = 2\n"), "{step}");
    assert!(!step.stdout.contains("exit = 3"), "{step}");
}
