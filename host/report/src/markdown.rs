//! The summary as Markdown: for a file, and for a CI job's page. After GitHub
//! Flavored Markdown; nothing in it is taken from a step as markup.

use windlass_model::event::{Outcome, Severity, StepState};

use crate::clean::{clean, clean_line};
use crate::failure::headline;
use crate::summary::{Row, Summary};
use crate::text;

/// Lines of details are folded away in a failure.
const FENCE: usize = 3;

impl Summary {
    /// Ends with a newline.
    pub fn render_markdown(&self) -> String {
        let mut out = String::new();
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&self.markdown_title());
        line("");
        if let Some(facts) = self.markdown_facts() {
            line(&facts);
            line("");
        }
        line("| | step | state | time | outputs |");
        line("|---|---|---|---:|---|");
        for (step, row) in &self.rows {
            let label = escape(&text::label(step));
            let (sign, word) = sign(row);
            let (time, details) = (row.time(), row.markdown_details());
            line(&format!(
                "| {sign} | {label} | {word} | {time} | {details} |"
            ));
        }
        for failure in self.boxes() {
            line("");
            line(&format!("#### ❌ {}", escape(&failure.title)));
            if let Some(error) = failure.error {
                line("");
                line(&escape(&clean(&error.message)));
                if let Some(hint) = &error.hint {
                    let hint = clean(hint);
                    // Lines to copy stand at the end, indented.
                    let (text, copied) = hint.split_once("\n  ").unwrap_or((&hint, ""));
                    line("");
                    line(&format!("**Hint:** {}", escape(text)));
                    if !copied.is_empty() {
                        let copied: Vec<&str> = copied.lines().map(str::trim).collect();
                        let fence = fence(&copied);
                        line("");
                        line(&format!("{fence}toml"));
                        copied.iter().for_each(|text| line(text));
                        line(&fence);
                    }
                }
            }
            if !failure.log.is_empty() {
                let fence = fence(&failure.log);
                line("");
                line("<details><summary>The last lines of its log</summary>");
                line("");
                line(&format!("{fence}text"));
                for text in &failure.log {
                    line(text);
                }
                line(&fence);
                line("");
                line("</details>");
            }
            if let Some(more) = &failure.more {
                line("");
                line(&format!("All of it: {}", code(more)));
            }
        }
        let rest = self.markdown_rest();
        if !rest.is_empty() {
            line("");
            for item in rest {
                line(&format!("- {item}"));
            }
        }
        out
    }

    fn markdown_title(&self) -> String {
        let (pipeline, environment) = self.names();
        let place = if environment.is_empty() {
            escape(&pipeline)
        } else {
            format!("{} → {}", escape(&pipeline), escape(&environment))
        };
        let time = text::duration(self.total_ms());
        match self.finished.as_ref().map(|finished| finished.outcome) {
            Some(Outcome::Succeeded) => format!("### ✅ {place}: succeeded in {time}"),
            Some(Outcome::Failed) => format!("### ❌ {place}: failed in {time}"),
            Some(Outcome::Cancelled) => format!("### ⏹️ {place}: cancelled after {time}"),
            None => format!("### ⏳ {place}: unfinished after {time}"),
        }
    }

    fn markdown_facts(&self) -> Option<String> {
        let (_, started) = self.started.as_ref()?;
        let mut facts = Vec::new();
        if !started.tag.is_empty() {
            facts.push(code(&started.tag));
        }
        let place = format!("{} {}", started.branch, text::commit(&started.commit));
        if !place.trim().is_empty() {
            let dirty = if started.dirty { " (dirty)" } else { "" };
            facts.push(format!("{}{dirty}", code(place.trim())));
        }
        facts.push(format!("run {}", code(&started.run.to_string())));
        if !started.who.is_empty() {
            facts.push(format!("by {}", escape(&clean_line(&started.who))));
        }
        if let Some(address) = started.link.as_deref().and_then(web_address) {
            facts.push(format!("[job]({address})"));
        }
        Some(facts.join(" · "))
    }

    fn markdown_rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        let plain = |text: &str| escape(&clean_line(text));
        if let Some(rollback) = &self.rollback {
            for (target, restored) in &rollback.targets {
                let target = plain(target.as_str());
                rest.push(match restored {
                    None => format!("❌ **{target}** was not put back"),
                    Some(restored) => {
                        let time = text::duration(restored.duration_ms);
                        match (&restored.error, &restored.release) {
                            (Some(error), _) => format!(
                                "❌ rollback of **{target}** failed: {}",
                                plain(&error.message)
                            ),
                            (None, Some(release)) => {
                                format!("↩️ **{target}** is back on {} ({time})", code(release))
                            }
                            (None, None) => {
                                format!("↩️ **{target}** has no earlier release; stopped")
                            }
                        }
                    }
                });
            }
        }
        for remark in &self.remarks {
            let sign = if remark.severity == Severity::Problem {
                "❌"
            } else {
                "⚠️"
            };
            let step = remark.step.as_ref().map_or_else(String::new, |step| {
                format!("**{}**: ", plain(&text::label(step)))
            });
            let hint = remark
                .hint
                .as_ref()
                .map_or_else(String::new, |hint| format!(" ({})", plain(hint)));
            rest.push(format!("{sign} {step}{}{hint}", plain(&remark.message)));
        }
        for notification in &self.notifications {
            let name = plain(notification.name.as_str());
            rest.push(match &notification.error {
                None => format!("✅ {name} notified"),
                Some(error) => format!("⚠️ {name} was not notified: {}", plain(&error.message)),
            });
        }
        if let Some(finished) = &self.finished {
            for (target, release) in &finished.releases {
                let target = plain(target.as_str());
                rest.push(format!("🚀 **{target}** runs {}", code(release)));
            }
        }
        rest
    }
}

