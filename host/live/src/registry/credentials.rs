//! Logins: the manifest's own, else those of the user's Docker client
//! (`config.json`, credential helpers).

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_model::CallError;
use zeroize::Zeroizing;

use super::reference::HUB;

/// The key of Docker Hub in `config.json`.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Cap on `config.json`.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// Cap on what a helper answers.
const MAX_HELPER_ANSWER: u64 = 64 * 1024;

/// A helper that asks a person, or hangs, is given up after this.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);

/// A user name and its secret for one registry.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) secret: Zeroizing<String>,
    /// The secret is an OAuth2 refresh token, not a password.
    pub(crate) identity_token: bool,
    /// Where it comes from, for messages.
    pub(crate) origin: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// The `X-Registry-Auth` header of the engine's API.
    pub(crate) fn engine_header(&self, registry: &str) -> Zeroizing<String> {
        let address = if registry == HUB { HUB_KEY } else { registry };
        let json = Zeroizing::new(
            if self.identity_token {
                serde_json::json!({ "identitytoken": *self.secret, "serveraddress": address })
            } else {
                serde_json::json!({
                    "username": self.username,
                    "password": *self.secret,
                    "serveraddress": address,
                })
            }
            .to_string(),
        );
        Zeroizing::new(URL_SAFE.encode(json.as_bytes()))
    }

    pub(crate) fn basic(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(format!("{}:{}", self.username, *self.secret));
        Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
    }
}

/// `DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn config_dir() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match variable("DOCKER_CONFIG") {
        Some(dir) => Some(dir.into()),
        None => Some(PathBuf::from(variable("HOME")?).join(".docker")),
    }
}

/// A file's bytes, or nothing when there is none.
pub(crate) fn read_capped(path: &Path, cap: u64) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What the user's Docker client knows of a registry.
pub(crate) async fn from_store(
    config_dir: &Path,
    registry: &str,
) -> Result<Option<Login>, CallError> {
    let path = config_dir.join("config.json");
    let bytes = match read_capped(&path, MAX_CONFIG) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => return Err(unreadable(&path, &error.to_string())),
    };
    // The parser's own message could quote what it stumbled over.
    let config: ConfigFile = serde_json::from_slice(&bytes).map_err(|error| {
        unreadable(
            &path,
            &format!("line {}, column {}", error.line(), error.column()),
        )
    })?;
    let keys = keys(registry);
    for key in &keys {
        if let Some(helper) = config.cred_helpers.get(key) {
            return ask_helper(helper, key).await;
        }
    }
    if let Some(store) = config
        .creds_store
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        // The store answers for the key that `docker login` wrote.
        let key = keys
            .iter()
            .find(|key| config.auths.contains_key(*key))
            .unwrap_or(&keys[0]);
        if let Some(login) = ask_helper(store, key).await? {
            return Ok(Some(login));
        }
    }
    for key in &keys {
        if let Some(login) = config
            .auths
            .get(key)
            .and_then(|entry| of_entry(entry, &path))
        {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

fn unreadable(path: &Path, why: &str) -> CallError {
    CallError::invalid(
        "registry.unreadable-store",
        format!(
            "the Docker client's configuration {} cannot be read: {why}",
            path.display()
        ),
    )
    .hint("mend the file, or give the login in the manifest: [registry.\"HOST\"]")
}

/// The forms in which `docker login` has written a registry's key.
fn keys(registry: &str) -> Vec<String> {
    if registry == HUB {
        return [
            HUB_KEY,
            "index.docker.io",
            "docker.io",
            "https://index.docker.io/v1",
            "https://docker.io",
            "registry-1.docker.io",
        ]
        .map(str::to_owned)
        .into();
    }
    vec![
        registry.to_owned(),
        format!("https://{registry}"),
        format!("https://{registry}/"),
        format!("https://{registry}/v1/"),
        format!("https://{registry}/v2/"),
        format!("http://{registry}"),
    ]
}

fn of_entry(entry: &AuthEntry, path: &Path) -> Option<Login> {
    let origin = path.display().to_string();
    if let Some(token) = entry.identitytoken.as_deref().filter(|t| !t.is_empty()) {
        return Some(Login {
            username: String::new(),
            secret: Zeroizing::new(token.to_owned()),
            identity_token: true,
            origin,
        });
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        let decoded = Zeroizing::new(STANDARD.decode(auth).ok()?);
        let pair = std::str::from_utf8(&decoded).ok()?;
        let (username, password) = pair.split_once(':')?;
        return Some(Login {
            username: username.to_owned(),
            secret: Zeroizing::new(password.trim_end_matches('\0').to_owned()),
            identity_token: false,
            origin,
        });
    }
    Some(Login {
        username: entry.username.clone()?,
        secret: Zeroizing::new(entry.password.clone()?),
        identity_token: false,
        origin,
    })
}

/// `docker-credential-NAME get`: the registry on stdin, JSON on stdout.
async fn ask_helper(name: &str, key: &str) -> Result<Option<Login>, CallError> {
    let named = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.');
    if name.is_empty() || !named {
        return Err(helper_failed(name, "its name is none"));
    }
    run_helper(&format!("docker-credential-{name}"), name, key).await
}

async fn run_helper(program: &str, name: &str, key: &str) -> Result<Option<Login>, CallError> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| helper_failed(name, &format!("{program}: {error}")))?;
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input fails by its exit code.
            let _ = stdin.write_all(key.as_bytes()).await;
        }
        let mut answer = Zeroizing::new(Vec::new());
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_HELPER_ANSWER)
                .read_to_end(&mut answer)
                .await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = tokio::time::timeout(HELPER_TIMEOUT, exchange)
        .await
        .map_err(|_| {
            helper_failed(
                name,
                &format!("no answer within {} s", HELPER_TIMEOUT.as_secs()),
            )
        })?
        .map_err(|error| helper_failed(name, &error.to_string()))?;
    if !status.success() {
        // The protocol's words for "nothing is kept for it".
        let text = String::from_utf8_lossy(&answer);
        if text.contains("credentials not found") || text.trim().is_empty() {
            return Ok(None);
        }
        return Err(helper_failed(name, &format!("it ended with {status}")));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| helper_failed(name, "its answer is not understood"))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Login {
        identity_token: answer.username == "<token>",
        username: answer.username,
        secret: Zeroizing::new(answer.secret),
        origin: program.to_owned(),
    }))
}

