//! Runs plugins: WebAssembly components that export `windlass:plugin/step`.
//!
//! A guest reaches nothing but what its [`Setup`] holds: every call it makes
//! becomes a [`windlass_model::Call`] and goes to the outermost layer. WASI is
//! there for standard libraries' sake, with no environment, arguments, files
//! or sockets, a clock that shows the last answer's time, and random numbers
//! from a recorded seed.

mod bindings;
mod cache;
mod capabilities;
mod guest;
mod job;
pub mod limits;
mod output;
mod plugin;
mod room;
mod runtime;

pub use guest::{BlobEntry, ContainerEntry, EngineEntry, RequestEntry, ValueEntry};
pub use guest::{Clock, Facts, Setup, StepSink};
pub use job::Job;
pub use limits::Limits;
pub use plugin::{Description, Finding, Finished, OutputSpec, OutputType, Plugin, PluginError};
pub use runtime::{Runtime, RuntimeOptions};
