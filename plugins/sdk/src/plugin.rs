//! The trait that a plugin implements, and what its exports do with it.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use crate::bindings::exports::windlass::plugin::step::Description;
use crate::context::{self, RunFacts};
use crate::{Error, Finding, OutputSpec, config};

/// The name of this machine among the targets.
const LOCAL: &str = "local";

/// A plugin: what it is, and what it does.
pub trait Plugin {
    /// A serde struct. Its JSON Schema goes to the host, which checks the
    /// manifest against it: document each field, give defaults with
    /// `#[serde(default)]`, refuse slips with `#[serde(deny_unknown_fields)]`.
    /// Strings that may be secrets are [`Text`](crate::Text), times are
    /// [`Duration`](crate::Duration).
    type Config: DeserializeOwned + JsonSchema;

    /// As a manifest says it in `uses`.
    const NAME: &'static str;
    /// `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// One line, without a final period.
    const SUMMARY: &'static str;
    /// Whether [`preflight`](Plugin::preflight) is worth a call.
    const HAS_PREFLIGHT: bool = false;
    /// Whether [`rollback`](Plugin::rollback) is worth a call.
    const HAS_ROLLBACK: bool = false;

    /// What later steps may read.
    fn outputs() -> Vec<OutputSpec> {
        Vec::new()
    }

    /// What the plugin may call: `CAPABILITY.VERB PATTERN [to SINK]`, with
    /// templates over the configuration: `docker.push {{ tags }}`. A list or
    /// a table gives one request for each element, an absent value none.
    fn requests() -> Vec<&'static str> {
        Vec::new()
    }

    /// Reads only, before the first effect of the whole run. A finding of the
    /// severity `problem` stops the run.
    ///
    /// # Errors
    ///
    /// When it cannot find out.
    fn preflight(_config: Self::Config) -> Result<Vec<Finding>, Error> {
        Ok(Vec::new())
    }

    /// Does the step's work.
    ///
    /// # Errors
    ///
    /// Fail the step.
    fn run(config: Self::Config) -> Result<(), Error>;

    /// Undoes what `run` did, where the host's own restore is not enough.
    ///
    /// # Errors
    ///
    /// Are shown; the rollback of other steps goes on.
    fn rollback(_config: Self::Config) -> Result<(), Error> {
        Ok(())
    }
}

/// The facts of this run and step.
#[must_use]
pub fn facts() -> RunFacts {
    context::facts()
}

impl RunFacts {
    /// The step's target, unless it is this machine.
    #[must_use]
    pub fn remote_target(&self) -> Option<&str> {
        self.target.as_deref().filter(|name| *name != LOCAL)
    }

    /// What [`Engine::open`](crate::docker::Engine::open) takes when the
    /// configuration may name a target: that, else the step's own.
    #[must_use]
    pub fn engine<'a>(&'a self, named: Option<&'a str>) -> Option<&'a str> {
        named
            .or(self.target.as_deref())
            .filter(|name| *name != LOCAL)
    }
}

/// `step.describe`.
#[doc(hidden)]
#[must_use]
pub fn describe<P: Plugin>() -> Description {
    Description {
        name: P::NAME.to_owned(),
        version: P::VERSION.to_owned(),
        summary: P::SUMMARY.to_owned(),
        config_schema: schema::<P::Config>(),
        outputs: P::outputs(),
        requests: P::requests().into_iter().map(str::to_owned).collect(),
        has_preflight: P::HAS_PREFLIGHT,
        has_rollback: P::HAS_ROLLBACK,
    }
}

/// The JSON Schema (2020-12) of a configuration, without references.
fn schema<C: JsonSchema>() -> String {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<C>();
    String::from_utf8(serde_json::to_vec(schema.as_value()).unwrap_or_default()).unwrap_or_default()
}

/// `step.run`.
#[doc(hidden)]
pub fn run<P: Plugin>() -> Result<(), Error> {
    report_panics();
    P::run(config::load()?)
}

/// `preflight.check`.
#[doc(hidden)]
pub fn check<P: Plugin>() -> Result<Vec<Finding>, Error> {
    if !P::HAS_PREFLIGHT {
        return Ok(Vec::new());
    }
    report_panics();
    P::preflight(config::load()?)
}

/// `rollback.undo`.
#[doc(hidden)]
pub fn undo<P: Plugin>() -> Result<(), Error> {
    if !P::HAS_ROLLBACK {
        return Ok(());
    }
    report_panics();
    P::rollback(config::load()?)
}

/// A panic becomes a trap, which has no message; the host shows stderr with it.
fn report_panics() {
    use std::io::Write as _;
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        // Nothing can be done when stderr is gone: the trap follows anyway.
        let _ = match info.location() {
            Some(place) => writeln!(
                std::io::stderr(),
                "panicked at {}:{}: {message}",
                place.file(),
                place.line()
            ),
            None => writeln!(std::io::stderr(), "panicked: {message}"),
        };
    }));
}

/// Exports a [`Plugin`]: `windlass_sdk::plugin!(MyPlugin);`
///
/// Expands to nothing but on wasm32, so that tests of the pure parts run
/// anywhere.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "generated: the canonical ABI is raw pointers")]
        const _: () = {
            use $crate::bindings::exports::windlass::plugin as exports;

            struct Exports;

            impl exports::step::Guest for Exports {
                fn describe() -> exports::step::Description {
                    $crate::private::describe::<$plugin>()
                }

                fn run() -> ::core::result::Result<(), $crate::Error> {
                    $crate::private::run::<$plugin>()
                }
            }

            impl exports::preflight::Guest for Exports {
                fn check() -> ::core::result::Result<::std::vec::Vec<$crate::Finding>, $crate::Error> {
                    $crate::private::check::<$plugin>()
                }
            }

            impl exports::rollback::Guest for Exports {
                fn undo() -> ::core::result::Result<(), $crate::Error> {
                    $crate::private::undo::<$plugin>()
                }
            }

            $crate::bindings::export!(Exports with_types_in $crate::bindings);
        };
    };
}

#[cfg(test)]
mod tests {
    use crate::{Duration, Text};

    /// What the struct is for.
    #[derive(schemars::JsonSchema, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Config {
        /// Where to.
        url: Text,
        #[serde(default = "every")]
        every: Duration,
        note: Option<String>,
    }

    fn every() -> Duration {
        Duration::from_secs(5)
    }

    #[test]
    fn the_schema_tells_secrets_defaults_and_unknown_keys() {
        let schema: serde_json::Value = serde_json::from_str(&super::schema::<Config>()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["url"]));
        let properties = &schema["properties"];
        assert_eq!(properties["url"]["x-windlass-secret"], true);
        assert_eq!(properties["url"]["description"], "Where to.");
        assert_eq!(properties["every"]["default"], "5s");
        assert_eq!(properties["every"]["x-windlass-type"], "duration");
        assert_eq!(
            properties["note"]["type"],
            serde_json::json!(["string", "null"])
        );
    }
}
