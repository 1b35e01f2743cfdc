//! From a manifest and its inputs to a graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use windlass_model::grant::{Grant, Pattern};
use windlass_model::id::LOCAL;
use windlass_model::target::TargetSpec;
use windlass_model::{StepName, TargetName};

use crate::diagnostic::{Diagnostic, Diagnostics, Place, Span, suggestion};
use crate::expression::{Expression, Template};
use crate::graph::{
    DEFAULT_CLEANUP_TIMEOUT, DEFAULT_NOTIFY_TIMEOUT, DEFAULT_TIMEOUT, Environment, Graph, Inputs,
    Node, NotifyNode, PluginSource, SecretUse, Settings, WrittenGrant,
};
use crate::manifest::{Hosts, Key, Manifest, Step, TargetAddress, TextSource};
use crate::parse::bad_grant;
use crate::resolve::{Allowed, Resolver};

mod reach;

const MAX_PARALLEL: usize = 8;
const LEASE_TTL: Duration = Duration::from_secs(60);
const LEASE_WAIT: Duration = Duration::from_secs(300);
const KEEP_RELEASES: u32 = 5;

/// A step that another one waits for, and the place that says so.
struct Edge {
    from: usize,
    span: Span,
    /// By an output used, rather than by `needs`.
    output: bool,
}

/// A graph with errors serves only to find more of them.
pub(crate) fn build(manifest: &Arc<Manifest>, inputs: &Inputs) -> (Graph, Diagnostics) {
    let mut builder = Builder {
        resolver: Resolver::new(manifest, inputs),
        manifest,
        inputs,
    };
    let graph = builder.graph();
    (graph, builder.resolver.found.sorted())
}

struct Builder<'a> {
    resolver: Resolver<'a>,
    manifest: &'a Arc<Manifest>,
    inputs: &'a Inputs,
}

