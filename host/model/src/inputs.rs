//! What a run was asked for. The journal has it from the run's start, so that a
//! later process goes on with the same, or says what is different now.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{StepKey, TargetName};

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
    /// What it took over from the run that it goes on for.
    pub inherited: Inherited,
}

/// What a run takes over from another one: `retry-failed` from the one that is retried,
/// `resume` without a journal from what the targets' records say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inherited {
    pub steps: Vec<InheritedStep>,
    pub releases: Vec<InheritedRelease>,
}

/// A step that is not run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InheritedStep {
    pub step: StepKey,
    pub outputs: IndexMap<String, serde_json::Value>,
    /// Why it counts as done.
    pub reason: String,
}

/// A release that is current, and not good yet: the run's to mark, or to take back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InheritedRelease {
    /// The one that put it there.
    pub step: StepKey,
    pub target: TargetName,
    pub dir: String,
    pub release: String,
    /// What to put back.
    pub previous: Option<String>,
    /// Whether its content differs from the former one's.
    pub changed: bool,
}
