//! From text to a [`Manifest`]: types, keys and names. What needs inputs is
//! [`Graph::build`](crate::Graph::build)'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use windlass_model::grant;

use crate::diagnostic::{Diagnostic, Diagnostics, Source, Span, closest, suggestion};
use crate::manifest::{At, Manifest, Plugin, RollbackMode, RunSettings, SecretSource};
use crate::tree::{Entries, Item, Raw, read};

mod place;
mod reader;
mod step;
mod value;

/// Names go into labels, file names and journals.
const MAX_NAME: usize = 64;
pub(crate) const SECTIONS: &[&str] = &[
    "pipeline",
    "vars",
    "run",
    "registry",
    "target",
    "environment",
    "step",
    "plugin",
    "rollback",
    "notify",
    "secrets",
];

/// What could be read, and what is wrong. A manifest with errors serves only
/// to find more of them.
pub(crate) fn parse(name: &str, text: &str) -> (Option<Manifest>, Diagnostics) {
    let source = Source::new(name, text);
    let (entries, found) = read(&source);
    let mut reader = Reader {
        source,
        found: found.into(),
        broken: BTreeSet::new(),
    };
    let manifest = entries.map(|entries| reader.manifest(entries));
    let found = reader.found.sorted();
    (manifest, found)
}

/// `[a-z][a-z0-9_]*`
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `[A-Za-z_][A-Za-z0-9_]*`: as environment variables are named.
fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `"1m30s"`: units from large to small, each once.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ]
    .iter();
    let mut rest = text.trim();
    let mut millis = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(rest.len());
        let (_, factor) = units.find(|(name, _)| *name == &rest[..letters])?;
        millis = millis.checked_add(count.checked_mul(*factor)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(Duration::from_millis(millis))
}

/// What a grant's text that does not parse gets.
pub(crate) fn bad_grant(
    source: &Arc<Source>,
    span: Span,
    text: &str,
    error: grant::GrantError,
) -> Diagnostic {
    let verb = text.split_whitespace().next().unwrap_or_default();
    let hint = if !verb.is_empty() && !grant::is_verb(verb) {
        closest(verb, grant::VERBS.iter().map(|(verb, _)| *verb)).map(|verb| {
            let pattern = grant::VERBS
                .iter()
                .find(|(known, _)| *known == verb)
                .map_or("", |(_, pattern)| *pattern);
            format!("did you mean `{verb} {pattern}`? docs/grants.md lists the verbs")
        })
    } else {
        None
    };
    Diagnostic::new("manifest.bad-grant", format!("invalid grant: {error}"))
        .at(source, span, "this grant")
        .maybe_hint(error.hint)
        .maybe_hint(hint)
}

struct Reader {
    source: Arc<Source>,
    found: Diagnostics,
    /// Targets that are there, but cannot be read.
    broken: BTreeSet<String>,
}

impl Reader {
    fn manifest(&mut self, mut entries: Entries) -> Manifest {
        let before = self.found.len();
        for (key, (span, _)) in &entries {
            if !SECTIONS.contains(&key.as_str()) {
                self.report(
                    "manifest.unknown-key",
                    *span,
                    format!("unknown section `{key}`"),
                    "not known here",
                    suggestion(key, SECTIONS.iter().copied()),
                );
            }
        }
        let mut take = |key: &str| entries.shift_remove(key);
        let (pipeline, vars, run) = (take("pipeline"), take("vars"), take("run"));
        let (registry, target, environment) =
            (take("registry"), take("target"), take("environment"));
        let (step, plugin, rollback) = (take("step"), take("plugin"), take("rollback"));
        let (notify, secrets) = (take("notify"), take("secrets"));

        let name = self.pipeline(pipeline);
        let vars = vars.map(|(_, item)| self.settings(item, "[vars]"));
        let run = run.map(|(_, item)| self.run(item)).unwrap_or_default();
        let registries = registry.map(|(_, item)| self.registries(item));
        let targets = target.map(|(_, item)| self.targets(item));
        let environments = environment.map(|(_, item)| self.environments(item));
        let mut steps = IndexMap::new();
        if let Some((_, item)) = step {
            for (name, (key, item)) in self.named(item, "step", is_name) {
                if let Some(step) = self.step(&name, key, item) {
                    steps.insert(name, step);
                }
            }
        } else if self.found.len() == before {
            // Unless a section has a wrong name: `[steps.build]`, for one.
            self.report(
                "manifest.missing-key",
                Span::default(),
                "there is no step",
                "nothing to run",
                Some("write [step.NAME] with uses = \"PLUGIN\"; `windlass init` writes a whole manifest".into()),
            );
        }
        let plugins = plugin.map(|(_, item)| self.plugins(item));
        let rollback = rollback.map(|(_, item)| self.rollback(item));
        let mut notifications = IndexMap::new();
        if let Some((_, item)) = notify {
            for (name, (key, item)) in self.named(item, "notify", is_name) {
                if let Some(notify) = self.notify(&name, key, item) {
                    notifications.insert(name, notify);
                }
            }
        }
        let secrets = secrets.map(|(_, item)| self.secrets(item));
        Manifest {
            source: Arc::clone(&self.source),
            name: name.unwrap_or_else(|| At::new(Span::default(), String::new())),
            vars: vars.unwrap_or_default(),
            run,
            registries: registries.unwrap_or_default(),
            targets: targets.unwrap_or_default(),
            environments: environments.unwrap_or_default(),
            steps,
            plugins: plugins.unwrap_or_default(),
            rollback: rollback.unwrap_or_default(),
            notify: notifications,
            secrets: secrets.unwrap_or_default(),
            warnings: Diagnostics::default(),
            broken: std::mem::take(&mut self.broken),
        }
    }

