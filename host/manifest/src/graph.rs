//! A manifest with everything that can be known before a run: what the engine
//! executes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Map, Value};
use windlass_model::grant::Grant;
use windlass_model::target::{Address, RegistryLogin, TargetSpec};
use windlass_model::{StepKey, StepName, TargetName};

use crate::catalog::Catalog;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, Span};
use crate::expression::{
    Expression, Resolved, Scope, With, WithNode, kind_of, unknown, unknown_name,
};
use crate::manifest::{Manifest, NotifyEvent, Retry, RollbackMode, SecretSource};

/// The deadline of a step that has none written.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Of a step that cleans up.
pub const DEFAULT_CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);

/// The deadline of a notification that has none written.
pub const DEFAULT_NOTIFY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is not in the manifest.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `--env`. When absent and the manifest has exactly one, that one.
    pub environment: Option<String>,
    /// `--var NAME=VALUE`
    pub vars: BTreeMap<String, String>,
    /// Those of [`Manifest::wanted_env`] that are set. An empty one counts as
    /// not set: that is what CI gives for a setting that does not exist.
    pub env: BTreeMap<String, String>,
    pub run: RunFacts,
    /// `--only`: these steps and no others.
    pub only: Vec<String>,
    /// `--from`: this step, and those that come after it.
    pub from: Option<String>,
}

/// The facts of a run, for expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFacts {
    pub id: String,
    /// From `--tag`, CI or git; else the manifest's template gives it.
    pub tag: Option<String>,
    /// Empty outside a repository.
    pub commit: String,
    pub branch: String,
    pub dirty: bool,
    /// When the run started.
    pub now: Timestamp,
}

/// What steps gave: by step, by target (None for a step without `on`), by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs(BTreeMap<StepName, BTreeMap<Option<TargetName>, IndexMap<String, Value>>>);

impl Outputs {
    pub fn insert(&mut self, step: &StepKey, outputs: IndexMap<String, Value>) {
        self.0
            .entry(step.name.clone())
            .or_default()
            .insert(step.target.clone(), outputs);
    }

    pub fn get(&self, step: &StepKey) -> Option<&IndexMap<String, Value>> {
        self.0.get(&step.name)?.get(&step.target)
    }
}

/// What `uses` names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginSource {
    /// By its name, such as `docker-push`.
    BuiltIn(String),
    /// A component's path, from the manifest's directory.
    File(String),
}

/// A grant that the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenGrant {
    pub grant: Grant,
    pub place: Place,
}

/// A secret that the run needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    pub name: String,
    pub source: SecretSource,
    /// Where it is used first.
    pub place: Place,
}

impl SecretUse {
    /// What to say when its source gives nothing.
    pub fn missing(&self) -> Diagnostic {
        let hint = match &self.source {
            SecretSource::Env(variable) => format!(
                "set the environment variable {variable}, or say in [secrets] where {} is",
                self.name
            ),
            SecretSource::File(path) => format!("write it to {path}"),
            SecretSource::Command(words) => format!("`{}` must print it", words.join(" ")),
        };
        Diagnostic::new(
            "manifest.missing-secret",
            format!("secret {} has no value", self.name),
        )
        .at(&self.place.source, self.place.span, "used here")
        .hint(hint)
    }
}

/// The environment that was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    pub name: String,
    pub targets: Vec<TargetName>,
    /// Ask before the run.
    pub confirm: bool,
    /// The one target whose lease stands for all of them.
    pub lease_target: Option<TargetName>,
    /// `environment.NAME`
    pub values: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub allow_dirty: bool,
    /// Step instances at once.
    pub max_parallel: usize,
    /// Of the whole run.
    pub timeout: Option<Duration>,
    pub lease_ttl: Duration,
    /// How long to wait for a lease that another run or a person holds.
    pub lease_wait: Duration,
    pub keep_releases: u32,
}

