//! `windlass plugins` and `windlass plugin …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use windlass_manifest::graph::PluginSource;
use windlass_manifest::lock::LockedPlugin;
use windlass_report::table;
use windlass_runtime::{OutputType, Plugin, PluginError, Runtime};

use super::ProjectArgs;
use super::session::runtime;
use super::terminal::Terminal;
use crate::builtin;
use crate::exit::Exit;
use crate::plugins::LOCK_FILE;
use crate::project::Project;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Prints them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Shows what a component says of itself
    Inspect(InspectArgs),
    /// Records the digests of the manifest's own plugins in windlass.lock
    Lock(LockArgs),
    /// Compiles the built-in plugins for `cargo xtask dist`
    #[command(hide = true)]
    Precompile { directory: PathBuf },
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A component's path, or a built-in plugin's name
    plugin: String,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    project: ProjectArgs,
}

fn refuse(error: &PluginError, terminal: &Terminal) -> Exit {
    terminal.error(&error.to_string(), error.hint());
    match error {
        PluginError::Engine(_) => Exit::Engine,
        _ => Exit::Invalid,
    }
}

pub(crate) async fn list(args: ListArgs, terminal: &Terminal) -> Exit {
    let runtime = match runtime(terminal) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let mut plugins = Vec::new();
    for name in builtin::names() {
        match builtin::load(&runtime, &name).await {
            Some(Ok(plugin)) => plugins.push(plugin),
            Some(Err(error)) => return refuse(&error, terminal),
            None => {}
        }
    }
    if args.json {
        let list = plugins.iter().map(|plugin| describe(plugin, "built in"));
        terminal.json(&serde_json::Value::Array(list.collect()));
    } else {
        let rows: Vec<table::Plugin> = plugins
            .iter()
            .map(|plugin| table::Plugin {
                name: plugin.description.name.clone(),
                version: plugin.description.version.clone(),
                origin: "built in".to_owned(),
                summary: plugin.description.summary.clone(),
            })
            .collect();
        terminal.out(&table::plugins(&rows, terminal.width(), terminal.data));
    }
    Exit::Succeeded
}

pub(crate) async fn dispatch(command: PluginCommand, terminal: &Terminal) -> Exit {
    match command {
        PluginCommand::Inspect(args) => inspect(args, terminal).await,
        PluginCommand::Lock(args) => lock(args, terminal).await,
        PluginCommand::Precompile { directory } => match builtin::precompile_into(&directory) {
            Ok(()) => Exit::Succeeded,
            Err(error) => refuse(&error, terminal),
        },
    }
}

async fn load(
    runtime: &Runtime,
    name: &str,
    terminal: &Terminal,
) -> Result<(Plugin, String, usize), Exit> {
    if let Some(bytes) = builtin::component(name) {
        let plugin = runtime
            .load(name, bytes)
            .await
            .map_err(|error| refuse(&error, terminal))?;
        return Ok((plugin, "built in".to_owned(), bytes.len()));
    }
    let bytes = fs_err::read(name).map_err(|error| {
        terminal.error(
            &format!("plugin {name} cannot be read: {error}"),
            Some("name a component's file, or a built-in plugin (`windlass plugins`)"),
        );
        Exit::Invalid
    })?;
    let plugin = runtime
        .load(name, &bytes)
        .await
        .map_err(|error| refuse(&error, terminal))?;
    Ok((plugin, name.to_owned(), bytes.len()))
}

fn kind(kind: OutputType) -> &'static str {
    match kind {
        OutputType::Text => "text",
        OutputType::Number => "number",
        OutputType::Boolean => "boolean",
        OutputType::Json => "json",
    }
}

fn describe(plugin: &Plugin, origin: &str) -> serde_json::Value {
    let description = &plugin.description;
    json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "origin": origin,
        "digest": plugin.digest,
        "imports": plugin.imports,
        "requests": description.requests,
        "outputs": description
            .outputs
            .iter()
            .map(|output| json!({
                "name": output.name,
                "type": kind(output.kind),
                "summary": output.summary,
            }))
            .collect::<Vec<_>>(),
        "has_preflight": description.has_preflight,
        "has_rollback": description.has_rollback,
        "config_schema": description.config_schema,
    })
}

async fn inspect(args: InspectArgs, terminal: &Terminal) -> Exit {
    let runtime = match runtime(terminal) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let (plugin, origin, size) = match load(&runtime, &args.plugin, terminal).await {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if args.json {
        let mut value = describe(&plugin, &origin);
        value["size"] = size.into();
        terminal.json(&value);
        return Exit::Succeeded;
    }
    let description = &plugin.description;
    let mut out = format!(
        "{} {}\n{}\n\n",
        description.name, description.version, description.summary
    );
    out.push_str(&format!("from       {origin}, {} KiB\n", size / 1024));
    out.push_str(&format!("digest     sha256:{}\n", plugin.digest));
    let interface = plugin
        .imports
        .iter()
        .find_map(|import| import.strip_prefix("windlass:plugin/")?.split_once('@'))
        .map_or("none", |(_, version)| version);
    out.push_str(&format!("interface  windlass:plugin {interface}\n"));
    let imports: Vec<&str> = plugin
        .imports
        .iter()
        .filter_map(|import| import.strip_prefix("windlass:plugin/"))
        .filter_map(|import| import.split_once('@').map(|(name, _)| name))
        .collect();
    out.push_str(&format!("imports    {}\n", imports.join(", ")));
    let mut also = Vec::new();
    if description.has_preflight {
        also.push("preflight");
    }
    if description.has_rollback {
        also.push("rollback");
    }
    if !also.is_empty() {
        out.push_str(&format!("also has   {}\n", also.join(", ")));
    }
    out.push_str("\nrequests\n");
    for request in &description.requests {
        out.push_str(&format!("  {request}\n"));
    }
    out.push_str("\nconfiguration\n");
    out.push_str(&settings(&description.config_schema));
    if !description.outputs.is_empty() {
        out.push_str("\noutputs\n");
        for output in &description.outputs {
            out.push_str(&format!(
                "  {} ({})  {}\n",
                output.name,
                kind(output.kind),
                output.summary
            ));
        }
    }
    // A component's own words must not move the cursor.
    terminal.out(&windlass_report::clean(&out));
    Exit::Succeeded
}

/// A line a key: name, type, whether it must be there, the first sentence.
fn settings(schema: &serde_json::Value) -> String {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .collect();
    let mut out = String::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let types = match &property["type"] {
            serde_json::Value::String(one) => one.clone(),
            serde_json::Value::Array(list) => list
                .iter()
                .filter_map(serde_json::Value::as_str)
                .filter(|one| *one != "null")
                .collect::<Vec<_>>()
                .join(" or "),
            _ => "any".to_owned(),
        };
        let need = if required.contains(&name.as_str()) {
            ", required"
        } else {
            ""
        };
        let words = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        out.push_str(&format!("  {name} ({types}{need})  {words}\n"));
    }
    out
}

async fn lock(args: LockArgs, terminal: &Terminal) -> Exit {
    match write_lock(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn write_lock(args: LockArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let options = args.project.options();
    let project = Project::open(options.file.as_deref())
        .await
        .map_err(|error| terminal.project_error(&error))?;
    let (graph, problems) = project.graph(
        windlass_model::RunId(uuid::Uuid::nil()),
        jiff::Timestamp::now(),
        &options,
    );
    if problems.has_errors() {
        terminal.diagnostics(&problems.sorted());
        return Err(Exit::Invalid);
    }
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
            &plugin.digest.as_str()[..12]
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
