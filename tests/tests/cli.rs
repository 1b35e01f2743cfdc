//! The command line: what each command prints and how it ends, and runs of a part of
//! a pipeline.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use windlass_tests::windlass::Outcome;
use windlass_tests::{Workspace, require};

/// Three steps of which each uses what the one before gave.
const CHAIN: &str = r#"
[pipeline]
name = "app"

[vars]
script = { env = "SCRIPT", default = "true" }

[run]
tag = "20260124-014658"

[environment.prod]
targets = ["local"]

[step.build]
uses = "ssh-run"
on = ["local"]
with = { argv = ["echo", "image-of-{{ run.tag }}"] }

[step.push]
uses = "ssh-run"
on = ["local"]
with = { argv = ["echo", "pushed", "{{ steps.build.stdout_tail }}"] }

[step.deploy]
uses = "ssh-run"
on = ["local"]
with = { argv = ["sh", "-c", "echo deploying \"$0\"; {{ vars.script }}", "{{ steps.push.stdout_tail }}"] }
"#;

fn project() -> Workspace {
    Workspace::with_manifest(CHAIN).unwrap()
}

fn windlass<const N: usize>(workspace: &Workspace, args: [&str; N]) -> Outcome {
    workspace.windlass(args).run().unwrap()
}

/// Exit code, stdout and stderr, as one text.
fn shown(outcome: &Outcome) -> String {
    let mut text = format!("exit code: {}\n", outcome.code.unwrap_or(-1));
    for (name, stream) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        if !stream.is_empty() {
            text.push_str(&format!("----- {name}\n{stream}"));
        }
    }
    text
}

