//! What a run came to: built from its events, shown as text
//! ([`Summary::render_text`]) or Markdown ([`Summary::render_markdown`]).

use std::collections::VecDeque;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::Value;
use windlass_model::event::{Envelope, Event, Level, RunFinished, RunStarted, Severity, StepState};
use windlass_model::{CallError, StepKey, StepName, TargetName};

use crate::clean::{clean, clean_line};

/// Lines of a step's log that are kept for the case that it fails.
const TAIL_LINES: usize = 12;

/// Of each of those lines; the journal has the whole.
const TAIL_LINE_BYTES: usize = 2000;

/// Of an error's message or hint. GitHub takes a page of 1 MiB, a person less.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// Findings and notices that are kept. Stops an engine in trouble from filling
/// the page.
const MAX_REMARKS: usize = 50;

/// Feed it every event of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub(crate) started: Option<(Timestamp, RunStarted)>,
    /// In the order of the graph.
    pub(crate) rows: IndexMap<StepKey, Row>,
    pub(crate) remarks: Vec<Remark>,
    pub(crate) rollback: Option<Rollback>,
    pub(crate) notifications: Vec<Notification>,
    pub(crate) finished: Option<RunFinished>,
    pub(crate) last: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) uses: String,
    /// `None` until it finished.
    pub(crate) state: Option<StepState>,
    /// Zero until it started.
    pub(crate) attempt: u32,
    pub(crate) duration_ms: u64,
    pub(crate) outputs: IndexMap<String, Value>,
    pub(crate) error: Option<CallError>,
    pub(crate) reason: Option<String>,
    pub(crate) tail: VecDeque<String>,
    /// How many lines came before the tail.
    pub(crate) earlier: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Remark {
    pub(crate) severity: Severity,
    pub(crate) step: Option<StepKey>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rollback {
    pub(crate) reason: String,
    pub(crate) targets: IndexMap<TargetName, Option<Restored>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub(crate) release: Option<String>,
    pub(crate) error: Option<CallError>,
    pub(crate) duration_ms: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Notification {
    pub(crate) name: StepName,
    pub(crate) error: Option<CallError>,
}

impl Summary {
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a stored run.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Envelope>) -> Self {
        let mut summary = Self::new();
        for envelope in events {
            summary.event(envelope);
        }
        summary
    }

    pub fn event(&mut self, envelope: &Envelope) {
        self.last = Some(envelope.at);
        match &envelope.event {
            Event::RunStarted(started) => self.start(envelope.at, started),
            Event::RunResumed(_) => {
                // How it ended before, and what came of that, is over.
                self.finished = None;
                self.rollback = None;
                self.notifications.clear();
            }
            Event::Finding {
                step,
                severity,
                message,
                hint,
            } => self.remark(*severity, Some(step), message, hint.as_deref()),
            Event::StepStarted { step, attempt } => self.row(step).attempt = *attempt,
            Event::StepLog { step, text, .. } => self.row(step).log(text),
            Event::StepFinished {
                step,
                state,
                duration_ms,
                outputs,
                error,
                reason,
            } => {
                let row = self.row(step);
                row.state = Some(*state);
                row.duration_ms = *duration_ms;
                row.outputs = outputs
                    .iter()
                    .filter(|(_, value)| !crate::text::is_empty(value))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                row.error = error.as_ref().map(bounded);
                row.reason.clone_from(reason);
            }
            Event::RollbackStarted { targets, reason } => {
                let targets = targets.iter().map(|target| (target.clone(), None));
                self.rollback = Some(Rollback {
                    reason: reason.clone(),
                    targets: targets.collect(),
                });
            }
            Event::RollbackFinished {
                target,
                release,
                error,
                duration_ms,
            } => {
                let restored = Restored {
                    release: release.clone(),
                    error: error.as_ref().map(bounded),
                    duration_ms: *duration_ms,
                };
                self.rollback
                    .get_or_insert_with(|| Rollback {
                        reason: String::new(),
                        targets: IndexMap::new(),
                    })
                    .targets
                    .insert(target.clone(), Some(restored));
            }
            Event::NotificationFinished { name, error, .. } => {
                self.notifications.push(Notification {
                    name: name.clone(),
                    error: error.as_ref().map(bounded),
                });
            }
            Event::Notice {
                level,
                message,
                hint,
            } => {
                let severity = match level {
                    Level::Debug | Level::Info => return,
                    Level::Warning => Severity::Warning,
                    Level::Error => Severity::Problem,
                };
                self.remark(severity, None, message, hint.as_deref());
            }
            Event::RunFinished(finished) => {
                let mut finished = (**finished).clone();
                finished.error = finished.error.as_ref().map(bounded);
                self.finished = Some(finished);
            }
            Event::LeaseWaiting { .. } | Event::StepProgress { .. } | Event::StepRetried { .. } => {
            }
        }
    }

    fn start(&mut self, at: Timestamp, started: &RunStarted) {
        self.started = Some((at, started.clone()));
        for node in &started.steps {
            for key in instances(node) {
                self.row(&key).uses.clone_from(&node.uses);
            }
        }
    }

    fn row(&mut self, step: &StepKey) -> &mut Row {
        self.rows.entry(step.clone()).or_default()
    }

    fn remark(
        &mut self,
        severity: Severity,
        step: Option<&StepKey>,
        message: &str,
        hint: Option<&str>,
    ) {
        if self.remarks.len() < MAX_REMARKS && severity > Severity::Note {
            self.remarks.push(Remark {
                severity,
                step: step.cloned(),
                message: clean(message).into_owned(),
                hint: hint.map(|hint| clean(hint).into_owned()),
            });
        }
    }

    /// What people type to name the run; empty before it started.
    pub(crate) fn run(&self) -> String {
        self.started
            .as_ref()
            .map_or_else(String::new, |(_, started)| started.run.short())
    }

    /// From the start to the end, or to the last event so far.
    pub(crate) fn total_ms(&self) -> u64 {
        if let Some(finished) = &self.finished {
            return finished.duration_ms;
        }
        match (&self.started, self.last) {
            (Some((from, _)), Some(to)) => between(*from, to),
            _ => 0,
        }
    }

    /// `observer`, or `observer` and `prod`, clean.
    pub(crate) fn names(&self) -> (String, String) {
        let Some((_, started)) = &self.started else {
            return ("run".to_owned(), String::new());
        };
        let name = |text: &str| clean_line(text).into_owned();
        (name(&started.pipeline), name(&started.environment))
    }

    /// Steps that failed, in the order of the graph.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&StepKey, &Row)> {
        self.rows
            .iter()
            .filter(|(_, row)| row.state == Some(StepState::Failed))
    }

    /// The run's error when no step's failure tells it already.
    pub(crate) fn own_error(&self) -> Option<&CallError> {
        let finished = self.finished.as_ref()?;
        let error = finished.error.as_ref()?;
        let told = finished
            .failed_step
            .as_ref()
            .and_then(|step| self.rows.get(step))
            .is_some_and(|row| row.state == Some(StepState::Failed) && row.error.is_some());
        (!told).then_some(error)
    }
}

fn bounded(error: &CallError) -> CallError {
    let mut error = error.clone();
    for text in [Some(&mut error.message), error.hint.as_mut()]
        .into_iter()
        .flatten()
    {
        if text.len() > MAX_ERROR_BYTES {
            text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
            text.push('…');
        }
    }
    error
}

/// The keys of a node's instances.
pub(crate) fn instances(node: &windlass_model::event::StepNode) -> Vec<StepKey> {
    if node.targets.is_empty() {
        return vec![StepKey {
            name: node.name.clone(),
            target: None,
        }];
    }
    node.targets
        .iter()
        .map(|target| StepKey {
            name: node.name.clone(),
            target: Some(target.clone()),
        })
        .collect()
}

/// Milliseconds; zero when the clock went back.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}

impl Row {
    fn log(&mut self, text: &str) {
        for line in clean(text).split('\n') {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
                self.earlier += 1;
            }
            let end = line.floor_char_boundary(TAIL_LINE_BYTES);
            self.tail.push_back(line[..end].to_owned());
        }
    }
}
