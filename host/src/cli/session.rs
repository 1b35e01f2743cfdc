//! What most commands need: the project, its graph, its plugins, its secrets,
//! the backends.

use std::path::PathBuf;
use std::sync::Arc;

use etcetera::BaseStrategy as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use windlass_layers::Redactor;
use windlass_live::{Config, Live};
use windlass_manifest::{Diagnostics, Graph, Outputs};
use windlass_model::grant::Grant;
use windlass_model::{RunId, RunInputs, Secrets};
use windlass_report::Reporters;
use windlass_runtime::{Runtime, RuntimeOptions};

use super::terminal::Terminal;
use super::{StateArgs, WaitArgs};
use crate::engine::RunInput;
use crate::exit::Exit;
use crate::plugins::PluginSet;
use crate::project::{Options, Project};
use crate::secrets;

/// A policy outside the project: one grant a line, `#` for comments.
const POLICY: &str = "WINDLASS_POLICY";

pub(crate) struct Session {
    pub(crate) project: Project,
    pub(crate) run: RunId,
    pub(crate) started: Timestamp,
    pub(crate) graph: Arc<Graph>,
    pub(crate) plugins: PluginSet,
    /// Of the manifest and the plugins; warnings only, once it is open.
    pub(crate) problems: Diagnostics,
    pub(crate) operator: Option<Vec<Grant>>,
}

/// The WebAssembly engine, with the user's cache of compiled code.
pub(crate) fn runtime(terminal: &Terminal) -> Result<Runtime, Exit> {
    runtime_for(0, terminal)
}

/// The same, for as many steps at once, if they are more than usual.
fn runtime_for(steps: usize, terminal: &Terminal) -> Result<Runtime, Exit> {
    let cache = etcetera::choose_base_strategy()
        .ok()
        .map(|dirs| dirs.cache_dir().join("windlass").join("compiled"));
    let usual = RuntimeOptions::default();
    Runtime::new(RuntimeOptions {
        cache,
        guests: usual.guests.max(steps),
        ..usual
    })
    .map_err(|error| {
        terminal.error(&error.to_string(), None);
        Exit::Engine
    })
}

/// Everything that can be known without touching anything; all problems told
/// in one pass.
pub(crate) async fn open(terminal: &Terminal, options: &Options) -> Result<Session, Exit> {
    let (session, exit) = examine(terminal, options).await?;
    if exit != Exit::Succeeded {
        terminal.diagnostics(&session.problems);
        return Err(exit);
    }
    Ok(session)
}

/// The same, with the problems in the session instead of on stderr, and the
/// exit code that they mean.
pub(crate) async fn examine(
    terminal: &Terminal,
    options: &Options,
) -> Result<(Session, Exit), Exit> {
    let project = Project::open(options.file.as_deref())
        .await
        .map_err(|error| terminal.project_error(&error))?;
    let recorded = options.recorded.as_ref();
    let started = recorded.map_or_else(Timestamp::now, |recorded| recorded.started);
    let run = recorded
        .and_then(|recorded| recorded.run)
        .unwrap_or_else(|| RunId(uuid::Uuid::now_v7()));
    let (graph, mut problems) = project.graph(run, started, options);
    let runtime = runtime_for(graph.settings.max_parallel, terminal)?;
    let (plugins, more) = PluginSet::load(&runtime, &graph, &project.root, &project.lock).await;
    problems.extend(more.iter().cloned());
    problems.extend(graph.check(&plugins.catalog()).iter().cloned());
    let mut exit = Exit::Succeeded;
    if problems.has_errors() {
        exit = Exit::Invalid;
    } else {
        let uncovered = crate::engine::uncovered(&graph, &plugins);
        if uncovered.has_errors() {
            exit = Exit::Denied;
        }
        problems.extend(uncovered.iter().cloned());
    }
    let operator = operator(terminal)?;
    let session = Session {
        project,
        run,
        started,
        graph: Arc::new(graph),
        plugins,
        problems: problems.sorted(),
        operator,
    };
    Ok((session, exit))
}

fn operator(terminal: &Terminal) -> Result<Option<Vec<Grant>>, Exit> {
    let Some(path) = std::env::var_os(POLICY).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let refuse = |message: String, hint: &str| {
        terminal.error(&message, Some(hint));
        Exit::Invalid
    };
    let text = fs_err::read_to_string(&path).map_err(|error| {
        refuse(
            format!("the policy cannot be read: {error}"),
            "WINDLASS_POLICY names a file with one grant a line",
        )
    })?;
    let mut grants = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        grants.push(Grant::parse(line).map_err(|error| {
            refuse(
                format!("{}:{}: {error}", path.display(), number + 1),
                error.hint.as_deref().unwrap_or("see docs/grants.md"),
            )
        })?);
    }
    Ok(Some(grants))
}

/// The backends, with their own directory; both end with it.
pub(crate) struct Backends {
    pub(crate) live: Arc<Live>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) scratch: tempfile::TempDir,
}

impl Backends {
    /// For a process that has to end at once.
    pub(crate) fn leases(&self, run: RunId) -> super::signals::Leases {
        super::signals::Leases {
            live: Arc::clone(&self.live),
            run,
        }
    }

