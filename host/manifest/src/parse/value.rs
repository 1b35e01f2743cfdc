//! Text with expressions, secrets and settings from the environment.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{Reader, is_name, is_variable_name};
use crate::diagnostic::Span;
use crate::expression::{Template, With, WithNode};
use crate::manifest::{At, Setting, SettingValue, TextSource};
use crate::tree::{Entries, Item, Raw};

impl Reader {
    pub(super) fn template_of(&mut self, text: &At<String>) -> Option<Template> {
        match Template::parse(&self.source, text.span, &text.value) {
            Ok(template) => Some(template),
            Err(error) => {
                self.found.push(error);
                None
            }
        }
    }

    pub(super) fn template(&mut self, item: Item, what: &str) -> Option<Template> {
        let text = self.string(item, what)?;
        self.template_of(&text)
    }

    pub(super) fn with(&mut self, item: Item) -> With {
        let span = item.span;
        let node = match item.raw {
            Raw::String(text) => match self.template_of(&At::new(span, text)) {
                Some(template) => WithNode::Text(template),
                None => WithNode::Broken,
            },
            Raw::Integer(integer) => WithNode::Scalar(integer.into()),
            Raw::Float(float) => WithNode::Scalar(float.into()),
            Raw::Boolean(flag) => WithNode::Scalar(flag.into()),
            Raw::Datetime(text) => WithNode::Scalar(text.into()),
            Raw::Array(items) => {
                WithNode::List(items.into_iter().map(|item| self.with(item)).collect())
            }
            Raw::Table(entries) => match secret_handle(&entries) {
                Some(name) => {
                    self.secret_name(&name);
                    WithNode::Secret(name.value)
                }
                None => WithNode::Table(
                    entries
                        .into_iter()
                        .map(|(key, (key_span, item))| {
                            if key.starts_with('$') {
                                self.report(
                                    "manifest.bad-name",
                                    key_span,
                                    format!("the key `{key}` begins with $"),
                                    "this key",
                                    Some("such keys are Windlass's own; choose another".into()),
                                );
                            }
                            let value = self.with(item);
                            (key, (key_span, value))
                        })
                        .collect(),
                ),
            },
        };
        With {
            source: Arc::clone(&self.source),
            span,
            node,
        }
    }

    pub(super) fn empty_with(&self, span: Span) -> With {
        With {
            source: Arc::clone(&self.source),
            span,
            node: WithNode::Table(IndexMap::new()),
        }
    }

    /// The `with` of a step or a notification.
    pub(super) fn config(&mut self, item: Option<(Span, Item)>, key: Span) -> With {
        let Some((_, item)) = item else {
            return self.empty_with(key);
        };
        if !matches!(item.raw, Raw::Table(_)) {
            self.wrong_type(&item, "`with`", "a table", None);
            return self.empty_with(key);
        }
        let with = self.with(item);
        if let WithNode::Secret(_) = with.node {
            self.report(
                "manifest.wrong-type",
                with.span,
                "`with` cannot be a secret as a whole",
                "this table",
                Some(
                    "name the key that is secret: with = { token = { secret = \"TOKEN\" } }".into(),
                ),
            );
            return self.empty_with(key);
        }
        with
    }

    pub(super) fn secret_name(&mut self, name: &At<String>) {
        if !is_variable_name(&name.value) {
            let hint = if name.value.contains("{{") {
                "a secret is named literally, before expressions are evaluated"
            } else {
                "names are letters, digits and _, as in GHCR_TOKEN"
            };
            self.report(
                "manifest.bad-name",
                name.span,
                format!("{:?} is no name for a secret", name.value),
                "this name",
                Some(hint.to_owned()),
            );
        }
    }

    pub(super) fn variable_name(&mut self, name: &At<String>) {
        if !is_variable_name(&name.value) {
            self.report(
                "manifest.bad-name",
                name.span,
                format!("{:?} is no name for an environment variable", name.value),
                "this name",
                Some("names are letters, digits and _, as in DEPLOY_HOST".to_owned()),
            );
        }
    }

    /// `{ env = "X", default = … }`, if it is one.
    pub(super) fn env_table(
        &mut self,
        entries: &mut Entries,
        what: &str,
    ) -> Option<(At<String>, Option<Item>)> {
        let (_, item) = entries.shift_remove("env")?;
        let name = self.string(item, "`env`")?;
        self.variable_name(&name);
        let default = entries.shift_remove("default").map(|(_, item)| item);
        let others: Vec<(String, Span)> = entries
            .iter()
            .map(|(key, (span, _))| (key.clone(), *span))
            .collect();
        for (key, span) in others {
            self.unknown_key(&key, span, what, &["env", "default"]);
        }
        Some((name, default))
    }

