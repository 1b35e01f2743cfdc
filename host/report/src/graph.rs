//! The steps of a pipeline as a picture: indented text, and DOT for Graphviz.

use std::collections::HashMap;

use windlass_model::StepName;
use windlass_model::event::StepNode;

use crate::clean::clean_line;
use crate::theme::{Line, Theme, Tone};

/// Each step below the last of those that it needs; the others it needs are
/// named behind it.
///
/// ```text
/// build              docker-build
/// ├─ verify          image-check
/// │  └─ push         docker-push
/// │     └─ deploy    compose-deploy  on prod_1, prod_2
/// └─ lint            docker-run
/// ```
pub fn text(steps: &[StepNode], theme: Theme) -> String {
    let mut rows = Vec::new();
    let tree = Tree::new(steps);
    for (index, _) in steps.iter().enumerate() {
        if tree.parent[index].is_none() {
            tree.rows(index, "", "", theme, &mut rows);
        }
    }
    let names = rows.iter().map(|(_, line)| line.width()).max().unwrap_or(0) + 2;
    let uses = steps
        .iter()
        .map(|step| unicode_width::UnicodeWidthStr::width(step.uses.as_str()))
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (index, mut line) in rows {
        let step = &steps[index];
        line.to_column(names)
            .push(Tone::Faint, clean_line(&step.uses));
        if !step.targets.is_empty() {
            let targets: Vec<&str> = step.targets.iter().map(|target| target.as_str()).collect();
            line.to_column(names + uses + 2)
                .plain("on ")
                .push(Tone::Active, clean_line(&targets.join(", ")));
        }
        let others: Vec<&str> = step
            .needs
            .iter()
            .filter(|need| tree.parent[index].map(|parent| &steps[parent].name) != Some(*need))
            .map(StepName::as_str)
            .collect();
        if !others.is_empty() {
            line.push(
                Tone::Faint,
                format!("  (needs {} too)", clean_line(&others.join(", "))),
            );
        }
        out.push_str(line.render(theme, usize::MAX).trim_end());
        out.push('\n');
    }
    out
}

struct Tree<'a> {
    steps: &'a [StepNode],
    /// Under which step each one stands.
    parent: Vec<Option<usize>>,
}

impl<'a> Tree<'a> {
    fn new(steps: &'a [StepNode]) -> Self {
        let index: HashMap<&StepName, usize> = steps
            .iter()
            .enumerate()
            .map(|(index, step)| (&step.name, index))
            .collect();
        // In the order of the graph what is needed stands before what needs
        // it, so that no circle can come about.
        let parent = steps
            .iter()
            .enumerate()
            .map(|(own, step)| {
                step.needs
                    .iter()
                    .filter_map(|need| index.get(need).copied())
                    .filter(|need| *need < own)
                    .max()
            })
            .collect();
        Self { steps, parent }
    }

    fn rows(
        &self,
        index: usize,
        lead: &str,
        below: &str,
        theme: Theme,
        rows: &mut Vec<(usize, Line)>,
    ) {
        let mut line = Line::new();
        line.push(Tone::Faint, lead)
            .push(Tone::Strong, clean_line(self.steps[index].name.as_str()));
        rows.push((index, line));
        let children: Vec<usize> = (0..self.steps.len())
            .filter(|child| self.parent[*child] == Some(index))
            .collect();
        for (position, child) in children.iter().enumerate() {
            let last = position + 1 == children.len();
            let (branch, space) = if last {
                (theme.glyph("└─ ", "`- "), "   ")
            } else {
                (theme.glyph("├─ ", "|- "), theme.glyph("│  ", "|  "))
            };
            self.rows(
                *child,
                &format!("{below}{branch}"),
                &format!("{below}{space}"),
                theme,
                rows,
            );
        }
    }
}

/// For `dot -Tsvg`.
pub fn dot(pipeline: &str, steps: &[StepNode]) -> String {
    let mut out = format!("digraph {} {{\n", quoted(pipeline));
    out.push_str("  rankdir = LR;\n  node [shape = box, style = rounded, fontname = \"sans\"];\n");
    for step in steps {
        let mut label = format!("{}\n{}", step.name, step.uses);
        if !step.targets.is_empty() {
            let targets: Vec<&str> = step.targets.iter().map(|target| target.as_str()).collect();
            label.push_str(&format!("\non {}", targets.join(", ")));
        }
        out.push_str(&format!(
            "  {} [label = {}];\n",
            quoted(step.name.as_str()),
            quoted(&label)
        ));
    }
    for step in steps {
        for need in &step.needs {
            out.push_str(&format!(
                "  {} -> {};\n",
                quoted(need.as_str()),
                quoted(step.name.as_str())
            ));
        }
    }
    out.push_str("}\n");
    out
}

/// A quoted string of the DOT language.
fn quoted(text: &str) -> String {
    let text = crate::clean::clean(text)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{text}\"")
}
