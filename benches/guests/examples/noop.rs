//! Does nothing, so that what is left is the engine's own.

use windlass_sdk::{Error, Plugin};

/// Takes no configuration.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

pub struct Noop;

impl Plugin for Noop {
    type Config = Config;
    const NAME: &'static str = "noop";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Do nothing";

    fn run(_config: Config) -> Result<(), Error> {
        Ok(())
    }
}

windlass_sdk::plugin!(Noop);
