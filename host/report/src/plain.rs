//! A line a happening: for pipes, files and CI logs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use windlass_model::StepKey;
use windlass_model::event::{Envelope, Event, StepState};

use crate::clean::{clean, clean_line, defuse};
use crate::failure::Failure;
use crate::happening::{Happening, label_width};
use crate::logs::Logs;
use crate::reporter::{Options, Reporter, Verbosity};
use crate::summary::{Summary, between};
use crate::text;
use crate::theme::{Line, Tone};

/// How long a step may be silent.
const HEARTBEAT_MS: u64 = 30_000;
/// Columns of the time at the left, with the gap behind it.
const TIME: usize = 10;

/// Lines start with the time since the run began, so that nothing that a step
/// printed is taken for a command of the CI system.
#[derive(Debug)]
pub struct Plain<W> {
    out: W,
    options: Options,
    summary: Summary,
    logs: Logs,
    began: Option<Timestamp>,
    labels: usize,
    running: BTreeMap<StepKey, Running>,
}

/// A step that has not ended.
#[derive(Debug)]
struct Running {
    since: Timestamp,
    /// When a line was written about it.
    said: Timestamp,
    /// What it said of its progress last.
    progress: String,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(out: W, options: Options) -> Self {
        Self {
            out,
            options,
            summary: Summary::new(),
            logs: Logs::default(),
            began: None,
            labels: 0,
            running: BTreeMap::new(),
        }
    }

