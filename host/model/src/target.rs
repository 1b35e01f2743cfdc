//! How targets and registries are reached. The manifest resolves to these;
//! live backends use them; guests never see them.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::TargetName;
use crate::text::Text;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSpec {
    pub name: TargetName,
    pub address: Address,
    /// Docker and files through `sudo -n`.
    pub sudo: bool,
    /// The engine's socket there, `/run/user/1000/docker.sock`; found by
    /// `DOCKER_HOST` of the session, then the usual places, when absent.
    pub docker_socket: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// This machine, with no SSH.
    Local,
    Ssh(Box<SshSpec>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSpec {
    /// That of the user's ssh configuration when absent.
    pub user: Option<String>,
    /// A host name, an address, or an alias of the ssh configuration.
    pub host: String,
    pub port: Option<u16>,
    pub key: KeySource,
    pub known_hosts: KnownHosts,
    /// A configuration file to include; the user's own when absent.
    pub ssh_config: Option<PathBuf>,
    pub connect_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// As OpenSSH finds it: agent, configuration, usual names.
    Default,
    /// The agent only.
    Agent,
    File(PathBuf),
    /// Text of a private key. CRLF and a missing final newline are mended.
    Text(Text),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownHosts {
    /// The user's own.
    Default,
    File(PathBuf),
    /// Lines of a known_hosts file.
    Text(Text),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// `ghcr.io`, `localhost:5000`
    pub registry: String,
    pub username: Text,
    pub password: Text,
}
