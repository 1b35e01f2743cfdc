//! Runs other programs: cargo with what is inherited, installers with their output
//! kept back until they fail.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use windlass_tests::{process, tools};

use crate::failure::Failure;

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tools::project_root());
    // `cargo xtask` runs inside a cargo, whose variables for this crate would make
    // build scripts that look at them run anew each time.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command whose output the person sees.
pub(crate) fn shown(command: &mut Command, next: &str) -> Result<(), Failure> {
    let what = format!("run `{}`", process::display(command));
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(what, format!("it ended with {status}"), next)),
        Err(error) => Err(Failure::new(what, error, next)),
    }
}

/// Runs a command whose output matters only when it fails.
pub(crate) fn quiet(command: &mut Command, next: &str) -> Result<String, Failure> {
    process::capture(command).map_err(|error| {
        let text = error.to_string();
        let (what, why) = text
            .split_once('\n')
            .unwrap_or((&text, "it printed nothing"));
        Failure::new(what, why, next)
    })
}

/// Builds the `windlass` that the demo and the tests run, and gives its path.
pub(crate) fn build_windlass() -> Result<PathBuf, Failure> {
    shown(
        cargo().args(["build", "--package", "windlass"]),
        "mend what the compiler says above; a message about a missing target is mended by \
         `cargo xtask setup`",
    )?;
    let binary = tools::target_dir().join("debug/windlass");
    if binary.is_file() {
        return Ok(binary);
    }
    Err(Failure::new(
        "find the windlass binary that was built",
        format!("there is no {}", binary.display()),
        "unset CARGO_BUILD_TARGET and build.target in your cargo configuration, or set \
         CARGO_TARGET_DIR to where cargo builds",
    ))
}
