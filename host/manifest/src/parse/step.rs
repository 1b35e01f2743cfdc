//! `[step]` and `[notify]`.

use std::collections::BTreeSet;

use windlass_model::grant::Grant;

use super::{Reader, bad_grant};
use crate::diagnostic::{Diagnostic, Span, closest, listed};
use crate::expression::{Expression, Template, With};
use crate::manifest::{At, Notify, NotifyEvent, Retry, Step};
use crate::tree::{Entries, Item, Raw};

impl Reader {
    pub(super) fn uses(&mut self, entries: &mut Entries, what: &str, key: Span) -> At<String> {
        let none = At::new(key, String::new());
        let Some((_, item)) = entries.shift_remove("uses") else {
            self.missing(
                key,
                format!("{what} does not say which plugin it uses"),
                "write uses = \"PLUGIN\"; `windlass plugins` lists them",
            );
            return none;
        };
        let Some(uses) = self.string(item, "`uses`") else {
            return none;
        };
        let plain = !uses.value.is_empty()
            && !uses.value.starts_with('-')
            && !uses.value.contains("{{")
            && !uses.value.contains(|c: char| c.is_control());
        if !plain {
            self.report(
                "manifest.bad-name",
                uses.span,
                format!("{:?} is no plugin", uses.value),
                "this text",
                Some(
                    "write a plugin's name, or the path of a component: \"./plugins/x.wasm\""
                        .into(),
                ),
            );
        }
        uses
    }

    pub(super) fn grants(&mut self, item: Item) -> Vec<Template> {
        let mut grants = Vec::new();
        for text in self.strings(item, "`grant`") {
            let Some(template) = self.template_of(&text) else {
                continue;
            };
            if let Some(literal) = template.literal()
                && let Err(error) = Grant::parse(literal)
            {
                let error = bad_grant(&self.source, text.span, literal, error);
                self.found.push(error);
            }
            for expression in template.expressions() {
                for reference in expression.references() {
                    if reference.root == "steps" {
                        self.found.push(
                            Diagnostic::new(
                                "manifest.bad-grant",
                                "a grant cannot depend on a step's output",
                            )
                            .at(&self.source, reference.span, "this output")
                            .hint("write what may come out of it as a pattern"),
                        );
                    }
                }
            }
            grants.push(template);
        }
        grants
    }

    pub(super) fn step(&mut self, name: &str, key: Span, item: Item) -> Option<Step> {
        const KEYS: &[&str] = &[
            "uses",
            "with",
            "needs",
            "on",
            "when",
            "timeout",
            "retry",
            "grant",
            "continue_on_error",
            "cleanup",
        ];
        let what = format!("[step.{name}]");
        let mut entries = self.table(item, &what, KEYS)?;
        let uses = self.uses(&mut entries, &what, key);
        let with = self.config(entries.shift_remove("with"), key);
        let needs = entries
            .shift_remove("needs")
            .map(|(_, item)| self.strings(item, "`needs`"))
            .unwrap_or_default();
        let on = entries
            .shift_remove("on")
            .and_then(|(_, item)| self.on(item));
        let when = entries
            .shift_remove("when")
            .and_then(|(_, item)| self.when(item));
        let timeout = entries
            .shift_remove("timeout")
            .and_then(|(_, item)| self.duration(&item, "`timeout`"));
        let retry = entries
            .shift_remove("retry")
            .map(|(_, item)| self.retry(item))
            .unwrap_or_default();
        let grants = entries
            .shift_remove("grant")
            .map(|(_, item)| self.grants(item))
            .unwrap_or_default();
        let continue_on_error = entries
            .shift_remove("continue_on_error")
            .is_some_and(|(_, item)| self.boolean(&item, "`continue_on_error`"));
        let cleanup = entries
            .shift_remove("cleanup")
            .is_some_and(|(_, item)| self.boolean(&item, "`cleanup`"));
        Some(Step {
            key,
            uses,
            with,
            needs,
            on,
            when,
            timeout,
            retry,
            grants,
            continue_on_error,
            cleanup,
        })
    }

    pub(super) fn on(&mut self, item: Item) -> Option<With> {
        let texts = match &item.raw {
            Raw::String(_) => true,
            Raw::Array(items) => items.iter().all(|item| matches!(item.raw, Raw::String(_))),
            _ => false,
        };
        if !texts {
            self.wrong_type(
                &item,
                "`on`",
                "a target's name, or a list of them",
                Some("as in on = \"{{ environment.targets }}\""),
            );
            return None;
        }
        let with = self.with(item);
        for expression in with.expressions() {
            for reference in expression.references() {
                if matches!(reference.root.as_str(), "steps" | "target") {
                    let message = format!("`on` cannot use {}", reference.root);
                    self.found.push(
                        Diagnostic::new("manifest.expression", message)
                            .at(&expression.source, reference.span, "this name")
                            .hint("targets are known before the first step runs"),
                    );
                }
            }
        }
        Some(with)
    }

