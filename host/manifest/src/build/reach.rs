//! Where a graph's targets and registries are, and how they are reached.

use std::collections::BTreeSet;
use std::path::PathBuf;

use windlass_model::TargetName;
use windlass_model::target::{Address, KeySource, KnownHosts, RegistryLogin, SshSpec, TargetSpec};

use super::Builder;
use crate::graph::{Environment, Node};
use crate::manifest::{At, Hosts, Key, Target, TargetAddress, TextSource};

impl Builder<'_> {
    pub(super) fn registries(&mut self) -> Vec<RegistryLogin> {
        let mut logins: Vec<RegistryLogin> = Vec::new();
        for (name, registry) in &self.manifest.registries {
            let host = match &registry.host {
                Some(host) => self.resolver.plain(host, "the registry's host"),
                None => Some(name.clone()),
            };
            let what = format!("the username of registry {name}");
            let username = self.resolver.source(&registry.username, &what);
            let what = format!("the password of registry {name}");
            let password = self.resolver.source(&registry.password, &what);
            let (Some(host), Some(username), Some(password)) = (host, username, password) else {
                continue;
            };
            if host.is_empty() || host.starts_with('-') || host.contains(['/', ' ']) {
                self.resolver.report(
                    "manifest.bad-name",
                    registry.key,
                    format!("{host:?} is no registry's host"),
                    "this registry",
                    Some("give host and port only, as in \"localhost:5000\"".to_owned()),
                );
                continue;
            }
            logins.push(RegistryLogin {
                registry: host,
                username,
                password,
            });
        }
        logins
    }

    /// All that may be reached, and those that steps work on.
    pub(super) fn targets(
        &mut self,
        environment: Option<&Environment>,
        nodes: &[Node],
    ) -> (Vec<TargetSpec>, Vec<TargetName>) {
        let mut active: BTreeSet<TargetName> = BTreeSet::new();
        for node in nodes.iter().filter(|node| node.selected) {
            active.extend(node.targets.iter().cloned());
        }
        let mut needed = active.clone();
        if let Some(environment) = environment {
            needed.extend(environment.targets.iter().cloned());
            needed.extend(environment.lease_target.iter().cloned());
        }
        let mut specs = Vec::new();
        for name in &needed {
            match self.manifest.targets.get(name.as_str()) {
                Some(target) => specs.extend(self.target(name, target)),
                None => specs.push(local(name.clone())),
            }
        }
        // Those of other environments are out of reach. Those of none may be
        // named in a configuration; they matter only when they resolve.
        let elsewhere: BTreeSet<&str> = self
            .manifest
            .environments
            .values()
            .flat_map(|environment| &environment.targets)
            .map(|target| target.value.as_str())
            .collect();
        for (name, target) in &self.manifest.targets {
            let name = TargetName::new(name);
            if needed.contains(&name) {
                continue;
            }
            // What is written out is wrong in every environment.
            self.written_address(&name, target);
            if !elsewhere.contains(name.as_str()) {
                let quiet = self.resolver.quietly();
                specs.extend(self.target(&name, target));
                self.resolver.aloud(quiet);
            }
        }
        (specs, active.into_iter().collect())
    }

    fn written_address(&mut self, name: &TargetName, target: &Target) {
        if let TargetAddress::Ssh(ssh) = &target.address
            && let TextSource::Written(template) = &ssh.ssh.value
            && let Some(text) = template.literal()
        {
            self.address(name, &ssh.ssh, text);
        }
    }

    /// Reads an address, and reports one that is none.
    fn address(
        &mut self,
        name: &TargetName,
        place: &At<TextSource>,
        text: &str,
    ) -> Option<SshAddress> {
        match parse_ssh(text) {
            Ok(address) => Some(address),
            Err(why) => {
                self.resolver.report(
                    "manifest.bad-address",
                    place.span,
                    format!("target {name} is at {text:?}: {why}"),
                    "this address",
                    Some("write user@host or user@host:port".to_owned()),
                );
                None
            }
        }
    }

    fn target(&mut self, name: &TargetName, target: &Target) -> Option<TargetSpec> {
        let docker_socket = match &target.docker_socket {
            Some(socket) => Some(
                self.resolver
                    .plain(socket, &format!("`docker_socket` of target {name}"))?,
            ),
            None => None,
        };
        let address = match &target.address {
            TargetAddress::Local => Address::Local,
            TargetAddress::Ssh(ssh) => {
                let what = format!("`ssh` of target {name}");
                let text = self.resolver.plain(&ssh.ssh.value, &what);
                let address = text.and_then(|text| self.address(name, &ssh.ssh, &text));
                let key = match &ssh.key {
                    Key::Default => Some(KeySource::Default),
                    Key::Agent => Some(KeySource::Agent),
                    Key::File(path) => self.path(path, name, "key").map(KeySource::File),
                    Key::Text(text) => {
                        let what = format!("`key` of target {name}");
                        self.resolver.source(text, &what).map(KeySource::Text)
                    }
                };
                let known_hosts = match &ssh.known_hosts {
                    Hosts::Default => Some(KnownHosts::Default),
                    Hosts::File(path) => self.path(path, name, "known_hosts").map(KnownHosts::File),
                    Hosts::Text(text) => {
                        let what = format!("`known_hosts` of target {name}");
                        self.resolver.source(text, &what).map(KnownHosts::Text)
                    }
                };
                let ssh_config = match &ssh.ssh_config {
                    Some(path) => Some(self.path(path, name, "ssh_config")?),
                    None => None,
                };
                let (user, host, port) = address?;
                Address::Ssh(Box::new(SshSpec {
                    user,
                    host,
                    port,
                    key: key?,
                    known_hosts: known_hosts?,
                    ssh_config,
                    connect_timeout: ssh.connect_timeout,
                }))
            }
        };
        Some(TargetSpec {
            name: name.clone(),
            address,
            sudo: target.sudo,
            docker_socket,
        })
    }

    fn path(&mut self, source: &TextSource, target: &TargetName, key: &str) -> Option<PathBuf> {
        self.resolver
            .plain(source, &format!("`{key}` of target {target}"))
            .map(PathBuf::from)
    }
}

