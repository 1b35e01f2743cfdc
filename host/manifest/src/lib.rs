//! From the text of `windlass.toml` and resolved inputs to a [`Graph`]: which
//! steps run, in which order, on which targets, with what they were told.
//!
//! Everything here is a function of its arguments: no clock, no files, no
//! network, no environment. The order of use is [`Manifest::parse`],
//! [`Graph::build`], [`Graph::check`], and, while the graph runs,
//! [`Graph::scope`] with [`graph::Node::config`] and [`graph::Node::when`].
//! What a step's plugin may ask for comes from [`request::expand`].

mod build;
pub mod catalog;
mod check;
pub mod diagnostic;
pub mod expression;
pub mod graph;
pub mod init;
mod jinja;
pub mod json_schema;
pub mod lock;
pub mod manifest;
mod parse;
pub mod request;
mod resolve;
mod schema;
mod tree;

pub use catalog::{Catalog, OutputKind, PluginInfo};
pub use diagnostic::{Diagnostic, Diagnostics, Source, Span};
pub use expression::{Resolved, Scope};
pub use graph::{Graph, Inputs, Outputs};
pub use lock::Lock;
pub use manifest::Manifest;
pub use parse::parse_duration;
pub use request::Request;
