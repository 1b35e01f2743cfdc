//! A plugin in Rust: cargo for `wasm32-wasip2`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use super::{Built, Trouble, tool};

const TARGET: &str = "wasm32-wasip2";
const INSTALL_RUST: &str = "install Rust: https://rustup.rs";

/// Settings for this machine's programs, which break a build for WebAssembly.
const NOT_FOR_WASM: [&str; 3] = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"];

/// Lets cargo make the component.
pub(super) fn component(root: &Path) -> Result<Built, Trouble> {
    target_is_there(root)?;
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        // People see what the compiler says as it says it.
        .stderr(Stdio::inherit());
    for name in NOT_FOR_WASM {
        command.env_remove(name);
    }
    let output = tool("cargo", &mut command, INSTALL_RUST)?;
    if !output.status.success() {
        return Err(Trouble::new(
            format!("cargo could not build the plugin in {}", root.display()),
            "mend what the compiler says above",
        ));
    }
    let manifest = fs_err::canonicalize(root.join("Cargo.toml"))?;
    let (name, component) = artifact(&String::from_utf8_lossy(&output.stdout), &manifest)
        .ok_or_else(|| {
            Trouble::new(
                format!("the crate in {} gives no component", root.display()),
                "say `[lib] crate-type = [\"cdylib\"]` in its Cargo.toml",
            )
        })?;
    Ok(Built {
        name,
        component,
        _scratch: None,
    })
}

/// Looks for the target's libraries, because distributions have no rustup to ask.
fn target_is_there(root: &Path) -> Result<(), Trouble> {
    let mut command = Command::new("rustc");
    command.args(["--print", "sysroot"]).current_dir(root);
    let output = tool("rustc", &mut command, INSTALL_RUST)?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if libraries.join("lib").is_dir() {
        return Ok(());
    }
    Err(Trouble::new(
        format!("Rust's target {TARGET} is not installed"),
        format!(
            "run `rustup target add {TARGET}`; a Rust from a distribution has the target in a \
             package of its own"
        ),
    ))
}

/// Cargo's messages, one JSON object a line
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html>).
fn artifact(messages: &str, manifest: &Path) -> Option<(String, PathBuf)> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact"
                && message["manifest_path"].as_str().map(Path::new) == Some(manifest)
        })
        .find_map(|message| {
            let file = message["filenames"]
                .as_array()?
                .iter()
                .filter_map(Json::as_str)
                .find(|name| name.ends_with(".wasm"))?;
            let name = message["target"]["name"].as_str()?;
            Some((name.to_owned(), PathBuf::from(file)))
        })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::artifact;

    #[test]
    fn the_component_is_the_one_of_this_package() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/o/Cargo.toml","target":{"name":"o"},"filenames":["/t/o.wasm"]}"#,
            "\nnoise\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"name":"cdn_purge"},"filenames":["/t/libcdn_purge.rlib","/t/cdn_purge.wasm"]}"#,
            "\n",
        );
        assert_eq!(
            artifact(messages, Path::new("/p/Cargo.toml")),
            Some(("cdn_purge".to_owned(), PathBuf::from("/t/cdn_purge.wasm")))
        );
        assert_eq!(artifact(messages, Path::new("/q/Cargo.toml")), None);
    }
}
