//! Builds the components that are measured.

use std::path::PathBuf;
use std::process::Command;

use windlass_tests::{process, tools};

use crate::Result;

/// The component of this name in `benches/guests`.
pub(crate) fn component(name: &str) -> Result<PathBuf> {
    let target = tools::target_dir().join("bench-guests");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            "wasm32-wasip2",
            "--example",
            name,
        ])
        .arg("--manifest-path")
        .arg(tools::project_root().join("benches/guests/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    process::capture(&mut cargo)?;
    Ok(target
        .join("wasm32-wasip2/release/examples")
        .join(format!("{name}.wasm")))
}
