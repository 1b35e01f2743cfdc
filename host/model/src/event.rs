//! What happened in a run. The journal stores events before any reporter sees
//! them; a stored run replays into the same reporters.

use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::LogStream;
use crate::error::CallError;
use crate::id::{RunId, StepKey, StepName, TargetName};

/// An event with its number, counted from 1 without gaps, and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    pub number: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first event of every run.
    RunStarted(Box<RunStarted>),
    /// A run that was cut short, or that failed, goes on.
    RunResumed(Box<RunResumed>),
    /// A preflight's finding, before the first effect.
    Finding {
        step: StepKey,
        severity: Severity,
        message: String,
        hint: Option<String>,
    },
    /// Another run, or a person, holds the lease; this run waits. Said again
    /// every so often.
    LeaseWaiting {
        target: TargetName,
        owner: String,
        run: String,
        /// RFC 3339, by the target's clock.
        #[serde(default)]
        since: String,
        /// Until it expires. Absent: until it is released. 0: its holder is
        /// gone, but an operation of that one still runs on the target.
        remaining_ms: Option<u64>,
        /// Why a person keeps deploys away. Empty for a run.
        #[serde(default)]
        reason: String,
        /// How long this run has waited.
        #[serde(default)]
        waited_ms: u64,
    },
    StepStarted {
        step: StepKey,
        /// Counted from 1.
        attempt: u32,
    },
    /// One line of what a step, or the far side on its behalf, printed. Clean
    /// of secrets and of control characters.
    StepLog {
        step: StepKey,
        level: Level,
        /// Where a command printed it; absent for the plugin's own log.
        stream: Option<LogStream>,
        text: String,
    },
    /// Replaces what was said before. Not stored; may be dropped.
    StepProgress {
        step: StepKey,
        message: String,
        done: u64,
        total: u64,
    },
    /// An attempt failed and another follows.
    StepRetried {
        step: StepKey,
        attempt: u32,
        error: CallError,
        delay_ms: u64,
    },
    /// One for every instance of every step; another where a resumed run ran it again.
    StepFinished {
        step: StepKey,
        state: StepState,
        duration_ms: u64,
        #[serde(default)]
        outputs: IndexMap<String, serde_json::Value>,
        error: Option<CallError>,
        /// Why it was skipped: `deploy@prod_1 failed`, `when is false`.
        reason: Option<String>,
    },
    RollbackStarted {
        /// What is put back, and why.
        targets: Vec<TargetName>,
        reason: String,
    },
    RollbackFinished {
        target: TargetName,
        /// The release that is current now.
        release: Option<String>,
        error: Option<CallError>,
        duration_ms: u64,
    },
    /// A failing notification never fails a run.
    NotificationFinished {
        name: StepName,
        error: Option<CallError>,
        duration_ms: u64,
    },
    /// Said by the engine itself.
    Notice {
        level: Level,
        message: String,
        hint: Option<String>,
    },
    /// The last event of every run, unless it is resumed after that.
    RunFinished(Box<RunFinished>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    pub run: RunId,
    pub windlass: String,
    pub pipeline: String,
    /// Empty when none was chosen.
    pub environment: String,
    pub tag: String,
    /// Empty outside a repository.
    pub commit: String,
    pub branch: String,
    pub dirty: bool,
    /// In the order of the graph.
    pub steps: Vec<StepNode>,
    pub targets: Vec<TargetName>,
    /// The page of the CI job.
    pub link: Option<String>,
    /// `user@machine`, or what CI tells.
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResumed {
    pub run: RunId,
    pub windlass: String,
    pub who: String,
    /// The page of the CI job.
    pub link: Option<String>,
    /// Instances that had ended, and are not run again.
    pub ended: Vec<StepKey>,
    /// What is not as it was when the run began, where that was accepted.
    pub changed: Vec<String>,
}

/// A step of the graph, as reporters need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepNode {
    pub name: StepName,
    pub uses: String,
    pub needs: Vec<StepName>,
    /// Empty for a step without `on`.
    pub targets: Vec<TargetName>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFinished {
    pub outcome: Outcome,
    /// The first failure.
    pub error: Option<CallError>,
    /// The step that it came from.
    pub failed_step: Option<StepKey>,
    /// What is current now, by target.
    pub releases: Vec<(TargetName, String)>,
    pub duration_ms: u64,
    pub exit_code: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Succeeded,
    /// Failed, but `continue_on_error` is set.
    Tolerated,
    Failed,
    Skipped,
    Cancelled,
    /// Left out by `--only` or `--from`; its outputs come from an earlier run.
    Reused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Note,
    Warning,
    Problem,
}

impl Event {
    /// Whether it is stored and numbered; progress is neither.
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::StepProgress { .. })
    }
}
