//! A run as a CI job has it: no terminal, settings in the environment, a log that is
//! read by machines, and output of others in it that must not be obeyed.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;

use serde_json::Value;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Workspace, require};

const MANIFEST: &str = r#"
[pipeline]
name = "app"

[vars]
script = { env = "SCRIPT", default = "echo working" }

[environment.prod]
targets = ["local"]
CONFIRM

[step.work]
uses = "ssh-run"
on = ["local"]
with = { argv = ["sh", "-c", "{{ vars.script }}", "{{ run.tag }}"] }

[step.after]
uses = "ssh-run"
needs = ["work"]
on = ["local"]
with = { argv = ["echo", "tag=<{{ run.tag }}> branch=<{{ run.branch }}>"] }
"#;

/// A project in a job of GitHub Actions.
fn job(manifest: &str) -> Workspace {
    let mut workspace = Workspace::with_manifest(&manifest.replace("CONFIRM\n", "")).unwrap();
    for (name, value) in [
        ("CI", "true"),
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_ACTOR", "octocat"),
        ("GITHUB_REF_NAME", "main"),
        ("GITHUB_REF_TYPE", "branch"),
        ("GITHUB_REPOSITORY", "acme/app"),
        ("GITHUB_RUN_ID", "42"),
        ("GITHUB_SERVER_URL", "https://github.com"),
    ] {
        workspace.set_env(name, value);
    }
    let summary = workspace.home().join("step-summary");
    workspace.set_env("GITHUB_STEP_SUMMARY", summary.to_str().unwrap());
    workspace
}

fn windlass<const N: usize>(workspace: &Workspace, args: [&str; N]) -> Outcome {
    workspace.windlass(args).run().unwrap()
}

/// Lines that a runner takes for commands.
fn commands(outcome: &Outcome) -> Vec<&str> {
    outcome
        .stdout
        .lines()
        .chain(outcome.stderr.lines())
        // A runner that reads bytes also ends a line at a carriage return.
        .flat_map(|line| line.split('\r'))
        .filter(|line| {
            line.trim_start().starts_with("::")
                || ["##[", "##vso[", "##teamcity["]
                    .iter()
                    .any(|opening| line.contains(opening))
        })
        .collect()
}

#[test]
fn the_tag_is_the_one_whose_push_started_the_job() {
    require!(Git, Windlass);
    let mut workspace = job(MANIFEST);
    workspace.git(["tag", "at-head"]).unwrap();
    let branch = windlass(&workspace, ["run", "--verbose"]);
    assert!(branch.says("tag=<at-head> branch=<main>"), "{branch}");

    workspace.set_env("GITHUB_REF_TYPE", "tag");
    workspace.set_env("GITHUB_REF_NAME", "20260124-014658");
    let tag = windlass(&workspace, ["run", "--verbose"]);
    assert!(tag.says("tag=<20260124-014658>"), "{tag}");
    let mine = windlass(&workspace, ["run", "--verbose", "--tag", "mine"]);
    assert!(mine.says("tag=<mine>"), "{mine}");
}

#[test]
fn a_failure_is_an_annotation_and_a_success_is_none() {
    require!(Git, Windlass);
    let mut workspace = job(MANIFEST);
    let fine = windlass(&workspace, ["run"]);
    assert_eq!(fine.code, Some(0), "{fine}");
    assert_eq!(commands(&fine), [""; 0], "{fine}");

    workspace.set_env("SCRIPT", "echo 'no space: 100%, left' >&2; exit 9");
    let failed = windlass(&workspace, ["run"]);
    assert_eq!(failed.code, Some(1), "{failed}");
    let found = commands(&failed);
    assert_eq!(found.len(), 1, "{failed}");
    assert!(
        found[0].starts_with("::error title=work@local failed::sh on local exited with 9"),
        "{failed}"
    );
    // As `@actions/core` escapes it, or the rest of the message would be lost.
    assert!(found[0].contains("%0A") && found[0].contains("100%25"));
}

#[test]
fn the_summary_is_appended_and_written_where_it_is_wanted() {
    require!(Git, Windlass);
    let mut workspace = job(MANIFEST);
    let page = workspace.home().join("step-summary");
    fs::write(&page, "What an earlier step wrote\n").unwrap();
    let own = workspace.home().join("own.md");
    let own_text = own.to_str().unwrap();
    let outcome = windlass(&workspace, ["run", "--tag", "1", "--summary", own_text]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let text = fs::read_to_string(&page).unwrap();
    let rest = text.strip_prefix("What an earlier step wrote\n").unwrap();
    assert_eq!(rest, fs::read_to_string(&own).unwrap());
    for part in ["app → prod", "| work@local |", "succeeded", "main"] {
        assert!(rest.contains(part), "no {part:?}: {rest}");
    }

    // Of a failure, too; and text of others is text there.
    let script = r#"echo '<img src=x onerror=alert(1)> | @octocat ```' >&2; exit 1"#;
    workspace.set_env("SCRIPT", script);
    fs::remove_file(&page).unwrap();
    let outcome = windlass(&workspace, ["run"]);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("failed"), "{text}");
    let prose = text.split("<details>").next().unwrap();
    assert!(!prose.contains("<img"), "{prose}");

    // A place that cannot be written changes nothing.
    workspace.remove_env("SCRIPT");
    let outcome = windlass(&workspace, ["run", "--summary", "/no/such/place.md"]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.says("could not be written to /no/such/place.md"));
}

