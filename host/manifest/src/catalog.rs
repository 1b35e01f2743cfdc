//! What is known of the plugins that a manifest uses, from their `describe`.

use std::collections::BTreeMap;

/// The types of outputs, as the interface has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputKind {
    Text,
    Number,
    Boolean,
    Json,
}

/// From a plugin's `describe`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginInfo {
    /// JSON Schema (2020-12).
    pub config_schema: serde_json::Value,
    pub outputs: Vec<(String, OutputKind)>,
    /// Templates: `docker.push {{ tags }}`.
    pub requests: Vec<String>,
}

/// The plugins that [`Graph::check`](crate::Graph::check) knows.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Names of built-in plugins, described or not.
    pub built_in: Vec<String>,
    /// By the text of `uses`.
    pub plugins: BTreeMap<String, PluginInfo>,
}
