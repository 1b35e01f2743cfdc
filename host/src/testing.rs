//! What test cases run: plugins by name or path, and whole pipelines against
//! a script in place of the live backends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use windlass_cases::{Pipeline, PipelineRun};
use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Graph, Inputs, Lock, Manifest, Outputs};
use windlass_model::event::Envelope;
use windlass_model::reply::GitFacts;
use windlass_report::{Reporter, Reporters};
use windlass_runtime::{Plugin, PluginError, Runtime};

use crate::builtin;
use crate::engine::{self, RunInput};
use crate::plugins::{LOCK_FILE, PluginSet};

/// Why something cannot be tested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TestError {
    pub message: String,
    pub hint: Option<String>,
}

impl TestError {
    fn new(message: impl Into<String>, hint: &str) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.to_owned()),
        }
    }
}

impl From<PluginError> for TestError {
    fn from(error: PluginError) -> Self {
        Self {
            hint: error.hint().map(str::to_owned),
            message: error.to_string(),
        }
    }
}

/// A built-in plugin by its name, or a component by its path from `base`.
pub async fn plugin(runtime: &Runtime, uses: &str, base: &Path) -> Result<Plugin, TestError> {
    if let Some(loaded) = builtin::load(runtime, uses).await {
        return Ok(loaded?);
    }
    if !uses.contains('/') && !uses.ends_with(".wasm") {
        return Err(TestError::new(
            format!("there is no built-in plugin {uses:?}"),
            "`windlass plugins` lists them; a path begins with ./",
        ));
    }
    let path = base.join(uses);
    let bytes = crate::plugins::read(&path).await.map_err(|error| {
        TestError::new(
            format!(
                "plugin {uses} cannot be read from {}: {error}",
                path.display()
            ),
            "build it, or mend its path: it begins at the case's own directory",
        )
    })?;
    Ok(runtime.load(uses, &bytes).await?)
}

/// A manifest with its plugins.
#[derive(Debug)]
pub struct Project {
    root: PathBuf,
    manifest: Arc<Manifest>,
    plugins: PluginSet,
}

/// Reads a manifest and loads what it uses.
pub async fn pipeline(runtime: &Runtime, path: &Path) -> Result<Project, TestError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        TestError::new(
            format!("the pipeline {shown} cannot be read: {error}"),
            "its path begins at the case's own directory",
        )
    })?;
    let plain = |problems: &windlass_manifest::Diagnostics| TestError {
        message: problems.render(false, 100).trim().to_owned(),
        hint: None,
    };
    let (manifest, problems) = Manifest::examine(&shown, &text);
    let Some(manifest) = manifest.filter(|_| !problems.has_errors()) else {
        return Err(plain(&problems));
    };
    let manifest = Arc::new(manifest);
    let root = path
        .parent()
        .unwrap_or(Path::new("."))
        .canonicalize()
        .map_err(|error| TestError::new(format!("{shown}: {error}"), "check its directory"))?;
    let lock = match std::fs::read_to_string(root.join(LOCK_FILE)) {
        Ok(text) => Lock::parse(LOCK_FILE, &text).map_err(|problems| plain(&problems))?,
        Err(_) => Lock::default(),
    };
    // What is used does not depend on the inputs.
    let (graph, _) = Graph::examine(&manifest, &Inputs::default());
    let (plugins, problems) = PluginSet::load(runtime, &graph, &root, &lock).await;
    if problems.has_errors() {
        return Err(plain(&problems));
    }
    Ok(Project {
        root,
        manifest,
        plugins,
    })
}

#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<Envelope>>>);

impl Reporter for Collect {
    fn event(&mut self, envelope: &Envelope) -> std::io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(envelope.clone());
        Ok(())
    }
}

#[async_trait]
impl Pipeline for Project {
    fn root(&self) -> &Path {
        &self.root
    }

    async fn run(&self, run: PipelineRun) -> Result<Vec<Envelope>, String> {
        let given = run.inputs;
        let inputs = Inputs {
            environment: given.environment,
            vars: given.vars,
            env: given.env,
            run: RunFacts {
                id: run.run.to_string(),
                tag: Some(given.tag),
                commit: given.commit.clone(),
                branch: given.branch.clone(),
                dirty: given.dirty,
                now: given.now,
            },
            only: given.only,
            from: given.from,
        };
        let (graph, mut problems) = Graph::examine(&self.manifest, &inputs);
        problems.extend(graph.check(&self.plugins.catalog()).iter().cloned());
        if !problems.has_errors() {
            let uncovered = engine::uncovered(&graph, &self.plugins);
            problems.extend(uncovered.iter().cloned());
        }
        if problems.has_errors() {
            return Err(problems.sorted().render(false, 100).trim().to_owned());
        }
        for wanted in &graph.secrets {
            if !run.secrets.contains(&wanted.name) {
                return Err(format!(
                    "the pipeline needs secret {}: give a fake one under [secrets]",
                    wanted.name
                ));
            }
        }
        let collect = Collect::default();
        let mut reporters = Reporters::new();
        reporters.add("test", collect.clone());
        engine::run(RunInput {
            run: run.run,
            started: given.now,
            graph: Arc::new(graph),
            git: GitFacts {
                commit: given.commit,
                branch: Some(given.branch),
                dirty: given.dirty,
                ..GitFacts::default()
            },
            plugins: self.plugins.clone(),
            secrets: run.secrets,
            journal: None,
            backend: run.backend,
            reporters,
            reused: Outputs::default(),
            operator: None,
            cancel: run.cancel,
            clock: run.clock,
            who: "test@windlass".to_owned(),
            link: given.link,
            earlier: None,
        })
        .await;
        let events = std::mem::take(&mut *collect.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(events)
    }
}
