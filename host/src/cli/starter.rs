//! `windlass init`

use std::path::Path;

use clap::Args;
use windlass_manifest::init::{Facts, manifest};

use super::terminal::Terminal;
use crate::exit::Exit;
use crate::project::MANIFEST;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Writes it to stdout instead
    #[arg(long)]
    print: bool,
    /// Replaces a manifest that is there
    #[arg(long)]
    force: bool,
}

const DOCKERFILES: &[&str] = &["Dockerfile", "docker/Dockerfile", "app/Dockerfile"];
const COMPOSE_FILES: &[&str] = &[
    "docker-compose.server.yml",
    "compose.prod.yml",
    "docker-compose.prod.yml",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

fn first(names: &[&str]) -> Option<String> {
    names
        .iter()
        .find(|name| Path::new(name).is_file())
        .map(|name| (*name).to_owned())
}

pub(crate) async fn init(args: &InitArgs, terminal: &Terminal) -> Exit {
    let here = std::env::current_dir().ok();
    let git = crate::project::git_origin(here.as_deref().unwrap_or(Path::new("."))).await;
    let facts = Facts {
        project: here
            .as_ref()
            .and_then(|dir| dir.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_else(|| "app".to_owned()),
        dockerfile: first(DOCKERFILES),
        compose: first(COMPOSE_FILES),
        origin: git,
    };
    let text = manifest(&facts);
    if args.print {
        terminal.out(&text);
        return Exit::Succeeded;
    }
    let path = Path::new(MANIFEST);
    if path.exists() && !args.force {
        terminal.error(
            &format!("{MANIFEST} is there already"),
            Some("--force replaces it; --print shows what would be written"),
        );
        return Exit::Invalid;
    }
    if let Err(error) = std::fs::write(path, text) {
        terminal.error(&format!("{MANIFEST} could not be written: {error}"), None);
        return Exit::Engine;
    }
    terminal.say(&format!(
        "wrote {MANIFEST}; read it, then try `windlass check` and `windlass plan`"
    ));
    Exit::Succeeded
}
