//! How output looks: colours or none, Unicode or ASCII. Output reads without
//! colour; colour only helps the eye.

use std::fmt;
use std::str::FromStr;

use owo_colors::{OwoColorize, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use windlass_model::event::{Outcome, StepState};

/// `--color`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorChoice {
    pub const NAMES: [&'static str; 3] = ["auto", "always", "never"];

    /// `environment` looks a variable up. Order: the option; `NO_COLOR`
    /// (no-color.org); `FORCE_COLOR` and `CLICOLOR_FORCE`; `CLICOLOR`
    /// (bixense.com/clicolors); a dumb terminal; CI systems that show colours;
    /// whether it is a terminal.
    pub fn resolve(self, is_terminal: bool, environment: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Always => return true,
            Self::Never => return false,
            Self::Auto => {}
        }
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        if set("NO_COLOR").is_some() {
            return false;
        }
        for name in ["FORCE_COLOR", "CLICOLOR_FORCE"] {
            if let Some(value) = set(name) {
                return value != "0";
            }
        }
        if set("CLICOLOR").is_some_and(|value| value == "0")
            || set("TERM").is_some_and(|value| value == "dumb")
        {
            return false;
        }
        is_terminal || set("GITHUB_ACTIONS").is_some() || set("GITLAB_CI").is_some()
    }
}

impl FromStr for ColorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => Err(format!("`{other}` is none of {}", Self::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for ColorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// Whether more than ASCII can be shown, after the locale's variables.
pub fn shows_unicode(environment: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    if set("GITHUB_ACTIONS").is_some() || set("GITLAB_CI").is_some() {
        return true;
    }
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(set)
        .is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        })
}

/// The role of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// Names.
    Strong,
    /// What matters less.
    Faint,
    Good,
    Bad,
    Warning,
    /// What is under way, and what to type.
    Active,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    pub color: bool,
    pub unicode: bool,
}

impl Theme {
    /// For files and tests.
    pub const PLAIN: Self = Self {
        color: false,
        unicode: true,
    };

    pub fn paint(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            _ if !self.color || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Good => Style::new().green(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Warning => Style::new().yellow(),
            Tone::Active => Style::new().cyan(),
        };
        text.style(style).to_string()
    }

    /// One of the two, by what can be shown.
    pub fn glyph(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    pub fn ellipsis(self) -> &'static str {
        self.glyph("…", "...")
    }

    pub fn arrow(self) -> &'static str {
        self.glyph("→", "->")
    }

    pub fn dot(self) -> &'static str {
        self.glyph("·", "-")
    }

    pub fn bar(self) -> &'static str {
        self.glyph("│", "|")
    }

    pub fn state(self, state: StepState) -> (&'static str, Tone) {
        match state {
            StepState::Succeeded => (self.glyph("✓", "+"), Tone::Good),
            StepState::Tolerated => (self.glyph("!", "!"), Tone::Warning),
            StepState::Failed => (self.glyph("✗", "x"), Tone::Bad),
            StepState::Skipped => (self.glyph("○", "-"), Tone::Faint),
            StepState::Cancelled => (self.glyph("■", "#"), Tone::Warning),
            StepState::Reused => (self.glyph("↺", "="), Tone::Faint),
        }
    }

    pub fn outcome(self, outcome: Outcome) -> (&'static str, Tone, &'static str) {
        match outcome {
            Outcome::Succeeded => (self.glyph("✓", "+"), Tone::Good, "succeeded"),
            Outcome::Failed => (self.glyph("✗", "x"), Tone::Bad, "failed"),
            Outcome::Cancelled => (self.glyph("■", "#"), Tone::Warning, "cancelled"),
        }
    }
}

/// The word for a state.
pub fn state_word(state: StepState) -> &'static str {
    match state {
        StepState::Succeeded => "succeeded",
        StepState::Tolerated => "tolerated",
        StepState::Failed => "failed",
        StepState::Skipped => "skipped",
        StepState::Cancelled => "cancelled",
        StepState::Reused => "reused",
    }
}

/// A line of toned pieces, whose width is known before it is painted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Tone, String)>);

impl Line {
    pub fn new() -> Self {
        Self::default()
    }

    /// Text of our own, or text that is clean already.
    pub fn push(&mut self, tone: Tone, text: impl Into<String>) -> &mut Self {
        let text = text.into();
        if !text.is_empty() {
            self.0.push((tone, text));
        }
        self
    }

    pub fn plain(&mut self, text: impl Into<String>) -> &mut Self {
        self.push(Tone::Plain, text)
    }

