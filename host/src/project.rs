//! From a directory to a graph: finds the manifest, asks git and CI for facts,
//! resolves the inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use windlass_live::{Config, Live};
use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Diagnostic, Diagnostics, Graph, Inputs, Lock, Manifest};
use windlass_model::backend::NoLog;
use windlass_model::call::GitCall;
use windlass_model::reply::GitFacts;
use windlass_model::target::{Address, KeySource, KnownHosts};
use windlass_model::{
    Call, CallContext, CallError, CallId, Capability, ErrorKind, Reply, RunId, Secrets, StepKey,
};

use crate::ci::Ci;
use crate::plugins::LOCK_FILE;

/// The manifest's name.
pub const MANIFEST: &str = "windlass.toml";
/// A manifest is read by people; a larger one is a mistake.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
const GIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("{message}")]
    Missing { message: String, hint: String },
    #[error("{} problems in the manifest", .0.len())]
    Invalid(Diagnostics),
    #[error("{0}")]
    Git(CallError),
}

impl From<Diagnostics> for ProjectError {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Invalid(diagnostics)
    }
}

/// What a command line says of the project.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The manifest; found upwards from the working directory when absent.
    pub file: Option<PathBuf>,
    pub environment: Option<String>,
    pub vars: BTreeMap<String, String>,
    pub tag: Option<String>,
    pub only: Vec<String>,
    pub from: Option<String>,
    /// Of a run that this one goes on with, or repeats in part.
    pub recorded: Option<Recorded>,
}

/// What an earlier run was asked for, beside what the other options say.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its own id, where this is the same run.
    pub run: Option<RunId>,
    pub started: Timestamp,
    pub branch: String,
    /// For variables of the environment that are not set now.
    pub env: BTreeMap<String, String>,
}

