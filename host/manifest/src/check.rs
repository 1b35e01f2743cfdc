//! A graph against the plugins that it uses: their configuration, their
//! outputs, where secrets may stand.

use windlass_model::StepKey;

use crate::catalog::{Catalog, OutputKind, PluginInfo};
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest, suggestion};
use crate::expression::{Scope, Template, With, WithNode};
use crate::graph::{Graph, Node, Outputs, PluginSource};
use crate::schema::{self, Shape};

pub(crate) fn check(graph: &Graph, catalog: &Catalog) -> Diagnostics {
    let mut checker = Checker {
        graph,
        catalog,
        found: Diagnostics::default(),
    };
    for node in &graph.steps {
        let info = checker.info(&node.uses, &node.plugin, node.uses_span);
        checker.outputs(node);
        // Its variables were not asked for; they may have no values.
        let scope = node.selected.then(|| {
            let key = StepKey {
                name: node.name.clone(),
                target: node.targets.first().cloned(),
            };
            graph.preview_scope(&key, &Outputs::default())
        });
        let sight = Sight {
            node: Some(node),
            scope,
        };
        checker.configuration(&sight, &node.with, &node.uses, node.place.span, info);
        if let (Some(scope), Some(when)) = (&sight.scope, &node.when)
            && when.ready(scope)
        {
            checker.found.extend(node.when(scope).err());
        }
    }
    for node in &graph.notify {
        let info = checker.info(&node.uses, &node.plugin, node.uses_span);
        let sight = Sight {
            node: None,
            scope: Some(graph.notify_scope()),
        };
        checker.configuration(&sight, &node.with, &node.uses, node.place.span, info);
    }
    checker.found.sorted()
}

struct Checker<'a> {
    graph: &'a Graph,
    catalog: &'a Catalog,
    found: Diagnostics,
}

/// What is known where a configuration stands.
struct Sight<'a> {
    node: Option<&'a Node>,
    scope: Option<Scope>,
}

impl<'a> Checker<'a> {
    fn info(&mut self, uses: &str, plugin: &PluginSource, span: Span) -> Option<&'a PluginInfo> {
        let info = self.catalog.plugins.get(uses);
        if let (None, PluginSource::BuiltIn(name)) = (info, plugin) {
            // An empty name has been reported when it was read.
            if !name.is_empty() && !self.catalog.built_in.contains(name) {
                let built_in = self.catalog.built_in.iter();
                let own = self.graph.manifest.plugins.keys();
                let hint = closest(name, built_in.chain(own).map(String::as_str)).map_or_else(
                    || {
                        "`windlass plugins` lists them; one of your own needs [plugin.NAME] with its path"
                            .to_owned()
                    },
                    |name| format!("did you mean `{name}`?"),
                );
                self.found.push(
                    Diagnostic::new(
                        "manifest.unknown-plugin",
                        format!("there is no plugin `{name}`"),
                    )
                    .at(&self.graph.manifest.source, span, "this plugin")
                    .hint(hint),
                );
            }
        }
        info
    }

    /// The type of `steps.NAME.OUTPUT` for a step: of one instance's output,
    /// or a table by target.
    fn output(&self, node: &Node, step: &str, output: &str) -> Option<OutputKind> {
        let from = self.graph.step(step)?;
        let info = self.catalog.plugins.get(&from.uses)?;
        let (_, kind) = info.outputs.iter().find(|(name, _)| name == output)?;
        if from.targets.is_empty() || Graph::paired(node, from) {
            Some(*kind)
        } else {
            Some(OutputKind::Json)
        }
    }

    /// Outputs that are used must be there.
    fn outputs(&mut self, node: &Node) {
        let mut expressions = node.with.expressions();
        expressions.extend(&node.when);
        for reference in expressions.iter().flat_map(|found| found.references()) {
            let ("steps", [step, output, ..]) =
                (reference.root.as_str(), reference.path.as_slice())
            else {
                continue;
            };
            let Some(from) = self.graph.step(step) else {
                continue;
            };
            let Some(info) = self.catalog.plugins.get(&from.uses) else {
                continue;
            };
            if info.outputs.iter().any(|(name, _)| name == output) {
                continue;
            }
            let names = info.outputs.iter().map(|(name, _)| name.as_str());
            let hint = suggestion(output, names)
                .unwrap_or_else(|| format!("plugin {} has no outputs", from.uses));
            self.found.push(
                Diagnostic::new(
                    "manifest.unknown-output",
                    format!("step {step} has no output `{output}`"),
                )
                .at(&self.graph.manifest.source, reference.span, "this output")
                .hint(hint),
            );
        }
    }

    fn configuration(
        &mut self,
        sight: &Sight<'_>,
        with: &With,
        uses: &str,
        key: Span,
        info: Option<&PluginInfo>,
    ) {
        let shape = self.shape(sight, with);
        let Some(info) = info else {
            return;
        };
        // A table of its own, `[step.x.with]`, spans its heading only.
        let span = if with.span.end > with.span.start {
            with.span
        } else {
            key
        };
        for problem in schema::check(&info.config_schema, &shape, span, uses) {
            self.found.push(
                Diagnostic::new(problem.code, problem.message)
                    .at(&self.graph.manifest.source, problem.span, problem.label)
                    .maybe_hint(problem.hint),
            );
        }
    }

    fn shape(&mut self, sight: &Sight<'_>, with: &With) -> Shape {
        match &with.node {
            WithNode::Scalar(value) => Shape::Known(value.clone()),
            WithNode::Secret(_) => Shape::Secret,
            WithNode::Broken => Shape::Any,
            WithNode::Text(template) => self.text(sight, template),
            WithNode::List(items) => Shape::List(
                items
                    .iter()
                    .map(|item| (item.span, self.shape(sight, item)))
                    .collect(),
            ),
            WithNode::Table(entries) => Shape::Table(
                entries
                    .iter()
                    .map(|(name, (key, item))| {
                        (name.clone(), (*key, item.span, self.shape(sight, item)))
                    })
                    .collect(),
            ),
        }
    }

    fn text(&mut self, sight: &Sight<'_>, template: &Template) -> Shape {
        if let Some(text) = template.literal() {
            return Shape::Known(text.into());
        }
        if let (Some(expression), Some(node)) = (template.whole(), sight.node)
            && let Some((step, output)) = expression.output()
        {
            return self
                .output(node, step, output)
                .map_or(Shape::Any, Shape::Typed);
        }
        let unknown = if template.whole().is_some() {
            Shape::Any
        } else {
            Shape::Typed(OutputKind::Text)
        };
        let Some(scope) = &sight.scope else {
            return unknown;
        };
        // What has no value was reported when the graph was built.
        if !template
            .expressions()
            .all(|expression| expression.ready(scope))
        {
            return unknown;
        }
        match template.evaluate(scope) {
            Ok(value) if crate::expression::unknown_name(&value).is_some() => unknown,
            Ok(value) => Shape::Known(value),
            Err(error) => {
                self.found.push(error);
                Shape::Any
            }
        }
    }
}
