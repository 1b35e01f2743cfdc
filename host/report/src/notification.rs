//! The whole run as one value, for plugins that notify people.

use serde_json::{Value, json};
use windlass_model::event::{Envelope, Outcome, StepState};

use crate::clean::clean;
use crate::summary::{Restored, Row, Summary};
use crate::theme::state_word;

/// What stands in `context` for a notification:
///
/// ```json
/// {"run": "0190…", "pipeline": "observer", "environment": "prod",
///  "tag": "…", "commit": "…", "branch": "main", "dirty": false, "who": "…",
///  "outcome": "failed", "started": "2026-01-24T01:46:58Z",
///  "duration_ms": 12300, "link": null, "release": null,
///  "releases": [{"target": "prod_1", "release": "…"}],
///  "steps": [{"name": "build", "target": null, "state": "succeeded",
///             "duration_ms": 4200, "error": null}],
///  "rollback": {"targets": [{"target": "prod_1", "release": "…",
///                            "outcome": "restored"}]},
///  "error": {"step": "deploy@prod_1", "message": "…", "hint": null}}
/// ```
///
/// `outcome` is `running` before the last event, and `rolled-back` for a run that
/// failed and put back every target that it had to. `state` is null for a step
/// that has not finished yet; one that a failed run never came to is `skipped`.
/// `release` is the one that all targets have, if they
/// have one.
pub fn report_json<'a>(events: impl IntoIterator<Item = &'a Envelope>) -> Value {
    Summary::of(events).report()
}

impl Summary {
    /// As [`report_json`] says.
    pub fn report(&self) -> Value {
        let started = self.started.as_ref();
        let facts = started.map(|(_, started)| started);
        let finished = self.finished.as_ref();
        let releases: Vec<Value> = finished
            .iter()
            .flat_map(|finished| &finished.releases)
            .map(|(target, release)| json!({"target": target, "release": release}))
            .collect();
        let mut names: Vec<&str> = finished
            .iter()
            .flat_map(|finished| &finished.releases)
            .map(|(_, release)| release.as_str())
            .collect();
        names.dedup();
        let release = match names.as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        json!({
            "run": facts.map(|facts| facts.run.to_string()),
            "pipeline": facts.map(|facts| facts.pipeline.as_str()),
            "environment": facts.map(|facts| facts.environment.as_str()),
            "tag": facts.map(|facts| facts.tag.as_str()),
            "commit": facts.map(|facts| facts.commit.as_str()),
            "branch": facts.map(|facts| facts.branch.as_str()),
            "dirty": facts.is_some_and(|facts| facts.dirty),
            "who": facts.map(|facts| facts.who.as_str()),
            "outcome": self.outcome_json(),
            "started": started.map(|(at, _)| at.to_string()),
            "duration_ms": self.total_ms(),
            "link": facts.and_then(|facts| facts.link.as_deref()),
            "release": release,
            "releases": releases,
            "steps": self.steps_json(),
            "rollback": self.rollback_json(),
            "error": self.error_json(),
        })
    }

    fn outcome_json(&self) -> Value {
        let Some(finished) = &self.finished else {
            return json!("running");
        };
        let put_back = self.rollback.as_ref().is_some_and(|rollback| {
            let restored = |restored: &Option<Restored>| {
                restored
                    .as_ref()
                    .is_some_and(|restored| restored.error.is_none())
            };
            !rollback.targets.is_empty() && rollback.targets.values().all(restored)
        });
        match finished.outcome {
            Outcome::Failed if put_back => json!("rolled-back"),
            outcome => json!(outcome),
        }
    }

    fn steps_json(&self) -> Vec<Value> {
        let rest = self.finished.as_ref().map(|_| StepState::Skipped);
        self.rows
            .iter()
            .map(|(step, row)| {
                json!({
                    "name": step.name,
                    "target": step.target,
                    "state": row.state.or(rest).map(state_word),
                    "duration_ms": row.duration_ms,
                    "error": message(row),
                })
            })
            .collect()
    }

    fn rollback_json(&self) -> Option<Value> {
        let rollback = self.rollback.as_ref()?;
        let targets: Vec<Value> = rollback
            .targets
            .iter()
            .map(|(target, restored)| {
                let outcome = match restored {
                    None => "not put back".to_owned(),
                    Some(Restored {
                        error: Some(error), ..
                    }) => format!("not put back: {}", clean(&error.message)),
                    Some(_) => "restored".to_owned(),
                };
                json!({
                    "target": target,
                    "release": restored.as_ref().and_then(|restored| restored.release.as_deref()),
                    "outcome": outcome,
                })
            })
            .collect();
        Some(json!({ "targets": targets }))
    }

    fn error_json(&self) -> Option<Value> {
        let from_run = self.finished.as_ref().and_then(|finished| {
            let error = finished.error.as_ref()?;
            Some((finished.failed_step.clone(), error))
        });
        let from_step = || {
            self.failures()
                .find_map(|(step, row)| Some((Some(step.clone()), row.error.as_ref()?)))
        };
        let (step, error) = from_run.or_else(from_step)?;
        Some(json!({
            "step": step.map(|step| step.to_string()),
            "message": clean(&error.message),
            "hint": error.hint.as_deref().map(clean),
        }))
    }
}

fn message(row: &Row) -> Option<String> {
    row.error
        .as_ref()
        .filter(|_| matches!(row.state, Some(StepState::Failed | StepState::Tolerated)))
        .map(|error| clean(&error.message).into_owned())
}