fn local(name: TargetName) -> TargetSpec {
    TargetSpec {
        name,
        address: Address::Local,
        sudo: false,
        docker_socket: None,
    }
}

type SshAddress = (Option<String>, String, Option<u16>);

/// `[ssh://][user@]host[:port]`; an IPv6 address stands in brackets when a
/// port follows. The error is a fragment.
pub(crate) fn parse_ssh(text: &str) -> Result<SshAddress, &'static str> {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has spaces");
    }
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, after) = inner.split_once(']').ok_or("the bracket is not closed")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("something other than a port follows the bracket"),
        }
    } else if rest.matches(':').count() > 1 {
        // An IPv6 address without brackets.
        (rest, None)
    } else {
        match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    // `ssh` would take a leading `-` for an option.
    if user.is_some_and(|user| user.is_empty() || user.starts_with('-')) {
        return Err("the user is empty or begins with -");
    }
    if host.is_empty() || host.starts_with('-') {
        return Err("the host is empty or begins with -");
    }
    if host.contains('/') {
        return Err("the host has a slash");
    }
    let port = match port {
        Some(port) => Some(
            port.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port is no number from 1 to 65535")?,
        ),
        None => None,
    };
    Ok((user.map(str::to_owned), host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::parse_ssh;

    #[test]
    fn addresses() {
        let of = |text: &str| {
            parse_ssh(text).map(|(user, host, port)| {
                format!(
                    "{}|{host}|{}",
                    user.unwrap_or_default(),
                    port.unwrap_or_default()
                )
            })
        };
        assert_eq!(of("deploy@host:2222").as_deref(), Ok("deploy|host|2222"));
        assert_eq!(of("host").as_deref(), Ok("|host|0"));
        assert_eq!(of("ssh://a@b:1").as_deref(), Ok("a|b|1"));
        assert_eq!(of("a@[::1]:22").as_deref(), Ok("a|::1|22"));
        assert_eq!(of("a@::1").as_deref(), Ok("a|::1|0"));
        for bad in [
            "",
            "-oProxyCommand=x",
            "a@-h",
            "-a@h",
            "@h",
            "a@",
            "a@h:0",
            "a@h:x",
            "a b@h",
            "a@[::1",
            "a@h/x",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
