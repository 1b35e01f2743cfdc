//! `docs/plugins.md`: every command in it is run, in its order, in an empty directory.
//!
//! A block of `sh` has to succeed; a command behind which `# exit code N` stands has to
//! end with that code.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use windlass_tests::{require, tools};

/// The commands of a page, as one script that says which block it is in.
fn script(page: &str) -> String {
    let mut script = String::from("set -eu\n");
    let mut blocks = 0;
    let mut inside: Option<bool> = None;
    for (number, line) in page.lines().enumerate() {
        match (inside, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let commands = language.trim() == "sh";
                if commands {
                    blocks += 1;
                    let line = number + 1;
                    writeln!(
                        script,
                        "echo '== block {blocks}, line {line} of the page' >&2"
                    )
                    .unwrap();
                }
                inside = Some(commands);
            }
            (Some(_), Some(_)) => inside = None,
            (Some(true), None) => script.push_str(&command(line)),
            (Some(false), None) | (None, None) => {}
        }
    }
    assert!(inside.is_none(), "a block is not closed");
    script
}

fn command(line: &str) -> String {
    let Some((before, code)) = line.split_once("# exit code ") else {
        return format!("{line}\n");
    };
    let code: u8 = code.trim().parse().unwrap();
    format!(
        "code=0; {before} || code=$?; [ \"$code\" = {code} ] || {{ echo \"exit code $code\" >&2; exit 99; }}\n"
    )
}

#[test]
fn expected_exit_codes_are_asked_for() {
    let page = "text\n```toml\nx = 1\n```\n```sh\ntrue\n```\n```sh\nfalse   # exit code 1\n```\n";
    let script = script(page);
    assert!(!script.contains("x = 1"));
    let run = |script: &str| {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        output.status.success()
    };
    assert!(run(&script));
    assert!(!run(&script.replace("= 1 ]", "= 2 ]")));
}

/// The compiler sees the crate's documentation, and so what the guide shows.
#[test]
fn the_guides_plugin_is_the_one_that_compiles() {
    let root = tools::project_root();
    let page = fs::read_to_string(root.join("docs/plugins.md")).unwrap();
    let library = fs::read_to_string(root.join("plugins/sdk/src/lib.rs")).unwrap();
    let shown = between(&page, "```rust\n");
    let documented: String = library
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(shown, between(&documented, "```no_run\n"));
}

/// The first block that begins so.
fn between<'a>(text: &'a str, fence: &str) -> &'a str {
    let (_, rest) = text.split_once(fence).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn every_command_of_the_guide_works() {
    require!(Windlass, PluginTools);
    let page = fs::read_to_string(tools::project_root().join("docs/plugins.md")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let python = scratch.path().join("python");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script(&page)])
        .current_dir(start(scratch.path()))
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // What CI says of the project is not said of the guide's plugins; what cargo
        // says of this test would make it build everything anew.
        if [
            "GITHUB_",
            "CI_",
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "RUSTFLAGS",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
        .envs(tools::plugin_env(&python))
        .env("NO_COLOR", "1")
        // `pip install` of the guide installs for the guide alone.
        .env("PIP_TARGET", &python)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore");
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Where a reader of the guide is: in a directory without anything.
fn start(scratch: &std::path::Path) -> std::path::PathBuf {
    let place = scratch.join("work");
    fs::create_dir(&place).unwrap();
    place
}
