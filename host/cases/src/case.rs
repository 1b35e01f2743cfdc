//! A case: everything that a run of it needs. [`crate::reader`] reads it from TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value as Json;
use windlass_layers::scripted::{Expectation, Matcher, Order};
use windlass_model::grant::{Grant, Pattern};

use crate::format::{Ending, Phase, RawFault, Sent, Unused};

/// Why a file is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct CaseError {
    pub path: String,
    /// Counted from 1.
    pub line: Option<usize>,
    pub message: String,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// As `uses` has it, and the directory where its path begins.
    Plugin(String, PathBuf),
    /// A manifest.
    Pipeline(PathBuf),
}

/// What the run knows.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub vars: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub environment: Option<String>,
    pub pipeline: String,
    pub step: String,
    pub tag: String,
    pub commit: String,
    pub branch: String,
    pub dirty: bool,
    pub link: Option<String>,
    pub now: Timestamp,
    pub target: Option<String>,
    pub targets: Vec<String>,
    pub attempt: u32,
    pub only: Vec<String>,
    pub from: Option<String>,
}

/// What must be true afterwards.
#[derive(Clone, Debug, Default)]
pub struct Assert {
    pub outcome: Ending,
    pub error: Option<Matcher>,
    pub outputs: Option<Matcher>,
    pub logs: Vec<Matcher>,
    pub no_logs: Vec<Matcher>,
    /// Names, with patterns as in grants.
    pub transcript: Option<Vec<String>>,
    pub denied: Vec<Pattern>,
    pub reveals: BTreeSet<String>,
    pub findings: Option<Vec<Matcher>>,
    pub slept: Option<Duration>,
    pub steps: Option<BTreeMap<String, Matcher>>,
    pub notifications: Option<BTreeMap<String, Sent>>,
    pub restored: Option<BTreeMap<String, String>>,
    pub unused: Unused,
}

#[derive(Clone, Debug)]
pub struct Case {
    /// `http-probe::waits`: the file's directory and stem make it unique.
    pub name: String,
    pub path: String,
    /// Where it begins in the file, counted from 1.
    pub line: usize,
    pub subject: Subject,
    pub phase: Phase,
    pub order: Order,
    pub timeout: Duration,
    pub seed: Option<u64>,
    pub grants: Option<Vec<Grant>>,
    /// With `{"$secret": NAME}` for secrets.
    pub config: Json,
    pub inputs: Inputs,
    /// For notifications: the report of a run.
    pub report: Option<Json>,
    pub secrets: BTreeMap<String, String>,
    /// By path in the project.
    pub files: BTreeMap<String, Vec<u8>>,
    pub expect: Vec<Expectation>,
    pub faults: Vec<RawFault>,
    pub assert: Assert,
}