    pub(super) fn when(&mut self, item: Item) -> Option<Expression> {
        let text = match item.raw {
            Raw::Boolean(flag) => flag.to_string(),
            Raw::String(text) => text,
            _ => {
                self.wrong_type(
                    &item,
                    "`when`",
                    "an expression",
                    Some("as in when = \"run.branch == 'main'\""),
                );
                return None;
            }
        };
        match Expression::condition(&self.source, item.span, &text) {
            Ok(expression) => Some(expression),
            Err(error) => {
                self.found.push(error);
                None
            }
        }
    }

    pub(super) fn retry(&mut self, item: Item) -> Retry {
        /// A retry is no loop.
        const MOST: u32 = 100;
        let mut retry = Retry::default();
        match item.raw {
            Raw::Integer(_) => {
                if let Some(attempts) = self.integer(&item, "`retry`", 1, MOST) {
                    retry.attempts = attempts;
                }
            }
            Raw::Table(_) => {
                let keys = &["attempts", "delay", "backoff"];
                for (key, (_, item)) in self.table(item, "`retry`", keys).unwrap_or_default() {
                    let what = format!("`{key}`");
                    match key.as_str() {
                        "attempts" => {
                            if let Some(attempts) = self.integer(&item, &what, 1, MOST) {
                                retry.attempts = attempts;
                            }
                        }
                        "delay" => {
                            if let Some(delay) = self.duration(&item, &what) {
                                retry.delay = delay;
                            }
                        }
                        "backoff" => match item.raw {
                            Raw::Integer(factor @ 1..=10) => retry.backoff = factor as f64,
                            Raw::Float(factor) if (1.0..=10.0).contains(&factor) => {
                                retry.backoff = factor;
                            }
                            _ => self.report(
                                "manifest.out-of-range",
                                item.span,
                                "`backoff` must be a number from 1 to 10",
                                "this value",
                                None,
                            ),
                        },
                        _ => {}
                    }
                }
            }
            _ => self.wrong_type(
                &item,
                "`retry`",
                "a number of attempts, or a table",
                Some("as in retry = 3, or retry = { attempts = 3, delay = \"5s\", backoff = 2 }"),
            ),
        }
        retry
    }

    pub(super) fn notify(&mut self, name: &str, key: Span, item: Item) -> Option<Notify> {
        const EVENTS: &[(&str, NotifyEvent)] = &[
            ("succeeded", NotifyEvent::Succeeded),
            ("failed", NotifyEvent::Failed),
            ("cancelled", NotifyEvent::Cancelled),
        ];
        let what = format!("[notify.{name}]");
        let keys = &["uses", "events", "with", "grant", "timeout"];
        let mut entries = self.table(item, &what, keys)?;
        let uses = self.uses(&mut entries, &what, key);
        let events = match entries.shift_remove("events") {
            None => BTreeSet::from([NotifyEvent::Succeeded, NotifyEvent::Failed]),
            Some((_, item)) => {
                let mut events = BTreeSet::new();
                for event in self.strings(item, "`events`") {
                    match EVENTS.iter().find(|(name, _)| *name == event.value) {
                        Some((_, known)) => {
                            events.insert(*known);
                        }
                        None => {
                            let names: Vec<&str> = EVENTS.iter().map(|(name, _)| *name).collect();
                            self.report(
                                "manifest.unknown-value",
                                event.span,
                                format!("there is no event {:?}", event.value),
                                "this event",
                                closest(&event.value, names.iter().copied())
                                    .map(|name| format!("did you mean `{name}`?"))
                                    .or_else(|| Some(format!("there are {}", listed(&names)))),
                            );
                        }
                    }
                }
                events
            }
        };
        let with = self.config(entries.shift_remove("with"), key);
        for expression in with.expressions() {
            for reference in expression.references() {
                if matches!(reference.root.as_str(), "steps" | "target") {
                    let message = format!("a notification cannot use {}", reference.root);
                    self.found.push(
                        Diagnostic::new("manifest.expression", message)
                            .at(&expression.source, reference.span, "this name")
                            .hint("it gets the report of the whole run, with all outputs"),
                    );
                }
            }
        }
        let grants = entries
            .shift_remove("grant")
            .map(|(_, item)| self.grants(item))
            .unwrap_or_default();
        let timeout = entries
            .shift_remove("timeout")
            .and_then(|(_, item)| self.duration(&item, "`timeout`"));
        Some(Notify {
            key,
            uses,
            events,
            with,
            grants,
            timeout,
        })
    }
}
