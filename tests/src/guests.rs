//! Components that misbehave, for the tests of the boundary between host and guests.
//!
//! `tests/guests/` has their sources; `cargo xtask setup` builds them.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::tools;

/// Every component of `tests/guests/`.
pub const NAMES: [&str; 9] = [
    "guest",
    "describe_bad_schema",
    "describe_calls",
    "describe_loops",
    "describe_panics",
    "describe_too_much",
    "newer_interface",
    "no_step",
    "other_interface",
];

/// Where cargo builds them: a target directory of their own, since a build with other
/// flags would throw theirs away.
pub fn target_dir() -> PathBuf {
    tools::project_root().join("target/windlass-guests")
}

/// A component's file. It may not exist yet.
pub fn path(name: &str) -> PathBuf {
    target_dir()
        .join("wasm32-wasip2/release/examples")
        .join(format!("{name}.wasm"))
}

/// A component's bytes.
pub fn guest(name: &str) -> Result<Vec<u8>> {
    let path = path(name);
    fs::read(&path).map_err(Error::file("read", &path))
}
