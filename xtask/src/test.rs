//! `cargo xtask test`: every test, with the parts that they need.
//!
//! The plugins and the example's service are workspaces of their own; their tests
//! run first, so that the last lines are those of the project's own runner.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use windlass_tests::parts::in_ci;
use windlass_tests::{Part, process, tools};

use crate::failure::Failure;
use crate::{run, setup};

/// Manifests of the other workspaces that have tests.
const OTHERS: [&str; 2] = ["plugins/Cargo.toml", "examples/observer/app/Cargo.toml"];

/// Prepares, then becomes the test runner: its last lines are the last lines, its
/// exit code is the exit code. `args` go to each runner.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, Failure> {
    prepare()?;
    let binary = run::build_windlass()?;
    say_what_is_missing()?;
    let nextest = process::find_program("cargo-nextest").is_some();
    for manifest in OTHERS {
        // nextest refuses a configuration that names packages of another workspace.
        let mut command = runner(nextest, None, args);
        command.args(["--manifest-path", manifest]);
        if let Some(code) = failed(&mut command)? {
            return Ok(code);
        }
    }
    if nextest && args.is_empty() {
        // nextest leaves the examples in the documentation out.
        let authors = [
            "--manifest-path",
            "plugins/Cargo.toml",
            "-p",
            "windlass-sdk",
        ];
        for packages in [&["--workspace"][..], &authors[..]] {
            let mut command = run::cargo();
            command.args(["test", "--quiet", "--doc"]).args(packages);
            if let Some(code) = failed(&mut command)? {
                return Ok(code);
            }
        }
    }
    let mut last = runner(nextest, Some("tests/nextest.toml"), args);
    let error = last.env("WINDLASS_BIN", binary).exec();
    Err(cannot_start(&last, &error))
}

/// The test runner of a workspace. A filter in `args` may leave one without a test.
fn runner(nextest: bool, config: Option<&str>, args: &[String]) -> Command {
    let mut command = run::cargo();
    if nextest {
        command.args(["nextest", "run", "--no-tests", "pass"]);
        if let Some(config) = config {
            command.args(["--config-file", config]);
        }
    } else {
        command.arg("test");
    }
    command.arg("--workspace").args(args);
    command
}

/// Runs it; its exit code when that is not zero.
fn failed(command: &mut Command) -> Result<Option<ExitCode>, Failure> {
    eprintln!("\n==> {}", process::display(command));
    let status = command
        .status()
        .map_err(|error| cannot_start(command, &error))?;
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok((!status.success()).then(|| ExitCode::from(code)))
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(
        format!("start `{}`", process::display(command)),
        error,
        "see that cargo is on the PATH",
    )
}

/// Sets up. Outside CI a machine where that fails still runs what it can.
fn prepare() -> Result<(), Failure> {
    match setup::run(setup::For::Everything) {
        Err(failure) if !in_ci() => {
            eprintln!("{failure}\nset-up: going on without; tests that need it are skipped");
            Ok(())
        }
        other => other,
    }
}

/// Says before the run what its tests will skip: a runner hides what a passing test
/// prints. In CI a missing part is a failure.
fn say_what_is_missing() -> Result<(), Failure> {
    let missing: Vec<String> = Part::ALL.iter().filter_map(|part| part.missing()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if in_ci() {
        return Err(Failure::new(
            "find every part that the tests need",
            missing.join("\n"),
            "install them; with CI=true no test may be skipped",
        ));
    }
    eprintln!("tests that need the following are SKIPPED:");
    for problem in missing {
        eprintln!("  - {problem}");
    }
    eprintln!(
        "  (tools of the set-up are in {})",
        tools::tools_dir().display()
    );
    Ok(())
}