/// A manifest, where it is, and what git and CI say.
#[derive(Clone, Debug)]
pub struct Project {
    /// The manifest's directory.
    pub root: PathBuf,
    pub manifest: Arc<Manifest>,
    /// Of the manifest's text; [`Self::graph`] adds its own to them.
    pub problems: Diagnostics,
    pub git: Option<GitFacts>,
    pub ci: Ci,
    pub lock: Lock,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Project {
    /// Reads and parses; asks git, but touches nothing.
    pub async fn open(file: Option<&Path>) -> Result<Self, ProjectError> {
        let path = match file {
            Some(path) => path.to_owned(),
            None => find()?,
        };
        let text = read(&path)?;
        let name = path.display().to_string();
        let (manifest, problems) = Manifest::examine(&name, &text);
        let Some(manifest) = manifest else {
            return Err(ProjectError::Invalid(problems.sorted()));
        };
        let root = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let root = root.canonicalize().map_err(|error| ProjectError::Missing {
            message: format!(
                "the directory {} cannot be entered: {error}",
                root.display()
            ),
            hint: "check its permissions".to_owned(),
        })?;
        let lock_path = root.join(LOCK_FILE);
        let lock = match std::fs::read_to_string(&lock_path) {
            Ok(text) => Lock::parse(LOCK_FILE, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Lock::default(),
            Err(error) => {
                return Err(ProjectError::Missing {
                    message: format!("{} cannot be read: {error}", lock_path.display()),
                    hint: "check its permissions".to_owned(),
                });
            }
        };
        let git = git_facts(&root).await?;
        Ok(Self {
            root,
            manifest: Arc::new(manifest),
            problems,
            git,
            ci: Ci::detect(&variable),
            lock,
        })
    }

    /// The graph of one run, with all problems so far. One that has errors
    /// serves to find more of them, and for nothing else.
    pub fn graph(&self, run: RunId, now: Timestamp, options: &Options) -> (Graph, Diagnostics) {
        let git = self.git.clone().unwrap_or_default();
        let tag = options
            .tag
            .clone()
            .or_else(|| self.ci.tag.clone())
            .or_else(|| git.tags.last().cloned());
        let mut env = self.env();
        let recorded = options.recorded.as_ref();
        for (name, value) in recorded.iter().flat_map(|recorded| &recorded.env) {
            env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let inputs = Inputs {
            environment: options.environment.clone(),
            vars: options.vars.clone(),
            env,
            run: RunFacts {
                id: run.to_string(),
                tag,
                commit: git.commit,
                branch: recorded
                    .map(|recorded| recorded.branch.clone())
                    .or(git.branch)
                    .or_else(|| self.ci.branch.clone())
                    .unwrap_or_default(),
                dirty: git.dirty,
                now,
            },
            only: options.only.clone(),
            from: options.from.clone(),
        };
        let (mut graph, more) = Graph::examine(&self.manifest, &inputs);
        for target in &mut graph.targets {
            self.anchor(&mut target.address);
        }
        let mut problems = self.problems.clone();
        problems.extend(more.iter().cloned());
        problems.extend(graph.warnings.iter().cloned());
        (graph, problems)
    }

    /// Variables of the environment that the manifest names as plain ones, as far as
    /// they are set.
    pub fn env(&self) -> BTreeMap<String, String> {
        let wanted = self.manifest.wanted_env().into_iter();
        wanted
            .filter_map(|name| {
                let value = variable(&name)?;
                Some((name, value))
            })
            .collect()
    }

    /// Paths of keys and known hosts are the manifest's, or the user's home's.
    fn anchor(&self, address: &mut Address) {
        let Address::Ssh(ssh) = address else {
            return;
        };
        let home = variable("HOME").map(PathBuf::from);
        let anchored = |path: &mut PathBuf| {
            *path = match (path.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => home.join(rest),
                _ => self.root.join(&*path),
            };
        };
        if let KeySource::File(path) = &mut ssh.key {
            anchored(path);
        }
        if let KnownHosts::File(path) = &mut ssh.known_hosts {
            anchored(path);
        }
        if let Some(path) = &mut ssh.ssh_config {
            anchored(path);
        }
    }

    /// Refuses a tree whose commit does not say what would be deployed.
    pub fn refuse_dirty(&self, graph: &Graph, allowed: bool) -> Result<(), ProjectError> {
        let dirty = self.git.as_ref().is_some_and(|git| git.dirty);
        if !dirty || allowed || graph.settings.allow_dirty {
            return Ok(());
        }
        Err(ProjectError::Invalid(
            Diagnostic::new(
                "project.dirty",
                "the working tree has changes that are not committed: what would be deployed is \
                 in no commit",
            )
            .hint(
                "commit or stash them (`git status` lists them), pass --allow-dirty for this \
                 run, or write allow_dirty = true under [run]",
            )
            .into(),
        ))
    }

    /// Who runs this, for releases and leases.
    pub fn who(&self) -> String {
        self.ci.who.clone().unwrap_or_else(|| {
            let user = variable("USER")
                .or_else(|| variable("LOGNAME"))
                .unwrap_or_else(|| "someone".to_owned());
            format!("{user}@{}", host_name())
        })
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| variable("HOSTNAME"))
        .unwrap_or_else(|| "this machine".to_owned())
}

fn find() -> Result<PathBuf, ProjectError> {
    let here = std::env::current_dir().map_err(|error| ProjectError::Missing {
        message: format!("the working directory cannot be read: {error}"),
        hint: "change to a directory that exists".to_owned(),
    })?;
    for (depth, directory) in here.ancestors().enumerate() {
        let candidate = directory.join(MANIFEST);
        if candidate.is_file() {
            // A short name reads better in messages.
            return Ok(if depth == 0 {
                PathBuf::from(MANIFEST)
            } else {
                candidate
            });
        }
    }
    Err(ProjectError::Missing {
        message: format!("there is no {MANIFEST} in {} or above it", here.display()),
        hint: "`windlass init` writes one; --file names one elsewhere".to_owned(),
    })
}

fn read(path: &Path) -> Result<String, ProjectError> {
    let failed = |reason: String| ProjectError::Missing {
        message: format!("{} cannot be read: {reason}", path.display()),
        hint: "--file names the manifest; `windlass init` writes one".to_owned(),
    };
    let meta = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if meta.len() > MAX_MANIFEST_BYTES {
        return Err(failed("it is larger than 4 MiB".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

/// Nothing outside a repository, or without the git program.
async fn git_facts(root: &Path) -> Result<Option<GitFacts>, ProjectError> {
    let internal = |error: CallError| ProjectError::Git(error);
    let live = Live::new(Config {
        root: root.to_owned(),
        scratch: std::env::temp_dir(),
        targets: Vec::new(),
        registries: Vec::new(),
        secrets: Arc::new(Secrets::default()),
    })
    .map_err(internal)?;
    let context = outside_a_run(RunId(uuid::Uuid::nil()), Instant::now() + GIT_TIMEOUT);
    match live.call(&context, Call::Git(GitCall::Inspect)).await {
        Ok(Reply::Git(facts)) => Ok(Some(*facts)),
        Ok(other) => Err(internal(CallError::wrong_reply(
            "git.inspect",
            other.kind(),
        ))),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(internal(error)),
    }
}

/// The context of a call that belongs to no step.
pub(crate) fn outside_a_run(run: RunId, deadline: Instant) -> CallContext {
    CallContext {
        id: CallId {
            run,
            step: StepKey::engine(),
            attempt: 1,
            seq: 1,
        },
        deadline,
        cancel: Default::default(),
        log: Arc::new(NoLog),
        blobs: Default::default(),
        answered: Default::default(),
    }
}

/// The web address of `origin`, if there is one.
pub(crate) async fn git_origin(root: &Path) -> Option<String> {
    git_facts(root).await.ok().flatten()?.origin
}