/// A step.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: StepName,
    /// As written.
    pub uses: String,
    pub plugin: PluginSource,
    /// Steps that come before: written in `needs`, or by an output used.
    pub needs: Vec<StepName>,
    /// Empty for a step without `on`.
    pub targets: Vec<TargetName>,
    /// Of the whole step, attempts included.
    pub timeout: Duration,
    pub retry: Retry,
    pub grants: Vec<WrittenGrant>,
    pub continue_on_error: bool,
    /// Runs when everything else has ended, however it ended. These are the last.
    pub cleanup: bool,
    /// False when `--only` or `--from` leaves it out.
    pub selected: bool,
    /// Of its name in the manifest.
    pub place: Place,
    pub(crate) uses_span: Span,
    pub(crate) with: With,
    pub(crate) when: Option<Expression>,
}

/// A notification.
#[derive(Clone, Debug)]
pub struct NotifyNode {
    pub name: StepName,
    pub uses: String,
    pub plugin: PluginSource,
    pub events: BTreeSet<NotifyEvent>,
    pub grants: Vec<WrittenGrant>,
    pub timeout: Duration,
    pub place: Place,
    pub(crate) uses_span: Span,
    pub(crate) with: With,
}

/// A manifest with its inputs.
#[derive(Clone, Debug)]
pub struct Graph {
    pub manifest: Arc<Manifest>,
    /// What it was made with.
    pub inputs: Inputs,
    pub pipeline: String,
    pub environment: Option<Environment>,
    pub tag: String,
    pub settings: Settings,
    /// Every target that this run could reach: those of the environment, those
    /// that steps name, and those that are in no environment.
    pub targets: Vec<TargetSpec>,
    /// The targets that steps of this run work on, sorted by name.
    pub active: Vec<TargetName>,
    pub registries: Vec<RegistryLogin>,
    /// Each after those that it needs.
    pub steps: Vec<Node>,
    pub notify: Vec<NotifyNode>,
    pub rollback: RollbackMode,
    pub secrets: Vec<SecretUse>,
    pub warnings: Diagnostics,
    pub(crate) base: Scope,
    /// Where in `steps` each name is.
    pub(crate) places: HashMap<String, usize>,
}

impl Graph {
    /// Resolves variables, environment, targets, tag and order.
    pub fn build(manifest: &Arc<Manifest>, inputs: &Inputs) -> Result<Self, Diagnostics> {
        let (mut graph, found) = crate::build::build(manifest, inputs);
        if found.has_errors() {
            return Err(found);
        }
        graph.warnings = manifest.warnings.clone();
        graph.warnings.extend(found);
        Ok(graph)
    }

    /// Builds as much as there is, with all problems. A graph that has errors
    /// serves to be checked, which finds more of them, and for nothing else.
    pub fn examine(manifest: &Arc<Manifest>, inputs: &Inputs) -> (Self, Diagnostics) {
        crate::build::build(manifest, inputs)
    }

    /// Checks steps and notifications against their plugins: configuration,
    /// outputs, secrets. Errors and warnings.
    pub fn check(&self, catalog: &Catalog) -> Diagnostics {
        crate::check::check(self, catalog)
    }

    /// Outputs that selected steps use and that neither a selected step gives
    /// nor `outputs` has: each an error at the place that uses it.
    pub fn missing_outputs(&self, outputs: &Outputs) -> Diagnostics {
        let mut missing = Diagnostics::default();
        for node in self.steps.iter().filter(|node| node.selected) {
            let expressions = node.with.expressions();
            for expression in expressions.into_iter().chain(&node.when) {
                for reference in expression.references() {
                    let [step, output, ..] = reference.path.as_slice() else {
                        continue;
                    };
                    let Some(left_out) = self.step(step) else {
                        continue;
                    };
                    let given = left_out.selected
                        || left_out.instances().iter().all(|key| {
                            outputs
                                .get(key)
                                .is_some_and(|outputs| outputs.contains_key(output))
                        });
                    if reference.root == "steps" && !given {
                        missing.push(
                            Diagnostic::new(
                                "run.missing-output",
                                format!(
                                    "output {output} of step {step} is needed, and step {step} \
                                     is left out"
                                ),
                            )
                            .at(&expression.source, reference.span, "used here")
                            .hint(
                                "no good run of the same commit and tag gave it: run that step, \
                                 too, or give the --tag of a run that did",
                            ),
                        );
                    }
                }
            }
        }
        missing
    }

