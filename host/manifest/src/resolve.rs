//! Variables, environment values and the tag: each is resolved when a name
//! first asks for it, so one that nothing uses needs no value, and a circle is
//! found where it closes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use windlass_model::Text;

use crate::diagnostic::{Diagnostic, Diagnostics, Span, listed, suggestion};
use crate::expression::{
    Expression, ROOTS, Reference, Scope, Template, With, evaluate, kind_of, scalar_text,
};
use crate::graph::Inputs;
use crate::manifest::{At, Environment, Manifest, Setting, SettingValue, TextSource};

/// What `run.NAME` may be.
pub(crate) const RUN_NAMES: &[&str] = &[
    "id", "pipeline", "tag", "commit", "branch", "dirty", "started",
];
/// What `target.NAME` may be.
pub(crate) const TARGET_NAMES: &[&str] = &["name", "host", "user", "port"];

/// The tag when neither CI nor git nor the manifest gives one.
const DEFAULT_TAG: &str = "%Y%m%d-%H%M%S";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Var(String),
    Environment(String),
    Tag,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Var(name) => write!(f, "vars.{name}"),
            Self::Environment(name) => write!(f, "environment.{name}"),
            Self::Tag => f.write_str("run.tag"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    Failed,
}

/// The names that an expression may use where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) target: bool,
    pub(crate) steps: bool,
}

impl Allowed {
    /// Only what is known before the graph is.
    pub(crate) const STATIC: Self = Self {
        target: false,
        steps: false,
    };
}

/// What was reported before [`Resolver::quietly`].
pub(crate) struct Quiet {
    found: Diagnostics,
    failed: Vec<Name>,
}

