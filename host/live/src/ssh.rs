//! The targets' connections: one SSH connection per target for the whole run,
//! over which commands, uploads and forwarded sockets go.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;
use windlass_model::call::SshCall;
use windlass_model::target::SshSpec;
use windlass_model::{CallContext, CallError, Reply, TargetName};

use crate::Config;

/// The connections of a run, opened when first used.
#[derive(Debug)]
pub struct Connections {
    config: Arc<Config>,
}

/// A server's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519`
    pub algorithm: String,
    /// As a line of a known_hosts file.
    pub line: String,
    /// `SHA256:…`
    pub fingerprint: String,
}

impl Connections {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    /// A local unix socket that leads to the target's Docker engine; over the
    /// target's one SSH connection.
    pub async fn docker_socket(
        &self,
        _context: &CallContext,
        target: &TargetName,
    ) -> Result<PathBuf, CallError> {
        Err(missing(target.as_str()))
    }

    /// A local unix socket that leads to host:port as seen from the target.
    pub async fn tcp_socket(
        &self,
        _context: &CallContext,
        target: &TargetName,
        _host: &str,
        _port: u16,
    ) -> Result<PathBuf, CallError> {
        Err(missing(target.as_str()))
    }

    pub async fn close(&self) {}

    pub async fn call(&self, _context: &CallContext, call: SshCall) -> Result<Reply, CallError> {
        let _ = &self.config;
        Err(missing(call.target.as_str()))
    }

    /// How many round trips (execs, uploads, forwards) went to a target so far.
    pub fn round_trips(&self, _target: &TargetName) -> u64 {
        0
    }
}

/// Asks a server for its host keys.
pub async fn scan_host_keys(spec: &SshSpec, _deadline: Instant) -> Result<Vec<HostKey>, CallError> {
    Err(missing(&spec.host))
}

fn missing(what: &str) -> CallError {
    CallError::internal("engine.not-built", format!("{what} cannot be reached yet"))
}
