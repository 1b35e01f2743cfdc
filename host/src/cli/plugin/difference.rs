//! How a plugin differs from another: what somebody looks at before the grants
//! of the old bytes are given to the new ones.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::inspect::{Setting, interface, interfaces, settings};
use super::{Found, kind, size};

/// What was added and what went, in the order of the plugin that has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    added: Vec<String>,
    removed: Vec<String>,
}

impl Lines {
    fn between<T: AsRef<str>>(before: &[T], after: &[T]) -> Self {
        let missing = |from: &[T], of: &[T]| {
            of.iter()
                .filter(|line| !from.iter().any(|other| other.as_ref() == line.as_ref()))
                .map(|line| line.as_ref().to_owned())
                .collect()
        };
        Self {
            added: missing(before, after),
            removed: missing(after, before),
        }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    fn to_json(&self) -> Json {
        json!({ "added": self.added, "removed": self.removed })
    }
}

/// What lies between two plugins.
#[derive(Debug)]
pub(super) struct Difference {
    /// Of each: name and version, digest, interface, size.
    heads: [[String; 4]; 2],
    sizes: [usize; 2],
    requests: Lines,
    imports: Lines,
    settings: Lines,
    outputs: Lines,
}

impl Difference {
    pub(super) fn between(before: &Found, after: &Found) -> Self {
        let head = |found: &Found| {
            let description = &found.plugin.description;
            [
                format!("{} {}", description.name, description.version),
                format!("sha256:{}", found.plugin.digest),
                format!("windlass:plugin {}", interface(&found.plugin)),
                size(found.size),
            ]
        };
        let outputs = |found: &Found| -> Vec<String> {
            found
                .plugin
                .description
                .outputs
                .iter()
                .map(|output| format!("{} ({})", output.name, kind(output.kind)))
                .collect()
        };
        let keys = |found: &Found| -> Vec<String> {
            settings(&found.plugin.description.config_schema)
                .iter()
                .map(key)
                .collect()
        };
        Self {
            heads: [head(before), head(after)],
            sizes: [before.size, after.size],
            requests: Lines::between(
                &before.plugin.description.requests,
                &after.plugin.description.requests,
            ),
            imports: Lines::between(&interfaces(&before.plugin), &interfaces(&after.plugin)),
            settings: Lines::between(&keys(before), &keys(after)),
            outputs: Lines::between(&outputs(before), &outputs(after)),
        }
    }

    fn parts(&self) -> [(&'static str, &Lines); 4] {
        [
            ("requests", &self.requests),
            ("imports", &self.imports),
            ("configuration", &self.settings),
            ("outputs", &self.outputs),
        ]
    }

    pub(super) fn to_json(&self) -> Json {
        let [name, digest, interface, _] = &self.heads[0];
        let parts: BTreeMap<&str, Json> = self
            .parts()
            .into_iter()
            .map(|(name, lines)| (name, lines.to_json()))
            .collect();
        json!({
            "plugin": name,
            "digest": digest,
            "interface": interface,
            "size": self.sizes[0],
            "changes": parts,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let [before, after] = &self.heads;
        let mut out = String::new();
        let names = ["plugin", "digest", "interface", "size"];
        for (name, (before, after)) in names.into_iter().zip(before.iter().zip(after)) {
            if before == after {
                out.push_str(&format!("  {name:<10} {after}\n"));
            } else {
                out.push_str(&format!("- {name:<10} {before}\n+ {name:<10} {after}\n"));
            }
        }
        let mut same = Vec::new();
        for (name, lines) in self.parts() {
            if lines.is_empty() {
                same.push(name);
                continue;
            }
            out.push_str(&format!("\n{name}\n"));
            for line in &lines.removed {
                out.push_str(&format!("- {line}\n"));
            }
            for line in &lines.added {
                out.push_str(&format!("+ {line}\n"));
            }
        }
        if !same.is_empty() {
            out.push_str(&format!("\nunchanged: {}\n", same.join(", ")));
        }
        out
    }
}

/// A key with what a manifest has to agree with.
fn key(setting: &Setting) -> String {
    let need = match (&setting.default, setting.required) {
        (_, true) => ", required".to_owned(),
        (Some(default), false) => format!(", {default} when absent"),
        (None, false) => String::new(),
    };
    format!("{} ({}{need})", setting.name, setting.kind)
}

#[cfg(test)]
mod tests {
    use super::{Difference, Lines};

    fn head(version: &str) -> [String; 4] {
        [
            format!("cdn-purge {version}"),
            format!("sha256:{version}"),
            "windlass:plugin 0.1.0".to_owned(),
            "120 KiB".to_owned(),
        ]
    }

    #[test]
    fn what_it_may_newly_do_stands_out() {
        let difference = Difference {
            heads: [head("1.0.0"), head("1.1.0")],
            sizes: [120 * 1024; 2],
            requests: Lines::between(
                &["http.POST {{ url }}"],
                &["http.POST {{ url }}", "ssh.exec {{ target }}"],
            ),
            imports: Lines::between(&["http"], &["http", "ssh"]),
            settings: Lines::between(&["url (text, required)"], &["url (text or secret)"]),
            outputs: Lines::default(),
        };
        assert_eq!(
            difference.to_text(),
            "\
- plugin     cdn-purge 1.0.0
+ plugin     cdn-purge 1.1.0
- digest     sha256:1.0.0
+ digest     sha256:1.1.0
  interface  windlass:plugin 0.1.0
  size       120 KiB

requests
+ ssh.exec {{ target }}

imports
+ ssh

configuration
- url (text, required)
+ url (text or secret)

unchanged: outputs
"
        );
        assert_eq!(
            difference.to_json()["changes"]["requests"],
            serde_json::json!({ "added": ["ssh.exec {{ target }}"], "removed": [] })
        );
    }
}