/// Takes out what differs from run to run.
macro_rules! assert_shown {
    ($name:literal, $outcome:expr) => {
        insta::with_settings!({
            filters => vec![
                (r"/tmp/wlrig_\w+", "[DIR]"),
                (r"started +took +pipeline +tag", "started  took  pipeline  tag"),
                (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[RUN]"),
                (r"\b[0-9a-f]{40}\b", "[COMMIT]"),
                (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[TIME]"),
                (r"run [0-9a-f]{8}\b", "run [RUN]"),
                (r"(show|logs) [0-9a-f]{8}\b", "$1 [RUN]"),
                (r"(?m)^[0-9a-f]{8}  ", "[RUN]     "),
                (r"main [0-9a-f]{7}\b", "main [COMMIT]"),
                (r"  [0-9a-f]{7}\b", "  [COMMIT]"),
                (r"sha256:[0-9a-f]{64}", "[DIGEST]"),
                (r"(?m)^ *\d+\.\d s  ", "   [AT]  "),
                (r" *\b\d+(\.\d+)? (ms|s)\b( ago)?", " [TIME]"),
                // The column is as wide as its widest time.
                (r"\[TIME\] {2,}", "[TIME]  "),
                (r"\d+(\.\d+)? KiB", "[SIZE]"),
            ],
            omit_expression => true,
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!(concat!("cli_", $name), shown(&$outcome));
        });
    };
}

#[track_caller]
fn assert_ends(outcome: &Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome}");
    for text in says {
        assert!(outcome.says(text), "it does not say {text:?}: {outcome}");
    }
}

#[test]
fn parts_of_a_pipeline_use_the_outputs_of_the_last_good_run() {
    require!(Git, Windlass);
    let mut project = project();
    let missing = windlass(&project, ["run", "--only", "deploy"]);
    assert_ends(&missing, 2, &["steps.push", "stdout_tail"]);
    assert_shown!("only_without_outputs", missing);

    assert_ends(&windlass(&project, ["run"]), 0, &[]);
    let only = windlass(&project, ["run", "--verbose", "--only", "deploy"]);
    let deploying = "deploying pushed image-of-20260124-014658";
    assert_ends(&only, 0, &[deploying]);
    assert!(!only.says("push@local  started"), "{only}");
    let from = windlass(&project, ["run", "--verbose", "--from", "push"]);
    assert_ends(&from, 0, &[deploying, "push@local"]);
    assert!(!from.says("build@local  started"), "{from}");
    let two = windlass(&project, ["run", "--verbose", "--only", "push,deploy"]);
    assert_ends(&two, 0, &[deploying]);

    // Another tag, another commit: other outputs.
    let other = windlass(&project, ["run", "--only", "deploy", "--tag", "2"]);
    assert_ends(&other, 2, &["steps.push"]);
    project.write("more", "").unwrap();
    project.commit("Go on").unwrap();
    assert_ends(&windlass(&project, ["run", "--only", "deploy"]), 2, &[]);

    // What went well in a run that failed need not be done again.
    project.set_env("SCRIPT", "exit 1");
    assert_ends(&windlass(&project, ["run"]), 1, &[]);
    project.remove_env("SCRIPT");
    let again = windlass(&project, ["run", "--verbose", "--from", "deploy"]);
    assert_ends(&again, 0, &[deploying]);
}

#[test]
fn steps_and_variables_that_are_not_there_are_named() {
    require!(Git, Windlass);
    let project = project();
    for (args, says) in [
        (["run", "--only", "deplyo"], "deplyo"),
        (["run", "--from", "deplyo"], "deplyo"),
        (["run", "--var", "scrpt=1"], "scrpt"),
        (["run", "--env", "staging"], "staging"),
    ] {
        let outcome = windlass(&project, args);
        assert_ends(&outcome, 2, &[says]);
        // With what was meant.
        assert!(
            ["deploy", "script", "prod"]
                .iter()
                .any(|meant| outcome.says(meant)),
            "{outcome}"
        );
    }
    assert_ends(
        &windlass(&project, ["run", "--var", "novalue"]),
        2,
        &["NAME=VALUE"],
    );
    assert_ends(
        &windlass(&project, ["run", "--only", "a", "--from", "b"]),
        2,
        &["--from"],
    );
}

#[test]
fn a_run_and_what_is_told_of_it_later() {
    require!(Git, Windlass);
    let mut project = project();
    assert_shown!("runs_before_any", windlass(&project, ["runs"]));
    assert_shown!("run", windlass(&project, ["run"]));
    assert_shown!("show", windlass(&project, ["show"]));
    assert_shown!("logs", windlass(&project, ["logs"]));
    assert_shown!(
        "logs_of_a_step",
        windlass(&project, ["logs", "last", "push"])
    );
    assert_shown!(
        "logs_of_no_step",
        windlass(&project, ["logs", "last", "psuh"])
    );
    project.set_env("SCRIPT", "echo no space left; exit 3");
    assert_shown!("run_failing", windlass(&project, ["run"]));
    assert_shown!("runs", windlass(&project, ["runs"]));
    assert_shown!("show_no_run", windlass(&project, ["show", "0000dead"]));
    let runs = windlass(&project, ["runs", "--json"]);
    let parsed: Vec<serde_json::Value> = match serde_json::from_str(&runs.stdout) {
        Ok(list) => list,
        Err(_) => runs
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    };
    assert_eq!(parsed.len(), 2, "{runs}");
}

/// Nothing was deployed, so that no target could tell either.
#[test]
fn without_a_journal_there_is_nothing_to_go_on_with() {
    require!(Git, Windlass);
    let project = project();
    assert_shown!("resume_nothing", windlass(&project, ["resume"]));
    assert_shown!("retry_nothing", windlass(&project, ["retry-failed"]));
    assert_ends(&windlass(&project, ["run"]), 0, &[]);
    assert_shown!("resume_no_run", windlass(&project, ["resume", "0000dead"]));
}

/// With one, its word counts.
#[test]
fn what_the_journal_knows_is_not_said_again() {
    require!(Git, Windlass);
    let mut project = project();
    project.set_env("SCRIPT", "exit 1");
    assert_ends(&windlass(&project, ["run"]), 1, &[]);
    let variable = windlass(&project, ["resume", "--var", "script=true"]);
    assert_ends(&variable, 2, &["--var is for a run that has no journal"]);
    let last = windlass(&project, ["runs", "--json"]);
    let last: serde_json::Value = serde_json::from_str(&last.stdout).unwrap();
    let run = last[0]["run"].as_str().unwrap();
    let other = windlass(&project, ["resume", run, "--env", "staging"]);
    assert_ends(
        &other,
        2,
        &["is not one of environment staging", "leave --env out"],
    );
    // Of that one, nothing is recorded.
    let none = windlass(&project, ["resume", "--env", "staging"]);
    assert_ends(&none, 2, &["staging"]);
}

#[test]
fn state_can_be_elsewhere() {
    require!(Git, Windlass);
    let project = project();
    let state = project.home().join("state");
    let dir = state.to_str().unwrap();
    assert_ends(&windlass(&project, ["run", "--state", dir]), 0, &[]);
    assert!(!project.path().join(".windlass").exists());
    assert_ends(
        &windlass(&project, ["show", "--state", dir]),
        0,
        &["deploy"],
    );
    assert_ends(&windlass(&project, ["show"]), 2, &["no run is recorded"]);
}

#[test]
fn what_a_pipeline_is() {
    require!(Git, Windlass);
    let project = project();
    assert_shown!("check", windlass(&project, ["check"]));
    assert_shown!("plan_offline", windlass(&project, ["plan", "--offline"]));
    assert_shown!("graph", windlass(&project, ["graph"]));
    assert_shown!(
        "graph_dot",
        windlass(&project, ["graph", "--format", "dot"])
    );
    let plan = windlass(&project, ["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["pipeline"], "app", "{plan}");
    let schema = windlass(&project, ["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(schema["properties"]["step"].is_object(), "{schema}");
}

#[test]
fn the_project_is_found_from_below_and_named_from_afar() {
    require!(Git, Windlass);
    let project = project();
    project.write("deep/er/file", "").unwrap();
    project.commit("Go deeper").unwrap();
    let below = windlass_tests::Windlass::new(&project.path().join("deep/er"), ["run"])
        .envs(project.env())
        .run()
        .unwrap();
    assert_ends(&below, 0, &["deploy"]);
    assert!(
        project.path().join(".windlass").exists(),
        "beside the manifest"
    );
    let file = project.path().join("windlass.toml");
    let afar =
        windlass_tests::Windlass::new(&project.home(), ["check", "--file", file.to_str().unwrap()])
            .envs(project.env())
            .run()
            .unwrap();
    assert_ends(&afar, 0, &[]);
    let nowhere = windlass_tests::Windlass::new(std::path::Path::new("/"), ["run"])
        .envs(project.env())
        .run()
        .unwrap();
    assert_ends(&nowhere, 2, &["no windlass.toml", "windlass init"]);
}

#[test]
fn plugins() {
    require!(Git, Windlass);
    let project = project();
    assert_shown!("plugins", windlass(&project, ["plugins"]));
    let json = windlass(&project, ["plugins", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(10), "{json}");
}

#[test]
fn init_writes_what_check_accepts() {
    require!(Git, Windlass, Observer);
    // Nothing there, a Dockerfile, and both with an origin of GitHub.
    for files in [
        &[][..],
        &["Dockerfile"],
        &["Dockerfile", "docker-compose.yml"],
    ] {
        let workspace = Workspace::empty().unwrap();
        for name in files {
            workspace.write(name, "FROM scratch\n").unwrap();
        }
        if files.len() == 2 {
            let origin = "git@github.com:acme/observer.git";
            workspace
                .git(["remote", "set-url", "origin", origin])
                .unwrap();
        }
        let printed = windlass(&workspace, ["init", "--print"]);
        assert_ends(&printed, 0, &["[pipeline]"]);
        assert!(!workspace.path().join("windlass.toml").exists());
        let written = windlass(&workspace, ["init"]);
        assert_ends(&written, 0, &["wrote windlass.toml"]);
        assert_eq!(workspace.read("windlass.toml").unwrap(), printed.stdout);
        let checked = windlass(&workspace, ["check"]);
        assert_eq!(checked.code, Some(0), "{checked}\n{}", printed.stdout);
        let again = windlass(&workspace, ["init"]);
        assert_ends(&again, 2, &["is there already", "--force"]);
        assert_ends(&windlass(&workspace, ["init", "--force"]), 0, &[]);
    }
}

#[test]
fn help_and_mistakes() {
    require!(Windlass, Git);
    let project = project();
    assert_shown!("help", windlass(&project, ["--help"]));
    assert_shown!("help_run", windlass(&project, ["run", "--help"]));
    assert_shown!("no_command", windlass(&project, ["depoly"]));
}

#[test]
fn completions_and_the_manual_are_for_every_command() {
    require!(Windlass, Git);
    let project = project();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = windlass(&project, ["completions", shell]);
        assert_ends(&outcome, 0, &["rollback", "completions"]);
        if let Some(program) = windlass_tests::process::find_program(shell) {
            project.write("completions", &outcome.stdout).unwrap();
            let mut parse = std::process::Command::new(program);
            parse.arg("-n").arg(project.path().join("completions"));
            windlass_tests::process::capture(&mut parse).unwrap();
        }
    }
    let manual = windlass(&project, ["man"]);
    assert_ends(&manual, 0, &[".TH windlass 1", "rollback", "Exit codes"]);
}
