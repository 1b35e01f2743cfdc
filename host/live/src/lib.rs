//! The live backends: the only place where a call touches the world, and where
//! a secret's name becomes its bytes.
//!
//! One backend a capability; [`Live`] sends each call to its own. Everything
//! that goes to a target uses that target's one SSH connection ([`ssh`]).

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use windlass_model::call::{Call, ClockCall, SecretCall};
use windlass_model::target::{RegistryLogin, TargetSpec};
use windlass_model::{CallContext, CallError, Capability, Reply, Secrets};

pub mod docker;
pub mod files;
pub mod git;
pub mod http;
pub mod lease;
pub mod registry;
pub mod releases;
pub mod ssh;
pub mod target;

/// What the backends need to know of a run.
#[derive(Debug)]
pub struct Config {
    /// The project's root: files and git are beneath it.
    pub root: PathBuf,
    /// A directory of this run's own, 0700, removed with it: key files,
    /// sockets, spools. Its path is short, for sockets' sake.
    pub scratch: PathBuf,
    pub targets: Vec<TargetSpec>,
    pub registries: Vec<RegistryLogin>,
    pub secrets: Arc<Secrets>,
}

/// Answers every call from the real world.
#[derive(Debug)]
pub struct Live {
    config: Arc<Config>,
    ssh: Arc<ssh::Connections>,
    docker: docker::Docker,
    registry: Arc<registry::Registry>,
    target: target::Target,
    releases: releases::Releases,
    lease: lease::Lease,
    http: http::Http,
    git: git::Git,
    files: files::Files,
}

impl Live {
    pub fn new(config: Config) -> Result<Self, CallError> {
        let config = Arc::new(config);
        let ssh = Arc::new(ssh::Connections::new(Arc::clone(&config)));
        let registry = Arc::new(registry::Registry::new(Arc::clone(&config))?);
        Ok(Self {
            docker: docker::Docker::new(
                Arc::clone(&config),
                Arc::clone(&ssh),
                Arc::clone(&registry),
            ),
            target: target::Target::new(Arc::clone(&config), Arc::clone(&ssh)),
            releases: releases::Releases::new(Arc::clone(&config), Arc::clone(&ssh)),
            lease: lease::Lease::new(Arc::clone(&ssh)),
            http: http::Http::new(Arc::clone(&config), Arc::clone(&ssh))?,
            git: git::Git::new(Arc::clone(&config)),
            files: files::Files::new(Arc::clone(&config)),
            registry,
            ssh,
            config,
        })
    }

    /// The targets' connections: for commands that need one outside a run.
    pub fn connections(&self) -> &Arc<ssh::Connections> {
        &self.ssh
    }

    /// The Docker engines: for the sweep of what killed runs left over.
    pub fn docker(&self) -> &docker::Docker {
        &self.docker
    }

    /// Gives up the leases that this run holds, until the deadline of `context`, whose run it
    /// is: for a process that ends at once.
    pub async fn release_leases(&self, context: &CallContext) {
        self.lease.release_all(context).await;
    }

    /// Ends connections and removes key files. Bounded: a connection that does
    /// not end is abandoned after a second.
    pub async fn close(&self) {
        self.ssh.close().await;
    }
}

#[async_trait]
impl Capability for Live {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        match call {
            Call::Docker(call) => self.docker.call(context, call).await,
            Call::Registry(call) => self.registry.call(context, call).await,
            Call::Target(call) => self.target.call(context, call).await,
            Call::Ssh(call) => self.ssh.call(context, call).await,
            Call::Releases(call) => self.releases.call(context, call).await,
            Call::Lease(call) => self.lease.call(context, call).await,
            Call::Http(call) => self.http.call(context, call).await,
            Call::Git(call) => self.git.call(context, call).await,
            Call::File(call) => self.files.call(context, call).await,
            Call::Clock(ClockCall::Sleep { ms }) => {
                let sleep = tokio::time::sleep(std::time::Duration::from_millis(ms));
                tokio::select! {
                    () = sleep => Ok(Reply::Done),
                    () = context.cancel.cancelled() => Err(CallError::cancelled()),
                    () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
                        "clock.deadline",
                        "the step's deadline passed while it slept",
                    )),
                }
            }
            Call::Secret(SecretCall::Reveal { name }) => {
                Ok(Reply::Text(self.config.secrets.expose(&name)?.to_owned()))
            }
        }
    }
}
