//! Puts one file of the project onto a target.

use windlass_sdk::{Error, Plugin, blobs, ssh};

/// Which file, and where to.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file, relative to the project's root.
    file: String,
    /// The target's name.
    to: String,
    /// Absolute, on the target.
    path: String,
}

pub struct Upload;

impl Plugin for Upload {
    type Config = Config;
    const NAME: &'static str = "upload";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Upload a file";

    fn requests() -> Vec<&'static str> {
        vec!["file.read {{ file }}", "ssh.upload {{ to }}:{{ path }}"]
    }

    fn run(config: Config) -> Result<(), Error> {
        let file = blobs::open(&config.file)?;
        ssh::upload(&config.to, &config.path, &file, 0o600)
    }
}

windlass_sdk::plugin!(Upload);
