//! What tests of deploys do with a [`Rig`] again and again: change the project, look
//! at what lies on the server, make a server that lacks something.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::relay::Relay;
use crate::rig::Rig;
use crate::scratch::{self, Scratch};
use crate::sshd::Sshd;
use crate::windlass::{Outcome, Windlass};
use crate::workspace::Workspace;
use crate::{docker, tools};

impl Rig {
    /// Leaves the check of the image out and looks for health often: for tests that are
    /// about what happens on the server.
    pub fn quick(&self) -> Result<()> {
        self.change("windlass.toml", |text| without_verify(&text))
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

/// The example's manifest without its check of the image, and with a probe that looks for
/// health often.
pub fn without_verify(manifest: &str) -> String {
    let verify = manifest.find("[step.verify]").unwrap_or_default();
    let push = manifest.find("[step.push]").unwrap_or_default();
    format!("{}{}", &manifest[..verify], &manifest[push..])
        .replacen("needs = [\"verify\"]\n", "", 1)
        .replacen(
            "attempts = 12, every = \"5s\"",
            "attempts = 20, every = \"100ms\"",
            1,
        )
}

/// A project whose steps run commands on one server: no registry, no image.
#[derive(Debug)]
pub struct Commands {
    /// The project.
    pub workspace: Workspace,
    /// The server.
    pub sshd: Sshd,
}

impl Commands {
    /// A project with these keys of `[run]` and these steps. The target is `prod_1`, the
    /// environment `prod`, with the directory [`Commands::dir`] as `environment.dir`.
    pub fn start(run: &str, steps: &str) -> Result<Self> {
        let sshd = Sshd::start()?;
        let mut workspace = Workspace::empty()?;
        let name = scratch::unique_name();
        let dir = sshd.root().join("app");
        let manifest = format!(
            "[pipeline]\nname = \"{name}\"\n\n[run]\n{run}\n\n\
             [target.prod_1]\nssh = \"{}\"\nkey = {{ secret = \"SSH_KEY\" }}\n\
             known_hosts = \"known_hosts\"\n\n\
             [environment.prod]\ntargets = [\"prod_1\"]\ndir = \"{}\"\n\n{steps}\n",
            sshd.destination(),
            dir.display(),
        );
        fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        workspace.write("windlass.toml", manifest)?;
        workspace.write("known_hosts", sshd.known_hosts())?;
        workspace.write(".gitignore", ".windlass/\n")?;
        workspace.commit("Start")?;
        workspace.set_env("SSH_KEY", sshd.private_key());
        Ok(Self { workspace, sshd })
    }

    /// The directory of the environment on the server; it is there.
    pub fn dir(&self) -> PathBuf {
        self.sshd.root().join("app")
    }

    /// A step that writes `start` and `end` with its run's id into the file `log` of the
    /// directory, and waits in between until the file `go` is there.
    pub fn gate() -> &'static str {
        r#"[step.hold]
uses = "ssh-run"
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo start $RUN >> log; until [ -e go ]; do sleep 0.05; done; echo end $RUN >> log"], env = { RUN = "{{ run.id }}" } }"#
    }

    /// Puts a relay before the server: a line that can be cut.
    pub fn through(&mut self, relay: &Relay) -> Result<()> {
        let (direct, relayed) = (self.sshd.destination(), relay.address());
        let relayed = format!("{}@{relayed}", self.sshd.user());
        self.workspace
            .edit("windlass.toml", |text| text.replace(&direct, &relayed))?;
        let known_hosts = self.sshd.known_hosts_for(relay.address());
        self.workspace.write("known_hosts", known_hosts)?;
        self.workspace.commit("Go through the relay").map(drop)
    }

    /// Opens the gate.
    pub fn open_gate(&self) -> Result<()> {
        scratch::write(&self.dir().join("go"), "")
    }

    /// What the steps wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Whether a run holds the lease of the server.
    pub fn is_leased(&self) -> bool {
        self.dir().join(".windlass-lease/holder").exists()
    }

    /// `windlass run` with these further words.
    pub fn run(&self, words: &[&str]) -> Windlass {
        self.workspace
            .windlass(["run", "--tag", "v1"].iter().chain(words).copied())
    }
}

/// Waits until `done` says so; whether it did within the time.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
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

/// Ids of processes of this machine, containers' ones too, whose command line or
/// environment holds `text`; this process and its parents aside.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |pid: u32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, text.as_bytes()))
    };
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| holds(*pid, "cmdline") || holds(*pid, "environ"))
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
