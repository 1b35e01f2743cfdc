//! The example's project, deployed to several machines.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::deploys::without_verify;
use crate::error::{Error, Result};
use crate::hosts::{Host, Hosts};
use crate::registry::Registry;
use crate::scratch;
use crate::windlass::Outcome;
use crate::workspace::Workspace;

/// The example's project with hosts as its targets `prod_1`, `prod_2`, …
#[derive(Debug)]
pub struct Fleet {
    /// The project, with everything in its environment that its manifest reads.
    pub workspace: Workspace,
    /// The targets.
    pub hosts: Hosts,
    /// Where images are pushed. Dropped last: it removes the images here.
    pub registry: Registry,
}

impl Fleet {
    /// Starts the parts. The pipeline logs in as `user`, and does not check the image.
    pub fn start(count: u8, user: &str) -> Result<Self> {
        let registry = Registry::start()?;
        let mut hosts = Hosts::start(count)?;
        hosts.reach(&registry)?;
        let mut workspace = Workspace::observer()?;
        let mut targets = String::new();
        let mut names = Vec::new();
        let mut known_hosts = String::new();
        for (index, host) in hosts.all().iter().enumerate() {
            let number = index + 1;
            names.push(format!("\"prod_{number}\""));
            targets.push_str(&format!(
                "[target.prod_{number}]\nssh = \"{user}@{}\"\nkey = {{ secret = \"SSH_KEY_{number}\" }}\n\
                 known_hosts = \"deploy/known_hosts\"\nconnect_timeout = \"3s\"\n\n",
                host.address(),
            ));
            let file = host.sshd.known_hosts_file();
            let lines = fs::read_to_string(&file).map_err(Error::file("read", &file))?;
            known_hosts.push_str(&lines);
            workspace.set_env(&format!("SSH_KEY_{number}"), host.sshd.private_key());
        }
        let name = format!("name = \"{}\"", scratch::unique_name());
        let names = format!("targets = [{}]", names.join(", "));
        workspace.edit("windlass.toml", |text| {
            let text = without_verify(&text).replacen("name = \"observer\"", &name, 1);
            let first = text.find("[target.prod_1]").unwrap_or_default();
            let last = text.find("[environment.prod]").unwrap_or_default();
            format!("{}{targets}{}", &text[..first], &text[last..]).replacen(
                "targets = [\"prod_1\"]",
                &names,
                1,
            )
        })?;
        workspace.write("deploy/known_hosts", known_hosts)?;
        workspace.commit("Deploy to the fleet")?;
        for (name, value) in [
            ("OBSERVER_REGISTRY", registry.prefix()),
            ("OBSERVER_REGISTRY_HOST", registry.address()),
            ("OBSERVER_REGISTRY_USER", registry.user().to_owned()),
            ("OBSERVER_DIR", "/srv/app".to_owned()),
            ("GHCR_TOKEN", registry.password().to_owned()),
        ] {
            workspace.set_env(name, value);
        }
        Ok(Self {
            workspace,
            hosts,
            registry,
        })
    }

    /// Rewrites a file of the project, and commits.
    pub fn change(&self, file: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        self.workspace.edit(file, change)?;
        self.workspace.commit("Change").map(drop)
    }

    /// `windlass run --json` with this tag, to its end.
    pub fn deploy(&self, tag: &str) -> Result<Outcome> {
        self.workspace
            .windlass(["run", "--json", "--tag", tag])
            .run()
    }

    /// The version that the service tells, by host.
    pub fn versions(&self) -> Vec<String> {
        self.hosts.all().iter().map(version).collect()
    }
}

/// The version that the service on a host tells; empty when there is none.
pub fn version(host: &Host) -> String {
    let ask =
        "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let answer = host
        .inside(["timeout", "5", "bash", "-c", ask])
        .unwrap_or_default();
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    body["version"].as_str().unwrap_or_default().to_owned()
}

/// The release that is current on a host.
pub fn current(host: &Host) -> Result<String> {
    let path = host.srv().join("app/current");
    let link = fs::read_link(&path).map_err(Error::file("read", &path))?;
    let name = link.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// Directories of the releases on a host, oldest first.
pub fn releases(host: &Host) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.srv().join("app/releases"));
    let entries = entries.into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The state of a release, by its directory; empty when there is none.
pub fn state(release: &std::path::Path) -> String {
    let state = fs::read_to_string(release.join("state"));
    state.unwrap_or_default().trim().to_owned()
}
