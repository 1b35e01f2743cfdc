//! Tables for the commands that list something.

use jiff::Timestamp;
use windlass_model::event::{Level, Outcome};
use windlass_model::reply::{Release, ReleaseState};
use windlass_model::{RunId, StepKey, TargetName};

use crate::clean::{clean, clean_line, defuse};
use crate::summary::between;
use crate::text;
use crate::theme::{Line, Theme, Tone, fit};

/// Rows under a head; columns as wide as they need, the last one cut.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(Tone, String)>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Cells are cleaned here.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (Tone, String)>) {
        let cells = cells
            .into_iter()
            .map(|(tone, text)| (tone, clean_line(&text).into_owned()))
            .collect();
        self.rows.push(cells);
    }

    /// Ends with a newline; empty without rows.
    pub fn render(&self, width: usize, theme: Theme) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let wide = |text: &str| unicode_width::UnicodeWidthStr::width(text);
        let columns: Vec<usize> = (0..self.head.len())
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|(_, text)| wide(text))
                    .chain([wide(self.head[column])])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        let mut emit = |cells: &mut dyn Iterator<Item = (Tone, &str)>| {
            let mut line = Line::new();
            let mut at = 0;
            for ((tone, text), column) in cells.zip(&columns) {
                line.to_column(at);
                // Cut only where cutting hides least: at the end of the row.
                let room = width.saturating_sub(at).max(12);
                line.push(tone, fit(theme, text, (*column).min(room)));
                at += column + 2;
            }
            out.push_str(&defuse(line.render(theme, width.max(20)).trim_end()));
            out.push('\n');
        };
        emit(&mut self.head.iter().map(|head| (Tone::Faint, *head)));
        for row in &self.rows {
            emit(&mut row.iter().map(|(tone, text)| (*tone, text.as_str())));
        }
        out
    }
}

/// A line of `windlass runs`.
#[derive(Clone, Debug)]
pub struct Run {
    pub run: RunId,
    pub started: Timestamp,
    pub pipeline: String,
    pub environment: String,
    pub tag: String,
    pub commit: String,
    /// `None` when it has not finished.
    pub outcome: Option<Outcome>,
    pub duration_ms: Option<u64>,
}

/// Newest first, as they come. Times are told from `now`.
pub fn runs(runs: &[Run], now: Timestamp, width: usize, theme: Theme) -> String {
    let mut table = Table::new(&["run", "", "started", "took", "pipeline", "tag", "commit"]);
    for run in runs {
        let (glyph, tone, word) = match run.outcome {
            Some(outcome) => theme.outcome(outcome),
            None => (theme.glyph("▸", ">"), Tone::Active, "unfinished"),
        };
        let pipeline = if run.environment.is_empty() {
            run.pipeline.clone()
        } else {
            format!("{} {} {}", run.pipeline, theme.arrow(), run.environment)
        };
        table.row([
            (Tone::Active, run.run.short()),
            (tone, format!("{glyph} {word}")),
            (Tone::Plain, ago(run.started, now)),
            (
                Tone::Plain,
                run.duration_ms.map_or_else(String::new, text::duration),
            ),
            (Tone::Strong, pipeline),
            (Tone::Plain, run.tag.clone()),
            (Tone::Faint, text::commit(&run.commit).to_owned()),
        ]);
    }
    table.render(width, theme)
}

/// `12 s ago`, `3 min ago`, `5 h ago`, `2 days ago`
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = between(then, now) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// What is on the targets, with the newest of each first.
pub fn releases(targets: &[(TargetName, Vec<Release>)], width: usize, theme: Theme) -> String {
    let mut table = Table::new(&[
        "target", "release", "state", "tag", "commit", "run", "by", "created", "images",
    ]);
    for (target, releases) in targets {
        for release in releases {
            let (tone, state) = release_state(release);
            let mark = if release.is_current {
                theme.glyph("◆ ", "* ")
            } else {
                "  "
            };
            let images: Vec<String> = release
                .images
                .iter()
                .map(|(service, image)| format!("{service}={}", text::shorten(image)))
                .collect();
            // As `windlass resume` takes it.
            let run = release
                .run
                .parse()
                .map_or_else(|_| release.run.clone(), RunId::short);
            let name_tone = if release.is_current {
                Tone::Strong
            } else {
                Tone::Plain
            };
            table.row([
                (Tone::Plain, target.to_string()),
                // Cleaning trims the end only.
                (name_tone, format!("{mark}{}", release.id)),
                (tone, state.to_owned()),
                (Tone::Plain, release.tag.clone()),
                (Tone::Faint, text::commit(&release.commit).to_owned()),
                (Tone::Plain, run),
                (Tone::Plain, release.who.clone()),
                (Tone::Plain, release.created.clone()),
                (Tone::Faint, images.join(" ")),
            ]);
        }
    }
    table.render(width, theme)
}

/// How a state is shown.
pub fn release_state(release: &Release) -> (Tone, &'static str) {
    match release.state {
        ReleaseState::Staged => (Tone::Plain, "staged"),
        ReleaseState::Activating => (Tone::Warning, "activating"),
        ReleaseState::Current => (Tone::Active, "current"),
        ReleaseState::Good if release.is_current => (Tone::Good, "good"),
        ReleaseState::Good => (Tone::Plain, "good"),
        ReleaseState::Failed => (Tone::Bad, "failed"),
        ReleaseState::Superseded => (Tone::Faint, "superseded"),
    }
}

/// A line of `windlass plugins`.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub name: String,
    pub version: String,
    /// `built in`, or a path.
    pub origin: String,
    pub summary: String,
}

pub fn plugins(plugins: &[Plugin], width: usize, theme: Theme) -> String {
    let mut table = Table::new(&["plugin", "version", "from", "what it does"]);
    for plugin in plugins {
        table.row([
            (Tone::Strong, plugin.name.clone()),
            (Tone::Plain, plugin.version.clone()),
            (Tone::Faint, plugin.origin.clone()),
            (Tone::Plain, plugin.summary.clone()),
        ]);
    }
    table.render(width, theme)
}

/// One line of `windlass logs`, and more when the text holds some. `labels`:
/// the width of the column of steps; nothing is named when it is zero.
pub fn log_line(
    began: Timestamp,
    at: Timestamp,
    step: &StepKey,
    labels: usize,
    level: Level,
    text: &str,
    theme: Theme,
) -> String {
    let mut out = String::new();
    for text in clean(text).split('\n') {
        let mut line = Line::new();
        let time = text::offset(between(began, at));
        line.push(Tone::Faint, format!("{time:>8}  "));
        if labels > 0 {
            let column = line.width() + labels;
            line.push(Tone::Faint, text::label(step)).to_column(column);
            line.plain("  ");
        }
        let tone = match level {
            Level::Debug => Tone::Faint,
            Level::Info => Tone::Plain,
            Level::Warning => Tone::Warning,
            Level::Error => Tone::Bad,
        };
        line.push(tone, text);
        let line = line.render(theme, usize::MAX);
        out.push_str(&defuse(line.trim_end()));
        out.push('\n');
    }
    out
}