pub(crate) struct Resolver<'a> {
    pub(crate) manifest: &'a Arc<Manifest>,
    pub(crate) inputs: &'a Inputs,
    pub(crate) environment: Option<(&'a str, &'a Environment)>,
    /// Holds what was resolved so far.
    pub(crate) scope: Scope,
    pub(crate) found: Diagnostics,
    states: BTreeMap<Name, State>,
    /// What is being resolved, outermost first, with the places that asked.
    open: Vec<(Name, Span)>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(manifest: &'a Arc<Manifest>, inputs: &'a Inputs) -> Self {
        let facts = &inputs.run;
        let mut run = Map::new();
        run.insert("id".into(), facts.id.as_str().into());
        run.insert("pipeline".into(), manifest.name.value.as_str().into());
        run.insert("commit".into(), facts.commit.as_str().into());
        run.insert("branch".into(), facts.branch.as_str().into());
        run.insert("dirty".into(), facts.dirty.into());
        run.insert("started".into(), facts.now.to_string().into());
        let mut found = Diagnostics::default();
        let environment = choose(manifest, inputs, &mut found);
        let mut resolver = Self {
            manifest,
            inputs,
            environment,
            scope: Scope {
                run: Arc::new(run),
                now: facts.now,
                ..Scope::default()
            },
            found,
            states: BTreeMap::new(),
            open: Vec::new(),
        };
        if let Some((name, environment)) = resolver.environment {
            let targets: Vec<Value> = environment
                .targets
                .iter()
                .map(|target| target.value.as_str().into())
                .collect();
            let mut values = Map::new();
            values.insert("name".into(), name.into());
            values.insert("targets".into(), targets.into());
            resolver.scope.environment = Some(Arc::new(values));
        }
        resolver.check_overrides();
        resolver
    }

    pub(crate) fn report(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) {
        self.found.push(
            Diagnostic::new(code, message)
                .at(&self.manifest.source, span, label)
                .maybe_hint(hint),
        );
    }

    fn check_overrides(&mut self) {
        for name in self.inputs.vars.keys() {
            if self.setting_of(name).is_none() {
                self.found.push(
                    Diagnostic::new(
                        "manifest.unknown-variable",
                        format!("--var sets `{name}`, which the manifest does not have"),
                    )
                    .maybe_hint(suggestion(name, self.var_names())),
                );
            }
        }
    }

    fn var_names(&self) -> Vec<&'a str> {
        let own = self
            .environment
            .into_iter()
            .flat_map(|(_, environment)| environment.vars.keys());
        self.manifest
            .vars
            .keys()
            .chain(own)
            .map(String::as_str)
            .collect()
    }

    fn setting_of(&self, name: &str) -> Option<&'a Setting> {
        self.environment
            .and_then(|(_, environment)| environment.vars.get(name))
            .or_else(|| self.manifest.vars.get(name))
    }

    /// Checks the names of an expression, and resolves them. False when one is
    /// not there; that has been reported then.
    pub(crate) fn expression(&mut self, expression: &Expression, allowed: Allowed) -> bool {
        let mut good = true;
        for reference in expression.references() {
            good &= self.reference(reference, allowed, true);
        }
        good
    }

    /// The same, without resolving: for steps that do not run.
    pub(crate) fn names(&mut self, expression: &Expression, allowed: Allowed) {
        for reference in expression.references() {
            self.reference(reference, allowed, false);
        }
    }

    /// From here on, what fails does no harm, until [`Resolver::aloud`].
    pub(crate) fn quietly(&mut self) -> Quiet {
        Quiet {
            found: std::mem::take(&mut self.found),
            failed: self.failed().collect(),
        }
    }

    /// Forgets what was reported since, and tries what failed again when it is
    /// asked for in earnest.
    pub(crate) fn aloud(&mut self, quiet: Quiet) {
        let fresh: Vec<Name> = self
            .failed()
            .filter(|name| !quiet.failed.contains(name))
            .collect();
        for name in fresh {
            self.states.remove(&name);
        }
        self.found = quiet.found;
    }

    fn failed(&self) -> impl Iterator<Item = Name> {
        self.states
            .iter()
            .filter(|(_, state)| **state == State::Failed)
            .map(|(name, _)| name.clone())
    }

    fn reference(&mut self, reference: &Reference, allowed: Allowed, resolve: bool) -> bool {
        let Some(name) = reference.path.first() else {
            return self.bare(reference);
        };
        match reference.root.as_str() {
            "vars" => {
                if self.setting_of(name).is_none() {
                    let hint = suggestion(name, self.var_names());
                    self.report(
                        "manifest.unknown-name",
                        reference.span,
                        format!("there is no variable `{name}`"),
                        "not in [vars]",
                        hint,
                    );
                    return false;
                }
                !resolve || self.resolve(Name::Var(name.clone()), reference.span)
            }
            "environment" => self.environment_value(name, reference.span, resolve),
            "run" if name == "tag" => !resolve || self.resolve(Name::Tag, reference.span),
            "run" => self.known("run", name, RUN_NAMES, reference.span),
            "target" if allowed.target => self.known("target", name, TARGET_NAMES, reference.span),
            "target" => {
                self.report(
                    "manifest.unknown-name",
                    reference.span,
                    "there is no target here",
                    "this name",
                    Some("only a step with `on` has one".to_owned()),
                );
                false
            }
            "steps" if allowed.steps => true,
            "steps" => {
                self.report(
                    "manifest.unknown-name",
                    reference.span,
                    "a step's output cannot be used here",
                    "this name",
                    Some("it is resolved before the first step runs".to_owned()),
                );
                false
            }
            _ => self.bare(reference),
        }
    }

    fn known(&mut self, root: &str, name: &str, names: &[&str], span: Span) -> bool {
        if names.contains(&name) {
            return true;
        }
        self.report(
            "manifest.unknown-name",
            span,
            format!("there is no `{root}.{name}`"),
            "this name",
            suggestion(name, names.iter().copied()),
        );
        false
    }

    /// A name that does not begin as names do, or has nothing after it.
    fn bare(&mut self, reference: &Reference) -> bool {
        let root = reference.root.as_str();
        let (message, hint) = if ROOTS.contains(&root) {
            (
                format!("no name follows `{root}`"),
                Some(match root {
                    "steps" => "write steps.NAME.OUTPUT".to_owned(),
                    root => format!("write {root}.NAME"),
                }),
            )
        } else if let ("env" | "secret" | "secrets", Some(name)) = (root, reference.path.first()) {
            let hint = if root == "env" {
                format!("declare it in [vars]: NAME = {{ env = \"{name}\" }}")
            } else {
                format!("write {{ secret = \"{name}\" }} as the whole value")
            };
            (format!("unknown name `{root}`"), Some(hint))
        } else if self.setting_of(root).is_some() {
            (
                format!("unknown name `{root}`"),
                Some(format!("did you mean `vars.{root}`?")),
            )
        } else if self.manifest.steps.contains_key(root) && !reference.path.is_empty() {
            (
                format!("unknown name `{root}`"),
                Some(format!("did you mean `steps.{reference}`?")),
            )
        } else {
            let known = ROOTS.iter().chain(&["now"]).copied();
            (format!("unknown name `{root}`"), suggestion(root, known))
        };
        self.report(
            "manifest.unknown-name",
            reference.span,
            message,
            "this name",
            hint,
        );
        false
    }

    fn environment_value(&mut self, name: &str, span: Span, resolve: bool) -> bool {
        let Some((chosen, environment)) = self.environment else {
            if !resolve {
                return true;
            }
            let names: Vec<&str> = self
                .manifest
                .environments
                .keys()
                .map(String::as_str)
                .collect();
            let hint = if names.is_empty() {
                "write an [environment.NAME]".to_owned()
            } else {
                format!("choose one with --env: {}", listed(&names))
            };
            // A wrong --env has been reported already.
            if self.inputs.environment.is_none() {
                self.report(
                    "manifest.no-environment",
                    span,
                    "no environment was chosen",
                    "needs one",
                    Some(hint),
                );
            }
            return false;
        };
        if name == "name" || name == "targets" {
            return true;
        }
        if environment.values.contains_key(name) {
            return !resolve || self.resolve(Name::Environment(name.to_owned()), span);
        }
        let known = environment.values.keys().map(String::as_str);
        let hint = suggestion(name, known.chain(["name", "targets"]));
        self.found.push(
            Diagnostic::new(
                "manifest.unknown-name",
                format!("environment {chosen} has no value `{name}`"),
            )
            .at(&self.manifest.source, span, "used here")
            .at(&self.manifest.source, environment.key, "not in here")
            .maybe_hint(hint),
        );
        false
    }

    fn resolve(&mut self, name: Name, asked: Span) -> bool {
        match self.states.get(&name) {
            Some(State::Done) => return true,
            Some(State::Failed) => return false,
            Some(State::Open) => {
                let from = self
                    .open
                    .iter()
                    .position(|(open, _)| *open == name)
                    .unwrap_or(0);
                let mut circle: Vec<String> = self.open[from..]
                    .iter()
                    .map(|(name, _)| name.to_string())
                    .collect();
                circle.push(name.to_string());
                let mut error = Diagnostic::new(
                    "manifest.cycle",
                    format!("values need each other: {}", circle.join(" -> ")),
                )
                .at(&self.manifest.source, asked, "closes the circle");
                for (open, span) in &self.open[from + 1..] {
                    error = error.at(&self.manifest.source, *span, format!("needs {open}"));
                }
                self.found.push(error);
                return false;
            }
            None => {}
        }
        self.states.insert(name.clone(), State::Open);
        self.open.push((name.clone(), asked));
        let value = match &name {
            Name::Var(var) => self.variable(var),
            Name::Environment(key) => self
                .environment
                .and_then(|(_, environment)| environment.values.get(key))
                .and_then(|setting| self.setting(setting, &name.to_string())),
            Name::Tag => self.make_tag().map(Value::String),
        };
        self.open.pop();
        let state = if value.is_some() {
            State::Done
        } else {
            State::Failed
        };
        if let Some(value) = value {
            match &name {
                Name::Var(var) => {
                    Arc::make_mut(&mut self.scope.vars).insert(var.clone(), value);
                }
                Name::Environment(key) => {
                    let values = self.scope.environment.get_or_insert_default();
                    Arc::make_mut(values).insert(key.clone(), value);
                }
                Name::Tag => {
                    Arc::make_mut(&mut self.scope.run).insert("tag".into(), value);
                }
            }
        }
        self.states.insert(name, state);
        state == State::Done
    }

    fn variable(&mut self, name: &str) -> Option<Value> {
        let setting = self.setting_of(name)?;
        let Some(text) = self.inputs.vars.get(name) else {
            return self.setting(setting, &format!("vars.{name}"));
        };
        let like = match &setting.value {
            SettingValue::Written(with) => Some(with),
            SettingValue::Env { default, .. } => default.as_ref(),
        };
        let like = like.and_then(scalar_of);
        coerce(text, like.as_ref()).map_or_else(
            |expected| {
                self.report(
                    "manifest.wrong-type",
                    setting.key,
                    format!("--var {name} must be {expected}, as its value here is"),
                    "this variable",
                    None,
                );
                None
            },
            Some,
        )
    }

    fn setting(&mut self, setting: &'a Setting, what: &str) -> Option<Value> {
        match &setting.value {
            SettingValue::Written(with) => self.with(with),
            SettingValue::Env { name, default } => {
                let set = self.inputs.env.get(&name.value);
                let Some(text) = set.filter(|text| !text.is_empty()) else {
                    return match default {
                        Some(default) => self.with(default),
                        None => {
                            self.missing_env(name, what);
                            None
                        }
                    };
                };
                let like = default.as_ref().and_then(scalar_of);
                coerce(text, like.as_ref()).map_or_else(
                    |expected| {
                        self.report(
                            "manifest.wrong-type",
                            name.span,
                            format!(
                                "the environment variable {} must be {expected}, as its default is",
                                name.value
                            ),
                            "this variable",
                            None,
                        );
                        None
                    },
                    Some,
                )
            }
        }
    }

    fn missing_env(&mut self, name: &At<String>, what: &str) {
        self.report(
            "manifest.missing-variable",
            name.span,
            format!(
                "the environment variable {} is not set, and {what} needs it",
                name.value
            ),
            "this variable",
            Some(format!(
                "set it, or give a default: {{ env = \"{}\", default = \"…\" }}",
                name.value
            )),
        );
    }

    /// A value that is known before the graph is.
    pub(crate) fn with(&mut self, with: &With) -> Option<Value> {
        let mut good = true;
        for expression in with.expressions() {
            good &= self.expression(expression, Allowed::STATIC);
        }
        if !good {
            return None;
        }
        match evaluate(with, &self.scope) {
            Ok(value) => Some(value),
            Err(error) => {
                self.found.push(error);
                None
            }
        }
    }

    /// Text that is known before the graph is.
    pub(crate) fn text(&mut self, template: &Template, what: &str) -> Option<String> {
        let mut good = true;
        for expression in template.expressions() {
            good &= self.expression(expression, Allowed::STATIC);
        }
        if !good {
            return None;
        }
        match template.evaluate(&self.scope) {
            Ok(value) => {
                let text = scalar_text(&value);
                if text.is_none() {
                    self.report(
                        "manifest.wrong-type",
                        template.span,
                        format!("{what} must be text, not {}", kind_of(&value)),
                        "this value",
                        None,
                    );
                }
                text
            }
            Err(error) => {
                self.found.push(error);
                None
            }
        }
    }

    /// Text, a setting or a secret.
    pub(crate) fn source(&mut self, source: &TextSource, what: &str) -> Option<Text> {
        match source {
            TextSource::Written(template) => self.text(template, what).map(Text::from),
            TextSource::Secret(name) => Some(Text::secret(&name.value)),
            TextSource::Env { name, default } => {
                let set = self.inputs.env.get(&name.value);
                match (set.filter(|text| !text.is_empty()), default) {
                    (Some(text), _) => Some(text.as_str().into()),
                    (None, Some(default)) => self.text(default, what).map(Text::from),
                    (None, None) => {
                        self.missing_env(name, what);
                        None
                    }
                }
            }
        }
    }

    /// Text that is no secret.
    pub(crate) fn plain(&mut self, source: &TextSource, what: &str) -> Option<String> {
        self.source(source, what)?.as_plain().map(str::to_owned)
    }

    /// The run's tag; it goes into image names and argument lists.
    pub(crate) fn tag(&mut self) -> Option<String> {
        let place = self
            .manifest
            .run
            .tag
            .as_ref()
            .map_or(Span::default(), |tag| tag.span);
        self.resolve(Name::Tag, place);
        Some(self.scope.run.get("tag")?.as_str()?.to_owned())
    }

    fn make_tag(&mut self) -> Option<String> {
        let (tag, place) = match (&self.inputs.run.tag, &self.manifest.run.tag) {
            (Some(tag), _) => (tag.clone(), None),
            (None, Some(template)) => (self.text(template, "the tag")?, Some(template.span)),
            (None, None) => (self.inputs.run.now.strftime(DEFAULT_TAG).to_string(), None),
        };
        let good = !tag.is_empty()
            && tag.len() <= 200
            && !tag.starts_with('-')
            && !tag.chars().any(|c| c.is_whitespace() || c.is_control());
        if good {
            return Some(tag);
        }
        let mut error = Diagnostic::new("manifest.bad-tag", format!("{tag:?} is no tag"))
            .hint("a tag is not empty, has no spaces, and does not begin with -");
        if let Some(span) = place {
            error = error.at(&self.manifest.source, span, "gives this tag");
        }
        self.found.push(error);
        None
    }
}

