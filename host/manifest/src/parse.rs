//! From text to a [`Manifest`]: types, keys and names. What needs inputs is
//! [`Graph::build`](crate::Graph::build)'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use windlass_model::grant::{self, Grant};
use windlass_model::id::LOCAL;

use crate::diagnostic::{Diagnostic, Diagnostics, Source, Span, closest, listed, suggestion};
use crate::expression::{Expression, Template, With, WithNode};
use crate::manifest::{
    At, Environment, Hosts, Key, Manifest, Notify, NotifyEvent, Plugin, Registry, Retry,
    RollbackMode, RunSettings, SecretSource, Setting, SettingValue, SshTarget, Step, Target,
    TargetAddress, TextSource,
};
use crate::tree::{Entries, Item, Raw, read};

/// Names go into labels, file names and journals.
const MAX_NAME: usize = 64;
/// The connect timeout of a target that has none written.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
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
    fn report(
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

    fn wrong_type(&mut self, item: &Item, what: &str, expected: &str, hint: Option<&str>) {
        self.report(
            "manifest.wrong-type",
            item.span,
            format!("{what} must be {expected}, not {}", item.kind()),
            format!("this is {}", item.kind()),
            hint.map(str::to_owned),
        );
    }

    fn missing(&mut self, span: Span, message: impl Into<String>, hint: &str) {
        self.report(
            "manifest.missing-key",
            span,
            message,
            "here",
            Some(hint.to_owned()),
        );
    }

    /// The entries of a table; keys that are not `known` are reported.
    fn table(&mut self, item: Item, what: &str, known: &[&str]) -> Option<Entries> {
        let entries = self.free_table(item, what)?;
        for (key, (span, _)) in &entries {
            if !known.contains(&key.as_str()) {
                self.unknown_key(key, *span, what, known);
            }
        }
        Some(entries)
    }

    fn unknown_key(&mut self, key: &str, span: Span, what: &str, known: &[&str]) {
        self.report(
            "manifest.unknown-key",
            span,
            format!("unknown key `{key}` in {what}"),
            "not known here",
            suggestion(key, known.iter().copied()),
        );
    }

    fn free_table(&mut self, item: Item, what: &str) -> Option<Entries> {
        match item.raw {
            Raw::Table(entries) => Some(entries),
            _ => {
                self.wrong_type(&item, what, "a table", None);
                None
            }
        }
    }

    /// Tables by name, as `[step.NAME]` makes them.
    fn named(&mut self, item: Item, section: &str, name: fn(&str) -> bool) -> Entries {
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

    fn string(&mut self, item: Item, what: &str) -> Option<At<String>> {
        match item.raw {
            Raw::String(text) => Some(At::new(item.span, text)),
            _ => {
                self.wrong_type(&item, what, "a string", None);
                None
            }
        }
    }

    fn boolean(&mut self, item: &Item, what: &str) -> bool {
        match item.raw {
            Raw::Boolean(flag) => flag,
            _ => {
                let hint = matches!(item.raw, Raw::String(_)).then_some("write true or false");
                self.wrong_type(item, what, "a boolean", hint);
                false
            }
        }
    }

    fn integer(&mut self, item: &Item, what: &str, least: u32, most: u32) -> Option<u32> {
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
    fn duration(&mut self, item: &Item, what: &str) -> Option<Duration> {
        let duration = match &item.raw {
            Raw::String(text) => parse_duration(text),
            Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            _ => {
                self.wrong_type(item, what, "a duration", Some("write it as in \"1m30s\""));
                return None;
            }
        };
        match duration {
            Some(duration) if !duration.is_zero() => Some(duration),
            Some(_) => {
                self.report(
                    "manifest.out-of-range",
                    item.span,
                    format!("{what} must be longer than nothing"),
                    "this duration",
                    None,
                );
                None
            }
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

    fn strings(&mut self, item: Item, what: &str) -> Vec<At<String>> {
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

    fn template_of(&mut self, text: &At<String>) -> Option<Template> {
        match Template::parse(&self.source, text.span, &text.value) {
            Ok(template) => Some(template),
            Err(error) => {
                self.found.push(error);
                None
            }
        }
    }

    fn template(&mut self, item: Item, what: &str) -> Option<Template> {
        let text = self.string(item, what)?;
        self.template_of(&text)
    }

    fn with(&mut self, item: Item) -> With {
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

    fn empty_with(&self, span: Span) -> With {
        With {
            source: Arc::clone(&self.source),
            span,
            node: WithNode::Table(IndexMap::new()),
        }
    }

    /// The `with` of a step or a notification.
    fn config(&mut self, item: Option<(Span, Item)>, key: Span) -> With {
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

    fn secret_name(&mut self, name: &At<String>) {
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

    fn variable_name(&mut self, name: &At<String>) {
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
    fn env_table(
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

    fn text_source(&mut self, item: Item, what: &str) -> Option<TextSource> {
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

    fn not_text(&mut self, item: &Item, what: &str) {
        self.wrong_type(
            item,
            what,
            "text",
            Some("write a string, { env = \"NAME\" } or { secret = \"NAME\" }"),
        );
    }

    /// Text that is no secret: it shows in messages.
    fn plain_source(&mut self, item: Item, what: &str) -> Option<TextSource> {
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

    fn setting(&mut self, key: Span, item: Item, what: &str) -> Setting {
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

    fn no_secrets(&mut self, with: &With) {
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

    fn settings(&mut self, item: Item, what: &str) -> IndexMap<String, Setting> {
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
                "lease_wait" => settings.lease_wait = self.duration(&item, &what),
                "keep_releases" => settings.keep_releases = self.integer(&item, &what, 1, 1000),
                _ => {}
            }
        }
        settings
    }

    fn registries(&mut self, item: Item) -> IndexMap<String, Registry> {
        let mut registries = IndexMap::new();
        for (name, (key, item)) in self.free_table(item, "[registry]").unwrap_or_default() {
            let what = format!("[registry.\"{name}\"]");
            let Raw::Table(_) = item.raw else {
                // `[registry.ghcr.io]` without quotes is a table within a table.
                self.wrong_type(&item, &what, "a table", None);
                continue;
            };
            if let Raw::Table(entries) = &item.raw {
                if let Some((
                    inner,
                    (
                        _,
                        Item {
                            raw: Raw::Table(_), ..
                        },
                    ),
                )) = entries
                    .iter()
                    .find(|(key, _)| !["host", "username", "password"].contains(&key.as_str()))
                {
                    let hint = format!("put the host in quotes: [registry.\"{name}.{inner}\"]");
                    self.report(
                        "manifest.bad-name",
                        key,
                        format!("[registry.{name}.{inner}] is a table within a table"),
                        "dots separate",
                        Some(hint),
                    );
                    continue;
                }
            }
            let Some(mut entries) = self.table(item, &what, &["host", "username", "password"])
            else {
                continue;
            };
            let host = entries
                .shift_remove("host")
                .and_then(|(_, item)| self.plain_source(item, "`host`"));
            let username = match entries.shift_remove("username") {
                Some((_, item)) => self.text_source(item, "`username`"),
                None => {
                    self.missing(
                        key,
                        format!("{what} has no username"),
                        "write username = \"NAME\"",
                    );
                    None
                }
            };
            let password = match entries.shift_remove("password") {
                Some((_, item)) => self.password(item),
                None => {
                    self.missing(
                        key,
                        format!("{what} has no password"),
                        "write password = { secret = \"NAME\" }",
                    );
                    None
                }
            };
            if name.contains('/') || name.is_empty() || name.starts_with('-') {
                self.report(
                    "manifest.bad-name",
                    key,
                    format!("{name:?} is no registry's host"),
                    "this name",
                    Some(
                        "write host and port only, as in \"ghcr.io\" or \"localhost:5000\"".into(),
                    ),
                );
            }
            if let (Some(username), Some(password)) = (username, password) {
                registries.insert(
                    name,
                    Registry {
                        key,
                        host,
                        username,
                        password,
                    },
                );
            }
        }
        registries
    }

    fn password(&mut self, item: Item) -> Option<TextSource> {
        let span = item.span;
        let source = self.text_source(item, "`password`")?;
        match &source {
            TextSource::Env { name, .. } => {
                let name = name.clone();
                self.report(
                    "manifest.secret-here",
                    name.span,
                    "a password must be a secret, or it would show in messages",
                    "this setting",
                    Some(format!(
                        "write {{ secret = \"{0}\" }}: its bytes come from the environment variable {0} as well",
                        name.value
                    )),
                );
                return None;
            }
            TextSource::Written(_) => self.found.push(
                Diagnostic::new(
                    "manifest.plain-password",
                    "everyone who reads the manifest sees this password",
                )
                .at(&self.source, span, "this text")
                .hint("write { secret = \"NAME\" }")
                .warning(),
            ),
            TextSource::Secret(_) => {}
        }
        Some(source)
    }

    fn targets(&mut self, item: Item) -> IndexMap<String, Target> {
        let mut targets = IndexMap::new();
        for (name, (key, item)) in self.named(item, "target", is_name) {
            if name == LOCAL {
                self.report(
                    "manifest.bad-name",
                    key,
                    "`local` is this machine; it needs no [target.local]",
                    "this name",
                    Some("write on = \"local\", or choose another name".into()),
                );
            }
            match self.target(&name, key, item) {
                Some(target) => {
                    targets.insert(name, target);
                }
                None => {
                    self.broken.insert(name);
                }
            }
        }
        targets
    }

    fn target(&mut self, name: &str, key: Span, item: Item) -> Option<Target> {
        const KEYS: &[&str] = &[
            "ssh",
            "local",
            "key",
            "known_hosts",
            "ssh_config",
            "connect_timeout",
            "sudo",
            "docker_socket",
        ];
        let what = format!("[target.{name}]");
        let mut entries = self.table(item, &what, KEYS)?;
        let sudo = entries
            .shift_remove("sudo")
            .is_some_and(|(_, item)| self.boolean(&item, "`sudo`"));
        let docker_socket = entries
            .shift_remove("docker_socket")
            .and_then(|(_, item)| self.plain_source(item, "`docker_socket`"));
        let local = entries
            .shift_remove("local")
            .map(|(span, item)| (span, self.boolean(&item, "`local`")));
        let Some((_, ssh)) = entries.shift_remove("ssh") else {
            if !matches!(local, Some((_, true))) {
                self.missing(
                    key,
                    format!("{what} says neither `ssh` nor `local`"),
                    "write ssh = \"user@host\", or local = true",
                );
                return None;
            }
            for (other, (span, _)) in &entries {
                if KEYS.contains(&other.as_str()) {
                    self.report(
                        "manifest.conflict",
                        *span,
                        format!("`{other}` means nothing for a local target"),
                        "this key",
                        None,
                    );
                }
            }
            return Some(Target {
                key,
                address: TargetAddress::Local,
                sudo,
                docker_socket,
            });
        };
        if let Some((span, true)) = local {
            self.report(
                "manifest.conflict",
                span,
                format!("{what} is both `local` and reached over `ssh`"),
                "take one away",
                None,
            );
        }
        let ssh_span = ssh.span;
        let ssh = self.plain_source(ssh, "`ssh`");
        let identity = match entries.shift_remove("key") {
            Some((_, item)) => self.key(item),
            None => Key::Default,
        };
        let known_hosts = match entries.shift_remove("known_hosts") {
            Some((_, item)) => self.known_hosts(item),
            None => Hosts::Default,
        };
        let ssh_config = entries
            .shift_remove("ssh_config")
            .and_then(|(_, item)| self.plain_source(item, "`ssh_config`"));
        let connect_timeout = entries
            .shift_remove("connect_timeout")
            .and_then(|(_, item)| self.duration(&item, "`connect_timeout`"))
            .unwrap_or(CONNECT_TIMEOUT);
        Some(Target {
            key,
            address: TargetAddress::Ssh(Box::new(SshTarget {
                ssh: At::new(ssh_span, ssh?),
                key: identity,
                known_hosts,
                ssh_config,
                connect_timeout,
            })),
            sudo,
            docker_socket,
        })
    }

    fn key(&mut self, item: Item) -> Key {
        const HINT: &str = "write { secret = \"NAME\" }, { file = \"PATH\" } or \"agent\"";
        match item.raw {
            Raw::String(ref text) if text == "agent" => Key::Agent,
            Raw::Table(mut entries) if entries.contains_key("file") => {
                let file = entries.shift_remove("file").map(|(_, item)| item);
                for (key, (span, _)) in &entries {
                    self.unknown_key(key, *span, "`key`", &["file"]);
                }
                file.and_then(|item| self.plain_source(item, "`file`"))
                    .map_or(Key::Default, Key::File)
            }
            Raw::Table(entries) if secret_handle(&entries).is_some() => {
                let item = Item {
                    span: item.span,
                    raw: Raw::Table(entries),
                };
                self.text_source(item, "`key`")
                    .map_or(Key::Default, Key::Text)
            }
            _ => {
                self.report(
                    "manifest.wrong-type",
                    item.span,
                    "`key` must say where the private key is",
                    "not known here",
                    Some(HINT.to_owned()),
                );
                Key::Default
            }
        }
    }

    fn known_hosts(&mut self, item: Item) -> Hosts {
        match item.raw {
            Raw::Table(mut entries) if entries.contains_key("text") => {
                let text = entries.shift_remove("text").map(|(_, item)| item);
                for (key, (span, _)) in &entries {
                    self.unknown_key(key, *span, "`known_hosts`", &["text"]);
                }
                text.and_then(|item| self.text_source(item, "`text`"))
                    .map_or(Hosts::Default, Hosts::Text)
            }
            Raw::Table(mut entries) if entries.contains_key("file") => {
                let file = entries.shift_remove("file").map(|(_, item)| item);
                for (key, (span, _)) in &entries {
                    self.unknown_key(key, *span, "`known_hosts`", &["file"]);
                }
                file.and_then(|item| self.plain_source(item, "`file`"))
                    .map_or(Hosts::Default, Hosts::File)
            }
            Raw::Table(_) => self
                .text_source(item, "`known_hosts`")
                .map_or(Hosts::Default, Hosts::Text),
            _ => self
                .plain_source(item, "`known_hosts`")
                .map_or(Hosts::Default, Hosts::File),
        }
    }

    fn environments(&mut self, item: Item) -> IndexMap<String, Environment> {
        let mut environments = IndexMap::new();
        for (name, (key, item)) in self.named(item, "environment", is_name) {
            let what = format!("[environment.{name}]");
            let mut environment = Environment {
                key,
                targets: Vec::new(),
                vars: IndexMap::new(),
                confirm: false,
                values: IndexMap::new(),
            };
            for (key, (span, item)) in self.free_table(item, &what).unwrap_or_default() {
                match key.as_str() {
                    "targets" => environment.targets = self.strings(item, "`targets`"),
                    "vars" => environment.vars = self.settings(item, "`vars`"),
                    "confirm" => environment.confirm = self.boolean(&item, "`confirm`"),
                    "name" => self.report(
                        "manifest.conflict",
                        span,
                        "`environment.name` is the environment's own name",
                        "this key",
                        Some("choose another".into()),
                    ),
                    _ => {
                        if !is_name(&key) {
                            self.report(
                                "manifest.bad-name",
                                span,
                                format!("`{key}` is no name for a value of an environment"),
                                "this name",
                                Some("names are lower-case letters, digits and _".into()),
                            );
                        }
                        let setting = self.setting(span, item, &what);
                        environment.values.insert(key, setting);
                    }
                }
            }
            environments.insert(name, environment);
        }
        environments
    }

    fn uses(&mut self, entries: &mut Entries, what: &str, key: Span) -> At<String> {
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

    fn grants(&mut self, item: Item) -> Vec<Template> {
        let mut grants = Vec::new();
        for text in self.strings(item, "`grant`") {
            let Some(template) = self.template_of(&text) else {
                continue;
            };
            if let Some(literal) = template.literal() {
                if let Err(error) = Grant::parse(literal) {
                    let error = bad_grant(&self.source, text.span, literal, error);
                    self.found.push(error);
                }
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

    fn step(&mut self, name: &str, key: Span, item: Item) -> Option<Step> {
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
        })
    }

    fn on(&mut self, item: Item) -> Option<With> {
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

    fn when(&mut self, item: Item) -> Option<Expression> {
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

    fn retry(&mut self, item: Item) -> Retry {
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

    fn notify(&mut self, name: &str, key: Span, item: Item) -> Option<Notify> {
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

/// The name in `{ secret = "NAME" }`.
fn secret_handle(entries: &Entries) -> Option<At<String>> {
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
