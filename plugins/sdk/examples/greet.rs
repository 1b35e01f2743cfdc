//! The smallest useful plugin: it greets, and says so in an output.

use windlass_sdk::{Error, Finding, OutputSpec, Plugin, Text, info, output};

/// What the manifest says in `with`.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whom to greet.
    name: Text,
    /// How often.
    #[serde(default = "once")]
    times: u8,
}

fn once() -> u8 {
    1
}

pub struct Greet;

impl Plugin for Greet {
    type Config = Config;
    const NAME: &'static str = "greet";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Greet somebody";
    const HAS_PREFLIGHT: bool = true;

    fn outputs() -> Vec<OutputSpec> {
        vec![OutputSpec::text("greeting", "What was said")]
    }

    fn preflight(config: Config) -> Result<Vec<Finding>, Error> {
        if config.times == 0 {
            return Ok(vec![
                Finding::problem("nobody is greeted 0 times").with_hint("set `times` to 1 or more"),
            ]);
        }
        Ok(Vec::new())
    }

    fn run(config: Config) -> Result<(), Error> {
        for _ in 0..config.times {
            info!("hello, {}", config.name);
        }
        let mut greeting = windlass_sdk::plain("hello, ");
        greeting.push(config.name.part());
        output::text("greeting", &greeting)
    }
}

windlass_sdk::plugin!(Greet);
