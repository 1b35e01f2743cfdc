//! `cargo xtask dist`: the static binary that is released, with its checksum.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use windlass_tests::tools;

use crate::failure::Failure;
use crate::{run, setup};

/// Builds into `target/dist`.
pub(crate) fn run() -> Result<(), Failure> {
    build().map(drop)
}

/// Builds, and gives the binary's path.
pub(crate) fn build() -> Result<PathBuf, Failure> {
    setup::run(setup::For::Dist)?;
    let target = tools::static_target();
    let dist = tools::target_dir().join("dist");
    let name = format!("windlass-{target}");

    // A CI job has no warm cache, so the released binary holds compiled plugins. Only
    // Windlass can compile them for Windlass. The one of the tests does: it has the same
    // compiler in it, and what is made depends on neither's build profile.
    eprintln!("dist: 1 of 2, a windlass that compiles the built-in plugins");
    let first = run::build_windlass()?;
    let compiled = dist.join("precompiled");
    let failed = |error: std::io::Error| {
        let what = format!("write into {}", dist.display());
        Failure::new(what, error, "see that the directory can be written")
    };
    fs::create_dir_all(&compiled).map_err(failed)?;
    run::quiet(
        Command::new(&first)
            .args(["plugin", "precompile"])
            .arg(&compiled),
        "mend what it says",
    )?;
    eprintln!("dist: 2 of 2, the windlass that holds them");
    let built = compile(&target, &compiled)?;
    let binary = dist.join(&name);
    // By a rename: the old one may be running.
    let partial = dist.join(format!("{name}.partial"));
    fs::copy(&built, &partial)
        .and_then(|_| fs::rename(&partial, &binary))
        .map_err(failed)?;
    is_static(&binary)?;
    needs_no_compiler(&binary, &dist)?;
    let sum = run::quiet(
        Command::new("sha256sum").arg(&name).current_dir(&dist),
        "install coreutils",
    )?;
    fs::write(dist.join(format!("{name}.sha256")), &sum).map_err(failed)?;
    eprintln!("{}\n{}", binary.display(), sum.trim_end());
    Ok(binary)
}

/// Builds the release binary with the compiled plugins in it.
fn compile(target: &str, compiled: &Path) -> Result<PathBuf, Failure> {
    let mut cargo = run::cargo();
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "windlass",
            "--target",
            target,
        ])
        // ring and SQLite are C: their compiler must take musl's headers.
        .env(format!("CC_{}", target.replace('-', "_")), "musl-gcc")
        .env("WINDLASS_PRECOMPILED", compiled);
    run::shown(&mut cargo, "mend what the compiler says above")?;
    Ok(tools::target_dir().join(target).join("release/windlass"))
}

/// With an empty cache it loads every plugin, and the cache stays empty: what it does
/// not have compiled in itself, it would compile and keep there.
fn needs_no_compiler(binary: &Path, dist: &Path) -> Result<(), Failure> {
    let cache = dist.join("cache");
    let failed = |why: String| {
        Failure::new(
            format!("show that {} holds compiled plugins", binary.display()),
            why,
            "see that `windlass plugin precompile` and the build have the same settings",
        )
    };
    let _ = fs::remove_dir_all(&cache);
    run::quiet(
        Command::new(binary)
            .arg("plugins")
            .env("XDG_CACHE_HOME", &cache),
        "mend what it says",
    )?;
    let kept = fs::read_dir(cache.join("windlass/compiled"))
        .map(|entries| entries.count())
        .map_err(|error| failed(error.to_string()))?;
    let _ = fs::remove_dir_all(&cache);
    if kept > 0 {
        return Err(failed(format!("it compiled {kept} of them at its start")));
    }
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