    fn pipeline(&mut self, section: Option<(Span, Item)>) -> Option<At<String>> {
        let hint = "write [pipeline] with name = \"NAME\"";
        let Some((key, item)) = section else {
            self.missing(Span::default(), "the pipeline has no name", hint);
            return None;
        };
        let mut entries = self.table(item, "[pipeline]", &["name"])?;
        let Some((_, item)) = entries.shift_remove("name") else {
            self.missing(key, "the pipeline has no name", hint);
            return None;
        };
        let name = self.string(item, "`name`")?;
        let good = !name.value.is_empty()
            && name.value.len() <= MAX_NAME
            && name.value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !good {
            self.report(
                "manifest.bad-name",
                name.span,
                format!("{:?} is no name for a pipeline", name.value),
                "this name",
                Some(format!(
                    "names are at most {MAX_NAME} letters, digits, _, - and ., and begin with a letter or digit"
                )),
            );
        }
        Some(name)
    }

    fn run(&mut self, item: Item) -> RunSettings {
        const KEYS: &[&str] = &[
            "tag",
            "allow_dirty",
            "max_parallel",
            "timeout",
            "lease_ttl",
            "lease_wait",
            "keep_releases",
        ];
        let mut settings = RunSettings::default();
        for (key, (_, item)) in self.table(item, "[run]", KEYS).unwrap_or_default() {
            let what = format!("`{key}`");
            match key.as_str() {
                "tag" => settings.tag = self.template(item, &what),
                "allow_dirty" => settings.allow_dirty = self.boolean(&item, &what),
                "max_parallel" => settings.max_parallel = self.integer(&item, &what, 1, 1000),
                "timeout" => settings.timeout = self.duration(&item, &what),
                "lease_ttl" => settings.lease_ttl = self.duration(&item, &what),
                "lease_wait" => settings.lease_wait = self.duration_from_zero(&item, &what),
                "keep_releases" => settings.keep_releases = self.integer(&item, &what, 1, 1000),
                _ => {}
            }
        }
        settings
    }

    fn plugins(&mut self, item: Item) -> IndexMap<String, Plugin> {
        fn plugin_name(text: &str) -> bool {
            is_name(&text.replace('-', "_"))
        }
        let mut plugins = IndexMap::new();
        for (name, (key, item)) in self.named(item, "plugin", plugin_name) {
            let what = format!("[plugin.{name}]");
            let Some(mut entries) = self.table(item, &what, &["path"]) else {
                continue;
            };
            let Some((_, item)) = entries.shift_remove("path") else {
                self.missing(
                    key,
                    format!("{what} has no path"),
                    "write path = \"plugins/x.wasm\"",
                );
                continue;
            };
            if let Some(path) = self.string(item, "`path`") {
                if path.value.is_empty() {
                    self.report(
                        "manifest.bad-name",
                        path.span,
                        "the path is empty",
                        "this text",
                        None,
                    );
                }
                plugins.insert(name, Plugin { key, path });
            }
        }
        plugins
    }

    fn rollback(&mut self, item: Item) -> RollbackMode {
        let mut entries = self.table(item, "[rollback]", &["on"]).unwrap_or_default();
        let Some((_, item)) = entries.shift_remove("on") else {
            return RollbackMode::Never;
        };
        let Some(on) = self.string(item, "`on`") else {
            return RollbackMode::Never;
        };
        match on.value.as_str() {
            "failure" => RollbackMode::Failure,
            "never" => RollbackMode::Never,
            other => {
                self.report(
                    "manifest.unknown-value",
                    on.span,
                    format!("rollback on {other:?} is not known"),
                    "this value",
                    suggestion(other, ["failure", "never"]),
                );
                RollbackMode::Never
            }
        }
    }

    fn secrets(&mut self, item: Item) -> IndexMap<String, At<SecretSource>> {
        let mut secrets = IndexMap::new();
        for (name, (key, item)) in self.free_table(item, "[secrets]").unwrap_or_default() {
            self.secret_name(&At::new(key, name.clone()));
            let span = item.span;
            let what = format!("secret {name}");
            let keys = &["env", "file", "command"];
            if let Raw::String(_) = item.raw {
                self.report(
                    "manifest.secret-here",
                    span,
                    format!("{what} must not be written here"),
                    "this text",
                    Some("say where it comes from: { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\"] }".into()),
                );
                continue;
            }
            let Some(entries) = self.table(item, &what, keys) else {
                continue;
            };
            if entries.len() != 1 {
                self.report(
                    "manifest.conflict",
                    span,
                    format!("{what} must come from exactly one place"),
                    "this table",
                    Some("write { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\"] }".into()),
                );
                continue;
            }
            for (kind, (_, item)) in entries {
                let source = match kind.as_str() {
                    "env" => self.string(item, "`env`").map(|variable| {
                        self.variable_name(&variable);
                        SecretSource::Env(variable.value)
                    }),
                    "file" => self
                        .string(item, "`file`")
                        .map(|path| SecretSource::File(path.value)),
                    "command" => {
                        let words = self.strings(item, "`command`");
                        if words.is_empty() {
                            self.report(
                                "manifest.wrong-type",
                                span,
                                "`command` names no program",
                                "this table",
                                None,
                            );
                        }
                        Some(SecretSource::Command(
                            words.into_iter().map(|word| word.value).collect(),
                        ))
                    }
                    _ => None,
                };
                if let Some(source) = source {
                    secrets.insert(name.clone(), At::new(span, source));
                }
            }
        }
        secrets
    }
}