    pub fn step(&self, name: &str) -> Option<&Node> {
        self.places.get(name).map(|&place| &self.steps[place])
    }

    /// Every instance of every step, in order.
    pub fn instances(&self) -> Vec<StepKey> {
        self.steps.iter().flat_map(Node::instances).collect()
    }

    /// Whether two steps pair up per target: they run on the same ones.
    pub(crate) fn paired(one: &Node, other: &Node) -> bool {
        !one.targets.is_empty()
            && one.targets.len() == other.targets.len()
            && one
                .targets
                .iter()
                .all(|target| other.targets.contains(target))
    }

    /// The instances that must end before this one starts: of a step on the
    /// same targets the one on this target, of any other step all of them.
    pub fn dependencies(&self, step: &StepKey) -> Vec<StepKey> {
        let Some(node) = self.step(step.name.as_str()) else {
            return Vec::new();
        };
        let needs = node
            .needs
            .iter()
            .filter_map(|need| self.step(need.as_str()));
        needs
            .flat_map(|need| {
                if Self::paired(node, need) {
                    vec![StepKey {
                        name: need.name.clone(),
                        target: step.target.clone(),
                    }]
                } else {
                    need.instances()
                }
            })
            .collect()
    }

    /// The target that a name stands for.
    pub fn target(&self, name: &TargetName) -> Option<&TargetSpec> {
        self.targets.iter().find(|target| target.name == *name)
    }

    /// What expressions of an instance see. An output that is not in `outputs`
    /// is an error when it is used.
    pub fn scope(&self, step: &StepKey, outputs: &Outputs) -> Scope {
        self.scope_of(step, outputs, false)
    }

    fn scope_of(&self, step: &StepKey, outputs: &Outputs, preview: bool) -> Scope {
        let mut scope = Scope {
            preview,
            ..self.base.clone()
        };
        scope.target = step.target.as_ref().map(|name| self.target_values(name));
        let Some(node) = self.step(step.name.as_str()) else {
            return scope;
        };
        for need in node
            .needs
            .iter()
            .filter_map(|need| self.step(need.as_str()))
        {
            let values = if need.targets.is_empty() || Self::paired(node, need) {
                let key = StepKey {
                    name: need.name.clone(),
                    target: step.target.clone().filter(|_| !need.targets.is_empty()),
                };
                let values = outputs.get(&key).into_iter().flatten();
                values
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            } else {
                by_target(need, outputs, preview)
            };
            scope
                .steps
                .insert(need.name.as_str().to_owned(), Value::Object(values));
        }
        scope
    }

    fn target_values(&self, name: &TargetName) -> Map<String, Value> {
        let mut values = Map::new();
        values.insert("name".to_owned(), name.as_str().into());
        let (host, user, port) = match self.target(name).map(|target| &target.address) {
            Some(Address::Ssh(ssh)) => (
                ssh.host.as_str(),
                ssh.user.as_deref().map_or(Value::Null, Value::from),
                ssh.port.map_or(Value::Null, Value::from),
            ),
            _ => ("localhost", Value::Null, Value::Null),
        };
        values.insert("host".to_owned(), host.into());
        values.insert("user".to_owned(), user);
        values.insert("port".to_owned(), port);
        values
    }

    /// The same, before the steps ran: outputs that are not there are unknown.
    pub fn preview_scope(&self, step: &StepKey, outputs: &Outputs) -> Scope {
        self.scope_of(step, outputs, true)
    }

    /// What expressions of a notification see.
    pub fn notify_scope(&self) -> Scope {
        self.base.clone()
    }
}

