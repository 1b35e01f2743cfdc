//! What tests of deploys do with a [`Rig`] again and again: change the project, look
//! at what lies on the server, make a server that lacks something.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::rig::Rig;
use crate::scratch::Scratch;
use crate::windlass::Outcome;
use crate::{docker, tools};

impl Rig {
    /// Leaves the check of the image out and looks for health often: for tests that are
    /// about what happens on the server.
    pub fn quick(&self) -> Result<()> {
        self.change("windlass.toml", |text| {
            let verify = text.find("[step.verify]").unwrap_or_default();
            let push = text.find("[step.push]").unwrap_or_default();
            format!("{}{}", &text[..verify], &text[push..])
                .replacen("needs = [\"verify\"]\n", "", 1)
                .replacen(
                    "attempts = 12, every = \"5s\"",
                    "attempts = 20, every = \"100ms\"",
                    1,
                )
        })
    }

    /// Rewrites a file of the project, and commits.
    pub fn change(&self, file: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        self.workspace.edit(file, change)?;
        self.workspace.commit(&format!("Change {file}")).map(drop)
    }

    /// Gives the service a variable from now on, through the compose file.
    pub fn container_env(&self, name: &str, value: &str) -> Result<()> {
        self.change("docker-compose.server.yml", |text| {
            format!("{text}    environment:\n      {name}: \"{value}\"\n")
        })
    }

    /// `windlass run --json` with this tag, to its end.
    pub fn deploy(&self, tag: &str) -> Result<Outcome> {
        self.windlass(["run", "--json", "--tag", tag]).run()
    }

    /// A file of the server's directory.
    pub fn far(&self, name: impl AsRef<Path>) -> PathBuf {
        Path::new(&self.dir()).join(name)
    }

    /// The release that `current` leads to on the server.
    pub fn current(&self) -> Option<String> {
        let link = fs::read_link(self.far("current")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// Names of the releases on the server, oldest first.
    pub fn releases(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.far("releases"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The state of a release, as the server has it; empty when there is none.
    pub fn state(&self, release: &str) -> String {
        let state = self.far(format!("releases/{release}/state"));
        fs::read_to_string(state)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// The version in the answer of the deployed service; empty when none answers.
    pub fn version(&self) -> String {
        let answer = self.health().map(|answer| answer.json());
        answer
            .unwrap_or_default()
            .get("version")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether a run holds the lease of the target.
    pub fn is_leased(&self) -> bool {
        self.far(".windlass-lease/holder").exists()
    }
}

/// A Docker configuration without logins, for one server alone: what appears in it was
/// left there by a run.
pub fn fresh_docker_config(scratch: &Scratch) -> Result<PathBuf> {
    let plugins = scratch.dir("docker/cli-plugins")?;
    let link = plugins.join("docker-compose");
    symlink(tools::compose_plugin(), &link).map_err(Error::file("link", &link))?;
    Ok(scratch.join("docker"))
}

/// Image, start and restarts of a container: the same as long as nobody touches it.
pub fn identity(container: &str) -> Result<String> {
    docker::run([
        "inspect",
        "--format",
        "{{.Id}} {{.Image}} {{.State.StartedAt}} {{.RestartCount}}",
        container,
    ])
}

/// Ids of processes whose command line holds `text`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|bytes| {
                String::from_utf8_lossy(&bytes)
                    .replace('\0', " ")
                    .contains(text)
            })
        })
        .collect()
}

/// Files below `root` that hold one of these texts, with the text's place in the list.
pub fn files_with(root: &Path, texts: &[&str]) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            for (index, text) in texts.iter().enumerate() {
                if contains(&bytes, text.as_bytes()) {
                    found.push((path.clone(), index));
                }
            }
        }
    }
    found
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len().max(1)).any(|part| part == text)
}
