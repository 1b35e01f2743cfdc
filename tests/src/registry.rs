//! A container registry on loopback: Debian's `docker-registry`.
//!
//! It speaks the distribution API as GHCR does. What only GHCR has (token servers,
//! scopes, its own refusals) is played by [`crate::HttpRecorder`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};
use crate::http::Request;
use crate::process::{self, Supervised};
use crate::scratch::{self, Scratch};
use crate::{docker, sweep};

const USER: &str = "acme";
/// Long enough for redaction to take it seriously, with a character that URL and
/// JSON encodings change.
const PASSWORD: &str = "rig/pass+word-\"1\"";
const READY: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(2);
/// Another process may take the free port before the registry does.
const ATTEMPTS: u32 = 4;

/// A running registry. On drop it ends, and the images that this machine's engine
/// built or pulled under its address are removed, with their containers.
#[derive(Debug)]
pub struct Registry {
    server: Supervised,
    address: SocketAddr,
    namespace: String,
    login: bool,
    files: Scratch,
}

impl Registry {
    /// A registry that wants [`Registry::user`] and [`Registry::password`].
    pub fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), true)
    }

    /// A registry that lets everybody pull and push.
    pub fn open() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), false)
    }

    /// A registry on an address of this machine, with or without a login.
    pub fn start_on(ip: IpAddr, login: bool) -> Result<Self> {
        sweep::once();
        let mut attempt = 1;
        loop {
            match Self::try_start(ip, login) {
                Err(Error::NotReady { .. }) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn try_start(ip: IpAddr, login: bool) -> Result<Self> {
        let hint = "run `cargo xtask setup`";
        let find = |program: &str| {
            process::find_program(program).ok_or_else(|| Error::Missing {
                program: program.to_owned(),
                hint,
            })
        };
        let files = Scratch::new()?;
        let address = SocketAddr::new(ip, free_port(ip)?);
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '{address}'}}\n",
            storage = files.join("storage").display(),
        );
        if login {
            let entry = htpasswd(&find("htpasswd")?)?;
            let path = files.write("htpasswd", entry)?;
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: windlass-rig, path: {}}}}}\n",
                path.display()
            ));
        }
        let config = files.write("registry.yml", config)?;
        let log = files.join("registry.log");
        let program = find("docker-registry")?;
        let args = [Path::new("serve"), &config];
        let server = Supervised::start(&program, args, &log, GRACE)?;
        let wanted = if login { 401 } else { 200 };
        server.wait_until("the registry", READY, || {
            Request::get(address.to_string(), "/v2/")
                .send()
                .is_ok_and(|got| got.status == wanted)
        })?;
        Ok(Self {
            server,
            address,
            namespace: scratch::unique_name(),
            login,
            files,
        })
    }

    /// `127.0.0.1:PORT`: what stands before an image's name.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `127.0.0.1:PORT/NAMESPACE`. The namespace is this value's own; images under
    /// it are found and removed, also by a later run.
    pub fn prefix(&self) -> String {
        format!("{}/{}", self.address, self.namespace)
    }

    /// `127.0.0.1:PORT/NAMESPACE/name`.
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix())
    }

    /// Who may pull and push.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// That user's password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Writes a Docker configuration that is logged in here, and gives its directory.
    pub fn docker_config(&self) -> Result<PathBuf> {
        let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let config = serde_json::json!({ "auths": { self.address(): { "auth": auth } } });
        self.files.write("docker/config.json", config.to_string())?;
        Ok(self.files.join("docker"))
    }

    /// Tags of a repository (`name` as given to [`Registry::repository`]), sorted;
    /// none when nothing was pushed.
    pub fn tags(&self, name: &str) -> Result<Vec<String>> {
        let path = format!("/v2/{}/{name}/tags/list", self.namespace);
        let answer = self.request("GET", &path).send()?;
        let json = answer.json();
        let mut tags: Vec<String> = json["tags"]
            .as_array()
            .map(|tags| {
                tags.iter()
                    .filter_map(|tag| Some(tag.as_str()?.to_owned()))
                    .collect()
            })
            .unwrap_or_default();
        tags.sort_unstable();
        Ok(tags)
    }

    /// Digest (`sha256:…`) of the manifest that a tag names.
    pub fn digest(&self, name: &str, tag: &str) -> Result<Option<String>> {
        let path = format!("/v2/{}/{name}/manifests/{tag}", self.namespace);
        let answer = self
            .request("HEAD", &path)
            .header(
                "accept",
                "application/vnd.docker.distribution.manifest.v2+json",
            )
            .header("accept", "application/vnd.oci.image.manifest.v1+json")
            .send()?;
        Ok(answer.header("docker-content-digest").map(str::to_owned))
    }

    /// A request with the login that this registry wants.
    pub fn request(&self, method: &str, path: &str) -> Request {
        let request = Request::new(method, self.address(), path);
        if self.login {
            request.basic(USER, PASSWORD)
        } else {
            request
        }
    }

    /// Its log: one line a request, with method, path and status.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A prefix with its slash: port 500 must not take the images of port 5000.
        let (prefix, address) = (format!("{}/", self.prefix()), format!("{}/", self.address));
        if process::find_program("docker").is_some() {
            let _ = docker::remove_images(|name| {
                name.starts_with(&prefix) || name.starts_with(&address)
            });
        }
    }
}

/// A line for the password file; the password goes in on stdin.
fn htpasswd(program: &Path) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(["-niB", USER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::file("start", program))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(PASSWORD.as_bytes())
            .map_err(Error::file("write to", program))?;
    }
    let output = child
        .wait_with_output()
        .map_err(Error::file("wait for", program))?;
    if output.status.success() && output.stdout.starts_with(USER.as_bytes()) {
        return Ok(output.stdout);
    }
    Err(Error::Program {
        command: format!("htpasswd -niB {USER}"),
        status: output.status.to_string(),
        output: process::both(&output),
    })
}

/// A port that is free at this moment.
pub fn free_port(ip: IpAddr) -> Result<u16> {
    TcpListener::bind((ip, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::system(format!("find a free port on {ip}")))
}