fn choose<'a>(
    manifest: &'a Manifest,
    inputs: &Inputs,
    found: &mut Diagnostics,
) -> Option<(&'a str, &'a Environment)> {
    match &inputs.environment {
        Some(name) => {
            let chosen = manifest.environments.get_key_value(name.as_str());
            if chosen.is_none() {
                let names: Vec<&str> = manifest.environments.keys().map(String::as_str).collect();
                let hint = if names.is_empty() {
                    Some("the manifest has none; write an [environment.NAME]".to_owned())
                } else {
                    suggestion(name, names)
                };
                found.push(
                    Diagnostic::new(
                        "manifest.unknown-environment",
                        format!("there is no environment `{name}`"),
                    )
                    .maybe_hint(hint),
                );
            }
            chosen.map(|(name, environment)| (name.as_str(), environment))
        }
        None => match manifest.environments.first() {
            Some((name, only)) if manifest.environments.len() == 1 => Some((name, only)),
            _ => None,
        },
    }
}

/// The value, when it is a plain number, boolean or string.
fn scalar_of(with: &With) -> Option<Value> {
    match &with.node {
        crate::expression::WithNode::Scalar(value) => Some(value.clone()),
        _ => None,
    }
}

/// Text from outside as the type of another value; the error is the type.
fn coerce(text: &str, like: Option<&Value>) -> Result<Value, &'static str> {
    match like {
        Some(Value::Bool(_)) => match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("true or false"),
        },
        Some(Value::Number(number)) if number.is_f64() => text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or("a number"),
        Some(Value::Number(_)) => text
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| "an integer"),
        _ => Ok(text.into()),
    }
}
