//! One event in one line, for the reporters that people read.

use windlass_model::event::{Event, Level, Severity, StepState};
use windlass_model::{CallError, StepKey};

use crate::clean::clean_line;
use crate::reporter::Verbosity;
use crate::text;
use crate::theme::{Line, Theme, Tone};

pub(crate) struct Happening {
    pub(crate) glyph: &'static str,
    pub(crate) tone: Tone,
    /// A step, a target, or nothing.
    pub(crate) label: String,
    pub(crate) rest: Line,
    pub(crate) hint: Option<String>,
    /// From which verbosity on it is shown.
    pub(crate) from: Verbosity,
}

impl Happening {
    fn new(glyph: &'static str, tone: Tone, label: String) -> Self {
        Self {
            glyph,
            tone,
            label,
            rest: Line::new(),
            hint: None,
            from: Verbosity::Normal,
        }
    }

    fn say(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.rest.push(tone, text);
        self
    }

    fn hint(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(|hint| clean_line(hint).into_owned());
        self
    }

    fn from(mut self, verbosity: Verbosity) -> Self {
        self.from = verbosity;
        self
    }

    /// `None` for what is no line of its own: logs, progress, beginning and end
    /// of the run.
    pub(crate) fn of(event: &Event, theme: Theme) -> Option<Self> {
        Some(match event {
            Event::RunStarted(_)
            | Event::RunFinished(_)
            | Event::StepLog { .. }
            | Event::StepProgress { .. } => return None,
            Event::RunResumed(resumed) => {
                let count = resumed.ended.len();
                let mut happening = Self::new(theme.glyph("▸", ">"), Tone::Active, String::new())
                    .say(Tone::Strong, "resumed")
                    .say(Tone::Plain, format!(" by {}", clean_line(&resumed.who)));
                if count > 0 {
                    let of = if count == 1 { "step" } else { "steps" };
                    let rest = format!(", {count} {of} ended before");
                    happening = happening.say(Tone::Faint, rest);
                }
                if !resumed.changed.is_empty() {
                    let changed = resumed.changed.join(", ");
                    let text = format!("; changed since: {}", clean_line(&changed));
                    happening = happening.say(Tone::Warning, text);
                }
                happening
            }
            Event::Finding {
                step,
                severity,
                message,
                hint,
            } => {
                let (glyph, tone, from) = match severity {
                    Severity::Note => (theme.dot(), Tone::Faint, Verbosity::Verbose),
                    Severity::Warning => ("!", Tone::Warning, Verbosity::Normal),
                    Severity::Problem => (theme.glyph("✗", "x"), Tone::Bad, Verbosity::Quiet),
                };
                Self::new(glyph, tone, text::label(step))
                    .say(Tone::Plain, clean_line(message))
                    .hint(hint.as_deref())
                    .from(from)
            }
            Event::LeaseWaiting {
                target,
                owner,
                run,
                since,
                remaining_ms,
                reason,
                waited_ms,
            } => {
                let (owner, run) = (clean_line(owner), clean_line(run));
                let since = match clean_line(since) {
                    since if since.is_empty() => String::new(),
                    since => format!(" since {since}"),
                };
                let what = match (remaining_ms, reason.is_empty()) {
                    (Some(0), _) => {
                        format!("an operation of {owner} (run {run}) still runs there")
                    }
                    (_, false) => {
                        format!("{owner} locked it{since}: {}", clean_line(reason))
                    }
                    (_, true) => format!("{owner} deploys there{since} (run {run})"),
                };
                let left = match remaining_ms {
                    Some(0) => String::new(),
                    Some(left) => format!(", at most {} more", text::duration(*left)),
                    None => ", until it is released".to_owned(),
                };
                let waited = match waited_ms {
                    0 => String::new(),
                    waited => format!(" for {}", text::duration(*waited)),
                };
                Self::new(
                    theme.glyph("⧗", "~"),
                    Tone::Warning,
                    clean_line(target.as_str()).into_owned(),
                )
                .say(Tone::Plain, format!("waiting{waited}: {what}{left}"))
            }
            Event::StepStarted { step, attempt } => {
                let word = match attempt {
                    0 | 1 => "started".to_owned(),
                    more => format!("attempt {more}"),
                };
                Self::new(theme.glyph("▸", ">"), Tone::Active, text::label(step))
                    .say(Tone::Faint, word)
            }
            Event::StepRetried {
                step,
                attempt,
                error,
                delay_ms,
            } => {
                let next = text::duration(*delay_ms);
                let message = clean_line(&error.message);
                Self::new(theme.glyph("↻", "~"), Tone::Warning, text::label(step))
                    .say(Tone::Plain, format!("attempt {attempt} failed: {message}"))
                    .say(Tone::Faint, format!(", next in {next}"))
                    .hint(error.hint.as_deref())
            }
            Event::StepFinished {
                step,
                state,
                duration_ms,
                outputs,
                error,
                reason,
            } => {
                let (glyph, tone) = theme.state(*state);
                let mut happening = Self::new(glyph, tone, text::label(step));
                if *state == StepState::Failed {
                    happening.from = Verbosity::Quiet;
                }
                let idle = matches!(state, StepState::Skipped | StepState::Reused);
                if !idle {
                    happening = happening.say(Tone::Strong, text::duration(*duration_ms));
                }
                happening.tail(*state, idle, outputs, error.as_ref(), reason.as_deref())
            }
            Event::RollbackStarted { targets, reason } => {
                let targets: Vec<_> = targets
                    .iter()
                    .map(|target| clean_line(target.as_str()).into_owned())
                    .collect();
                let reason = clean_line(reason);
                Self::new(theme.glyph("↺", "<"), Tone::Warning, "rollback".to_owned())
                    .say(Tone::Plain, format!("of {}", targets.join(", ")))
                    .say(Tone::Faint, format!(": {reason}"))
                    .from(Verbosity::Quiet)
            }
            Event::RollbackFinished {
                target,
                release,
                error,
                duration_ms,
            } => {
                let label = clean_line(target.as_str()).into_owned();
                let time = text::duration(*duration_ms);
                match (error, release) {
                    (Some(error), _) => failed(theme, label, "was not put back", error),
                    (None, Some(release)) => Self::new(theme.glyph("↺", "<"), Tone::Warning, label)
                        .say(Tone::Strong, time)
                        .say(Tone::Plain, format!("  back on {}", clean_line(release))),
                    (None, None) => Self::new(theme.glyph("↺", "<"), Tone::Warning, label)
                        .say(Tone::Strong, time)
                        .say(Tone::Plain, "  no earlier release; stopped"),
                }
                .from(Verbosity::Quiet)
            }
            Event::NotificationFinished {
                name,
                error,
                duration_ms,
            } => {
                let label = clean_line(name.as_str()).into_owned();
                match error {
                    None => Self::new(theme.glyph("✓", "+"), Tone::Good, label)
                        .say(Tone::Strong, text::duration(*duration_ms))
                        .say(Tone::Plain, "  notified"),
                    Some(error) => Self::new("!", Tone::Warning, label)
                        .say(Tone::Plain, "was not notified: ")
                        .say(Tone::Plain, clean_line(&error.message))
                        .hint(error.hint.as_deref()),
                }
            }
            Event::Notice {
                level,
                message,
                hint,
            } => {
                let (glyph, tone, from) = match level {
                    Level::Debug => (theme.dot(), Tone::Faint, Verbosity::Verbose),
                    Level::Info => (theme.dot(), Tone::Faint, Verbosity::Normal),
                    Level::Warning => ("!", Tone::Warning, Verbosity::Normal),
                    Level::Error => (theme.glyph("✗", "x"), Tone::Bad, Verbosity::Quiet),
                };
                Self::new(glyph, tone, String::new())
                    .say(Tone::Plain, clean_line(message))
                    .hint(hint.as_deref())
                    .from(from)
            }
        })
    }

