//! What `windlass.toml` says, typed, with a place for everything that a later
//! stage may complain about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use crate::diagnostic::{Diagnostics, Source, Span};
use crate::expression::{Expression, Template, With};

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    pub span: Span,
    pub value: T,
}

impl<T> At<T> {
    pub fn new(span: Span, value: T) -> Self {
        Self { span, value }
    }
}

/// A parsed manifest. [`Manifest::parse`] makes it.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub source: Arc<Source>,
    pub name: At<String>,
    pub vars: IndexMap<String, Setting>,
    pub run: RunSettings,
    /// By host, as written.
    pub registries: IndexMap<String, Registry>,
    pub targets: IndexMap<String, Target>,
    pub environments: IndexMap<String, Environment>,
    pub steps: IndexMap<String, Step>,
    /// Components by name.
    pub plugins: IndexMap<String, Plugin>,
    pub rollback: RollbackMode,
    pub notify: IndexMap<String, Notify>,
    pub secrets: IndexMap<String, At<SecretSource>>,
    /// What is not wrong but unwise.
    pub warnings: Diagnostics,
    /// Targets that could not be read; not asked for again.
    pub(crate) broken: BTreeSet<String>,
}

/// `"text {{ … }}"`, a number, a boolean, a list, or `{ env = "X", default = … }`.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of the key.
    pub key: Span,
    pub value: SettingValue,
}

#[derive(Clone, Debug)]
pub enum SettingValue {
    /// Holds no secret.
    Written(With),
    /// The environment variable of this name.
    Env {
        name: At<String>,
        default: Option<With>,
    },
}

#[derive(Clone, Debug, Default)]
pub struct RunSettings {
    pub tag: Option<Template>,
    pub allow_dirty: bool,
    /// Steps at once, instances counted.
    pub max_parallel: Option<u32>,
    /// Of the whole run.
    pub timeout: Option<Duration>,
    pub lease_ttl: Option<Duration>,
    /// How long to wait for a lease that another run holds.
    pub lease_wait: Option<Duration>,
    pub keep_releases: Option<u32>,
}

/// Text, or where text comes from.
#[derive(Clone, Debug)]
pub enum TextSource {
    Written(Template),
    Env {
        name: At<String>,
        default: Option<Template>,
    },
    Secret(At<String>),
}

#[derive(Clone, Debug)]
pub struct Registry {
    /// Of the table's name.
    pub key: Span,
    /// Instead of the table's name.
    pub host: Option<TextSource>,
    pub username: TextSource,
    pub password: TextSource,
}

#[derive(Clone, Debug)]
pub struct Target {
    /// Of the table's name.
    pub key: Span,
    pub address: TargetAddress,
    pub sudo: bool,
    pub docker_socket: Option<TextSource>,
}

#[derive(Clone, Debug)]
pub enum TargetAddress {
    Local,
    Ssh(Box<SshTarget>),
}

#[derive(Clone, Debug)]
pub struct SshTarget {
    /// `[user@]host[:port]`
    pub ssh: At<TextSource>,
    pub key: Key,
    pub known_hosts: Hosts,
    pub ssh_config: Option<TextSource>,
    pub connect_timeout: Duration,
}

#[derive(Clone, Debug, Default)]
pub enum Key {
    #[default]
    Default,
    Agent,
    File(TextSource),
    Text(TextSource),
}

#[derive(Clone, Debug, Default)]
pub enum Hosts {
    #[default]
    Default,
    File(TextSource),
    Text(TextSource),
}

