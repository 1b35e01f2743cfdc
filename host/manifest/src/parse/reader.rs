//! Values of TOML as what they must be; what they are not is reported.

use std::time::Duration;

use super::{MAX_NAME, Reader, is_name, parse_duration};
use crate::diagnostic::{Diagnostic, Span, suggestion};
use crate::manifest::At;
use crate::tree::{Entries, Item, Raw};

impl Reader {
    pub(super) fn report(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) {
        self.found.push(
            Diagnostic::new(code, message)
                .at(&self.source, span, label)
                .maybe_hint(hint),
        );
    }

    pub(super) fn wrong_type(
        &mut self,
        item: &Item,
        what: &str,
        expected: &str,
        hint: Option<&str>,
    ) {
        self.report(
            "manifest.wrong-type",
            item.span,
            format!("{what} must be {expected}, not {}", item.kind()),
            format!("this is {}", item.kind()),
            hint.map(str::to_owned),
        );
    }

    pub(super) fn missing(&mut self, span: Span, message: impl Into<String>, hint: &str) {
        self.report(
            "manifest.missing-key",
            span,
            message,
            "here",
            Some(hint.to_owned()),
        );
    }

    /// The entries of a table; keys that are not `known` are reported.
    pub(super) fn table(&mut self, item: Item, what: &str, known: &[&str]) -> Option<Entries> {
        let entries = self.free_table(item, what)?;
        for (key, (span, _)) in &entries {
            if !known.contains(&key.as_str()) {
                self.unknown_key(key, *span, what, known);
            }
        }
        Some(entries)
    }

    pub(super) fn unknown_key(&mut self, key: &str, span: Span, what: &str, known: &[&str]) {
        self.report(
            "manifest.unknown-key",
            span,
            format!("unknown key `{key}` in {what}"),
            "not known here",
            suggestion(key, known.iter().copied()),
        );
    }

    pub(super) fn free_table(&mut self, item: Item, what: &str) -> Option<Entries> {
        match item.raw {
            Raw::Table(entries) => Some(entries),
            _ => {
                self.wrong_type(&item, what, "a table", None);
                None
            }
        }
    }

    /// Tables by name, as `[step.NAME]` makes them.
    pub(super) fn named(&mut self, item: Item, section: &str, name: fn(&str) -> bool) -> Entries {
        let mut entries = self
            .free_table(item, &format!("[{section}]"))
            .unwrap_or_default();
        for (key, (span, _)) in &entries {
            if !name(key) {
                let mended: String = key
                    .to_ascii_lowercase()
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                    .collect();
                let hint = if is_name(&mended) {
                    format!("write `{mended}`: names are lower-case letters, digits and _")
                } else {
                    format!(
                        "names begin with a letter, and are at most {MAX_NAME} lower-case letters, digits and _"
                    )
                };
                self.report(
                    "manifest.bad-name",
                    *span,
                    format!("`{key}` is no name for a {section}"),
                    "this name",
                    Some(hint),
                );
            }
        }
        entries.retain(|key, (_, item)| {
            if matches!(item.raw, Raw::Table(_)) {
                return true;
            }
            self.report(
                "manifest.wrong-type",
                item.span,
                format!("[{section}.{key}] must be a table, not {}", item.kind()),
                format!("this is {}", item.kind()),
                Some(format!("write [{section}.NAME] on a line of its own")),
            );
            false
        });
        entries
    }

    pub(super) fn string(&mut self, item: Item, what: &str) -> Option<At<String>> {
        match item.raw {
            Raw::String(text) => Some(At::new(item.span, text)),
            _ => {
                self.wrong_type(&item, what, "a string", None);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, item: &Item, what: &str) -> bool {
        match item.raw {
            Raw::Boolean(flag) => flag,
            _ => {
                let hint = matches!(item.raw, Raw::String(_)).then_some("write true or false");
                self.wrong_type(item, what, "a boolean", hint);
                false
            }
        }
    }

    pub(super) fn integer(
        &mut self,
        item: &Item,
        what: &str,
        least: u32,
        most: u32,
    ) -> Option<u32> {
        match item.raw {
            Raw::Integer(integer) => match u32::try_from(integer) {
                Ok(integer) if (least..=most).contains(&integer) => Some(integer),
                _ => {
                    self.report(
                        "manifest.out-of-range",
                        item.span,
                        format!("{what} must be from {least} to {most}"),
                        "this number",
                        None,
                    );
                    None
                }
            },
            _ => {
                self.wrong_type(item, what, "an integer", None);
                None
            }
        }
    }

    /// Longer than nothing.
    pub(super) fn duration(&mut self, item: &Item, what: &str) -> Option<Duration> {
        let duration = self.duration_from_zero(item, what)?;
        if duration.is_zero() {
            self.report(
                "manifest.out-of-range",
                item.span,
                format!("{what} must be longer than nothing"),
                "this duration",
                None,
            );
            return None;
        }
        Some(duration)
    }

    /// Also "0s".
    pub(super) fn duration_from_zero(&mut self, item: &Item, what: &str) -> Option<Duration> {
        let duration = match &item.raw {
            Raw::String(text) => parse_duration(text),
            Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            _ => {
                self.wrong_type(item, what, "a duration", Some("write it as in \"1m30s\""));
                return None;
            }
        };
        match duration {
            Some(duration) => Some(duration),
            None => {
                self.report(
                    "manifest.bad-duration",
                    item.span,
                    format!("{what} is no duration"),
                    "this text",
                    Some(
                        "write it as in \"5s\", \"1m30s\", \"500ms\", or a number of seconds"
                            .into(),
                    ),
                );
                None
            }
        }
    }

    pub(super) fn strings(&mut self, item: Item, what: &str) -> Vec<At<String>> {
        match item.raw {
            Raw::Array(items) => items
                .into_iter()
                .filter_map(|item| self.string(item, &format!("each of {what}")))
                .collect(),
            Raw::String(ref text) => {
                let hint = format!("write [\"{text}\"]");
                self.wrong_type(&item, what, "a list of strings", Some(&hint));
                Vec::new()
            }
            _ => {
                self.wrong_type(&item, what, "a list of strings", None);
                Vec::new()
            }
        }
    }
}
