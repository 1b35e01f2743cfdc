//! The summary for a terminal or a log.

use windlass_model::StepKey;
use windlass_model::event::{Severity, StepState};

use crate::clean::{clean_line, defuse};
use crate::failure::{Failure, headline};
use crate::summary::{Row, Summary};
use crate::text;
use crate::theme::{Line, Theme, Tone, state_word, wrap};

/// Failures that are told at length; the table names all.
const MAX_BOXES: usize = 5;

/// Below this width the words for the states go: their signs stay.
const NARROW: usize = 72;

impl Summary {
    /// Ends with a newline. No line of ours is wider than `width`, save for
    /// what steps printed and for commands to copy.
    pub fn render_text(&self, width: usize, theme: Theme) -> String {
        let mut out = String::new();
        for line in self.lines(width, theme) {
            out.push_str(&defuse(line.render(theme, usize::MAX).trim_end()));
            out.push('\n');
        }
        out
    }

    pub(crate) fn lines(&self, width: usize, theme: Theme) -> Vec<Line> {
        let width = width.max(40);
        let mut lines = vec![self.header(theme), Line::new()];
        lines.extend(self.table(width, theme));
        for failure in self.boxes() {
            lines.push(Line::new());
            lines.extend(failure.lines(theme, width));
        }
        let mut rest = self.rollback_lines(width, theme);
        rest.extend(self.remark_lines(width));
        rest.extend(self.notification_lines(width, theme));
        rest.extend(self.release_lines(theme));
        if !rest.is_empty() {
            lines.push(Line::new());
            lines.extend(rest);
        }
        lines.push(Line::new());
        lines.push(self.total(theme));
        lines
    }

    /// `observer → prod · 20260124-014658 · main c0ffee1`
    pub(crate) fn header(&self, theme: Theme) -> Line {
        let mut line = Line::new();
        let (pipeline, environment) = self.names();
        line.push(Tone::Strong, pipeline);
        if !environment.is_empty() {
            line.push(Tone::Faint, format!(" {} ", theme.arrow()))
                .push(Tone::Strong, environment);
        }
        let Some((_, started)) = &self.started else {
            return line;
        };
        let mut fact = |text: String| {
            if !text.is_empty() {
                line.push(Tone::Faint, format!(" {} {text}", theme.dot()));
            }
        };
        fact(clean_line(&started.tag).into_owned());
        let commit = text::commit(&started.commit);
        let mut place = format!("{} {commit}", started.branch).trim().to_owned();
        if started.dirty {
            place.push_str(" (dirty)");
        }
        fact(clean_line(&place).into_owned());
        fact(format!("run {}", started.run.short()));
        line
    }

    fn table(&self, width: usize, theme: Theme) -> Vec<Line> {
        let labels: Vec<String> = self.rows.keys().map(text::label).collect();
        let widest = labels
            .iter()
            .map(|label| unicode_width::UnicodeWidthStr::width(label.as_str()))
            .max()
            .unwrap_or(0)
            .min(width / 3);
        let words = width >= NARROW;
        let mut lines = Vec::new();
        for (row, label) in self.rows.values().zip(labels) {
            let (glyph, tone, word) = match row.state {
                Some(state) => {
                    let (glyph, tone) = theme.state(state);
                    (glyph, tone, state_word(state))
                }
                None if row.attempt > 0 => (theme.glyph("▸", ">"), Tone::Active, "unfinished"),
                None => (theme.dot(), Tone::Faint, "not run"),
            };
            let mut line = Line::new();
            line.push(tone, glyph).plain(" ");
            let name_tone = if tone == Tone::Faint {
                Tone::Faint
            } else {
                Tone::Plain
            };
            line.push(name_tone, crate::theme::fit(theme, &label, widest))
                .to_column(2 + widest + 2);
            if words {
                line.push(tone, word).to_column(2 + widest + 2 + 10 + 1);
            }
            let time = row.time();
            let column = line.width() + 9;
            line.to_column(column.saturating_sub(time.len()))
                .push(Tone::Faint, time)
                .plain("  ");
            let column = line.width();
            let room = width.saturating_sub(column).max(16);
            let details = row.details(theme, room);
            if details.is_empty() {
                lines.push(line);
                continue;
            }
            for (index, mut detail) in details.into_iter().enumerate() {
                let mut line = if index == 0 {
                    std::mem::take(&mut line)
                } else {
                    Line::new()
                };
                line.to_column(column);
                for (tone, text) in detail.drain(..) {
                    line.push(tone, text);
                }
                lines.push(line);
            }
        }
        lines
    }