fn sign(row: &Row) -> (&'static str, &'static str) {
    let Some(state) = row.state else {
        return match row.attempt {
            0 => ("·", "not run"),
            _ => ("⏳", "unfinished"),
        };
    };
    let sign = match state {
        StepState::Succeeded => "✅",
        StepState::Tolerated => "⚠️",
        StepState::Failed => "❌",
        StepState::Skipped => "⏭️",
        StepState::Cancelled => "⏹️",
        StepState::Reused => "♻️",
    };
    (sign, crate::theme::state_word(state))
}

impl Row {
    fn markdown_details(&self) -> String {
        if let Some(reason) = &self.reason {
            return escape(&clean_line(reason));
        }
        if let Some(error) = &self.error {
            return escape(&headline(&error.message));
        }
        let outputs: Vec<String> = self
            .outputs
            .iter()
            .map(|(name, value)| {
                let value = text::output(value);
                let value = crate::theme::fit(crate::theme::Theme::PLAIN, &value, 120);
                format!("{} {}", escape(&clean_line(name)), code(&value))
            })
            .collect();
        outputs.join("<br>")
    }
}

/// Longer than any run of backticks at the start of a line within.
fn fence(lines: &[&str]) -> String {
    let longest = lines
        .iter()
        .map(|line| {
            let line = line.trim_start();
            line.len() - line.trim_start_matches('`').len()
        })
        .max()
        .unwrap_or(0);
    "`".repeat(FENCE.max(longest + 1))
}

/// Text that stays text, also in a cell of a table.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let between_words =
            before.is_alphanumeric() && chars.peek().is_some_and(|next| next.is_alphanumeric());
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' => out.push_str("<br>"),
            '_' if between_words => out.push('_'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            '#' => out.push_str("&#35;"),
            // Mentions nobody: they begin at the start of a word, and a word
            // joiner is not part of a name.
            '@' if !before.is_alphanumeric() => out.push_str("@\u{2060}"),
            // The start of a list, a heading's underline, a table's rule.
            '-' | '+' | '=' if out.is_empty() || out.ends_with("<br>") => {
                out.push('\\');
                out.push(c);
            }
            // `https://…` makes no link, `1.` no list.
            ':' if chars.peek() == Some(&'/') => out.push_str("&#58;"),
            '.' if before.is_ascii_digit() && out.bytes().all(|byte| byte.is_ascii_digit()) => {
                out.push_str("\\.");
            }
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// A code span in a cell. HTML, because a bar would end the cell within
/// backticks.
fn code(text: &str) -> String {
    let mut out = String::from("<code>");
    out.push_str(&escape(&clean_line(text)));
    out.push_str("</code>");
    out
}

/// Fit for `[…](…)`; only the web's schemes.
fn web_address(link: &str) -> Option<String> {
    if !link.starts_with("https://") && !link.starts_with("http://") {
        return None;
    }
    let mut out = String::new();
    for byte in link.bytes() {
        if byte.is_ascii_graphic() && !b"()<>\"'\\`|[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup() {
        for (text, expected) in [
            ("a|b\nc", "a\\|b<br>c"),
            ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
            ("[x](javascript:y)", "\\[x\\](javascript:y)"),
            ("`*_x_*`", "\\`\\*\\_x\\_\\*\\`"),
            ("deploy@prod_1", "deploy@prod_1"),
            ("@everyone hi @here", "@\u{2060}everyone hi @\u{2060}here"),
            ("https://evil/x", "https&#58;//evil/x"),
            ("# 1", "&#35; 1"),
            ("- x", "\\- x"),
            ("12. x", "12\\. x"),
            ("v1.2", "v1.2"),
            ("&lt;", "&amp;lt;"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn fences_hold_what_they_enclose() {
        assert_eq!(fence(&["x", "````"]), "`````");
        assert_eq!(fence(&["a ``` b"]), "```");
    }

    #[test]
    fn only_web_addresses_are_links() {
        assert_eq!(web_address("javascript:alert(1)"), None);
        assert_eq!(
            web_address("https://ci/1) [x](y"),
            Some("https://ci/1%29%20%5Bx%5D%28y".to_owned())
        );
    }
}