impl Builder<'_> {
    fn place(&self, span: Span) -> Place {
        Place {
            source: Arc::clone(&self.manifest.source),
            span,
        }
    }

    fn graph(&mut self) -> Graph {
        let edges = self.edges();
        let order = self
            .order(&edges)
            .unwrap_or_else(|| (0..edges.len()).collect());
        self.after_the_end(&edges);
        let selected = self.selected(&edges);
        let tag = self.resolver.tag();
        let environment = self.environment();
        let names: Vec<&str> = self.manifest.steps.keys().map(String::as_str).collect();

        let mut nodes = Vec::new();
        for index in order {
            let Some((name, step)) = self.manifest.steps.get_index(index) else {
                continue;
            };
            let mut needs: Vec<StepName> = Vec::new();
            for edge in &edges[index] {
                let need = StepName::from(names[edge.from]);
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
            nodes.push(self.node(name, step, needs, selected.contains(&index)));
        }
        nodes.sort_by_key(|node| node.cleanup);
        let notify = self.notifications();
        let registries = self.registries();
        let (targets, active) = self.targets(environment.as_ref(), &nodes);
        let secrets = self.secrets(&nodes, &notify, &targets);

        let mut environment = environment;
        if let (Some(environment), Some(values)) =
            (&mut environment, self.resolver.scope.environment.as_deref())
        {
            environment.values.clone_from(values);
        }
        let run = &self.manifest.run;
        let names = nodes.iter().map(|node| node.name.as_str().to_owned());
        let places = names.zip(0..).collect();
        Graph {
            manifest: Arc::clone(self.manifest),
            inputs: self.inputs.clone(),
            pipeline: self.manifest.name.value.clone(),
            environment,
            tag: tag.unwrap_or_default(),
            settings: Settings {
                allow_dirty: run.allow_dirty,
                max_parallel: run.max_parallel.map_or(MAX_PARALLEL, |most| most as usize),
                timeout: run.timeout,
                lease_ttl: run.lease_ttl.unwrap_or(LEASE_TTL),
                lease_wait: run.lease_wait.unwrap_or(LEASE_WAIT),
                keep_releases: run.keep_releases.unwrap_or(KEEP_RELEASES),
            },
            targets,
            active,
            registries,
            steps: nodes,
            notify,
            rollback: self.manifest.rollback,
            secrets,
            warnings: Diagnostics::default(),
            base: self.resolver.scope.clone(),
            places,
        }
    }

    /// For each step, those that it waits for.
    fn edges(&mut self) -> Vec<Vec<Edge>> {
        let names: Vec<&str> = self.manifest.steps.keys().map(String::as_str).collect();
        let mut all = Vec::new();
        for (index, (name, step)) in self.manifest.steps.iter().enumerate() {
            let mut edges: Vec<Edge> = Vec::new();
            for need in &step.needs {
                match self.manifest.steps.get_index_of(&need.value) {
                    Some(from) if from == index => self.itself(name, need.span),
                    Some(from) => edges.push(Edge {
                        from,
                        span: need.span,
                        output: false,
                    }),
                    None => self.resolver.report(
                        "manifest.unknown-step",
                        need.span,
                        format!("step {name} needs `{}`, which is no step", need.value),
                        "this name",
                        suggestion(
                            &need.value,
                            names.iter().copied().filter(|known| known != name),
                        ),
                    ),
                }
            }
            for expression in expressions(step) {
                for reference in expression.references() {
                    if reference.root != "steps" {
                        continue;
                    }
                    let [from, _, ..] = reference.path.as_slice() else {
                        self.resolver.report(
                            "manifest.unknown-name",
                            reference.span,
                            format!("`{reference}` names no output"),
                            "this name",
                            Some("write steps.NAME.OUTPUT".to_owned()),
                        );
                        continue;
                    };
                    match self.manifest.steps.get_index_of(from.as_str()) {
                        Some(from) if from == index => self.itself(name, reference.span),
                        Some(from) => edges.push(Edge {
                            from,
                            span: reference.span,
                            output: true,
                        }),
                        None => self.resolver.report(
                            "manifest.unknown-step",
                            reference.span,
                            format!("there is no step `{from}`"),
                            "this name",
                            suggestion(from, names.iter().copied().filter(|known| known != name)),
                        ),
                    }
                }
            }
            all.push(edges);
        }
        all
    }

    /// Nothing can wait for a step that runs when everything has ended.
    fn after_the_end(&mut self, edges: &[Vec<Edge>]) {
        let steps = &self.manifest.steps;
        for (index, edges) in edges.iter().enumerate() {
            for edge in edges {
                let (Some((name, _)), Some((from, before))) =
                    (steps.get_index(index), steps.get_index(edge.from))
                else {
                    continue;
                };
                if before.cleanup {
                    self.resolver.report(
                        "manifest.needs-cleanup",
                        edge.span,
                        format!("step {name} waits for {from}, which cleans up"),
                        "this step",
                        Some("steps with `cleanup = true` run when all others have ended, all at once".to_owned()),
                    );
                }
            }
        }
    }

    fn itself(&mut self, name: &str, span: Span) {
        self.resolver.report(
            "manifest.cycle",
            span,
            format!("step {name} needs itself"),
            "this name",
            None,
        );
    }

    /// The steps, each after those that it waits for, otherwise as written.
    fn order(&mut self, edges: &[Vec<Edge>]) -> Option<Vec<usize>> {
        let mut done = vec![false; edges.len()];
        let mut order = Vec::new();
        while let Some(next) = (0..edges.len())
            .find(|&index| !done[index] && edges[index].iter().all(|edge| done[edge.from]))
        {
            done[next] = true;
            order.push(next);
        }
        if order.len() == edges.len() {
            return Some(order);
        }
        // Everything left waits for something left, so walking back from any of
        // it comes round.
        let mut at = done.iter().position(|done| !done)?;
        let mut walk: Vec<(usize, &Edge)> = Vec::new();
        let circle = loop {
            let edge = edges[at].iter().find(|edge| !done[edge.from])?;
            if let Some(from) = walk.iter().position(|(step, _)| *step == at) {
                break walk.split_off(from);
            }
            walk.push((at, edge));
            at = edge.from;
        };
        let name = |index: usize| {
            let (name, _) = self.manifest.steps.get_index(index)?;
            Some(name.as_str())
        };
        let mut names: Vec<&str> = circle.iter().filter_map(|(step, _)| name(*step)).collect();
        names.extend(names.first().copied());
        let mut error = Diagnostic::new(
            "manifest.cycle",
            format!("steps wait for each other: {}", names.join(" -> ")),
        )
        .hint("take one of these away");
        for (step, edge) in &circle {
            let (Some(step), Some(from)) = (name(*step), name(edge.from)) else {
                continue;
            };
            let label = if edge.output {
                format!("{step} uses an output of {from}")
            } else {
                format!("{step} needs {from}")
            };
            error = error.at(&self.manifest.source, edge.span, label);
        }
        self.resolver.found.push(error);
        None
    }

    /// The steps that run.
    fn selected(&mut self, edges: &[Vec<Edge>]) -> BTreeSet<usize> {
        let mut chosen: BTreeSet<usize> = (0..edges.len()).collect();
        if !self.inputs.only.is_empty() {
            let only = self.inputs.only.iter();
            let only: Vec<usize> = only.filter_map(|name| self.named("--only", name)).collect();
            chosen.retain(|index| only.contains(index));
        }
        if let Some(from) = &self.inputs.from {
            let mut after = BTreeSet::new();
            let mut queue: VecDeque<usize> = self.named("--from", from).into_iter().collect();
            while let Some(step) = queue.pop_front() {
                if after.insert(step) {
                    queue.extend(
                        (0..edges.len())
                            .filter(|&later| edges[later].iter().any(|edge| edge.from == step)),
                    );
                }
            }
            chosen.retain(|index| after.contains(index));
        }
        // Every run ends with them, unless they lack what they clean up.
        for (index, step) in self.manifest.steps.values().enumerate() {
            if step.cleanup && edges[index].iter().all(|edge| chosen.contains(&edge.from)) {
                chosen.insert(index);
            }
        }
        chosen
    }

    fn named(&mut self, option: &str, name: &str) -> Option<usize> {
        let index = self.manifest.steps.get_index_of(name);
        if index.is_none() {
            let known = self.manifest.steps.keys().map(String::as_str);
            self.resolver.found.push(
                Diagnostic::new(
                    "manifest.unknown-step",
                    format!("{option} names `{name}`, which is no step"),
                )
                .maybe_hint(suggestion(name, known)),
            );
        }
        index
    }

    fn environment(&mut self) -> Option<Environment> {
        let (name, written) = self.resolver.environment?;
        let mut targets: Vec<TargetName> = Vec::new();
        for target in &written.targets {
            if self.is_target(&target.value, target.span) {
                let target = TargetName::new(&target.value);
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        let lease_target = written
            .lease_target
            .as_ref()
            .filter(|target| self.is_target(&target.value, target.span))
            .map(|target| TargetName::new(&target.value));
        Some(Environment {
            name: name.to_owned(),
            targets,
            confirm: written.confirm,
            lease_target,
            // Filled in when everything that uses them is resolved.
            values: Map::new(),
        })
    }

    fn is_target(&mut self, name: &str, span: Span) -> bool {
        if name == LOCAL
            || self.manifest.targets.contains_key(name)
            || self.manifest.broken.contains(name)
        {
            return true;
        }
        let known = self.manifest.targets.keys().map(String::as_str);
        let hint = suggestion(name, known.chain([LOCAL]));
        self.resolver.report(
            "manifest.unknown-target",
            span,
            format!("there is no target `{name}`"),
            "this name",
            hint,
        );
        false
    }

    fn plugin(&self, uses: &str) -> PluginSource {
        match self.manifest.plugins.get(uses) {
            Some(plugin) => PluginSource::File(plugin.path.value.clone()),
            None if uses.ends_with(".wasm") || uses.starts_with("./") => {
                PluginSource::File(uses.to_owned())
            }
            None => PluginSource::BuiltIn(uses.to_owned()),
        }
    }

    fn node(&mut self, name: &str, step: &Step, needs: Vec<StepName>, selected: bool) -> Node {
        let allowed = Allowed {
            target: step.on.is_some(),
            steps: true,
        };
        for expression in expressions(step) {
            if selected {
                self.resolver.expression(expression, allowed);
            } else {
                self.resolver.names(expression, allowed);
            }
        }
        let targets = if selected {
            self.on(name, step)
        } else {
            // Wanted for whom it pairs up with; it may lack what it runs with.
            for expression in step.on.iter().flat_map(|on| on.expressions()) {
                self.resolver.names(expression, Allowed::STATIC);
            }
            let quiet = self.resolver.quietly();
            let targets = self.on(name, step);
            self.resolver.aloud(quiet);
            targets
        };
        let grants = if selected {
            self.grants(&step.grants)
        } else {
            Vec::new()
        };
        Node {
            name: name.into(),
            uses: step.uses.value.clone(),
            plugin: self.plugin(&step.uses.value),
            needs,
            targets,
            timeout: step.timeout.unwrap_or(if step.cleanup {
                DEFAULT_CLEANUP_TIMEOUT
            } else {
                DEFAULT_TIMEOUT
            }),
            retry: step.retry,
            grants,
            continue_on_error: step.continue_on_error,
            cleanup: step.cleanup,
            selected,
            place: self.place(step.key),
            uses_span: step.uses.span,
            with: step.with.clone(),
            when: step.when.clone(),
        }
    }

    fn on(&mut self, name: &str, step: &Step) -> Vec<TargetName> {
        let Some(on) = &step.on else {
            return Vec::new();
        };
        let Some(value) = self.resolver.with(on) else {
            return Vec::new();
        };
        let mut names: Vec<(String, Span)> = Vec::new();
        let mut add = |value: &Value, span: Span| match value {
            Value::String(text) => {
                names.push((text.clone(), span));
                true
            }
            Value::Array(items) => items.iter().all(|item| {
                item.as_str().is_some_and(|text| {
                    names.push((text.to_owned(), span));
                    true
                })
            }),
            _ => false,
        };
        // A list in the manifest has a place for each of its elements.
        let good = match (&on.node, &value) {
            (crate::expression::WithNode::List(items), Value::Array(values)) => items
                .iter()
                .zip(values)
                .all(|(item, value)| add(value, item.span)),
            _ => add(&value, on.span),
        };
        if !good {
            self.resolver.report(
                "manifest.wrong-type",
                on.span,
                format!("`on` of step {name} must give names of targets"),
                "gives something else",
                Some("as in on = \"{{ environment.targets }}\"".to_owned()),
            );
            return Vec::new();
        }
        if names.is_empty() {
            self.resolver.report(
                "manifest.no-targets",
                on.span,
                format!("`on` of step {name} gives no target"),
                "gives an empty list",
                Some("write targets = [\"NAME\"] in the environment".to_owned()),
            );
        }
        let mut targets = Vec::new();
        for (target, span) in names {
            if self.is_target(&target, span) {
                let target = TargetName::new(target);
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
        targets
    }

    fn grants(&mut self, written: &[Template]) -> Vec<WrittenGrant> {
        let mut grants = Vec::new();
        for template in written {
            let mut good = true;
            for expression in template.expressions() {
                good &= self.resolver.expression(expression, Allowed::STATIC);
            }
            if !good {
                continue;
            }
            // A value is one word: it must not add `to SINK`. NUL marks one that
            // is not, as it stands in no manifest.
            let filled = template.render(&self.resolver.scope, |text| {
                if text.is_empty() || text.contains(char::is_whitespace) {
                    "\u{0}".to_owned()
                } else {
                    Pattern::escape(text)
                }
            });
            let text = match filled {
                Ok(value) => value.as_str().unwrap_or_default().to_owned(),
                Err(error) => {
                    self.resolver.found.push(error);
                    continue;
                }
            };
            if text.contains('\u{0}') {
                self.resolver.report(
                    "manifest.bad-grant",
                    template.span,
                    "invalid grant: a value in it is empty or has spaces",
                    "this grant",
                    None,
                );
                continue;
            }
            match Grant::parse(&text) {
                Ok(grant) => grants.push(WrittenGrant {
                    grant,
                    place: self.place(template.span),
                }),
                Err(error) => {
                    let error = bad_grant(&self.manifest.source, template.span, &text, error);
                    self.resolver.found.push(error);
                }
            }
        }
        grants
    }

    fn notifications(&mut self) -> Vec<NotifyNode> {
        let mut nodes = Vec::new();
        for (name, notify) in &self.manifest.notify {
            for expression in notify.with.expressions() {
                self.resolver.expression(expression, Allowed::STATIC);
            }
            let grants = self.grants(&notify.grants);
            nodes.push(NotifyNode {
                name: name.as_str().into(),
                uses: notify.uses.value.clone(),
                plugin: self.plugin(&notify.uses.value),
                events: notify.events.clone(),
                grants,
                timeout: notify.timeout.unwrap_or(DEFAULT_NOTIFY_TIMEOUT),
                place: self.place(notify.key),
                uses_span: notify.uses.span,
                with: notify.with.clone(),
            });
        }
        nodes
    }

    /// What the selected steps, the notifications and the logins need.
    fn secrets(
        &self,
        nodes: &[Node],
        notify: &[NotifyNode],
        targets: &[TargetSpec],
    ) -> Vec<SecretUse> {
        let mut uses: Vec<(Span, &str)> = Vec::new();
        for node in nodes.iter().filter(|node| node.selected) {
            uses.extend(node.with.secrets());
        }
        for node in notify {
            uses.extend(node.with.secrets());
        }
        let mut sources: Vec<&TextSource> = Vec::new();
        for registry in self.manifest.registries.values() {
            sources.extend([&registry.username, &registry.password]);
        }
        for target in targets {
            let written = self.manifest.targets.get(target.name.as_str());
            if let Some(TargetAddress::Ssh(ssh)) = written.map(|target| &target.address) {
                if let Key::Text(source) = &ssh.key {
                    sources.push(source);
                }
                if let Hosts::Text(source) = &ssh.known_hosts {
                    sources.push(source);
                }
            }
        }
        for source in sources {
            if let TextSource::Secret(name) = source {
                uses.push((name.span, &name.value));
            }
        }
        uses.sort();
        let mut secrets: BTreeMap<&str, Span> = BTreeMap::new();
        for (span, name) in uses {
            secrets.entry(name).or_insert(span);
        }
        secrets
            .into_iter()
            .map(|(name, span)| SecretUse {
                name: name.to_owned(),
                source: self.manifest.secret_source(name),
                place: self.place(span),
            })
            .collect()
    }
}

/// The expressions that see outputs.
fn expressions(step: &Step) -> Vec<&Expression> {
    let mut found = step.with.expressions();
    found.extend(&step.when);
    found
}
