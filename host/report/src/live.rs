//! A terminal: steps that run, each with its time and its last line, below
//! what is done.
//!
//! What is done is written once and scrolls away as any output does; only the
//! region below it, never higher than the screen, is drawn anew. Each drawing
//! is one write, within a synchronised update where the terminal knows that
//! (mode 2026), so nothing flickers.

use std::io::{self, Write};

use indexmap::IndexMap;
use jiff::Timestamp;
use windlass_model::event::{Envelope, Event, RunStarted, StepState};
use windlass_model::{StepKey, StepName};

use crate::clean::{clean, clean_line};
use crate::failure::Failure;
use crate::happening::{Happening, label_width};
use crate::logs::Logs;
use crate::reporter::{Options, Reporter, Verbosity};
use crate::summary::{Summary, between, instances};
use crate::text;
use crate::theme::{Line, Tone};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const BEGIN_UPDATE: &str = "\x1b[?2026h";
const END_UPDATE: &str = "\x1b[?2026l";
/// For whoever ends the process without unwinding, on a second interrupt: what
/// gives a terminal back that [`Live`] was drawing on.
pub const RESTORE_TERMINAL: &str = "\x1b[?2026l\x1b[?25h";

const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_LINE_END: &str = "\x1b[K";

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const ASCII_SPINNER: [&str; 4] = ["|", "/", "-", "\\"];

/// Milliseconds a picture of the spinner.
const FRAME_MS: i64 = 100;

/// Finished lines that may wait for the next tick, in verbose mode.
const MAX_WAITING: usize = 200;

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

#[derive(Debug)]
struct Running {
    since: Timestamp,
    attempt: u32,
    /// What it says it is doing; replaced by its next line.
    progress: Option<String>,
}

pub struct Live<W: Write> {
    out: W,
    options: Options,
    size: Box<dyn Fn() -> Size + Send>,
    summary: Summary,
    logs: Logs,
    labels: usize,
    now: Timestamp,
    running: IndexMap<StepKey, Running>,
    /// Not yet started, in the order of the graph, with what they need.
    pending: IndexMap<StepKey, Vec<StepName>>,
    /// Lines that are done but not yet written.
    waiting: Vec<Line>,
    /// The widths of the lines of the region on the screen.
    drawn: Vec<usize>,
    cursor_hidden: bool,
    finished: bool,
}

impl<W: Write> std::fmt::Debug for Live<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("running", &self.running)
            .finish()
    }
}

impl<W: Write + Send> Live<W> {
    /// `size` is asked at each drawing, so that a change is noticed.
    pub fn new(out: W, options: Options, size: impl Fn() -> Size + Send + 'static) -> Self {
        Self {
            out,
            options,
            size: Box::new(size),
            summary: Summary::new(),
            logs: Logs::default(),
            labels: 0,
            now: Timestamp::UNIX_EPOCH,
            running: IndexMap::new(),
            pending: IndexMap::new(),
            waiting: Vec::new(),
            drawn: Vec::new(),
            cursor_hidden: false,
            finished: false,
        }
    }

    fn start(&mut self, started: &RunStarted) {
        self.labels = label_width(started);
        for node in &started.steps {
            for key in instances(node) {
                self.pending.insert(key, node.needs.clone());
            }
        }
        if self.options.verbosity > Verbosity::Quiet {
            let header = self.summary.header(self.options.theme);
            self.waiting.push(header);
        }
    }

    fn happening(&mut self, happening: &Happening) {
        if self.options.verbosity < happening.from {
            return;
        }
        let mut line = Line::new();
        line.push(happening.tone, happening.glyph).plain(" ");
        if !happening.label.is_empty() {
            line.plain(happening.label.clone());
            if happening.rest.width() > 0 {
                line.to_column(2 + self.labels).plain("  ");
            }
        }
        line.extend(&happening.rest);
        self.waiting.push(line);
        if let Some(hint) = &happening.hint {
            let mut line = Line::new();
            line.plain("  ").push(Tone::Active, format!("hint: {hint}"));
            self.waiting.push(line);
        }
    }

    /// A line a step: the summary has all outputs, and all of an error.
    fn cut_outputs(&mut self) {
        let columns = (self.size)().columns.max(20) - 1;
        if let Some(line) = self.waiting.last_mut() {
            *line = line.cut(self.options.theme, columns);
        }
    }

    /// The error, and its log in full, unless that was shown line by line.
    fn failure(&mut self, step: &StepKey, columns: usize) {
        let log = self.logs.take(step);
        let verbose = self.options.verbosity == Verbosity::Verbose;
        let row = self.summary.rows.get(step);
        let mut title = row.map_or_else(
            || text::label(step),
            |row| crate::summary_text::title(step, row),
        );
        if let Some(row) = row {
            title.push_str(&format!("  {}", text::duration(row.duration_ms)));
        }
        let failure = Failure {
            title,
            error: row.and_then(|row| row.error.as_ref()),
            log: if verbose {
                Vec::new()
            } else {
                log.lines().collect()
            },
            earlier: log.dropped,
            more: (log.dropped > 0).then(|| self.summary.logs_command(Some(step))),
        };
        self.waiting
            .extend(failure.lines(self.options.theme, columns));
    }

