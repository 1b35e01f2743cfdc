//! A failure as people need it: what, where, why, what to do, and the last
//! words.

use windlass_model::CallError;

use crate::clean::clean;
use crate::theme::{Line, Theme, Tone, wrap};

/// What a failure holds beside its error.
pub(crate) struct Failure<'a> {
    pub(crate) title: String,
    pub(crate) error: Option<&'a CallError>,
    pub(crate) log: Vec<&'a str>,
    /// Lines that came before those.
    pub(crate) earlier: usize,
    /// What to type to see more.
    pub(crate) more: Option<String>,
}

impl Failure<'_> {
    /// A bar at the left ties it together; nothing stands at the right, so
    /// that lines can be copied.
    pub(crate) fn lines(&self, theme: Theme, width: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        let room = width.saturating_sub(2);
        let mut head = Line::new();
        head.push(
            Tone::Bad,
            format!("{} {}", theme.glyph("✗", "x"), self.title),
        );
        lines.push(head);
        let mut bar = |tone: Tone, text: String| {
            let mut line = Line::new();
            line.push(Tone::Bad, theme.bar());
            if !text.is_empty() {
                line.plain(" ").push(tone, text);
            }
            lines.push(line);
        };
        if let Some(error) = self.error {
            for text in wrap(&clean(&error.message), room) {
                bar(Tone::Strong, text);
            }
            if let Some(hint) = &error.hint {
                for (index, text) in wrap(&clean(hint), room.saturating_sub(6))
                    .into_iter()
                    .enumerate()
                {
                    let lead = if index == 0 { "hint: " } else { "      " };
                    bar(Tone::Active, format!("{lead}{text}"));
                }
            }
        }
        if !self.log.is_empty() {
            bar(Tone::Plain, String::new());
        }
        if self.earlier > 0 {
            let lines = crate::text::count(self.earlier, "earlier line");
            bar(Tone::Faint, format!("{} {lines}", theme.ellipsis()));
        }
        for text in &self.log {
            // Whole, however wide: it may be what somebody searches for.
            bar(Tone::Plain, (*text).to_owned());
        }
        if let Some(more) = &self.more {
            let mut line = Line::new();
            line.push(Tone::Bad, theme.glyph("╰", "`"))
                .push(Tone::Faint, " all of it: ")
                .push(Tone::Active, more.clone());
            lines.push(line);
        }
        lines
    }
}
