//! What an author needs besides the program: the interface, and the authors'
//! crate. Both are in the binary, so that a plugin is written against exactly
//! what this host has, with nothing to look for.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::terminal::Terminal;
use crate::exit::Exit;

mod files {
    include!(concat!(env!("OUT_DIR"), "/kit.rs"));
}

#[derive(Debug, Args)]
pub(crate) struct WitArgs {
    /// Where the files go
    #[arg(default_value = "wit")]
    directory: PathBuf,
}

pub(super) fn wit(args: &WitArgs, terminal: &Terminal) -> Exit {
    match write_wit(&args.directory) {
        Ok(()) => {
            terminal.say(&format!(
                "wrote {} into {}",
                package(),
                args.directory.display()
            ));
            Exit::Succeeded
        }
        Err(error) => {
            terminal.error(&error.to_string(), None);
            Exit::Engine
        }
    }
}

/// Its name and version, as the files say them.
fn package() -> &'static str {
    files::WIT
        .iter()
        .flat_map(|(_, text)| text.lines())
        .find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'))
        .unwrap_or("windlass:plugin")
}

/// The package `windlass:plugin`, one file an interface.
pub(super) fn write_wit(directory: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(directory)?;
    for (name, text) in files::WIT {
        fs_err::write(directory.join(name), text)?;
    }
    Ok(())
}

/// Dependencies of the authors' crate, as `plugins/Cargo.toml` of the project
/// has them; a test compares the two.
const SDK_MANIFEST: &str = r#"[package]
name = "windlass-sdk"
version = "@VERSION@"
edition = "2024"
rust-version = "1.95"
license = "Apache-2.0"
publish = false
description = "Write Windlass plugins in Rust"

[lib]
# The examples in its documentation name crates that a plugin has.
doctest = false

[dependencies]
serde = { version = "1", features = ["derive"] }
serde_json = "1"
schemars = "1"
wit-bindgen = { version = "0.63", default-features = false, features = ["macros", "realloc"] }
"#;

/// Where the crate finds the interface, in the project and in a copy.
const WIT_IN_PROJECT: &str = "path: \"../../wit\"";
const WIT_IN_COPY: &str = "path: \"wit\"";

/// A copy of the authors' crate that needs nothing beside it.
pub(super) fn write_sdk(directory: &Path) -> std::io::Result<()> {
    write_wit(&directory.join("wit"))?;
    fs_err::create_dir_all(directory.join("src"))?;
    let manifest = SDK_MANIFEST.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    fs_err::write(directory.join("Cargo.toml"), manifest)?;
    for (name, text) in files::SDK {
        fs_err::write(
            directory.join("src").join(name),
            text.replace(WIT_IN_PROJECT, WIT_IN_COPY),
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]
mod tests {
    use super::{SDK_MANIFEST, WIT_IN_PROJECT, files};

    #[test]
    fn the_copy_has_the_dependencies_of_the_original() {
        let original = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/Cargo.toml");
        let original = std::fs::read_to_string(original).unwrap();
        let parse = |text: &str| text.parse::<toml_edit::DocumentMut>().unwrap();
        let (original, copy) = (parse(&original), parse(SDK_MANIFEST));
        for (name, dependency) in copy["dependencies"].as_table().unwrap() {
            let wanted = &original["workspace"]["dependencies"][name];
            assert_eq!(dependency.to_string(), wanted.to_string(), "{name}");
        }
        let sdk = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/sdk/Cargo.toml");
        let sdk = parse(&std::fs::read_to_string(sdk).unwrap());
        let names = |document: &toml_edit::DocumentMut| -> Vec<String> {
            let table = document["dependencies"].as_table().unwrap();
            table.iter().map(|(name, _)| name.to_owned()).collect()
        };
        assert_eq!(names(&sdk), names(&copy));
    }

    #[test]
    fn the_copy_finds_its_interface() {
        assert!(super::package().starts_with("windlass:plugin@0."));
        let library = files::SDK.iter().find(|(name, _)| *name == "lib.rs");
        assert!(library.unwrap().1.contains(WIT_IN_PROJECT));
        assert!(files::WIT.iter().any(|(name, _)| *name == "plugin.wit"));
    }
}
