//! `cargo xtask test`: every test, with the parts that they need.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use windlass_tests::parts::in_ci;
use windlass_tests::{Part, process, tools};

use crate::failure::Failure;
use crate::{run, setup};

/// Prepares, then becomes the test runner: its last lines are the last lines, its
/// exit code is the exit code.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, Failure> {
    prepare()?;
    let binary = run::build_windlass()?;
    say_what_is_missing()?;
    let mut runner = run::cargo();
    if process::find_program("cargo-nextest").is_some() {
        runner.args(["nextest", "run", "--workspace"]);
    } else {
        runner.args(["test", "--workspace"]);
    }
    runner.args(args).env("WINDLASS_BIN", binary);
    let error = runner.exec();
    Err(Failure::new(
        format!("start `{}`", process::display(&runner)),
        error,
        "see that cargo is on the PATH",
    ))
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
