//! What a run was asked for. The journal has it from the run's start, so that a
//! later process goes on with the same, or says what is different now.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Never holds what a secret says: secrets are in the manifest by name, and are
/// read anew by each process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInputs {
    pub windlass: String,
    /// SHA-256 of the manifest's text.
    pub manifest: String,
    /// Digests of the plugins, by `uses`.
    pub plugins: BTreeMap<String, String>,
    pub environment: Option<String>,
    /// `--var NAME=VALUE`
    pub vars: BTreeMap<String, String>,
    /// Variables of the process's environment that the manifest names as plain
    /// ones.
    pub env: BTreeMap<String, String>,
    pub tag: String,
    /// What `now()` gives.
    pub started: Timestamp,
    /// Empty outside a repository.
    pub commit: String,
    pub branch: String,
    pub dirty: bool,
    pub only: Vec<String>,
    pub from: Option<String>,
    /// `user@machine`, or what CI told: releases carry it.
    pub who: String,
    /// The page of the CI job, as the run's guests know it.
    pub link: Option<String>,
}
