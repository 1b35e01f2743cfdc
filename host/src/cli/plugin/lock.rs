//! `windlass plugin lock`: binds the manifest's grants to the bytes of its
//! plugins.

use clap::Args;
use windlass_manifest::graph::PluginSource;
use windlass_manifest::lock::LockedPlugin;
use windlass_manifest::{Graph, Inputs};

use super::{refuse, short};
use crate::cli::ProjectArgs;
use crate::cli::session::runtime;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::plugins::LOCK_FILE;
use crate::project::Project;

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    project: ProjectArgs,
}

pub(super) async fn lock(args: LockArgs, terminal: &Terminal) -> Exit {
    match write_lock(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn write_lock(args: LockArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let options = args.project.options();
    let project = Project::open(options.file.as_deref())
        .await
        .map_err(|error| terminal.project_error(&error))?;
    if project.problems.has_errors() {
        terminal.diagnostics(&project.problems);
        return Err(Exit::Invalid);
    }
    // Which plugins are used does not depend on inputs, so none are asked for.
    let (graph, _) = Graph::examine(&project.manifest, &Inputs::default());
    let runtime = runtime(terminal)?;
    let used = graph
        .steps
        .iter()
        .map(|step| (&step.uses, &step.plugin))
        .chain(
            graph
                .notify
                .iter()
                .map(|notify| (&notify.uses, &notify.plugin)),
        );
    let mut lock = windlass_manifest::Lock::default();
    for (uses, source) in used {
        let PluginSource::File(path) = source else {
            continue;
        };
        if lock.get(uses).is_some() {
            continue;
        }
        let file = project.root.join(path);
        let bytes = fs_err::read(&file).map_err(|error| {
            terminal.error(
                &format!("plugin {uses} cannot be read: {error}"),
                Some("build it, or mend its path"),
            );
            Exit::Invalid
        })?;
        let plugin = runtime
            .load(uses, &bytes)
            .await
            .map_err(|error| refuse(&error, terminal))?;
        let change = match project.lock.get(uses) {
            None => "new",
            Some(old) if old.sha256 == plugin.digest => "unchanged",
            Some(_) => "changed",
        };
        terminal.say(&format!(
            "{uses}: {change}, sha256:{}",
            short(&plugin.digest)
        ));
        if let Some(old) = project.lock.get(uses) {
            for request in &plugin.description.requests {
                if !old.requests.contains(request) {
                    terminal.say(&format!("  + asks for {request}"));
                }
            }
            for request in &old.requests {
                if !plugin.description.requests.contains(request) {
                    terminal.say(&format!("  - no longer asks for {request}"));
                }
            }
        }
        lock.plugins.push(LockedPlugin {
            name: uses.clone(),
            path: path.clone(),
            sha256: plugin.digest,
            requests: plugin.description.requests,
        });
    }
    let path = project.root.join(LOCK_FILE);
    if lock.plugins.is_empty() {
        terminal.say("the manifest uses built-in plugins only: there is nothing to lock");
        return Ok(Exit::Succeeded);
    }
    fs_err::write(&path, lock.write()).map_err(|error| {
        terminal.error(&error.to_string(), None);
        Exit::Engine
    })?;
    terminal.say(&format!("wrote {}; commit it", path.display()));
    Ok(Exit::Succeeded)
}
