//! Builds the plugins that are part of the binary, or takes them precompiled.
//!
//! The nested cargo gets a target directory of its own (the shared one would
//! wait for itself) and a clean environment (flags for the host are not for
//! WebAssembly).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// In the order in which `windlass plugins` lists them.
const PLUGINS: &[&str] = &[
    "git-tag",
    "docker-build",
    "image-check",
    "docker-push",
    "compose-deploy",
    "http-probe",
    "ssh-run",
    "docker-run",
    "slack-notify",
    "discord-notify",
];

fn main() {
    if let Err(message) = run() {
        // Cargo shows what a failed build script prints.
        panic!("{message}");
    }
}

fn run() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=WINDLASS_PRECOMPILED");
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?);
    println!(
        "cargo:rustc-env=WINDLASS_TARGET={}",
        env::var("TARGET").map_err(|error| error.to_string())?
    );
    let root = here.join("../plugins");
    watch(&root);
    println!("cargo:rerun-if-changed={}", here.join("../wit").display());

    let target = out.join("plugins");
    build(&root, &target)?;
    let precompiled = env::var_os("WINDLASS_PRECOMPILED").map(PathBuf::from);

    let mut code = String::from("pub(crate) const BUILT_IN: &[BuiltIn] = &[\n");
    for name in PLUGINS {
        let file = format!("{}.wasm", name.replace('-', "_"));
        let wasm = target.join("wasm32-wasip2/release").join(file);
        if !wasm.is_file() {
            return Err(format!("{} was not built", wasm.display()));
        }
        let native = match &precompiled {
            Some(dir) => {
                let native = dir.join(format!("{name}.cwasm"));
                println!("cargo:rerun-if-changed={}", native.display());
                format!("Some(include_bytes!({:?}))", native.display().to_string())
            }
            None => "None".to_owned(),
        };
        writeln!(
            code,
            "    BuiltIn {{ name: {name:?}, component: include_bytes!({:?}), native: {native} }},",
            wasm.display().to_string()
        )
        .map_err(|error| error.to_string())?;
    }
    code.push_str("];\n");
    fs::write(out.join("built_in.rs"), code).map_err(|error| error.to_string())?;
    fs::write(out.join("kit.rs"), kit(&here)?).map_err(|error| error.to_string())
}

/// The interface, and the authors' crate: `windlass plugin new` writes them.
fn kit(here: &Path) -> Result<String, String> {
    let mut code = String::new();
    for (name, dir, extension) in [
        ("WIT", here.join("../wit"), "wit"),
        ("SDK", here.join("../plugins/sdk/src"), "rs"),
    ] {
        let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect();
        files.sort();
        writeln!(code, "pub(super) const {name}: &[(&str, &str)] = &[")
            .map_err(|error| error.to_string())?;
        for file in files {
            let Some(base) = file.file_name().and_then(|base| base.to_str()) else {
                continue;
            };
            let path = file.display().to_string();
            writeln!(code, "    ({base:?}, include_str!({path:?})),")
                .map_err(|error| error.to_string())?;
        }
        code.push_str("];\n");
    }
    Ok(code)
}

/// Everything but what building writes.
fn watch(root: &Path) {
    println!(
        "cargo:rerun-if-changed={}",
        root.join("Cargo.toml").display()
    );
    println!(
        "cargo:rerun-if-changed={}",
        root.join("Cargo.lock").display()
    );
    for name in PLUGINS.iter().copied().chain(["sdk"]) {
        for part in ["Cargo.toml", "src"] {
            println!(
                "cargo:rerun-if-changed={}",
                root.join(name).join(part).display()
            );
        }
    }
}

fn build(root: &Path, target: &Path) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_TARGET_")
            || text.starts_with("RUSTC_WRAPPER")
            || text.starts_with("RUSTC_WORKSPACE_WRAPPER")
            || matches!(
                text.as_ref(),
                "RUSTFLAGS"
                    | "CARGO_ENCODED_RUSTFLAGS"
                    | "CARGO_BUILD_TARGET"
                    | "CARGO_MAKEFLAGS"
                    | "MAKEFLAGS"
            )
        {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            "wasm32-wasip2",
        ])
        .arg("--target-dir")
        .arg(target);
    for name in PLUGINS {
        command.args(["--package", name]);
    }
    let output = command
        .output()
        .map_err(|error| format!("run cargo for the built-in plugins: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = if said.contains("wasm32-wasip2") && said.contains("may not be installed") {
        "\n\nadd the target with: rustup target add wasm32-wasip2"
    } else {
        ""
    };
    Err(format!("build the built-in plugins:\n{said}{hint}"))
}