    pub(crate) fn boxes(&self) -> Vec<Failure<'_>> {
        let mut boxes: Vec<Failure<'_>> = self
            .failures()
            .take(MAX_BOXES)
            .map(|(step, row)| Failure {
                title: title(step, row),
                error: row.error.as_ref(),
                log: row.tail.iter().map(String::as_str).collect(),
                earlier: row.earlier,
                more: (!row.tail.is_empty()).then(|| self.logs_command(Some(step))),
            })
            .collect();
        if let Some(error) = self.own_error() {
            boxes.push(Failure {
                title: "the run failed".to_owned(),
                error: Some(error),
                log: Vec::new(),
                earlier: 0,
                more: None,
            });
        }
        boxes
    }

    pub(crate) fn logs_command(&self, step: Option<&StepKey>) -> String {
        let step = step.map_or_else(String::new, |step| format!(" {}", text::label(step)));
        format!("windlass logs {}{step}", self.run())
    }

    fn rollback_lines(&self, width: usize, theme: Theme) -> Vec<Line> {
        let Some(rollback) = &self.rollback else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        for (target, restored) in &rollback.targets {
            let mut line = Line::new();
            let target = clean_line(target.as_str()).into_owned();
            match restored {
                Some(restored) => {
                    let time = text::duration(restored.duration_ms);
                    match (&restored.error, &restored.release) {
                        (Some(error), _) => {
                            line.push(Tone::Bad, format!("{} ", theme.glyph("✗", "x")))
                                .plain(format!("rollback of {target} failed: "))
                                .plain(clean_line(&error.message).into_owned());
                        }
                        (None, Some(release)) => {
                            line.push(Tone::Warning, format!("{} ", theme.glyph("↺", "<")))
                                .plain(format!("{target} is back on "))
                                .push(Tone::Strong, clean_line(release).into_owned());
                        }
                        (None, None) => {
                            line.push(Tone::Warning, format!("{} ", theme.glyph("↺", "<")))
                                .plain(format!("{target} has no earlier release; stopped"));
                        }
                    }
                    line.push(Tone::Faint, format!("  {time}"));
                }
                None => {
                    line.push(Tone::Bad, format!("{} ", theme.glyph("✗", "x")))
                        .plain(format!("{target} was not put back"));
                }
            }
            lines.push(line);
        }
        if !rollback.reason.is_empty() {
            for text in wrap(
                &format!("because {}", clean_line(&rollback.reason)),
                width.saturating_sub(4),
            ) {
                let mut line = Line::new();
                line.push(Tone::Faint, format!("  {text}"));
                lines.push(line);
            }
        }
        lines
    }

    fn remark_lines(&self, width: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for remark in &self.remarks {
            let tone = if remark.severity == Severity::Problem {
                Tone::Bad
            } else {
                Tone::Warning
            };
            let subject = remark
                .step
                .as_ref()
                .map_or_else(String::new, |step| format!("{}: ", text::label(step)));
            let message = format!("{subject}{}", remark.message);
            lines.extend(bulleted(tone, "!", Tone::Plain, &message, width));
            if let Some(hint) = &remark.hint {
                let hint = format!("hint: {hint}");
                lines.extend(bulleted(tone, " ", Tone::Active, &hint, width));
            }
        }
        lines
    }

    fn notification_lines(&self, width: usize, theme: Theme) -> Vec<Line> {
        let mut lines = Vec::new();
        for notification in &self.notifications {
            let name = clean_line(notification.name.as_str()).into_owned();
            match &notification.error {
                None => {
                    let mut line = Line::new();
                    line.push(Tone::Good, theme.glyph("✓", "+"))
                        .plain(format!(" {name} notified"));
                    lines.push(line);
                }
                Some(error) => {
                    let message =
                        format!("{name} was not notified: {}", clean_line(&error.message));
                    lines.extend(bulleted(Tone::Warning, "!", Tone::Plain, &message, width));
                    if let Some(hint) = &error.hint {
                        let hint = format!("hint: {}", clean_line(hint));
                        lines.extend(bulleted(Tone::Warning, " ", Tone::Active, &hint, width));
                    }
                }
            }
        }
        lines
    }

    fn release_lines(&self, theme: Theme) -> Vec<Line> {
        let Some(finished) = &self.finished else {
            return Vec::new();
        };
        finished
            .releases
            .iter()
            .map(|(target, release)| {
                let mut line = Line::new();
                line.push(Tone::Faint, theme.glyph("◆", "*"))
                    .plain(format!(" {} runs ", clean_line(target.as_str())))
                    .push(Tone::Strong, clean_line(release).into_owned());
                line
            })
            .collect()
    }

    /// `✓ succeeded in 12.3 s · windlass logs 1a2b3c4d`
    pub(crate) fn total(&self, theme: Theme) -> Line {
        let mut line = Line::new();
        let time = text::duration(self.total_ms());
        match &self.finished {
            Some(finished) => {
                let (glyph, tone, word) = theme.outcome(finished.outcome);
                line.push(tone, format!("{glyph} {word}"))
                    .plain(format!(" in {time}"));
            }
            None => {
                line.push(Tone::Warning, "! unfinished")
                    .plain(format!(" after {time}"));
            }
        }
        let counts = self.counts();
        if !counts.is_empty() {
            line.push(Tone::Faint, format!(" {} {counts}", theme.dot()));
        }
        if let Some((_, started)) = &self.started {
            line.push(Tone::Faint, format!(" {} ", theme.dot())).push(
                Tone::Active,
                format!("windlass show {}", started.run.short()),
            );
        }
        line
    }

    /// `5 succeeded, 1 failed, 2 skipped`
    fn counts(&self) -> String {
        let states = [
            StepState::Succeeded,
            StepState::Tolerated,
            StepState::Failed,
            StepState::Cancelled,
            StepState::Skipped,
            StepState::Reused,
        ];
        let parts: Vec<String> = states
            .into_iter()
            .filter_map(|state| {
                let number = self
                    .rows
                    .values()
                    .filter(|row| row.state == Some(state))
                    .count();
                (number > 0).then(|| format!("{number} {}", state_word(state)))
            })
            .collect();
        parts.join(", ")
    }
}

