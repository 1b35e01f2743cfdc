//! `cargo xtask dist`: the static binary that is released, with its checksum.

use std::fs;
use std::path::Path;
use std::process::Command;

use windlass_tests::tools;

use crate::failure::Failure;
use crate::{run, setup};

/// Builds into `target/dist`.
pub(crate) fn run() -> Result<(), Failure> {
    setup::run(setup::For::Dist)?;
    let target = tools::static_target();
    let mut cargo = run::cargo();
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "windlass",
            "--target",
            &target,
        ])
        // ring and SQLite are C: their compiler must take musl's headers.
        .env(format!("CC_{}", target.replace('-', "_")), "musl-gcc")
        // A CI job has no warm cache: the released binary holds compiled plugins.
        .env("WINDLASS_PRECOMPILE", "1");
    run::shown(&mut cargo, "mend what the compiler says above")?;

    let built = tools::target_dir().join(&target).join("release/windlass");
    let dist = tools::target_dir().join("dist");
    let name = format!("windlass-{target}");
    let failed = |error: std::io::Error| {
        let what = format!("copy {} to {}", built.display(), dist.display());
        Failure::new(what, error, "see that the directory can be written")
    };
    fs::create_dir_all(&dist).map_err(failed)?;
    fs::copy(&built, dist.join(&name)).map_err(failed)?;
    is_static(&dist.join(&name))?;
    let sum = run::quiet(
        Command::new("sha256sum").arg(&name).current_dir(&dist),
        "install coreutils",
    )?;
    fs::write(dist.join(format!("{name}.sha256")), &sum).map_err(failed)?;
    eprintln!("{}\n{}", dist.join(&name).display(), sum.trim_end());
    Ok(())
}

/// A binary with an interpreter would not start on a server with an older libc.
fn is_static(binary: &Path) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::new(
            format!("show that {} is static", binary.display()),
            why,
            "see that no dependency asks for the system's libraries",
        )
    };
    let bytes = fs::read(binary).map_err(|error| failed(error.to_string()))?;
    match interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => Err(failed("it names a dynamic loader".to_owned())),
        None => Err(failed("it is no 64-bit little-endian ELF file".to_owned())),
    }
}

/// Whether an ELF file has a PT_INTERP program header (System V ABI, chapter 5).
fn interpreter(bytes: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let offset = u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?);
    let (size, count) = (usize::from(word(54)?), usize::from(word(56)?));
    let start = usize::try_from(offset).ok()?;
    for index in 0..count {
        let at = start + index * size;
        let kind = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        if kind == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::interpreter;

    #[test]
    fn a_dynamic_program_is_told_from_other_files() {
        let own = std::fs::read("/proc/self/exe").expect("this test's own program");
        assert_eq!(interpreter(&own), Some(true));
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
    }
}