/// Outputs of a step that others do not pair with: each is a table by target.
fn by_target(need: &Node, outputs: &Outputs, preview: bool) -> Map<String, Value> {
    let mut values: Map<String, Value> = Map::new();
    for key in need.instances() {
        let Some(target) = &key.target else {
            continue;
        };
        for (name, value) in outputs.get(&key).into_iter().flatten() {
            let table = values
                .entry(name.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(table) = table {
                table.insert(target.as_str().to_owned(), value.clone());
            }
        }
    }
    if preview {
        for (name, table) in &mut values {
            let Value::Object(table) = table else {
                continue;
            };
            for target in &need.targets {
                if !table.contains_key(target.as_str()) {
                    let what = format!("steps.{}.{name}.{target}", need.name);
                    table.insert(target.as_str().to_owned(), unknown(&what));
                }
            }
        }
    }
    values
}

impl Node {
    pub fn instances(&self) -> Vec<StepKey> {
        if self.targets.is_empty() {
            return vec![StepKey {
                name: self.name.clone(),
                target: None,
            }];
        }
        self.targets
            .iter()
            .map(|target| StepKey {
                name: self.name.clone(),
                target: Some(target.clone()),
            })
            .collect()
    }

    /// Outputs of other steps that its configuration or its condition uses, by step; None
    /// where it is not said which.
    pub fn outputs_used(&self) -> Vec<(&str, Option<&str>)> {
        let expressions = self.with.expressions();
        let references = expressions.into_iter().chain(&self.when);
        let references = references.flat_map(Expression::references);
        references
            .filter(|reference| reference.root == "steps")
            .filter_map(|reference| match reference.path.as_slice() {
                [step, output, ..] => Some((step.as_str(), Some(output.as_str()))),
                [step] => Some((step.as_str(), None)),
                [] => None,
            })
            .collect()
    }

    /// The entries of a table of its configuration that are nothing but an output of
    /// another step: entry, step, output.
    pub fn outputs_in(&self, key: &str) -> Vec<(&str, &str, &str)> {
        let WithNode::Table(config) = &self.with.node else {
            return Vec::new();
        };
        let Some((_, table)) = config.get(key) else {
            return Vec::new();
        };
        let WithNode::Table(entries) = &table.node else {
            return Vec::new();
        };
        entries
            .iter()
            .filter_map(|(entry, (_, value))| match &value.node {
                WithNode::Text(template) => {
                    let (step, output) = template.whole()?.output()?;
                    Some((entry.as_str(), step, output))
                }
                _ => None,
            })
            .collect()
    }

    /// The configuration, evaluated: an object.
    pub fn config(&self, scope: &Scope) -> Result<Resolved, Diagnostic> {
        crate::expression::resolve(&self.with, scope)
    }

    /// Whether to run it; None when that is not known yet.
    pub fn when(&self, scope: &Scope) -> Result<Option<bool>, Diagnostic> {
        let Some(when) = &self.when else {
            return Ok(Some(true));
        };
        let value = when.evaluate(scope)?;
        if unknown_name(&value).is_some() {
            return Ok(None);
        }
        value.as_bool().map(Some).ok_or_else(|| {
            Diagnostic::new(
                "manifest.wrong-type",
                format!(
                    "`when` of step {} gives {}, not true or false",
                    self.name,
                    kind_of(&value)
                ),
            )
            .at(&when.source, when.span, "this condition")
            .hint("compare it: vars.NAME == 'yes'")
        })
    }

    /// The secrets that its configuration names, each once.
    pub fn secrets(&self) -> BTreeSet<String> {
        let found = self.with.secrets();
        found.into_iter().map(|(_, name)| name.to_owned()).collect()
    }
}

impl NotifyNode {
    /// The configuration, evaluated: an object.
    pub fn config(&self, scope: &Scope) -> Result<Resolved, Diagnostic> {
        crate::expression::resolve(&self.with, scope)
    }

    /// The secrets that its configuration names, each once.
    pub fn secrets(&self) -> BTreeSet<String> {
        let found = self.with.secrets();
        found.into_iter().map(|(_, name)| name.to_owned()).collect()
    }
}