/// What a build script or a server could print to command the runner.
const FORGED: &str = r#"printf '%s\n' '::error::forged' '  ::set-output name=a::b' '::stop-commands::x' 'fine ##[error]forged' '##vso[task.setvariable]x' '##teamcity[buildStatus]'
printf 'progress\r::warning::forged\r\n'
printf '\033[2K::add-mask::forged\n\033[1A::error::forged\n\302\205::debug::forged\n\342\200\250::debug::forged\n'
"#;

#[test]
fn forged_commands_are_defused() {
    require!(Git, Windlass);
    for ending in ["exit 0", "exit 1"] {
        for level in ["--verbose", "--quiet", "--json"] {
            let mut workspace = job(MANIFEST);
            workspace.set_env("SCRIPT", format!("{FORGED}\n{ending}"));
            let outcome = windlass(&workspace, ["run", level]);
            assert_ne!(outcome.code, None, "{outcome}");
            let mut found = commands(&outcome);
            // The engine's own; and JSON is for programs, where text is text.
            found.retain(|line| {
                !line.starts_with("::error title=work@local failed::") && !line.starts_with("{\"")
            });
            assert_eq!(found, [""; 0], "{outcome}");
            assert!(!outcome.stderr.contains('\u{1b}'), "{outcome}");
            let logs = windlass(&workspace, ["logs", "last"]);
            assert!(logs.says("forged"), "{logs}");
            assert_eq!(commands(&logs), [""; 0], "{logs}");
            let show = windlass(&workspace, ["show", "last", "--verbose"]);
            assert_eq!(commands(&show), [""; 0], "{show}");
        }
    }
}

#[test]
fn without_a_terminal_nothing_is_asked_and_nothing_is_drawn() {
    require!(Git, Windlass);
    let manifest = MANIFEST.replace("CONFIRM", "confirm = true");
    let mut workspace = job(&manifest);
    workspace.set_env("TERM", "xterm-256color");
    let asked = windlass(&workspace, ["run"]);
    assert_eq!(asked.code, Some(6), "{asked}");
    assert!(asked.says("--yes"), "{asked}");
    let outcome = windlass(&workspace, ["run", "--yes"]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(
        !outcome.stderr.contains(['\u{1b}', '\r']),
        "a line a step, nothing redrawn: {outcome}"
    );
    assert!(outcome.says("work@local") && outcome.says("octocat") || outcome.says("after@local"));
}

#[test]
fn json_lines_are_all_that_stdout_has() {
    require!(Git, Windlass);
    let mut workspace = job(MANIFEST);
    for script in ["echo fine", "exit 3"] {
        workspace.set_env("SCRIPT", script);
        let outcome = windlass(&workspace, ["run", "--json"]);
        let events: Vec<Value> = outcome
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(kinds.first(), Some(&"run-started"), "{outcome}");
        assert_eq!(kinds.last(), Some(&"run-finished"), "{outcome}");
        let numbers: Vec<u64> = events
            .iter()
            .map(|event| event["number"].as_u64().unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let started = &events[0];
        assert_eq!(
            started["link"],
            "https://github.com/acme/app/actions/runs/42"
        );
        assert_eq!(started["who"], "octocat (GitHub Actions)");
        let finished = events.last().unwrap();
        let code = outcome.code.unwrap();
        assert_eq!(finished["exit_code"], code);
        assert_eq!(
            finished["outcome"],
            if code == 0 { "succeeded" } else { "failed" }
        );
        // The stored run is the same.
        let show = windlass(&workspace, ["show", "last", "--json"]);
        assert_eq!(show.stdout, outcome.stdout);
    }
}

#[test]
fn quiet_says_failures_and_how_it_ended() {
    require!(Git, Windlass);
    let mut workspace = job(MANIFEST);
    let fine = windlass(&workspace, ["run", "--quiet"]);
    assert_eq!(fine.code, Some(0), "{fine}");
    assert_eq!(fine.stdout, "", "{fine}");
    let lines: Vec<&str> = fine
        .stderr
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "{fine}");
    assert!(lines[0].contains("succeeded in"), "{fine}");

    workspace.set_env("SCRIPT", "echo the reason >&2; exit 5");
    let failed = windlass(&workspace, ["run", "--quiet"]);
    assert_eq!(failed.code, Some(1), "{failed}");
    assert!(failed.stderr.contains("the reason"), "{failed}");
    assert!(!failed.says("started"), "{failed}");
}

#[test]
fn gitlab_tells_tag_and_page_as_well() {
    require!(Git, Windlass);
    let mut workspace = Workspace::with_manifest(&MANIFEST.replace("CONFIRM\n", "")).unwrap();
    for (name, value) in [
        ("GITLAB_CI", "true"),
        ("CI_COMMIT_TAG", "v3"),
        ("CI_JOB_URL", "https://gitlab.example/acme/app/-/jobs/7"),
        ("GITLAB_USER_LOGIN", "ann"),
    ] {
        workspace.set_env(name, value);
    }
    let outcome = windlass(&workspace, ["run", "--json"]);
    let started: Value = serde_json::from_str(outcome.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(started["tag"], "v3");
    assert_eq!(started["link"], "https://gitlab.example/acme/app/-/jobs/7");
    assert_eq!(started["who"], "ann (GitLab CI)");
    assert_eq!(commands(&outcome), [""; 0]);
}