    pub(super) fn text_source(&mut self, item: Item, what: &str) -> Option<TextSource> {
        match item.raw {
            Raw::String(text) => self
                .template_of(&At::new(item.span, text))
                .map(TextSource::Written),
            Raw::Table(mut entries) => {
                if let Some(name) = secret_handle(&entries) {
                    self.secret_name(&name);
                    return Some(TextSource::Secret(name));
                }
                if entries.contains_key("env") {
                    let (name, default) = self.env_table(&mut entries, what)?;
                    let default = match default {
                        Some(item) => Some(self.template(item, "`default`")?),
                        None => None,
                    };
                    return Some(TextSource::Env { name, default });
                }
                let item = Item {
                    span: item.span,
                    raw: Raw::Table(entries),
                };
                self.not_text(&item, what);
                None
            }
            _ => {
                self.not_text(&item, what);
                None
            }
        }
    }

    pub(super) fn not_text(&mut self, item: &Item, what: &str) {
        self.wrong_type(
            item,
            what,
            "text",
            Some("write a string, { env = \"NAME\" } or { secret = \"NAME\" }"),
        );
    }

    /// Text that is no secret: it shows in messages.
    pub(super) fn plain_source(&mut self, item: Item, what: &str) -> Option<TextSource> {
        let source = self.text_source(item, what)?;
        if let TextSource::Secret(name) = &source {
            self.report(
                "manifest.secret-here",
                name.span,
                format!("{what} cannot be a secret: it shows in messages"),
                "this secret",
                Some(format!(
                    "read it as a setting: {{ env = \"{}\" }}",
                    name.value
                )),
            );
            return None;
        }
        Some(source)
    }

    pub(super) fn setting(&mut self, key: Span, item: Item, what: &str) -> Setting {
        let item = match item.raw {
            Raw::Table(mut entries)
                if matches!(
                    entries.get("env"),
                    Some((
                        _,
                        Item {
                            raw: Raw::String(_),
                            ..
                        }
                    ))
                ) && entries.keys().all(|key| key == "env" || key == "default") =>
            {
                let value = match self.env_table(&mut entries, what) {
                    Some((name, default)) => {
                        let default = default.map(|item| self.with(item));
                        default.iter().for_each(|with| self.no_secrets(with));
                        SettingValue::Env { name, default }
                    }
                    None => SettingValue::Written(With {
                        source: Arc::clone(&self.source),
                        span: item.span,
                        node: WithNode::Broken,
                    }),
                };
                return Setting { key, value };
            }
            raw => Item {
                span: item.span,
                raw,
            },
        };
        let with = self.with(item);
        self.no_secrets(&with);
        Setting {
            key,
            value: SettingValue::Written(with),
        }
    }

    pub(super) fn no_secrets(&mut self, with: &With) {
        for (span, name) in with.secrets() {
            let hint = format!("write {{ secret = \"{name}\" }} where it is used, in `with`");
            self.report(
                "manifest.secret-here",
                span,
                "a secret cannot be a variable: expressions never see secrets",
                "this secret",
                Some(hint),
            );
        }
    }

    pub(super) fn settings(&mut self, item: Item, what: &str) -> IndexMap<String, Setting> {
        let mut settings = IndexMap::new();
        for (key, (span, item)) in self.free_table(item, what).unwrap_or_default() {
            if !is_name(&key) {
                self.report(
                    "manifest.bad-name",
                    span,
                    format!("`{key}` is no name for a variable"),
                    "this name",
                    Some("names are lower-case letters, digits and _".to_owned()),
                );
            }
            let setting = self.setting(span, item, what);
            settings.insert(key, setting);
        }
        settings
    }
}

/// The name in `{ secret = "NAME" }`.
pub(super) fn secret_handle(entries: &Entries) -> Option<At<String>> {
    if entries.len() != 1 {
        return None;
    }
    match entries.get("secret") {
        Some((
            _,
            Item {
                span,
                raw: Raw::String(name),
            },
        )) => Some(At::new(*span, name.clone())),
        _ => None,
    }
}
