//! Registry, server and project, wired up: all that `windlass run` needs for the
//! observer example, on this machine alone.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::http::{Request, Response};
use crate::registry::{Registry, free_port};
use crate::relay::Relay;
use crate::sshd::{Builder, Sshd};
use crate::windlass::Windlass;
use crate::workspace::Workspace;
use crate::{docker, scratch};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The parts of one pipeline. On drop the containers, networks and volumes of its
/// stack and the images of its registry are removed.
#[derive(Debug)]
pub struct Rig {
    /// The project, with everything in its environment that its manifest reads.
    pub workspace: Workspace,
    /// The server that is deployed to.
    pub sshd: Sshd,
    /// Where images are pushed.
    pub registry: Registry,
    name: String,
    port: u16,
}

impl Rig {
    /// Starts the parts with the rig's defaults.
    pub fn start() -> Result<Self> {
        Self::start_with(&Sshd::builder())
    }

    /// Starts the parts with a server of another kind.
    pub fn start_with(server: &Builder) -> Result<Self> {
        let registry = Registry::start()?;
        let sshd = server.start()?;
        let workspace = Workspace::observer()?;
        let port = free_port(LOOPBACK)?;
        let mut rig = Self {
            workspace,
            sshd,
            registry,
            name: scratch::unique_name(),
            port,
        };
        rig.wire()?;
        Ok(rig)
    }

    /// Points the example at the parts, by the variables that its manifest reads. Only
    /// its name is changed in the text: one engine serves many tests.
    fn wire(&mut self) -> Result<()> {
        let named = format!("name = \"{}\"", self.name);
        self.workspace.edit("windlass.toml", |text| {
            text.replacen("name = \"observer\"", &named, 1)
        })?;
        self.workspace
            .write("deploy/known_hosts", self.sshd.known_hosts())?;
        self.workspace.commit("Deploy to the rig")?;
        self.workspace.git(["push", "--quiet"])?;
        let pairs = [
            ("OBSERVER_REGISTRY", self.registry.prefix()),
            ("OBSERVER_REGISTRY_HOST", self.registry.address()),
            ("OBSERVER_REGISTRY_USER", self.registry.user().to_owned()),
            ("OBSERVER_PORT", self.port.to_string()),
            ("OBSERVER_DIR", self.dir()),
            ("DEPLOY_HOST", self.sshd.destination()),
            ("GHCR_TOKEN", self.registry.password().to_owned()),
            ("SSH_KEY", self.sshd.private_key().to_owned()),
        ];
        for (name, value) in pairs {
            self.workspace.set_env(name, value);
        }
        Ok(())
    }

    /// Sends everything to the server through a relay in front of it: far away, cut, or
    /// silent.
    pub fn through(&mut self, relay: &Relay) -> Result<()> {
        let known_hosts = self.sshd.known_hosts_for(relay.address());
        self.workspace.write("deploy/known_hosts", known_hosts)?;
        self.workspace.commit("Deploy through the relay")?;
        self.workspace.git(["push", "--quiet"])?;
        let destination = format!("{}@{}", self.sshd.user(), relay.address());
        self.workspace.set_env("DEPLOY_HOST", destination);
        Ok(())
    }

    /// Puts a relay before the registry, for pushes, pulls and questions. Images are
    /// named after it, and go with [`crate::docker::remove_images`].
    pub fn registry_through(&mut self, relay: &Relay) {
        let address = relay.address().to_string();
        let prefix = self
            .registry
            .prefix()
            .replacen(&self.registry.address(), &address, 1);
        self.workspace.set_env("OBSERVER_REGISTRY", prefix);
        self.workspace.set_env("OBSERVER_REGISTRY_HOST", address);
    }

    /// Name of the pipeline and of its Compose project; no other rig has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Port of this machine at which the deployed service answers.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's directory for this pipeline. Compose names the project after it.
    pub fn dir(&self) -> String {
        self.sshd.root().join(&self.name).display().to_string()
    }

    /// `windlass` in the project, with the environment of the rig.
    pub fn windlass<I>(&self, args: I) -> Windlass
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.workspace.windlass(args)
    }

    /// Asks the deployed service for its health.
    pub fn health(&self) -> Result<Response> {
        Request::get(format!("127.0.0.1:{}", self.port), "/health").send()
    }

    /// Waits until the deployed service answers 200.
    pub fn wait_until_healthy(&self, limit: Duration) -> Result<Response> {
        let started = Instant::now();
        loop {
            match self.health() {
                Ok(answer) if answer.status == 200 => return Ok(answer),
                Ok(answer) if started.elapsed() > limit => {
                    return Err(Error::Answer {
                        from: "the deployed service".to_owned(),
                        problem: format!("{}: {}", answer.status, answer.body),
                    });
                }
                Err(problem) if started.elapsed() > limit => return Err(problem),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Ids of the stack's containers, running or not.
    pub fn containers(&self) -> Result<Vec<String>> {
        docker::containers(&format!("label=com.docker.compose.project={}", self.name))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Before the fields: the registry's drop removes the images.
        let _ = docker::remove_project(&self.name);
    }
}