    /// Spaces up to a column.
    pub fn to_column(&mut self, column: usize) -> &mut Self {
        let width = self.width();
        self.plain(" ".repeat(column.saturating_sub(width)))
    }

    pub fn extend(&mut self, other: &Self) -> &mut Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Columns of a terminal.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// Painted, and cut as [`Line::cut`] does.
    pub fn render(&self, theme: Theme, max: usize) -> String {
        if self.width() > max {
            return self.cut(theme, max).render(theme, max);
        }
        self.0
            .iter()
            .map(|(tone, text)| theme.paint(*tone, text))
            .collect()
    }

    /// With an ellipsis where it is wider than `max`.
    #[must_use]
    pub fn cut(&self, theme: Theme, max: usize) -> Self {
        if self.width() <= max {
            return self.clone();
        }
        let mut out = Self::new();
        let Some(mut room) = max.checked_sub(theme.ellipsis().width()) else {
            return out;
        };
        for (tone, text) in &self.0 {
            let width = text.width();
            if width > room {
                out.push(*tone, head(text, room));
                break;
            }
            out.push(*tone, text);
            room -= width;
        }
        out.push(Tone::Faint, theme.ellipsis());
        out
    }
}

/// The longest beginning that is at most `width` columns wide.
pub(crate) fn head(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// Cut with an ellipsis where it is wider than `max`.
pub(crate) fn fit(theme: Theme, text: &str, max: usize) -> String {
    let mut line = Line::new();
    line.plain(text);
    line.render(
        Theme {
            color: false,
            ..theme
        },
        max,
    )
}

/// Breaks text into lines of at most `width` columns, at spaces. What readers copy stays
/// whole: a longer word, and a line that begins with two spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        if paragraph.starts_with("  ") {
            lines.push(paragraph.to_owned());
            continue;
        }
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() {
                if line.width() + 1 + word.width() <= width {
                    line.push(' ');
                    line.push_str(word);
                    continue;
                }
                lines.push(std::mem::take(&mut line));
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(choice: ColorChoice, terminal: bool, variables: &[(&str, &str)]) -> bool {
        choice.resolve(terminal, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colour_follows_the_conventions() {
        use ColorChoice::{Always, Auto, Never};
        assert!(resolve(Auto, true, &[]));
        assert!(!resolve(Auto, false, &[]));
        assert!(!resolve(Auto, true, &[("NO_COLOR", "1")]));
        assert!(resolve(Auto, true, &[("NO_COLOR", "")]));
        assert!(!resolve(
            Auto,
            true,
            &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]
        ));
        assert!(resolve(Auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!resolve(Auto, true, &[("FORCE_COLOR", "0")]));
        assert!(!resolve(Auto, true, &[("CLICOLOR", "0")]));
        assert!(!resolve(Auto, true, &[("TERM", "dumb")]));
        assert!(resolve(Auto, false, &[("GITHUB_ACTIONS", "true")]));
        assert!(resolve(Always, false, &[("NO_COLOR", "1")]));
        assert!(!resolve(Never, true, &[("CLICOLOR_FORCE", "1")]));
        assert_eq!("never".parse(), Ok(Never));
        assert!("sometimes".parse::<ColorChoice>().is_err());
    }

    #[test]
    fn unicode_follows_the_locale() {
        let locale = |variables: &'static [(&str, &str)]| {
            shows_unicode(|name| {
                variables
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(locale(&[("LANG", "en_GB.UTF-8")]));
        assert!(locale(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!locale(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!locale(&[]));
    }

    #[test]
    fn lines_are_cut_by_columns() {
        let mut line = Line::new();
        line.push(Tone::Good, "日本語").plain("abc");
        assert_eq!(line.width(), 9);
        assert_eq!(line.render(Theme::PLAIN, 9), "日本語abc");
        assert_eq!(line.render(Theme::PLAIN, 8), "日本語a…");
        assert_eq!(line.render(Theme::PLAIN, 6), "日本…");
        assert_eq!(line.render(Theme::PLAIN, 0), "");
    }

    #[test]
    fn text_is_wrapped_at_spaces() {
        assert_eq!(
            wrap("one two three\n\nabcdefghijklm", 9),
            ["one two", "three", "", "abcdefghijklm"]
        );
        assert_eq!(
            wrap("add this line:\n  grant = [\"a b\"]", 9),
            ["add this", "line:", "  grant = [\"a b\"]"]
        );
    }
}
