//! `windlass.lock`: which bytes of a third-party plugin the grants are for.
//! Other bytes, no grants.

use std::sync::Arc;

use windlass_model::PluginDigest;

use crate::diagnostic::{Diagnostic, Diagnostics, Source, Span, suggestion};
use crate::tree::{Item, Raw, read};

/// The lock file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    pub plugins: Vec<LockedPlugin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedPlugin {
    /// As `uses` says it.
    pub name: String,
    /// From the manifest's directory.
    pub path: String,
    pub sha256: PluginDigest,
    /// What it asked for when it was locked, as templates.
    pub requests: Vec<String>,
}

const KEYS: &[&str] = &["name", "path", "sha256", "requests"];
const HINT: &str = "write it anew with `windlass plugin lock`";

impl Lock {
    /// Reads a lock file; `name` is what messages call it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let source = Source::new(name, text);
        let (entries, found) = read(&source);
        let mut found = Diagnostics::from(found);
        let mut lock = Self::default();
        for (key, (span, item)) in entries.into_iter().flatten() {
            match (key.as_str(), item.raw) {
                ("plugin", Raw::Array(items)) => {
                    let plugins = items
                        .into_iter()
                        .filter_map(|item| locked(&source, item, &mut found));
                    lock.plugins.extend(plugins);
                }
                _ => found.push(problem(&source, span, format!("unexpected `{key}`"))),
            }
        }
        let mut names: Vec<&str> = lock
            .plugins
            .iter()
            .map(|found| found.name.as_str())
            .collect();
        names.sort_unstable();
        for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            let message = format!("plugin {} is locked twice", pair[0]);
            found.push(problem(&source, Span::default(), message));
        }
        if found.has_errors() {
            Err(found.sorted())
        } else {
            Ok(lock)
        }
    }

    pub fn get(&self, name: &str) -> Option<&LockedPlugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    /// The file's text, sorted by name, so that it merges well.
    pub fn write(&self) -> String {
        let mut text = String::from(
            "# Written by `windlass plugin lock`; commit it. Grants are for these bytes only.\n",
        );
        let mut plugins: Vec<&LockedPlugin> = self.plugins.iter().collect();
        plugins.sort_by(|a, b| a.name.cmp(&b.name));
        for plugin in plugins {
            let mut document = toml_edit::DocumentMut::new();
            document["name"] = toml_edit::value(&plugin.name);
            document["path"] = toml_edit::value(&plugin.path);
            document["sha256"] = toml_edit::value(plugin.sha256.as_str());
            let mut requests: toml_edit::Array = plugin.requests.iter().collect();
            if !requests.is_empty() {
                for request in requests.iter_mut() {
                    request.decor_mut().set_prefix("\n    ");
                }
                requests.set_trailing("\n");
                requests.set_trailing_comma(true);
            }
            document["requests"] = toml_edit::value(requests);
            text.push_str("\n[[plugin]]\n");
            text.push_str(&document.to_string());
        }
        text
    }
}

fn problem(source: &Arc<Source>, span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("lock.invalid", message)
        .at(source, span, "here")
        .hint(HINT)
}

fn locked(source: &Arc<Source>, item: Item, found: &mut Diagnostics) -> Option<LockedPlugin> {
    let Raw::Table(mut entries) = item.raw else {
        found.push(problem(source, item.span, "a plugin must be a table"));
        return None;
    };
    for (key, (span, _)) in &entries {
        if !KEYS.contains(&key.as_str()) {
            let error = problem(source, *span, format!("unknown key `{key}`"))
                .maybe_hint(suggestion(key, KEYS.iter().copied()));
            found.push(error);
        }
    }
    let mut text = |key: &str| match entries.shift_remove(key) {
        Some((
            _,
            Item {
                raw: Raw::String(text),
                ..
            },
        )) if !text.is_empty() => Some(text),
        Some((_, item)) => {
            found.push(problem(source, item.span, format!("`{key}` must be text")));
            None
        }
        None => {
            found.push(problem(
                source,
                item.span,
                format!("a plugin has no `{key}`"),
            ));
            None
        }
    };
    let (name, path, sha256) = (text("name"), text("path"), text("sha256"));
    let requests = match entries.shift_remove("requests") {
        None => Vec::new(),
        Some((_, item)) => {
            let span = item.span;
            let texts = match item.raw {
                Raw::Array(items) => items
                    .into_iter()
                    .map(|item| match item.raw {
                        Raw::String(text) => Some(text),
                        _ => None,
                    })
                    .collect::<Option<Vec<String>>>(),
                _ => None,
            };
            if texts.is_none() {
                found.push(problem(
                    source,
                    span,
                    "`requests` must be a list of strings",
                ));
            }
            texts.unwrap_or_default()
        }
    };
    let sha256 = sha256?;
    let hexadecimal = sha256
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if sha256.len() != 64 || !hexadecimal {
        found.push(problem(
            source,
            item.span,
            format!("{sha256:?} is no digest"),
        ));
        return None;
    }
    Some(LockedPlugin {
        name: name?,
        path: path?,
        sha256: PluginDigest::new(sha256),
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let lock = Lock {
            plugins: ["b", "a \"quoted\""]
                .iter()
                .map(|name| LockedPlugin {
                    name: (*name).to_owned(),
                    path: "plugins/x.wasm".to_owned(),
                    sha256: PluginDigest::new("0f".repeat(32)),
                    requests: vec!["http.POST {{ url }}".to_owned(), "git.read *".to_owned()],
                })
                .chain([LockedPlugin {
                    name: "c".to_owned(),
                    path: "c.wasm".to_owned(),
                    sha256: PluginDigest::new("00".repeat(32)),
                    requests: Vec::new(),
                }])
                .collect(),
        };
        let text = lock.write();
        let back = Lock::parse("windlass.lock", &text).expect("a lock");
        assert_eq!(back.plugins.len(), 3);
        for plugin in &lock.plugins {
            assert_eq!(back.get(&plugin.name), Some(plugin));
        }
        assert_eq!(back.write(), text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "[[plugin]]\nname = \"a\"\npath = \"b\"\nsha256 = \"0F\"\n",
            "[[plugin]]\nname = \"a\"\n",
            "[plugin]\nname = \"a\"\n",
            "x = 1\n",
            "[[plugin",
        ] {
            assert!(Lock::parse("windlass.lock", text).is_err(), "{text}");
        }
        let one = format!(
            "[[plugin]]\nname = \"a\"\npath = \"b\"\nsha256 = \"{}\"\n",
            "0".repeat(64)
        );
        assert!(Lock::parse("windlass.lock", &one).is_ok());
        assert!(Lock::parse("windlass.lock", &one.repeat(2)).is_err());
    }
}
