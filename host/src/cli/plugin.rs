//! `windlass plugins` and `windlass plugin …`: what authors of plugins use, and
//! people who want to know what a plugin may do before they grant it.

mod build;
mod difference;
mod docs;
mod inspect;
mod kit;
mod lock;
mod new;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use windlass_model::PluginDigest;
use windlass_report::table;
use windlass_runtime::limits::MAX_COMPONENT_BYTES;
use windlass_runtime::{OutputType, Plugin, PluginError, Runtime};

use super::session::runtime;
use super::terminal::Terminal;
use super::test::{self, TestArgs};
use crate::builtin;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Prints them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Starts a plugin: a working one, with a pipeline that uses it
    New(new::NewArgs),
    /// Builds the component, and shows what it asks for
    Build(build::BuildArgs),
    /// Runs test cases, as `windlass test` does
    Test(TestArgs),
    /// Shows what a component says of itself, or how it differs from another
    Inspect(inspect::InspectArgs),
    /// Prints a plugin's page as Markdown, from what it says of itself
    Docs(docs::DocsArgs),
    /// Records the digests of the manifest's own plugins in windlass.lock
    Lock(lock::LockArgs),
    /// Writes the interface, for bindings in any language
    Wit(kit::WitArgs),
    /// Compiles the built-in plugins for `cargo xtask dist`
    #[command(hide = true)]
    Precompile { directory: PathBuf },
}

pub(crate) async fn dispatch(command: PluginCommand, terminal: &Terminal) -> Exit {
    match command {
        PluginCommand::New(args) => new::new(&args, terminal),
        PluginCommand::Build(args) => build::build(args, terminal).await,
        PluginCommand::Test(args) => test::test(args, terminal).await,
        PluginCommand::Inspect(args) => inspect::inspect(args, terminal).await,
        PluginCommand::Docs(args) => docs::docs(args, terminal).await,
        PluginCommand::Lock(args) => lock::lock(args, terminal).await,
        PluginCommand::Wit(args) => kit::wit(&args, terminal),
        PluginCommand::Precompile { directory } => match builtin::precompile_into(&directory) {
            Ok(()) => Exit::Succeeded,
            Err(error) => refuse(&error, terminal),
        },
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
        let list = plugins
            .iter()
            .map(|plugin| inspect::describe(plugin, BUILT_IN));
        terminal.json(&serde_json::Value::Array(list.collect()));
    } else {
        let rows: Vec<table::Plugin> = plugins
            .iter()
            .map(|plugin| table::Plugin {
                name: plugin.description.name.clone(),
                version: plugin.description.version.clone(),
                origin: BUILT_IN.to_owned(),
                summary: plugin.description.summary.clone(),
            })
            .collect();
        terminal.out(&table::plugins(&rows, terminal.width(), terminal.data));
    }
    Exit::Succeeded
}

/// The origin of a plugin that is part of this program.
const BUILT_IN: &str = "built in";

/// A plugin, where it is from, and how many bytes its component has.
struct Found {
    plugin: Plugin,
    origin: String,
    size: usize,
}

/// By a component's path or a built-in plugin's name.
async fn load(runtime: &Runtime, name: &str, terminal: &Terminal) -> Result<Found, Exit> {
    if let Some(bytes) = builtin::component(name) {
        let plugin = builtin::load(runtime, name)
            .await
            .unwrap_or_else(|| Err(PluginError::Engine(format!("{name} is not built in"))))
            .map_err(|error| refuse(&error, terminal))?;
        return Ok(Found {
            plugin,
            origin: BUILT_IN.to_owned(),
            size: bytes.len(),
        });
    }
    let bytes = read(name).map_err(|error| {
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
    Ok(Found {
        plugin,
        origin: name.to_owned(),
        size: bytes.len(),
    })
}

fn read(name: &str) -> std::io::Result<Vec<u8>> {
    let size = std::fs::metadata(name)?.len();
    if size > MAX_COMPONENT_BYTES as u64 {
        return Err(std::io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_COMPONENT_BYTES / (1024 * 1024)
        )));
    }
    std::fs::read(name)
}

fn refuse(error: &PluginError, terminal: &Terminal) -> Exit {
    terminal.error(&error.to_string(), error.hint());
    match error {
        PluginError::Engine(_) => Exit::Engine,
        _ => Exit::Invalid,
    }
}

fn kind(kind: OutputType) -> &'static str {
    match kind {
        OutputType::Text => "text",
        OutputType::Number => "number",
        OutputType::Boolean => "boolean",
        OutputType::Json => "json",
    }
}

/// The beginning of a digest, for people.
fn short(digest: &PluginDigest) -> &str {
    let digest = digest.as_str();
    &digest[..digest.len().min(12)]
}

/// A size for people: `123 KiB`, `17.4 MiB`.
fn size(bytes: usize) -> String {
    const MIB: usize = 1024 * 1024;
    if bytes < MIB {
        return format!("{} KiB", bytes.div_ceil(1024));
    }
    format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        assert_eq!(super::size(1), "1 KiB");
        assert_eq!(super::size(200 * 1024), "200 KiB");
        assert_eq!(super::size(18 * 1024 * 1024 + 512 * 1024), "18.5 MiB");
    }
}