    fn log(&mut self, step: &StepKey, text: &str) {
        let text = clean(text);
        self.logs.push(step, &text);
        if let Some(running) = self.running.get_mut(step) {
            running.progress = None;
        }
        if self.options.verbosity == Verbosity::Verbose {
            for text in text.split('\n') {
                let mut line = Line::new();
                line.push(Tone::Faint, self.options.theme.bar())
                    .plain(" ")
                    .push(Tone::Faint, text::label(step))
                    .to_column(2 + self.labels)
                    .plain("  ")
                    .plain(text);
                self.waiting.push(line);
            }
        }
    }

    fn spinner(&self) -> &'static str {
        let frame = self.now.as_millisecond().div_euclid(FRAME_MS);
        let pictures: &[&'static str] = if self.options.theme.unicode {
            &SPINNER
        } else {
            &ASCII_SPINNER
        };
        let count = i64::try_from(pictures.len()).unwrap_or(1);
        usize::try_from(frame.rem_euclid(count))
            .ok()
            .and_then(|index| pictures.get(index))
            .unwrap_or(&"*")
    }

    fn running_line(&self, step: &StepKey, running: &Running) -> Line {
        let mut line = Line::new();
        line.push(Tone::Active, self.spinner())
            .plain(" ")
            .push(Tone::Strong, text::label(step))
            .to_column(2 + self.labels)
            .plain("  ");
        let time = text::offset(between(running.since, self.now));
        let column = line.width() + 8;
        line.push(Tone::Active, time).to_column(column).plain("  ");
        if running.attempt > 1 {
            line.push(Tone::Warning, format!("attempt {} ", running.attempt));
        }
        let said = running.progress.as_deref().or(self.logs.last(step));
        line.push(Tone::Faint, said.unwrap_or_default());
        line
    }

    fn pending_line(&self, step: &StepKey, needs: &[StepName]) -> Line {
        let theme = self.options.theme;
        let mut line = Line::new();
        line.push(Tone::Faint, theme.dot())
            .plain(" ")
            .push(Tone::Faint, text::label(step));
        let open: Vec<String> = needs
            .iter()
            .filter(|need| self.is_open(need))
            .map(|need| clean_line(need.as_str()).into_owned())
            .collect();
        if !open.is_empty() {
            line.to_column(2 + self.labels)
                .push(Tone::Faint, format!("  after {}", open.join(", ")));
        }
        line
    }

    fn is_open(&self, name: &StepName) -> bool {
        self.pending
            .keys()
            .chain(self.running.keys())
            .any(|step| step.name == *name)
    }

    /// What is drawn anew: at most one row less than the screen has, since the
    /// cursor stands below.
    fn region(&self, size: Size) -> Vec<Line> {
        // Below that many rows there is no room for a region and what is done.
        if self.finished || self.summary.started.is_none() || size.rows < 4 {
            return Vec::new();
        }
        let room = size.rows.saturating_sub(2);
        let total = self.running.len() + self.pending.len();
        let shown = if total <= room {
            total
        } else {
            room.saturating_sub(1)
        };
        let mut lines: Vec<Line> = self
            .running
            .iter()
            .map(|(step, running)| self.running_line(step, running))
            .chain(
                self.pending
                    .iter()
                    .map(|(step, needs)| self.pending_line(step, needs)),
            )
            .take(shown)
            .collect();
        if shown < total {
            let running = self.running.len().saturating_sub(shown);
            let pending = total - shown - running;
            let mut parts = Vec::new();
            if running > 0 {
                parts.push(format!("{running} more running"));
            }
            if pending > 0 {
                parts.push(format!("{pending} waiting"));
            }
            let mut line = Line::new();
            let ellipsis = self.options.theme.ellipsis();
            line.push(Tone::Faint, format!("{ellipsis} {}", parts.join(", ")));
            lines.push(line);
        }
        lines.push(self.status_line(total));
        lines
    }

    fn status_line(&self, open: usize) -> Line {
        let all = self.summary.rows.len();
        let began = self.summary.started.as_ref().map(|(at, _)| *at);
        let time = text::offset(began.map_or(0, |began| between(began, self.now)));
        let dot = self.options.theme.dot();
        let done = all.saturating_sub(open);
        let mut line = Line::new();
        line.push(
            Tone::Faint,
            format!("  {done} of {} {dot} {time}", text::count(all, "step")),
        );
        line
    }

    fn draw(&mut self) -> io::Result<()> {
        let size = (self.size)();
        let columns = size.columns.max(20);
        let theme = self.options.theme;
        let mut out = String::from(BEGIN_UPDATE);
        if !self.cursor_hidden && !self.finished {
            out.push_str(HIDE_CURSOR);
            self.cursor_hidden = true;
        }
        // A terminal that became narrower has broken the lines of the region.
        let rows: usize = self
            .drawn
            .iter()
            .map(|width| width.div_ceil(columns).max(1))
            .sum();
        let rows = rows.min(size.rows.saturating_sub(1));
        if rows > 0 {
            out.push_str(&format!("\r\x1b[{rows}A"));
        }
        let reflowed = rows != self.drawn.len();
        if !self.waiting.is_empty() || reflowed {
            out.push_str(CLEAR_BELOW);
        }
        for line in self.waiting.drain(..) {
            out.push_str(line.render(theme, usize::MAX).trim_end());
            out.push_str("\r\n");
        }
        self.drawn.clear();
        // The last column stays free: writing there leaves terminals undecided
        // about where the cursor is.
        let region = self.region(Size { columns, ..size });
        for line in region {
            out.push_str(&line.render(theme, columns - 1));
            out.push_str(CLEAR_LINE_END);
            out.push_str("\r\n");
            self.drawn.push(line.width().min(columns - 1));
        }
        out.push_str(CLEAR_BELOW);
        if self.finished && self.cursor_hidden {
            out.push_str(SHOW_CURSOR);
            self.cursor_hidden = false;
        }
        out.push_str(END_UPDATE);
        self.out.write_all(out.as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write + Send> Reporter for Live<W> {
    fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
        self.summary.event(envelope);
        self.now = self.now.max(envelope.at);
        let mut draw = true;
        match &envelope.event {
            Event::RunStarted(started) => self.start(started),
            Event::RunResumed(_) => {
                // What was under way was cut short with the process.
                self.running.clear();
                self.finished = false;
                if let Some(happening) = Happening::of(&envelope.event, self.options.theme) {
                    self.happening(&happening);
                }
            }
            Event::StepStarted { step, attempt } => {
                self.pending.shift_remove(step);
                let running = Running {
                    since: envelope.at,
                    attempt: *attempt,
                    progress: None,
                };
                // Of a further attempt, the time goes on.
                match self.running.get_mut(step) {
                    Some(known) => known.attempt = *attempt,
                    None => {
                        self.running.insert(step.clone(), running);
                    }
                }
            }
            Event::StepLog { step, text, .. } => {
                self.log(step, text);
                draw = self.waiting.len() > MAX_WAITING;
            }
            Event::StepProgress {
                step,
                message,
                done,
                total,
            } => {
                let mut said = clean_line(message).into_owned();
                if *total > 0 {
                    let percent = done.saturating_mul(100) / total;
                    said = format!("{:>3} %  {said}", percent.min(100));
                }
                if let Some(running) = self.running.get_mut(step) {
                    running.progress = Some(said);
                }
                draw = false;
            }
            Event::StepFinished { step, state, .. } => {
                self.pending.shift_remove(step);
                self.running.shift_remove(step);
                if *state == StepState::Failed {
                    let columns = (self.size)().columns.max(20);
                    self.failure(step, columns);
                } else {
                    self.logs.take(step);
                    if let Some(happening) = Happening::of(&envelope.event, self.options.theme) {
                        self.happening(&happening);
                        self.cut_outputs();
                    }
                }
            }
            Event::RunFinished(_) => {
                self.finished = true;
                if self.options.summary && self.options.verbosity > Verbosity::Quiet {
                    let columns = (self.size)().columns;
                    self.waiting.push(Line::new());
                    let lines = self.summary.lines(columns, self.options.theme);
                    self.waiting.extend(lines);
                } else {
                    let total = self.summary.total(self.options.theme);
                    self.waiting.push(total);
                }
            }
            event => match Happening::of(event, self.options.theme) {
                Some(happening) => self.happening(&happening),
                None => draw = false,
            },
        }
        if draw { self.draw() } else { Ok(()) }
    }

    fn tick(&mut self, now: Timestamp) -> io::Result<()> {
        self.now = self.now.max(now);
        if self.finished || self.summary.started.is_none() {
            return Ok(());
        }
        self.draw()
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.finished || !self.waiting.is_empty() || self.cursor_hidden {
            self.finished = true;
            self.draw()?;
        }
        Ok(())
    }
}

impl<W: Write> Drop for Live<W> {
    /// Also when a panic unwinds.
    fn drop(&mut self) {
        if self.cursor_hidden {
            // Nothing can be told any more when this fails.
            let _ = self.out.write_all(RESTORE_TERMINAL.as_bytes());
            let _ = self.out.flush();
        }
    }
}
