//! `windlass.lock`: which bytes of a third-party plugin the grants are for.

use windlass_model::PluginDigest;

use crate::diagnostic::Diagnostics;

/// The lock file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    pub plugins: Vec<LockedPlugin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedPlugin {
    /// As `uses` says it.
    pub name: String,
    /// From the manifest's directory.
    pub path: String,
    pub sha256: PluginDigest,
    /// What it asked for when it was locked, as templates.
    pub requests: Vec<String>,
}

impl Lock {
    pub fn parse(_name: &str, _text: &str) -> Result<Self, Diagnostics> {
        Ok(Self::default())
    }

    pub fn get(&self, name: &str) -> Option<&LockedPlugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    /// The file's text, sorted by name.
    pub fn write(&self) -> String {
        String::new()
    }
}
