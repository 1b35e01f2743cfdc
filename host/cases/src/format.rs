//! The text of a case file: TOML, strict, with defaults shared by its cases.
//! `docs/testing.md` is its page.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

/// A file is one case, or has several under `[[case]]` that begin with what
/// the file itself says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCase {
    pub(crate) name: Option<String>,
    pub(crate) plugin: Option<String>,
    pub(crate) pipeline: Option<String>,
    pub(crate) phase: Option<Phase>,
    pub(crate) order: Option<RawOrder>,
    pub(crate) arguments: Option<RawArguments>,
    pub(crate) timeout: Option<Spanned<String>>,
    pub(crate) seed: Option<u64>,
    pub(crate) grants: Option<Spanned<Vec<String>>>,
    pub(crate) config: Option<Table>,
    pub(crate) inputs: Option<Spanned<RawInputs>>,
    pub(crate) report: Option<Table>,
    pub(crate) secrets: Option<BTreeMap<String, String>>,
    pub(crate) files: Option<BTreeMap<String, RawFile>>,
    pub(crate) expect: Option<Vec<Spanned<RawExpect>>>,
    pub(crate) fault: Option<Vec<RawFault>>,
    pub(crate) assert: Option<Spanned<RawAssert>>,
    pub(crate) case: Option<Vec<Spanned<RawCase>>>,
}

/// Which export of the plugin is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    #[default]
    Run,
    Preflight,
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawOrder {
    Strict,
    Steps,
    Any,
}

/// Which arguments of a call `with` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawArguments {
    /// Those that matter.
    Named,
    /// Every one that is not empty.
    All,
}

/// What the run knows. For a pipeline `target`, `attempt` and `targets` come
/// from the manifest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawInputs {
    pub(crate) vars: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) environment: Option<String>,
    pub(crate) pipeline: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) dirty: bool,
    pub(crate) link: Option<String>,
    /// RFC 3339.
    pub(crate) now: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) targets: Option<Vec<String>>,
    pub(crate) attempt: Option<u32>,
    pub(crate) only: Vec<String>,
    pub(crate) from: Option<String>,
}

/// A file's text, another file that has it, or a text many times over.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawFile {
    Text(String),
    Path { path: String },
    Repeated { text: String, times: usize },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawExpect {
    pub(crate) call: String,
    pub(crate) step: Option<String>,
    pub(crate) with: Option<Value>,
    pub(crate) reply: Option<Value>,
    pub(crate) exit: Option<i32>,
    pub(crate) error: Option<RawError>,
    #[serde(default)]
    pub(crate) dies: bool,
    #[serde(default)]
    pub(crate) hangs: bool,
    #[serde(default)]
    pub(crate) log: Vec<RawLine>,
    pub(crate) takes: Option<String>,
    pub(crate) times: Option<RawTimes>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawError {
    pub(crate) kind: windlass_model::ErrorKind,
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) message: Option<String>,
    pub(crate) hint: Option<String>,
    #[serde(default)]
    pub(crate) retryable: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawLine {
    Text(String),
    Line(RawLineTable),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLineTable {
    pub(crate) text: String,
    pub(crate) after: Option<String>,
    #[serde(default)]
    pub(crate) stderr: bool,
}

/// `3`, or `"1.."`, `"..3"`, `"2..3"`, `"any"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawTimes {
    Exactly(u32),
    Range(String),
}

/// What goes wrong, at which call of the transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFault {
    /// Counted from 1.
    pub call: usize,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// Answered with an error; nothing happened.
    Error,
    /// Never answered.
    Timeout,
    /// The run is cancelled while the call is under way.
    Cancel,
    /// The connection goes after half of the output.
    Cut,
    /// The guest is stopped in the middle of the call.
    Kill,
}

impl FaultKind {
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Timeout,
        Self::Cancel,
        Self::Cut,
        Self::Kill,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Cancel => "cancel",
            Self::Cut => "cut",
            Self::Kill => "kill",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAssert {
    pub(crate) outcome: Option<Ending>,
    pub(crate) error: Option<Table>,
    pub(crate) outputs: Option<Table>,
    pub(crate) logs: Vec<Value>,
    pub(crate) no_logs: Vec<Value>,
    pub(crate) transcript: Option<Vec<String>>,
    pub(crate) denied: Vec<String>,
    pub(crate) reveals: Vec<String>,
    pub(crate) findings: Option<Vec<Value>>,
    pub(crate) slept: Option<String>,
    pub(crate) steps: Option<BTreeMap<String, Value>>,
    pub(crate) notifications: Option<BTreeMap<String, Sent>>,
    pub(crate) restored: Option<BTreeMap<String, String>>,
    pub(crate) unused: Option<Unused>,
}

/// How it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    #[default]
    Succeeded,
    Failed,
    Cancelled,
}

impl Ending {
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sent {
    Sent,
    Failed,
}

impl Sent {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unused {
    #[default]
    Fail,
    Allow,
}

impl RawCase {
    /// This one, with what it does not say from the file.
    pub(crate) fn over(self, file: &Self) -> Self {
        fn tables(own: Option<Table>, base: Option<&Table>) -> Option<Table> {
            match (own, base) {
                (Some(own), Some(base)) => {
                    let mut all = base.clone();
                    all.extend(own);
                    Some(all)
                }
                (own, base) => own.or_else(|| base.cloned()),
            }
        }
        fn maps<T: Clone>(
            own: Option<BTreeMap<String, T>>,
            base: Option<&BTreeMap<String, T>>,
        ) -> Option<BTreeMap<String, T>> {
            match (own, base) {
                (Some(own), Some(base)) => {
                    let mut all = base.clone();
                    all.extend(own);
                    Some(all)
                }
                (own, base) => own.or_else(|| base.cloned()),
            }
        }
        Self {
            name: self.name,
            plugin: self.plugin.or_else(|| file.plugin.clone()),
            pipeline: self.pipeline.or_else(|| file.pipeline.clone()),
            phase: self.phase.or(file.phase),
            order: self.order.or(file.order),
            arguments: self.arguments.or(file.arguments),
            timeout: self.timeout.or_else(|| file.timeout.clone()),
            seed: self.seed.or(file.seed),
            grants: self.grants.or_else(|| file.grants.clone()),
            config: tables(self.config, file.config.as_ref()),
            inputs: self.inputs.or_else(|| file.inputs.clone()),
            report: tables(self.report, file.report.as_ref()),
            secrets: maps(self.secrets, file.secrets.as_ref()),
            files: maps(self.files, file.files.as_ref()),
            expect: self.expect.or_else(|| file.expect.clone()),
            fault: self.fault.or_else(|| file.fault.clone()),
            assert: self.assert.or_else(|| file.assert.clone()),
            case: None,
        }
    }
}
