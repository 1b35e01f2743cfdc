//! The plugins that a graph uses: built-in ones by name, others from files
//! whose bytes the lock file names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use windlass_manifest::catalog::{Catalog, OutputKind, PluginInfo};
use windlass_manifest::graph::PluginSource;
use windlass_manifest::{Diagnostic, Diagnostics, Graph, Lock};
use windlass_runtime::{OutputType, Plugin, PluginError, Runtime};

use crate::builtin;

/// The lock file's name, beside the manifest.
pub const LOCK_FILE: &str = "windlass.lock";

/// A loaded plugin and whether its bytes are this program's own.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plugin: Plugin,
    pub built_in: bool,
    /// Bytes that the lock names; a plugin without them has no grants.
    pub locked: bool,
}

/// By the text of `uses`.
#[derive(Clone, Debug, Default)]
pub struct PluginSet(BTreeMap<String, Loaded>);

impl PluginSet {
    pub fn get(&self, uses: &str) -> Option<&Loaded> {
        self.0.get(uses)
    }

    /// Loads what the graph uses, all at once. Problems name the step.
    pub async fn load(
        runtime: &Runtime,
        graph: &Graph,
        root: &Path,
        lock: &Lock,
    ) -> (Self, Diagnostics) {
        let mut wanted: BTreeMap<String, (PluginSource, windlass_manifest::diagnostic::Place)> =
            BTreeMap::new();
        let steps = graph
            .steps
            .iter()
            .map(|step| (&step.uses, &step.plugin, &step.place));
        let notify = graph
            .notify
            .iter()
            .map(|notify| (&notify.uses, &notify.plugin, &notify.place));
        for (uses, source, place) in steps.chain(notify) {
            wanted
                .entry(uses.clone())
                .or_insert_with(|| (source.clone(), place.clone()));
        }
        let tasks: Vec<_> = wanted
            .into_iter()
            .map(|(uses, (source, place))| {
                let (runtime, root) = (runtime.clone(), root.to_owned());
                let task = tokio::spawn({
                    let uses = uses.clone();
                    async move { load(&runtime, &root, &uses, &source).await }
                });
                (uses, place, task)
            })
            .collect();
        let mut set = Self::default();
        let mut problems = Diagnostics::default();
        for (uses, place, task) in tasks {
            let at = |diagnostic: Diagnostic| {
                diagnostic.at(&graph.manifest.source, place.span, "used here")
            };
            let outcome = match task.await {
                Ok(outcome) => outcome,
                Err(error) => Err(Trouble::new(format!("load plugin {uses}: {error}"), None)),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some((plugin, built_in))) => {
                    let locked = match (built_in, lock.get(&uses)) {
                        (true, _) => true,
                        (false, Some(entry)) if entry.sha256 == plugin.digest => true,
                        (false, Some(entry)) => {
                            problems.push(
                                at(Diagnostic::new(
                                    "plugin.not-locked",
                                    format!(
                                        "plugin {uses} is not the one in {LOCK_FILE}: its digest \
                                         is {}, the lock says {}",
                                        short(plugin.digest.as_str()),
                                        short(entry.sha256.as_str())
                                    ),
                                ))
                                .hint(
                                    "its grants are for the locked bytes only; look at what \
                                     changed with `windlass plugin inspect`, then run `windlass \
                                     plugin lock`",
                                ),
                            );
                            false
                        }
                        (false, None) => {
                            problems.push(
                                at(Diagnostic::new(
                                    "plugin.unlocked",
                                    format!("plugin {uses} is not in {LOCK_FILE}"),
                                ))
                                .hint(
                                    "grants are bound to a plugin's bytes: run `windlass plugin \
                                     lock` and commit the file",
                                ),
                            );
                            false
                        }
                    };
                    set.0.insert(
                        uses,
                        Loaded {
                            plugin,
                            built_in,
                            locked,
                        },
                    );
                }
                Err(trouble) => {
                    let diagnostic = at(Diagnostic::new("plugin.invalid", trouble.message));
                    problems.push(diagnostic.maybe_hint(trouble.hint));
                }
            }
        }
        (set, problems)
    }

    /// What the graph's check needs to know of them.
    pub fn catalog(&self) -> Catalog {
        Catalog {
            built_in: builtin::names(),
            plugins: self
                .0
                .iter()
                .map(|(uses, loaded)| (uses.clone(), info(&loaded.plugin)))
                .collect(),
        }
    }
}

fn short(digest: &str) -> &str {
    &digest[..digest.len().min(12)]
}

pub(crate) fn info(plugin: &Plugin) -> PluginInfo {
    let description = &plugin.description;
    PluginInfo {
        config_schema: description.config_schema.clone(),
        outputs: description
            .outputs
            .iter()
            .map(|output| {
                (
                    output.name.clone(),
                    match output.kind {
                        OutputType::Text => OutputKind::Text,
                        OutputType::Number => OutputKind::Number,
                        OutputType::Boolean => OutputKind::Boolean,
                        OutputType::Json => OutputKind::Json,
                    },
                )
            })
            .collect(),
        requests: description.requests.clone(),
    }
}

struct Trouble {
    message: String,
    hint: Option<String>,
}

impl Trouble {
    fn new(message: String, hint: Option<&str>) -> Self {
        Self {
            message,
            hint: hint.map(str::to_owned),
        }
    }
}

impl From<PluginError> for Trouble {
    fn from(error: PluginError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

/// Nothing for a name that no built-in has: the graph's check says so, with a
/// suggestion.
async fn load(
    runtime: &Runtime,
    root: &Path,
    uses: &str,
    source: &PluginSource,
) -> Result<Option<(Plugin, bool)>, Trouble> {
    match source {
        PluginSource::BuiltIn(name) => match builtin::load(runtime, name).await {
            Some(plugin) => Ok(Some((plugin?, true))),
            None => Ok(None),
        },
        PluginSource::File(path) => {
            let bytes = read(&root.join(path)).await.map_err(|error| {
                Trouble::new(
                    format!("plugin {uses} cannot be read from {path}: {error}"),
                    Some("build it, or mend its path"),
                )
            })?;
            Ok(Some((runtime.load(uses, &bytes).await?, false)))
        }
    }
}

pub(crate) async fn read(path: &Path) -> std::io::Result<Arc<[u8]>> {
    let meta = tokio::fs::metadata(path).await?;
    if meta.len() > windlass_runtime::limits::MAX_COMPONENT_BYTES as u64 {
        return Err(std::io::Error::other(format!(
            "it is larger than {} MiB",
            windlass_runtime::limits::MAX_COMPONENT_BYTES / (1024 * 1024)
        )));
    }
    Ok(tokio::fs::read(path).await?.into())
}
