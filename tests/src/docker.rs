//! The Docker engine of this machine, through its command line.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::error::Result;
use crate::{process, tools};

/// None when an engine answers, else what is wrong and what to do.
pub fn problem() -> Option<String> {
    if process::find_program("docker").is_none() {
        return Some("`docker` is not installed: install Docker Engine".to_owned());
    }
    let asked = process::output(command().args(["version", "--format", "{{.Server.Version}}"]));
    match asked {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no Docker engine answers at {}: start one (for example `sudo systemctl start \
             docker`), or set DOCKER_HOST; docker said: {}",
            host(),
            String::from_utf8_lossy(&output.stderr).trim(),
        )),
        Err(problem) => Some(format!("failed to {problem}")),
    }
}

/// Address of the engine that the user's own `docker` talks to: `DOCKER_HOST`, else
/// that of the current context. The rig's configuration directories know no
/// contexts, so it is handed on as `DOCKER_HOST`.
pub fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        if let Some(host) = std::env::var("DOCKER_HOST")
            .ok()
            .filter(|host| !host.is_empty())
        {
            return host;
        }
        process::capture(Command::new("docker").args([
            "context",
            "inspect",
            "--format",
            "{{.Endpoints.docker.Host}}",
        ]))
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
    })
}

/// `docker` on that engine, with Compose and without the user's logins.
pub fn command() -> Command {
    with_config(&tools::docker_config_dir())
}

/// `docker` on that engine with the logins of a configuration directory.
pub fn with_config(dir: &Path) -> Command {
    let mut command = Command::new("docker");
    command.env("DOCKER_HOST", host()).env("DOCKER_CONFIG", dir);
    command
}

/// Runs `docker` and gives its stdout, trimmed.
pub fn run<const N: usize>(args: [&str; N]) -> Result<String> {
    process::capture(command().args(args)).map(|text| text.trim().to_owned())
}

/// Ids of containers, running or not, for a `docker ps` filter.
pub fn containers(filter: &str) -> Result<Vec<String>> {
    lines(&["ps", "--all", "--quiet", "--no-trunc", "--filter", filter])
}

/// Removes containers, networks and volumes of a Compose project.
pub fn remove_project(project: &str) -> Result<()> {
    let filter = format!("label=com.docker.compose.project={project}");
    remove(&["rm", "--force", "--volumes"], containers(&filter)?);
    remove(
        &["network", "rm"],
        lines(&["network", "ls", "--quiet", "--filter", &filter])?,
    );
    remove(
        &["volume", "rm", "--force"],
        lines(&["volume", "ls", "--quiet", "--filter", &filter])?,
    );
    Ok(())
}

/// Removes every image of a repository that `chosen` picks, with all its tags and
/// with the containers made of it.
pub fn remove_images(chosen: impl Fn(&str) -> bool) -> Result<()> {
    let listed = lines(&[
        "image",
        "ls",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Repository}}",
    ])?;
    let mut ids: Vec<&str> = listed
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, repository)| chosen(repository))
        .map(|(id, _)| id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    for id in &ids {
        let containers = containers(&format!("ancestor={id}"))?;
        remove(&["rm", "--force", "--volumes"], containers);
    }
    remove(
        &["rmi", "--force"],
        ids.into_iter().map(str::to_owned).collect(),
    );
    Ok(())
}

/// Best effort: something else may have removed one of them in between.
fn remove(verb: &[&str], names: Vec<String>) {
    if !names.is_empty() {
        let _ = process::output(command().args(verb).args(names));
    }
}

/// Lines that a listing prints.
pub(crate) fn lines(args: &[&str]) -> Result<Vec<String>> {
    let text = process::capture(command().args(args))?;
    Ok(text
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}