pub(crate) fn title(step: &StepKey, row: &Row) -> String {
    let uses = if row.uses.is_empty() {
        String::new()
    } else {
        format!(" ({})", clean_line(&row.uses))
    };
    let attempts = match row.attempt {
        0 | 1 => String::new(),
        more => format!(" after {more} attempts"),
    };
    format!("{}{uses} failed{attempts}", text::label(step))
}

fn bulleted(tone: Tone, bullet: &str, text_tone: Tone, text: &str, width: usize) -> Vec<Line> {
    wrap(text, width.saturating_sub(2))
        .into_iter()
        .enumerate()
        .map(|(index, text)| {
            let mut line = Line::new();
            line.push(tone, if index == 0 { bullet } else { " " })
                .plain(" ")
                .push(text_tone, text);
            line
        })
        .collect()
}

impl Row {
    /// Empty for what did not run.
    pub(crate) fn time(&self) -> String {
        match self.state {
            None | Some(StepState::Skipped | StepState::Reused) => String::new(),
            Some(_) => text::duration(self.duration_ms),
        }
    }

    /// Outputs, or why there are none: a line each.
    fn details(&self, theme: Theme, room: usize) -> Vec<Vec<(Tone, String)>> {
        if let Some(reason) = &self.reason {
            let text = crate::theme::fit(theme, &clean_line(reason), room);
            return vec![vec![(Tone::Faint, text)]];
        }
        if let Some(error) = &self.error {
            let text = crate::theme::fit(theme, &headline(&error.message), room);
            return vec![vec![(Tone::Plain, text)]];
        }
        self.outputs
            .iter()
            .map(|(name, value)| {
                let name = clean_line(name).into_owned();
                let width = unicode_width::UnicodeWidthStr::width(name.as_str());
                let room = room.saturating_sub(width + 1);
                let value = crate::theme::fit(theme, &text::output(value), room);
                vec![(Tone::Faint, format!("{name} ")), (Tone::Plain, value)]
            })
            .collect()
    }
}
