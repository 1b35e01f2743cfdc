//! Projects with one of the components in them.

use std::process::Command;

use windlass_tests::{Workspace, process};

use crate::{Context, Result, guests};

/// Adds a component and a manifest to a project, locks the plugin and commits.
pub(crate) fn add(
    context: &Context,
    workspace: &Workspace,
    guest: &str,
    manifest: &str,
) -> Result<()> {
    workspace.copy(&guests::component(guest)?, &format!("plugins/{guest}.wasm"))?;
    workspace.write("windlass.toml", manifest)?;
    workspace.write(".gitignore", ".windlass/\nlarge\n")?;
    process::capture(&mut windlass(context, workspace, &["plugin", "lock"]))?;
    workspace.commit("Measure")?;
    Ok(())
}

/// `windlass` in that project.
pub(crate) fn windlass(context: &Context, workspace: &Workspace, args: &[&str]) -> Command {
    workspace
        .windlass(args.iter().copied())
        .program(&context.windlass)
        .command()
}

/// A manifest of `count` steps that do nothing, one after the other.
pub(crate) fn chain(count: usize) -> String {
    let mut text = String::from(
        "[pipeline]\nname = \"bench\"\n\n[plugin.noop]\npath = \"plugins/noop.wasm\"\n",
    );
    for index in 0..count {
        text.push_str(&format!("\n[step.s{index}]\nuses = \"noop\"\n"));
        if index > 0 {
            text.push_str(&format!("needs = [\"s{}\"]\n", index - 1));
        }
    }
    text
}
