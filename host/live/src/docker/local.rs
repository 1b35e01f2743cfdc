//! Where this machine's engine listens, found as the `docker` program finds it:
//! `DOCKER_HOST`, then `DOCKER_CONTEXT` or the current context, then the usual
//! sockets.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use windlass_model::CallError;

use super::engine::{Endpoint, exists};
use crate::registry::credentials;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Cap on a context's description.
const MAX_META: u64 = 1024 * 1024;

/// What of the environment counts; an argument so that it can be tested.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) docker_host: Option<String>,
    pub(super) docker_context: Option<String>,
    pub(super) runtime_dir: Option<PathBuf>,
    /// `~/.docker`, or what `DOCKER_CONFIG` says.
    pub(super) config_dir: Option<PathBuf>,
}

impl Environment {
    pub(super) fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            docker_host: variable("DOCKER_HOST"),
            docker_context: variable("DOCKER_CONTEXT"),
            runtime_dir: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            config_dir: credentials::config_dir(),
        }
    }
}

pub(super) fn endpoint(environment: &Environment) -> Result<Endpoint, CallError> {
    if let Some(host) = &environment.docker_host {
        return parse(host, "DOCKER_HOST");
    }
    let context = environment
        .docker_context
        .clone()
        .or_else(|| current_context(environment.config_dir.as_deref()?));
    match context.as_deref() {
        None | Some("" | "default") => {}
        Some(name) => return of_context(environment, name),
    }
    let usual = PathBuf::from(DEFAULT_SOCKET);
    if !exists(&usual) {
        // Where a rootless engine listens.
        if let Some(rootless) = environment
            .runtime_dir
            .as_ref()
            .map(|dir| dir.join("docker.sock"))
            .filter(|path| exists(path))
        {
            return Ok(Endpoint::Unix(rootless));
        }
    }
    Ok(Endpoint::Unix(usual))
}

fn current_context(config_dir: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        current_context: Option<String>,
    }
    let text = credentials::read_capped(&config_dir.join("config.json"), MAX_META).ok()??;
    serde_json::from_slice::<File>(&text).ok()?.current_context
}

/// `contexts/meta/SHA256(NAME)/meta.json`, as the command-line client keeps it.
fn of_context(environment: &Environment, name: &str) -> Result<Endpoint, CallError> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints", default)]
        endpoints: Endpoints,
    }
    #[derive(Default, Deserialize)]
    struct Endpoints {
        docker: Option<DockerEndpoint>,
    }
    #[derive(Deserialize)]
    struct DockerEndpoint {
        #[serde(rename = "Host", default)]
        host: String,
    }
    let unknown = || {
        CallError::invalid(
            "docker.unknown-context",
            format!("the Docker context {name} is not known"),
        )
        .hint("see `docker context ls`; `docker context use default` goes back to the default one")
    };
    let file = environment
        .config_dir
        .as_ref()
        .ok_or_else(unknown)?
        .join("contexts/meta")
        .join(hex::encode(Sha256::digest(name.as_bytes())))
        .join("meta.json");
    let text = credentials::read_capped(&file, MAX_META)
        .ok()
        .flatten()
        .ok_or_else(unknown)?;
    let meta: Meta = serde_json::from_slice(&text).map_err(|_| unknown())?;
    let host = meta.endpoints.docker.map(|docker| docker.host);
    parse(
        host.as_deref().unwrap_or_default(),
        &format!("the Docker context {name}"),
    )
}

fn parse(host: &str, origin: &str) -> Result<Endpoint, CallError> {
    if let Some(path) = host.strip_prefix("unix://") {
        return Ok(Endpoint::Unix(path.into()));
    }
    let tcp = host
        .strip_prefix("tcp://")
        .or_else(|| host.strip_prefix("http://"));
    if let Some(address) = tcp {
        if std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty()) {
            return Err(unsupported(origin, "an engine behind TLS"));
        }
        let address = address.trim_end_matches('/');
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        return Ok(Endpoint::Tcp(if has_port {
            address.to_owned()
        } else {
            format!("{address}:2375")
        }));
    }
    if host.starts_with("ssh://") {
        return Err(unsupported(origin, "an engine over SSH"));
    }
    Err(CallError::invalid(
        "docker.invalid-host",
        format!("{origin} names no engine that Windlass can reach"),
    )
    .hint("it takes unix://PATH or tcp://HOST:PORT"))
}

fn unsupported(origin: &str, what: &str) -> CallError {
    CallError::invalid(
        "docker.unsupported-host",
        format!("{origin} names {what}, which Windlass does not use as its local engine"),
    )
    .hint("declare that machine as a target with `ssh = …` and build there, or unset it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> Result<Endpoint, CallError> {
        endpoint(&Environment {
            docker_host: Some(host.into()),
            ..Environment::default()
        })
    }

    #[test]
    fn docker_host_comes_first() {
        assert_eq!(
            with_host("unix:///run/x.sock").expect("unix"),
            Endpoint::Unix("/run/x.sock".into())
        );
        assert_eq!(
            with_host("tcp://127.0.0.1").expect("tcp"),
            Endpoint::Tcp("127.0.0.1:2375".into())
        );
        assert_eq!(
            with_host("ssh://box").expect_err("ssh").code,
            "docker.unsupported-host"
        );
        assert_eq!(
            with_host("nonsense").expect_err("nonsense").code,
            "docker.invalid-host"
        );
    }

    #[test]
    fn the_current_context_is_followed() {
        let dir = tempfile::tempdir().expect("directory");
        fs_err::write(
            dir.path().join("config.json"),
            r#"{"currentContext":"box"}"#,
        )
        .expect("config");
        let meta = dir
            .path()
            .join("contexts/meta")
            .join(hex::encode(Sha256::digest(b"box")));
        fs_err::create_dir_all(&meta).expect("directory");
        fs_err::write(
            meta.join("meta.json"),
            r#"{"Name":"box","Endpoints":{"docker":{"Host":"unix:///run/box.sock"}}}"#,
        )
        .expect("meta");
        let environment = Environment {
            config_dir: Some(dir.path().into()),
            ..Environment::default()
        };
        assert_eq!(
            endpoint(&environment).expect("endpoint"),
            Endpoint::Unix("/run/box.sock".into())
        );
        let other = Environment {
            docker_context: Some("gone".into()),
            config_dir: Some(dir.path().into()),
            ..Environment::default()
        };
        assert_eq!(
            endpoint(&other).expect_err("unknown").code,
            "docker.unknown-context"
        );
    }
}
