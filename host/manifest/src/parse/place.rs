//! `[registry]`, `[target]` and `[environment]`.

use std::time::Duration;

use indexmap::IndexMap;
use windlass_model::id::LOCAL;

use super::value::secret_handle;
use super::{Reader, is_name};
use crate::diagnostic::{Diagnostic, Span};
use crate::manifest::{
    At, Environment, Hosts, Key, Registry, SshTarget, Target, TargetAddress, TextSource,
};
use crate::tree::{Item, Raw};

/// The connect timeout of a target that has none written.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Reader {
    pub(super) fn registries(&mut self, item: Item) -> IndexMap<String, Registry> {
        let mut registries = IndexMap::new();
        for (name, (key, item)) in self.free_table(item, "[registry]").unwrap_or_default() {
            let what = format!("[registry.\"{name}\"]");
            let Raw::Table(_) = item.raw else {
                // `[registry.ghcr.io]` without quotes is a table within a table.
                self.wrong_type(&item, &what, "a table", None);
                continue;
            };
            if let Raw::Table(entries) = &item.raw
                && let Some((
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

    pub(super) fn password(&mut self, item: Item) -> Option<TextSource> {
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

    pub(super) fn targets(&mut self, item: Item) -> IndexMap<String, Target> {
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

    pub(super) fn target(&mut self, name: &str, key: Span, item: Item) -> Option<Target> {
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

    pub(super) fn key(&mut self, item: Item) -> Key {
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

    pub(super) fn known_hosts(&mut self, item: Item) -> Hosts {
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

    pub(super) fn environments(&mut self, item: Item) -> IndexMap<String, Environment> {
        let mut environments = IndexMap::new();
        for (name, (key, item)) in self.named(item, "environment", is_name) {
            let what = format!("[environment.{name}]");
            let mut environment = Environment {
                key,
                targets: Vec::new(),
                vars: IndexMap::new(),
                confirm: false,
                lease_target: None,
                values: IndexMap::new(),
            };
            for (key, (span, item)) in self.free_table(item, &what).unwrap_or_default() {
                match key.as_str() {
                    "targets" => environment.targets = self.strings(item, "`targets`"),
                    "vars" => environment.vars = self.settings(item, "`vars`"),
                    "confirm" => environment.confirm = self.boolean(&item, "`confirm`"),
                    "lease_target" => {
                        environment.lease_target = self.string(item, "`lease_target`");
                    }
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
}
