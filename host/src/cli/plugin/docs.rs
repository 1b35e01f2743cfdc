//! `windlass plugin docs`: a page for the people who use a plugin, from what
//! the plugin says of itself.

use clap::Args;

use super::inspect::settings;
use super::{Found, kind, load};
use crate::cli::session::runtime;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// A component's path, or a built-in plugin's name
    plugin: String,
}

pub(super) async fn docs(args: DocsArgs, terminal: &Terminal) -> Exit {
    let runtime = match runtime(terminal) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    match load(&runtime, &args.plugin, terminal).await {
        Ok(found) => {
            terminal.out(&windlass_report::clean(&page(&found)));
            Exit::Succeeded
        }
        Err(exit) => exit,
    }
}

fn page(found: &Found) -> String {
    let description = &found.plugin.description;
    let mut out = format!(
        "# {}\n\n{}.\n\nVersion {}.\n\n## Configuration\n\n",
        line(&description.name),
        line(description.summary.trim_end_matches('.')),
        line(&description.version)
    );
    let settings = settings(&description.config_schema);
    if settings.is_empty() {
        out.push_str("None.\n");
    } else {
        out.push_str("| key | type | default | |\n|---|---|---|---|\n");
        for setting in &settings {
            let default = match (&setting.default, setting.required) {
                (_, true) => "required".to_owned(),
                (Some(default), false) => code(default),
                (None, false) => String::new(),
            };
            out.push_str(&format!(
                "| {} | {} | {default} | {} |\n",
                code(&setting.name),
                cell(&setting.kind),
                cell(&setting.words)
            ));
        }
    }
    out.push_str("\n## Outputs\n\n");
    if description.outputs.is_empty() {
        out.push_str("None.\n");
    } else {
        out.push_str("| output | type | |\n|---|---|---|\n");
        for output in &description.outputs {
            out.push_str(&format!(
                "| {} | {} | {} |\n",
                code(&output.name),
                kind(output.kind),
                cell(&output.summary)
            ));
        }
    }
    out.push_str("\n## What it may do\n\n");
    if description.requests.is_empty() {
        out.push_str("It asks for no capability.\n");
    } else {
        out.push_str(
            "Grant it these, with what you configure in place of the expressions:\n\n```\n",
        );
        for request in &description.requests {
            // A fence in a request would end the block.
            out.push_str(&line(request).replace("```", "'''"));
            out.push('\n');
        }
        out.push_str("```\n");
    }
    let also = match (description.has_preflight, description.has_rollback) {
        (true, true) => "It looks for problems before a run's first effect, and can undo its work.",
        (true, false) => "It looks for problems before a run's first effect.",
        (false, true) => "It can undo its work.",
        (false, false) => return out,
    };
    out.push_str(&format!("\n{also}\n"));
    out
}

fn line(text: &str) -> String {
    windlass_report::clean(text).replace('\n', " ")
}

/// Text in a table's cell.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}

/// Code in a table's cell.
fn code(text: &str) -> String {
    format!("`{}`", cell(&text.replace('`', "'")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cell_stays_a_cell() {
        assert_eq!(super::cell("a | b\nc"), "a \\| b c");
        assert_eq!(super::code("`x`"), "`'x'`");
    }
}