    /// A step that runs and was silent for a while.
    pub(crate) fn waits(step: &StepKey, ms: u64, said: String, theme: Theme) -> Self {
        let happening = Self::new(theme.dot(), Tone::Faint, text::label(step))
            .say(Tone::Plain, format!("running for {}", text::duration(ms)));
        if said.is_empty() {
            return happening;
        }
        happening.say(Tone::Faint, format!(": {said}"))
    }

    fn tail(
        mut self,
        state: StepState,
        idle: bool,
        outputs: &indexmap::IndexMap<String, serde_json::Value>,
        error: Option<&CallError>,
        reason: Option<&str>,
    ) -> Self {
        if let Some(reason) = reason {
            let word = crate::theme::state_word(state);
            let lead = if idle {
                word.to_owned()
            } else {
                format!("  {word}")
            };
            return self
                .say(Tone::Faint, lead)
                .say(Tone::Faint, format!(": {}", clean_line(reason)));
        }
        if let Some(error) = error {
            let message = clean_line(&error.message);
            self.rest.plain(format!("  {message}"));
            return self.hint(error.hint.as_deref());
        }
        if idle {
            self.rest.push(Tone::Faint, crate::theme::state_word(state));
        }
        for (name, value) in outputs.iter().filter(|(_, value)| !text::is_empty(value)) {
            self.rest
                .push(Tone::Faint, format!("  {} ", clean_line(name)))
                .plain(text::output(value));
        }
        self
    }
}

fn failed(theme: Theme, label: String, what: &str, error: &CallError) -> Happening {
    let message = clean_line(&error.message);
    Happening::new(theme.glyph("✗", "x"), Tone::Bad, label)
        .say(Tone::Plain, format!("{what}: {message}"))
        .hint(error.hint.as_deref())
}

/// The width of the longest label, so that what follows stands in a column.
pub(crate) fn label_width(started: &windlass_model::event::RunStarted) -> usize {
    /// A longer one pushes its own line only.
    const WIDEST: usize = 28;
    started
        .steps
        .iter()
        .flat_map(crate::summary::instances)
        .map(|key| unicode_width::UnicodeWidthStr::width(text::label(&key).as_str()))
        .max()
        .unwrap_or(0)
        .min(WIDEST)
}
