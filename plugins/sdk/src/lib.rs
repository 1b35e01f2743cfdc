//! Write Windlass plugins in Rust.
//!
//! A plugin is a WebAssembly component: a `cdylib` crate built for
//! `wasm32-wasip2`. It says what it is ([`Plugin`]), reads a typed
//! configuration, and acts through the capabilities that the host gives it
//! ([`bindings`], re-exported here by interface: [`docker`], [`ssh`], …).
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! windlass-sdk = "0.1"
//! serde = { version = "1", features = ["derive"] }
//! schemars = "1"
//! ```
//!
//! ```no_run
//! use windlass_sdk::{Error, OutputSpec, Plugin, Text, docker, facts, info, output};
//!
//! /// Pulls an image.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! pub struct Config {
//!     /// The image to pull.
//!     image: Text,
//! }
//!
//! pub struct Pull;
//!
//! impl Plugin for Pull {
//!     type Config = Config;
//!     const NAME: &'static str = "pull";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const SUMMARY: &'static str = "Pull an image";
//!
//!     fn outputs() -> Vec<OutputSpec> {
//!         vec![OutputSpec::text("image", "The image, as it was given")]
//!     }
//!
//!     fn requests() -> Vec<&'static str> {
//!         vec!["docker.pull {{ image }}"]
//!     }
//!
//!     fn run(config: Config) -> Result<(), Error> {
//!         let engine = docker::Engine::open(facts().engine(None))?;
//!         info!("pulling {}", config.image);
//!         engine.pull(&config.image.parts())?.finish("docker pull")?;
//!         output::text("image", &config.image.parts())
//!     }
//! }
//!
//! windlass_sdk::plugin!(Pull);
//! # fn main() {}
//! ```
//!
//! Neighbours: the interface itself is `wit/` of the repository;
//! `docs/plugins/README.md` describes the built-in plugins, each of which is
//! written against this crate.

/// The interfaces of `windlass:plugin`, as wit-bindgen gives them.
#[allow(
    unsafe_code,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    missing_docs,
    reason = "generated: the canonical ABI is raw pointers"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin-full",
        pub_export_macro: true,
        default_bindings_module: "windlass_sdk::bindings",
        generate_all,
    });
}

mod config;
mod duration;
mod error;
mod job;
mod logging;
mod plugin;
mod text;

pub mod format;
pub mod output;
pub mod report;

pub use bindings::exports::windlass::plugin::preflight::{Finding, Severity};
pub use bindings::exports::windlass::plugin::step::{OutputSpec, OutputType};
pub use bindings::windlass::plugin::types::{Error, ErrorKind};
pub use bindings::windlass::plugin::values::{Part, Value};
pub use bindings::windlass::plugin::{
    blobs, clock, context, docker, git, http, jobs, log, progress, registry, releases, secrets,
    ssh, target,
};
pub use duration::{Duration, InvalidDuration};
pub use job::Cleanup;
pub use plugin::{Plugin, facts};
pub use text::{Text, plain};

#[doc(hidden)]
pub mod private {
    //! What the macros expand to; no part of the interface.
    pub use crate::logging::write;
    pub use crate::plugin::{check, describe, run, undo};
}