    /// What is noted for the heartbeat.
    fn note(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::StepStarted { step, .. } => {
                let running = self.running.entry(step.clone()).or_insert(Running {
                    since: at,
                    said: at,
                    progress: String::new(),
                });
                running.said = at;
            }
            Event::StepProgress { step, message, .. } => {
                if let Some(running) = self.running.get_mut(step) {
                    running.progress = clean_line(message).into_owned();
                }
            }
            Event::StepLog { step, .. } if self.options.verbosity == Verbosity::Verbose => {
                if let Some(running) = self.running.get_mut(step) {
                    running.said = at;
                }
            }
            Event::StepFinished { step, .. } => {
                self.running.remove(step);
            }
            _ => {}
        }
    }

    /// A line for each step that was silent for long: CI systems end jobs that
    /// say nothing, and people wonder.
    fn heartbeat(&mut self, now: Timestamp) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut due: Vec<(StepKey, u64, String)> = Vec::new();
        for (step, running) in &mut self.running {
            if between(running.said, now) < HEARTBEAT_MS {
                continue;
            }
            running.said = now;
            let mut said = running.progress.clone();
            if said.is_empty() {
                said = clean_line(self.logs.last(step).unwrap_or_default()).into_owned();
            }
            due.push((step.clone(), between(running.since, now), said));
        }
        for (step, ms, said) in due {
            let happening = Happening::waits(&step, ms, said, self.options.theme);
            lines.extend(self.happening(now, &happening));
        }
        lines
    }

    fn time(&self, at: Timestamp) -> Line {
        let time = text::offset(self.began.map_or(0, |began| between(began, at)));
        let mut line = Line::new();
        line.push(Tone::Faint, format!("{time:>8}")).plain("  ");
        line
    }

    fn happening(&self, at: Timestamp, happening: &Happening) -> Vec<Line> {
        let mut line = self.time(at);
        line.push(happening.tone, happening.glyph).plain(" ");
        let column = line.width() + self.labels;
        if !happening.label.is_empty() {
            line.plain(happening.label.clone());
            if happening.rest.width() > 0 {
                line.to_column(column).plain("  ");
            }
        }
        let mut lines = vec![line];
        if let Some(line) = lines.first_mut() {
            line.extend(&happening.rest);
        }
        if let Some(hint) = &happening.hint {
            let mut line = Line::new();
            line.to_column(TIME + 2)
                .push(Tone::Active, format!("hint: {hint}"));
            lines.push(line);
        }
        lines
    }

    fn failure(&mut self, at: Timestamp, step: &StepKey) -> Vec<Line> {
        let log = self.logs.take(step);
        let row = self.summary.rows.get(step);
        let verbose = self.options.verbosity == Verbosity::Verbose;
        let failure = Failure {
            title: String::new(),
            error: row.and_then(|row| row.error.as_ref()),
            log: if verbose {
                Vec::new()
            } else {
                log.lines().collect()
            },
            earlier: log.dropped,
            more: (log.dropped > 0).then(|| self.summary.logs_command(Some(step))),
        };
        let mut head = self.time(at);
        let (glyph, tone) = self.options.theme.state(StepState::Failed);
        let title = row.map(|row| crate::summary_text::title(step, row));
        head.push(tone, format!("{glyph} {}", title.unwrap_or_default()));
        if let Some(row) = row {
            head.push(
                Tone::Faint,
                format!("  {}", text::duration(row.duration_ms)),
            );
        }
        let mut lines = vec![head];
        let width = self.options.width.saturating_sub(TIME);
        for body in failure.lines(self.options.theme, width).iter().skip(1) {
            let mut line = Line::new();
            line.to_column(TIME);
            line.extend(body);
            lines.push(line);
        }
        lines
    }

    fn log(&mut self, at: Timestamp, step: &StepKey, text: &str) -> Vec<Line> {
        let text = clean(text);
        if self.options.verbosity < Verbosity::Verbose {
            self.logs.push(step, &text);
            return Vec::new();
        }
        text.split('\n')
            .map(|text| {
                let mut line = self.time(at);
                line.push(Tone::Faint, self.options.theme.bar()).plain(" ");
                let column = line.width() + self.labels;
                line.push(Tone::Faint, text::label(step))
                    .to_column(column)
                    .plain("  ")
                    .plain(text);
                line
            })
            .collect()
    }

    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut out = String::new();
        for line in lines {
            let line = line.render(self.options.theme, usize::MAX);
            out.push_str(defuse(line.trim_end()).as_ref());
            out.push('\n');
        }
        self.out.write_all(out.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Reporter for Plain<W> {
    fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
        self.summary.event(envelope);
        let at = envelope.at;
        self.note(at, &envelope.event);
        let lines = match &envelope.event {
            Event::RunStarted(started) => {
                self.began = Some(at);
                self.labels = label_width(started);
                if self.options.verbosity == Verbosity::Quiet {
                    return Ok(());
                }
                vec![self.summary.header(self.options.theme)]
            }
            Event::StepLog { step, text, .. } => self.log(at, step, text),
            Event::StepFinished {
                step,
                state: StepState::Failed,
                ..
            } => self.failure(at, step),
            Event::RunFinished(_)
                if self.options.summary && self.options.verbosity > Verbosity::Quiet =>
            {
                let mut lines = vec![Line::new()];
                lines.extend(self.summary.lines(self.options.width, self.options.theme));
                lines
            }
            Event::RunFinished(finished) => {
                let mut lines = Vec::new();
                // Of a step's failure its own lines have told.
                let error = finished.error.as_ref();
                if let Some(error) = error.filter(|_| finished.failed_step.is_none()) {
                    let failure = Failure {
                        title: "the run failed".to_owned(),
                        error: Some(error),
                        log: Vec::new(),
                        earlier: 0,
                        more: None,
                    };
                    lines = failure.lines(self.options.theme, self.options.width);
                }
                lines.push(self.summary.total(self.options.theme));
                lines
            }
            event => {
                if let Event::StepFinished { step, .. } = event {
                    self.logs.take(step);
                }
                match Happening::of(event, self.options.theme) {
                    Some(happening) if self.options.verbosity >= happening.from => {
                        self.happening(at, &happening)
                    }
                    _ => return Ok(()),
                }
            }
        };
        self.write(&lines)
    }

    fn tick(&mut self, now: Timestamp) -> io::Result<()> {
        if self.options.verbosity == Verbosity::Quiet {
            return Ok(());
        }
        let lines = self.heartbeat(now);
        self.write(&lines)
    }
}
