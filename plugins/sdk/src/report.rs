//! The report of a whole run, for plugins that tell people about it.
//!
//! `docs/plugins/README.md` describes the JSON. Fields may be added there, so
//! unknown ones are ignored here.

use serde::Deserialize;

use crate::{Error, context};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
    /// Failed, and every target that it had changed was put back.
    RolledBack,
}

impl Outcome {
    /// `rolled back`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "failed and rolled back",
        }
    }

    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack)
    }
}

/// How a step ended, or what it does when the report is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
    /// Failed, which the manifest allows it.
    Tolerated,
    /// Left out; its outputs are those of an earlier run.
    Reused,
    /// Not ended yet, or anything that a later version may add.
    #[default]
    #[serde(other)]
    Other,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Tolerated => "failed, tolerated",
            Self::Reused => "reused",
            Self::Other => "unknown",
        }
    }
}

/// A step that has not ended has a null in place of its state.
fn known_or_other<'de, D: serde::Deserializer<'de>>(from: D) -> Result<State, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// One step, on one target where it has targets.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub name: String,
    pub target: Option<String>,
    #[serde(default, deserialize_with = "known_or_other")]
    pub state: State,
    #[serde(default)]
    pub duration_ms: u64,
    /// The message alone, without the hint.
    pub error: Option<String>,
}

impl Step {
    /// `deploy on prod_1`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.target {
            Some(target) => format!("{} on {target}", self.name),
            None => self.name.clone(),
        }
    }
}

/// What was put back after a failure.
#[derive(Clone, Debug, Deserialize)]
pub struct Rollback {
    #[serde(default)]
    pub targets: Vec<Restored>,
}

/// One target that was put back.
#[derive(Clone, Debug, Deserialize)]
pub struct Restored {
    pub target: String,
    /// The release that runs there now, when there is one.
    pub release: Option<String>,
    /// `restored`, or why not.
    pub outcome: String,
}

impl Restored {
    /// `prod_1: 20260124-014658 restored`.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.release {
            Some(release) => format!("{}: {release} {}", self.target, self.outcome),
            None => format!("{}: {}", self.target, self.outcome),
        }
    }
}

/// The report of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// UUID v7.
    pub run: String,
    pub pipeline: String,
    /// Empty when none was chosen.
    #[serde(default)]
    pub environment: String,
    #[serde(default)]
    pub tag: String,
    /// Empty outside a repository.
    #[serde(default)]
    pub commit: String,
    #[serde(default)]
    pub branch: String,
    pub outcome: Outcome,
    /// RFC 3339.
    #[serde(default)]
    pub started: String,
    #[serde(default)]
    pub duration_ms: u64,
    /// The page of the CI job.
    pub link: Option<String>,
    pub release: Option<String>,
    #[serde(default)]
    pub steps: Vec<Step>,
    pub rollback: Option<Rollback>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// Why a run failed.
#[derive(Clone, Debug, Deserialize)]
pub struct Failure {
    /// `deploy@prod_1`; absent when no step was at fault.
    pub step: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

impl Report {
    /// The report of the run that this notification is about.
    ///
    /// # Errors
    ///
    /// `report.none` for a step that is no notification; `report.invalid` when
    /// it is not what this crate understands.
    pub fn load() -> Result<Self, Error> {
        let json = context::report().ok_or_else(|| {
            Error::invalid("report.none", "there is no report of a run here")
                .with_hint("use the plugin under [notify.NAME], not as a step")
        })?;
        Self::parse(&json)
    }

    fn parse(json: &str) -> Result<Self, Error> {
        serde_json::from_str(json).map_err(|error| {
            Error::internal("report.invalid", format!("the run's report: {error}"))
        })
    }

    /// `observer to prod`, or the pipeline alone.
    #[must_use]
    pub fn subject(&self) -> String {
        if self.environment.is_empty() {
            self.pipeline.clone()
        } else {
            format!("{} to {}", self.pipeline, self.environment)
        }
    }

    /// The commit as people write it: its first 10 digits.
    #[must_use]
    pub fn short_commit(&self) -> &str {
        self.commit.get(..10).unwrap_or(&self.commit)
    }

    /// The link, where it is one that may be shown as a link.
    #[must_use]
    pub fn http_link(&self) -> Option<&str> {
        self.link.as_deref().filter(|link| {
            (link.starts_with("https://") || link.starts_with("http://"))
                && !link.contains(|c: char| c.is_whitespace() || c.is_control())
        })
    }

    /// The reason of a run that failed before, or without, a failing step: a
    /// preflight's finding, a lease that another run holds.
    #[must_use]
    pub fn reason(&self) -> Option<&Failure> {
        let none = self.failures().next().is_none();
        self.error
            .as_ref()
            .filter(|_| none && self.outcome.is_failure())
    }

    /// The steps that failed, first to last.
    pub fn failures(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.state == State::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Report, State};

    #[test]
    fn reads_the_documented_shape() {
        let report = Report::parse(
            r#"{"run": "r", "pipeline": "observer", "environment": "prod", "tag": "t",
                "commit": "0123456789abcdef", "branch": "main", "outcome": "rolled-back",
                "started": "2026-01-24T01:46:58Z", "duration_ms": 65000, "link": null,
                "release": "20260124-014658", "new_field": 1,
                "steps": [{"name": "deploy", "target": "prod_1", "state": "failed",
                           "duration_ms": 12, "error": "boom"},
                          {"name": "health", "target": null, "state": "paused"},
                          {"name": "tag", "target": null, "state": null}],
                "rollback": {"targets": [{"target": "prod_1", "release": "a", "outcome": "restored"}]}}"#,
        )
        .unwrap();
        assert_eq!(report.outcome, Outcome::RolledBack);
        assert_eq!(report.subject(), "observer to prod");
        assert_eq!(report.short_commit(), "0123456789");
        assert_eq!(report.failures().count(), 1);
        assert_eq!(report.steps[1].state, State::Other);
        assert_eq!(report.steps[2].state, State::Other);
        assert_eq!(
            report.rollback.unwrap().targets[0].line(),
            "prod_1: a restored"
        );
    }

    #[test]
    fn only_web_links_are_links() {
        let base = r#"{"run": "r", "pipeline": "p", "outcome": "failed", "link": "#;
        for (link, ok) in [
            ("https://ci/1", true),
            ("javascript:x", false),
            ("https://a b", false),
        ] {
            let report = Report::parse(&format!("{base}\"{link}\"}}")).unwrap();
            assert_eq!(report.http_link().is_some(), ok, "{link}");
        }
    }
}