    pub(crate) async fn close(self) {
        self.live.close().await;
        // What a socket's process still holds goes with the directory.
        let _ = self.scratch.close();
    }
}

impl Session {
    /// Reads the secrets and readies the backends; connects to nothing yet.
    pub(crate) async fn backends(&self, terminal: &Terminal) -> Result<Backends, Exit> {
        let secrets = secrets::collect(
            &self.graph.manifest,
            &self.graph.secrets,
            &self.project.root,
            &|name| std::env::var(name).ok(),
        )
        .await
        .map_err(|problems| {
            terminal.diagnostics(&problems);
            Exit::Invalid
        })?;
        self.backends_with(terminal, secrets)
    }

    fn backends_with(&self, terminal: &Terminal, secrets: Secrets) -> Result<Backends, Exit> {
        let secrets = Arc::new(secrets);
        let base = scratch_base();
        let scratch = tempfile::Builder::new()
            .prefix(SCRATCH_PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir_in(&base)
            .map_err(|error| {
                terminal.error(
                    &format!(
                        "a scratch directory in {} could not be made: {error}",
                        base.display()
                    ),
                    Some("free some space, or set XDG_RUNTIME_DIR to a directory of your own"),
                );
                Exit::Engine
            })?;
        let live = Live::new(Config {
            root: self.project.root.clone(),
            scratch: scratch.path().to_owned(),
            targets: self.graph.targets.clone(),
            registries: self.graph.registries.clone(),
            secrets: Arc::clone(&secrets),
        })
        .map_err(|error| terminal.call_error(&error))?;
        Ok(Backends {
            live: Arc::new(live),
            secrets,
            scratch,
        })
    }

    /// What the engine needs for this project.
    pub(crate) fn input(
        &self,
        backends: &Backends,
        reporters: Reporters,
        cancel: CancellationToken,
    ) -> RunInput {
        RunInput {
            run: self.run,
            started: self.started,
            graph: Arc::clone(&self.graph),
            git: self.project.git.clone().unwrap_or_default(),
            plugins: self.plugins.clone(),
            secrets: Arc::clone(&backends.secrets),
            journal: None,
            backend: Arc::clone(&backends.live) as Arc<_>,
            reporters,
            reused: Outputs::default(),
            operator: self.operator.clone(),
            cancel,
            clock: crate::engine::system_clock(),
            who: self.project.who(),
            link: self.project.ci.link.clone(),
            earlier: None,
        }
    }

    /// What this run is asked for.
    pub(crate) fn inputs(&self, options: &Options) -> RunInputs {
        use sha2::Digest as _;
        let graph = &self.graph;
        let git = self.project.git.clone().unwrap_or_default();
        let steps = graph.steps.iter().map(|step| &step.uses);
        let used = steps.chain(graph.notify.iter().map(|notify| &notify.uses));
        RunInputs {
            windlass: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: hex::encode(sha2::Sha256::digest(
                self.project.manifest.source.text.as_bytes(),
            )),
            plugins: used
                .filter_map(|uses| {
                    let digest = self.plugins.get(uses)?.plugin.digest.to_string();
                    Some((uses.clone(), digest))
                })
                .collect(),
            environment: graph
                .environment
                .as_ref()
                .map(|environment| environment.name.clone()),
            vars: options.vars.clone(),
            env: self.project.env(),
            tag: graph.tag.clone(),
            started: self.started,
            commit: git.commit,
            branch: git.branch.unwrap_or_default(),
            dirty: git.dirty,
            only: options.only.clone(),
            from: options.from.clone(),
            who: self.project.who(),
            link: self.project.ci.link.clone(),
            inherited: Default::default(),
        }
    }

    /// The same without what secrets say: somebody may have put one into a variable.
    pub(crate) fn kept_inputs(&self, options: &Options, backends: &Backends) -> RunInputs {
        let redactor = Redactor::new(&backends.secrets);
        let mut inputs = self.inputs(options);
        for value in inputs.vars.values_mut().chain(inputs.env.values_mut()) {
            *value = redactor.clean(value).into_owned();
        }
        inputs
    }

    /// The command line's word on how long to wait for a lease.
    pub(crate) fn wait(&mut self, args: WaitArgs) {
        if let Some(wait) = args.wait {
            Arc::make_mut(&mut self.graph).settings.lease_wait = wait;
        }
    }

    pub(crate) fn state_dir(&self, args: &StateArgs) -> PathBuf {
        state_dir(&self.project.root, args)
    }
}

/// What scratch directories' names begin with.
pub(crate) const SCRATCH_PREFIX: &str = "wl";

/// Where scratch directories are. Sockets have paths of at most 108 bytes: a
/// short one, whatever TMPDIR says.
pub(crate) fn scratch_base() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_dir() && dir.as_os_str().len() < 40)
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

/// `--state`, else `.windlass` beside the manifest.
pub(crate) fn state_dir(root: &std::path::Path, args: &StateArgs) -> PathBuf {
    args.state.clone().unwrap_or_else(|| root.join(".windlass"))
}