fn helper_failed(name: &str, why: &str) -> CallError {
    CallError::unavailable(
        "registry.credential-helper",
        format!("the Docker credential helper {name:?} gave no login: {why}"),
    )
    .hint("try `docker login`, or give the login in the manifest: [registry.\"HOST\"]")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stored(json: &str, registry: &str) -> Result<Option<Login>, CallError> {
        let dir = tempfile::tempdir().expect("directory");
        fs_err::write(dir.path().join("config.json"), json).expect("file");
        from_store(dir.path(), registry).await
    }

    #[tokio::test]
    async fn auths_are_read() {
        let json = r#"{"auths":{
            "https://ghcr.io":{"auth":"YWNtZTpzM2NyOnQ="},
            "https://index.docker.io/v1/":{"identitytoken":"tok"}}}"#;
        let login = stored(json, "ghcr.io").await.expect("read").expect("login");
        assert_eq!(
            (login.username.as_str(), login.secret.as_str()),
            ("acme", "s3cr:t")
        );
        assert!(!format!("{login:?}").contains("s3cr"), "hidden in Debug");
        let hub = stored(json, HUB).await.expect("read").expect("login");
        assert!(hub.identity_token);
        assert!(stored(json, "quay.io").await.expect("read").is_none());
    }

    #[tokio::test]
    async fn a_broken_store_is_told_without_its_content() {
        let error = stored(r#"{"auths":{"ghcr.io":{"auth": hunter2}}}"#, "ghcr.io")
            .await
            .expect_err("broken");
        assert_eq!(error.code, "registry.unreadable-store");
        assert!(!error.message.contains("hunter2"));
    }

    #[tokio::test]
    async fn a_missing_helper_is_told() {
        let error = stored(
            r#"{"credHelpers":{"ghcr.io":"windlass-not-there"}}"#,
            "ghcr.io",
        )
        .await
        .expect_err("no helper");
        assert_eq!(error.code, "registry.credential-helper");
        let error = stored(r#"{"credsStore":"../../bin/sh"}"#, "ghcr.io")
            .await
            .expect_err("a path");
        assert_eq!(error.code, "registry.credential-helper");
    }

    #[tokio::test]
    async fn a_helper_is_asked_on_its_stdin() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().expect("directory");
        let helper = |script: &str| {
            let path = dir.path().join(format!("h{}", script.len()));
            fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).expect("script");
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("mode");
            path.display().to_string()
        };
        let good = helper(
            r#"read -r key || true; [ "$1" = get ] && printf '{"ServerURL":"x","Username":"%s","Secret":"pw"}' "$key""#,
        );
        let login = run_helper(&good, "good", "ghcr.io")
            .await
            .expect("asked")
            .expect("login");
        assert_eq!(
            (login.username.as_str(), login.secret.as_str()),
            ("ghcr.io", "pw")
        );
        let none = helper("echo 'credentials not found in native keychain'; exit 1");
        assert!(
            run_helper(&none, "none", "x")
                .await
                .expect("asked")
                .is_none()
        );
        let broken = helper("echo 'the vault burns: s3cr3t'; exit 2");
        let error = run_helper(&broken, "broken", "x")
            .await
            .expect_err("broken");
        assert_eq!(error.code, "registry.credential-helper");
        assert!(!error.message.contains("s3cr3t"), "{}", error.message);
    }
}
