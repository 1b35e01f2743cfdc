//! GitHub Actions: errors and warnings as annotations, logs of steps in groups
//! that fold. After GitHub's "Workflow commands", and the escaping of
//! `@actions/core`.

use std::io::{self, Write};

use windlass_model::event::{Envelope, Event, Level, Severity, StepState};
use windlass_model::{CallError, StepKey};

use crate::clean::{clean, clean_line, defuse};
use crate::logs::Logs;
use crate::reporter::Reporter;
use crate::text;

/// GitHub shows ten of a kind for a step, and drops the rest.
const MAX_ANNOTATIONS: usize = 10;

/// A message that GitHub would cut at 64 KiB; a reader gives up long before.
const MAX_MESSAGE: usize = 4000;

/// Writes to standard output, beside [`Plain`](crate::Plain), which shows the
/// logs of failed steps; here are those of the others.
#[derive(Debug)]
pub struct Annotations<W> {
    out: W,
    groups: bool,
    logs: Logs,
    errors: usize,
    warnings: usize,
}

impl<W: Write + Send> Annotations<W> {
    /// `groups`: whether the log of each step that did not fail is shown, too,
    /// folded.
    pub fn new(out: W, groups: bool) -> Self {
        Self {
            out,
            groups,
            logs: Logs::default(),
            errors: 0,
            warnings: 0,
        }
    }

    fn error(&mut self, title: &str, error: &CallError) -> io::Result<()> {
        if self.errors == MAX_ANNOTATIONS {
            return Ok(());
        }
        self.errors += 1;
        self.annotate("error", title, &error.message, error.hint.as_deref())
    }

    fn warning(&mut self, title: &str, message: &str, hint: Option<&str>) -> io::Result<()> {
        if self.warnings == MAX_ANNOTATIONS {
            return Ok(());
        }
        self.warnings += 1;
        self.annotate("warning", title, message, hint)
    }

    fn annotate(
        &mut self,
        command: &str,
        title: &str,
        message: &str,
        hint: Option<&str>,
    ) -> io::Result<()> {
        let mut text = clean(message).into_owned();
        if let Some(hint) = hint {
            text.push_str("\nhint: ");
            text.push_str(&clean(hint));
        }
        if text.len() > MAX_MESSAGE {
            text.truncate(text.floor_char_boundary(MAX_MESSAGE));
            text.push('…');
        }
        let title = property(&clean_line(title));
        self.line(&format!("::{command} title={title}::{}", data(&text)))
    }

    fn group(&mut self, step: &StepKey, state: StepState, ms: u64) -> io::Result<()> {
        let log = self.logs.take(step);
        if !self.groups || state == StepState::Failed || log.is_empty() {
            return Ok(());
        }
        let mut out = format!(
            "::group::{}\n",
            data(&format!(
                "log of {} ({}, {})",
                text::label(step),
                crate::theme::state_word(state),
                text::duration(ms)
            ))
        );
        for line in log.lines() {
            out.push_str(&defuse(line));
            out.push('\n');
        }
        out.push_str("::endgroup::");
        self.line(&out)
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.out.write_all(format!("{line}\n").as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Reporter for Annotations<W> {
    fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
        match &envelope.event {
            Event::StepLog { step, text, .. } => {
                if self.groups {
                    self.logs.push(step, &clean(text));
                }
                Ok(())
            }
            Event::StepFinished {
                step,
                state,
                error,
                duration_ms,
                ..
            } => {
                self.group(step, *state, *duration_ms)?;
                let label = text::label(step);
                match (state, error) {
                    (StepState::Failed, Some(error)) => {
                        self.error(&format!("{label} failed"), error)
                    }
                    (StepState::Tolerated, Some(error)) => self.warning(
                        &format!("{label} failed, which is tolerated"),
                        &error.message,
                        error.hint.as_deref(),
                    ),
                    _ => Ok(()),
                }
            }
            Event::Finding {
                step,
                severity,
                message,
                hint,
            } => {
                let label = text::label(step);
                match severity {
                    Severity::Note => Ok(()),
                    Severity::Warning => self.warning(&label, message, hint.as_deref()),
                    Severity::Problem => {
                        let mut error = CallError::invalid("finding", message.clone());
                        error.hint.clone_from(hint);
                        self.error(&label, &error)
                    }
                }
            }
            Event::RollbackFinished {
                target,
                error: Some(error),
                ..
            } => self.error(&format!("rollback of {target} failed"), error),
            Event::NotificationFinished {
                name,
                error: Some(error),
                ..
            } => self.warning(
                &format!("{name} was not notified"),
                &error.message,
                error.hint.as_deref(),
            ),
            Event::Notice {
                level: Level::Warning | Level::Error,
                message,
                hint,
            } => self.warning("windlass", message, hint.as_deref()),
            Event::RunFinished(finished) if finished.failed_step.is_none() => {
                match &finished.error {
                    Some(error) => self.error("the run failed", error),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// What stands behind `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_the_toolkit_does() {
        assert_eq!(data("100%\r\nx::y"), "100%25%0D%0Ax::y");
        assert_eq!(property("a: b, 5%"), "a%3A b%2C 5%25");
    }
}