#[derive(Clone, Debug)]
pub struct Environment {
    /// Of the table's name.
    pub key: Span,
    pub targets: Vec<At<String>>,
    /// Instead of those of the manifest.
    pub vars: IndexMap<String, Setting>,
    /// Ask before a run.
    pub confirm: bool,
    /// The one target whose lease stands for all of them.
    pub lease_target: Option<At<String>>,
    /// Everything else: `environment.NAME`.
    pub values: IndexMap<String, Setting>,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// Of the table's name.
    pub key: Span,
    pub uses: At<String>,
    /// A table.
    pub with: With,
    pub needs: Vec<At<String>>,
    pub on: Option<With>,
    pub when: Option<Expression>,
    pub timeout: Option<Duration>,
    pub retry: Retry,
    pub grants: Vec<Template>,
    pub continue_on_error: bool,
    /// Runs when everything else has ended, however it ended.
    pub cleanup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// The first one included.
    pub attempts: u32,
    pub delay: Duration,
    /// Each delay is the former one times this.
    pub backoff: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            delay: Duration::from_secs(1),
            backoff: 2.0,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plugin {
    /// Of the table's name.
    pub key: Span,
    /// Of the component, from the manifest's directory.
    pub path: At<String>,
}

/// What happens on the targets when a run fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollbackMode {
    #[default]
    Never,
    /// Every target that the run changed goes back.
    Failure,
}

#[derive(Clone, Debug)]
pub struct Notify {
    /// Of the table's name.
    pub key: Span,
    pub uses: At<String>,
    pub events: BTreeSet<NotifyEvent>,
    /// A table.
    pub with: With,
    pub grants: Vec<Template>,
    pub timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotifyEvent {
    Succeeded,
    Failed,
    Cancelled,
}

/// Where the bytes of a secret come from. The host reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(String),
    /// What the program prints, without the last line end.
    Command(Vec<String>),
}

impl Manifest {
    /// Reads a manifest. `name` is what messages call it: `windlass.toml`.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        match crate::parse::parse(name, text) {
            (Some(mut manifest), found) if !found.has_errors() => {
                manifest.warnings = found;
                Ok(manifest)
            }
            (_, found) => Err(found),
        }
    }

    /// Reads as much as there is, with all problems. A manifest that has errors
    /// serves to find those of later stages too, and for nothing else.
    pub fn examine(name: &str, text: &str) -> (Option<Self>, Diagnostics) {
        crate::parse::parse(name, text)
    }

    /// Environment variables that the manifest names outside of secrets: what
    /// [`Inputs::env`](crate::Inputs) should hold.
    pub fn wanted_env(&self) -> BTreeSet<String> {
        fn text<'a>(source: &'a TextSource, names: &mut BTreeSet<&'a str>) {
            if let TextSource::Env { name, .. } = source {
                names.insert(&name.value);
            }
        }
        fn settings<'a>(settings: &'a IndexMap<String, Setting>, names: &mut BTreeSet<&'a str>) {
            for setting in settings.values() {
                if let SettingValue::Env { name, .. } = &setting.value {
                    names.insert(&name.value);
                }
            }
        }
        let mut names = BTreeSet::new();
        settings(&self.vars, &mut names);
        for environment in self.environments.values() {
            settings(&environment.vars, &mut names);
            settings(&environment.values, &mut names);
        }
        for registry in self.registries.values() {
            text(&registry.username, &mut names);
            text(&registry.password, &mut names);
            registry.host.iter().for_each(|host| text(host, &mut names));
        }
        for target in self.targets.values() {
            let socket = target.docker_socket.iter();
            socket.for_each(|socket| text(socket, &mut names));
            if let TargetAddress::Ssh(ssh) = &target.address {
                text(&ssh.ssh.value, &mut names);
                ssh.ssh_config
                    .iter()
                    .for_each(|path| text(path, &mut names));
                if let Key::File(source) | Key::Text(source) = &ssh.key {
                    text(source, &mut names);
                }
                if let Hosts::File(source) | Hosts::Text(source) = &ssh.known_hosts {
                    text(source, &mut names);
                }
            }
        }
        names.into_iter().map(str::to_owned).collect()
    }

    /// Where a secret comes from: what `[secrets]` says, else the environment
    /// variable of its name.
    pub fn secret_source(&self, name: &str) -> SecretSource {
        self.secrets.get(name).map_or_else(
            || SecretSource::Env(name.to_owned()),
            |source| source.value.clone(),
        )
    }
}
