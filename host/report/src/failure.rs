//! A failure as people need it: what, where, why, what to do, and the last
//! words.

use std::borrow::Cow;

use windlass_model::CallError;

use crate::clean::{clean, clean_line};
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
            for text in wrap(without_quote(&clean(&error.message), &self.log), room) {
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
        let leads = self.error.is_some_and(|error| {
            let message = clean(&error.message);
            error.hint.is_none() && without_quote(&message, &self.log).ends_with(':')
        });
        if !self.log.is_empty() && !leads {
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

/// A message without what it quotes of the log at its end, when the log is shown, too.
/// Quoted lines are indented by two spaces.
fn without_quote<'a>(message: &'a str, log: &[&str]) -> &'a str {
    let Some(head) = head(message) else {
        return message;
    };
    let said = |line: &&str| !line.is_empty();
    let quoted = message[head.len()..].lines().map(str::trim).filter(said);
    let shown = log.iter().map(|line| line.trim()).filter(said);
    let mut shown = shown.rev();
    if quoted.rev().all(|quoted| shown.next() == Some(quoted)) {
        head
    } else {
        message
    }
}

/// A message up to the lines that it quotes, if it quotes any.
fn head(message: &str) -> Option<&str> {
    let (head, quoted) = message.split_once("\n  ")?;
    quoted
        .lines()
        .skip(1)
        .all(|line| line.trim().is_empty() || line.starts_with("  "))
        .then_some(head)
}

/// A message for one line of a table.
pub(crate) fn headline(message: &str) -> Cow<'_, str> {
    match head(message) {
        Some(head) => clean_line(head.strip_suffix(':').unwrap_or(head)),
        None => clean_line(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_says_is_not_said_twice() {
        let message = "sh exited with 3:\n  no space\n\n    left";
        let log = ["deploying", "no space", "", "  left"];
        assert_eq!(without_quote(message, &log), "sh exited with 3:");
        assert_eq!(without_quote(message, &log[..3]), message);
        assert_eq!(without_quote(message, &[]), message);
        assert_eq!(without_quote("one\ntwo", &["two"]), "one\ntwo");
    }

    #[test]
    fn a_table_has_the_first_line() {
        assert_eq!(
            headline("sh exited with 3:\n  no space"),
            "sh exited with 3"
        );
        assert_eq!(headline("one\ntwo"), "one two");
    }
}
