//! Writing to stdout and stderr, with colours where they are wanted.

use std::io::{IsTerminal as _, Write as _};

use windlass_manifest::Diagnostics;
use windlass_model::CallError;
use windlass_report::{ColorChoice, Theme, Tone, shows_unicode};

use crate::exit::Exit;
use crate::project::ProjectError;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The two streams and how to write to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// For stdout.
    pub(crate) data: Theme,
    /// For stderr.
    pub(crate) people: Theme,
    pub(crate) err_is_terminal: bool,
    in_is_terminal: bool,
}

impl Terminal {
    pub(crate) fn new(color: ColorChoice) -> Self {
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let unicode = shows_unicode(variable);
        let theme = |is_terminal| Theme {
            color: color.resolve(is_terminal, variable),
            unicode,
        };
        Self {
            data: theme(out.is_terminal()),
            people: theme(err.is_terminal()),
            err_is_terminal: err.is_terminal(),
            in_is_terminal: std::io::stdin().is_terminal(),
        }
    }

    /// Columns of what people read.
    pub(crate) fn width(&self) -> usize {
        terminal_size().map_or(100, |(columns, _)| usize::from(columns).clamp(40, 160))
    }

    /// Data. A reader that went away is no error.
    pub(crate) fn out(&self, text: &str) {
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    pub(crate) fn json(&self, value: &serde_json::Value) {
        self.out(&format!("{value:#}\n"));
    }

    /// For people.
    pub(crate) fn say(&self, text: &str) {
        let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
    }

    pub(crate) fn error(&self, message: &str, hint: Option<&str>) {
        let head = self.people.paint(Tone::Bad, "error:");
        self.say(&format!("{head} {message}"));
        if let Some(hint) = hint {
            let head = self.people.paint(Tone::Active, "hint:");
            self.say(&format!("  {head} {hint}"));
        }
    }

    pub(crate) fn call_error(&self, error: &CallError) -> Exit {
        self.error(&error.message, error.hint.as_deref());
        Exit::for_error(error)
    }

    pub(crate) fn diagnostics(&self, diagnostics: &Diagnostics) {
        self.say(
            diagnostics
                .render(self.people.color, self.width())
                .trim_end(),
        );
    }

    pub(crate) fn project_error(&self, error: &ProjectError) -> Exit {
        match error {
            ProjectError::Missing { message, hint } => self.error(message, Some(hint)),
            ProjectError::Invalid(diagnostics) => self.diagnostics(diagnostics),
            ProjectError::Git(error) => {
                self.error(&error.message, error.hint.as_deref());
                return Exit::Engine;
            }
        }
        Exit::Invalid
    }

    /// Asks; no without a terminal, and without an answer.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        if !self.in_is_terminal {
            return false;
        }
        let _ = std::io::stderr().write_all(format!("{question} [y/N] ").as_bytes());
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// Asks for one of several words, by their first letters; the last one without an
    /// answer.
    pub(crate) fn choose(&self, question: &str, words: &[&'static str]) -> &'static str {
        let last = words.last().copied().unwrap_or_default();
        if !self.in_is_terminal {
            return last;
        }
        loop {
            let shown = words.join("/");
            let _ = std::io::stderr().write_all(format!("{question} [{shown}] ").as_bytes());
            let mut answer = String::new();
            match std::io::stdin().read_line(&mut answer) {
                Ok(0) | Err(_) => return last,
                Ok(_) => {}
            }
            if let Some(word) = meant(&answer, words) {
                return word;
            }
        }
    }

    pub(crate) fn asks(&self) -> bool {
        self.in_is_terminal
    }
}

/// The word that an answer begins.
fn meant(answer: &str, words: &[&'static str]) -> Option<&'static str> {
    let answer = answer.trim().to_lowercase();
    let begins = |word: &&&'static str| !answer.is_empty() && word.starts_with(&answer);
    words.iter().find(begins).copied()
}

/// Columns and rows, by what the terminal of stderr says, else COLUMNS.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let from = |name: &str| variable(name).and_then(|text| text.parse().ok());
    terminal_size::terminal_size_of(std::io::stderr())
        .map(|(width, height)| (width.0, height.0))
        .or_else(|| Some((from("COLUMNS")?, from("LINES").unwrap_or(24))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_letters_are_answers() {
        let words = ["yes", "no", "all", "quit"];
        for (answer, word) in [
            ("y\n", Some("yes")),
            (" NO ", Some("no")),
            ("al", Some("all")),
            ("quit", Some("quit")),
            ("", None),
            ("yess", None),
        ] {
            assert_eq!(meant(answer, &words), word, "{answer:?}");
        }
    }
}
