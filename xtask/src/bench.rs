//! `cargo xtask bench`: the released binary beside its peers. `benches/` does the
//! measuring; it is a workspace of its own.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::{dist, run, setup};

/// Sets up, builds what is released, and runs the benchmarks of these names, or all.
pub(crate) fn run(names: &[String]) -> Result<ExitCode, Failure> {
    setup::run(setup::For::Everything)?;
    let binary = dist::build()?;
    let mut cargo = run::cargo();
    cargo
        .args([
            "run",
            "--release",
            "--locked",
            "--manifest-path",
            "benches/Cargo.toml",
            "--",
        ])
        .args(names)
        .env("WINDLASS_BIN", binary);
    run::shown(&mut cargo, "see what it says above")?;
    Ok(ExitCode::SUCCESS)
}
