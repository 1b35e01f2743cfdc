//! Asks a server for its host keys, for people to compare and to commit.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use windlass_model::CallError;
use windlass_model::target::SshSpec;

use super::lines::excerpt;
use super::master::{address, resolve_alias};

/// A server's public key, as the server itself gives it: not proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519`
    pub algorithm: String,
    /// As a line of a known_hosts file, without its end.
    pub line: String,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
}

/// The host keys that a server offers now, the best algorithm first.
pub async fn scan_host_keys(spec: &SshSpec, deadline: Instant) -> Result<Vec<HostKey>, CallError> {
    if spec.host.is_empty() || spec.host.starts_with('-') {
        return Err(CallError::invalid(
            "ssh.invalid-target",
            format!("{:?} is no host", spec.host),
        ));
    }
    let (host, port, alias) = resolve_alias(spec)
        .await
        .unwrap_or_else(|| (spec.host.clone(), spec.port.unwrap_or(22), None));
    let seconds = spec.connect_timeout.as_secs().max(1);
    let mut scan = tokio::process::Command::new("ssh-keyscan");
    scan.args(["-T", &seconds.to_string(), "-p", &port.to_string()])
        .args(["-t", "ed25519,ecdsa,rsa", "--", &host])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout_at(deadline, scan.output())
        .await
        .map_err(|_| {
            CallError::timeout(
                "ssh.connect-timeout",
                format!("{} did not give its host keys in time", address(spec)),
            )
        })?
        .map_err(|error| {
            CallError::unavailable(
                "ssh.no-client",
                format!("`ssh-keyscan` cannot be started: {error}"),
            )
            .hint("install OpenSSH's client")
        })?;
    let mut keys: Vec<HostKey> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| parse(line, alias.as_deref()))
        .collect();
    keys.sort_by_key(|key| match key.algorithm.as_str() {
        "ssh-ed25519" => 0,
        "ssh-rsa" => 2,
        _ => 1,
    });
    keys.dedup();
    if keys.is_empty() {
        return Err(CallError::unavailable(
            "ssh.unreachable",
            format!(
                "{} ({host}:{port}) gave no host key: {}",
                address(spec),
                excerpt(&String::from_utf8_lossy(&output.stderr))
            ),
        )
        .hint("is the host up and the port right? behind a jump host, connect once with `ssh`")
        .retryable());
    }
    Ok(keys)
}

fn parse(line: &str, alias: Option<&str>) -> Option<HostKey> {
    let mut words = line.split_whitespace();
    let (name, algorithm, key) = (words.next()?, words.next()?, words.next()?);
    if name.starts_with('#') {
        return None;
    }
    let bytes = STANDARD.decode(key).ok()?;
    Some(HostKey {
        algorithm: algorithm.to_owned(),
        line: format!("{} {algorithm} {key}", alias.unwrap_or(name)),
        fingerprint: format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&bytes))),
    })
}
