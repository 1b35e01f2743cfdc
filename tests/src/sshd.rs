//! OpenSSH's server on loopback, with keys, known_hosts and environment of its own.
//!
//! Sessions run as the user of the test, in a real login shell; the server's
//! `SetEnv` gives them a home of their own, the PATH, the Docker engine and the
//! Compose plug-in of the rig, so the session is a server that has Docker installed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::{self, Supervised};
use crate::registry::free_port;
use crate::scratch::Scratch;
use crate::{docker, sweep, tools};

const READY: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
/// Another process may take the free port before sshd does.
const ATTEMPTS: u32 = 4;

/// How a server is to be; [`Sshd::builder`] gives one with the defaults.
#[derive(Debug, Clone)]
pub struct Builder {
    ip: IpAddr,
    port: Option<u16>,
    env: BTreeMap<String, String>,
    stream_local_forwarding: bool,
    tcp_forwarding: bool,
    max_sessions: u32,
    extra: Vec<String>,
    within: Vec<String>,
}

impl Builder {
    /// Sets a variable of every session, in place of the rig's own.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a variable out of the sessions.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Whether Unix sockets may be forwarded; yes unless set.
    #[must_use]
    pub fn stream_local_forwarding(mut self, allowed: bool) -> Self {
        self.stream_local_forwarding = allowed;
        self
    }

    /// Whether TCP may be forwarded; yes unless set.
    #[must_use]
    pub fn tcp_forwarding(mut self, allowed: bool) -> Self {
        self.tcp_forwarding = allowed;
        self
    }

    /// Sessions a connection may have at a time; 20 unless set (OpenSSH's own
    /// default is 10).
    #[must_use]
    pub fn max_sessions(mut self, sessions: u32) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// The address to listen on; 127.0.0.1 and a free port unless set.
    #[must_use]
    pub fn listen(mut self, ip: IpAddr, port: Option<u16>) -> Self {
        self.ip = ip;
        self.port = port;
        self
    }

    /// A further line of `sshd_config`.
    #[must_use]
    pub fn config_line(mut self, line: impl Into<String>) -> Self {
        self.extra.push(line.into());
        self
    }

    /// Starts the server through another command, as `nsenter` is one.
    #[must_use]
    pub(crate) fn within(mut self, command: Vec<String>) -> Self {
        self.within = command;
        self
    }

    /// Starts the server.
    pub fn start(&self) -> Result<Sshd> {
        sweep::once();
        let mut attempt = 1;
        loop {
            match self.try_start() {
                Err(Error::NotReady { .. }) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn try_start(&self) -> Result<Sshd> {
        let program = process::find_program("sshd").ok_or(Error::Missing {
            program: "sshd".to_owned(),
            hint: "run `cargo xtask setup`",
        })?;
        let files = ServerFiles::write(self)?;
        let log = files.scratch.join("sshd.log");
        // An absolute path, or sshd refuses: it runs itself again for a connection.
        let mut words: Vec<PathBuf> = self.within.iter().map(PathBuf::from).collect();
        words.extend([
            program,
            "-D".into(),
            "-e".into(),
            "-f".into(),
            files.config.clone(),
        ]);
        let first = words.remove(0);
        let server = Supervised::start(&first, words, &log, GRACE)?;
        let address = files.address;
        server.wait_until("sshd", READY, || {
            // Its banner, not only its port: see `wait_until` on foreign answers.
            banner(address).is_some_and(|line| line.starts_with("SSH-2.0-OpenSSH"))
        })?;
        Ok(Sshd { server, files })
    }
}

/// A running SSH server. On drop it ends with all its sessions.
#[derive(Debug)]
pub struct Sshd {
    server: Supervised,
    files: ServerFiles,
}

impl Sshd {
    /// A server with the rig's defaults.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// A server to be configured first.
    pub fn builder() -> Builder {
        let path = std::env::var("PATH").unwrap_or_default();
        let env = [
            ("PATH", path),
            ("DOCKER_HOST", docker::host().to_owned()),
            (
                "DOCKER_CONFIG",
                tools::docker_config_dir().display().to_string(),
            ),
        ];
        Builder {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: None,
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            stream_local_forwarding: true,
            tcp_forwarding: true,
            max_sessions: 20,
            extra: Vec::new(),
            within: Vec::new(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.files.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.files.address.port()
    }

    /// Who may log in: the user of the test.
    pub fn user(&self) -> &str {
        &self.files.user
    }

    /// `user@127.0.0.1:PORT`, as a target's `ssh` says it.
    pub fn destination(&self) -> String {
        format!("{}@{}", self.user(), self.address())
    }

    /// A directory for what is deployed: the server's `/srv`, so to say.
    pub fn root(&self) -> PathBuf {
        self.files.scratch.join("srv")
    }

    /// The private key that may log in, in OpenSSH's format.
    pub fn private_key(&self) -> &str {
        &self.files.private_key
    }

    /// The file with that key, readable by its owner only.
    pub fn private_key_file(&self) -> PathBuf {
        self.files.scratch.join("client")
    }

    /// A line for known_hosts that names this server.
    pub fn known_hosts(&self) -> String {
        self.known_hosts_for(self.address())
    }

    /// The same host key at another address: that of a relay before this server.
    pub fn known_hosts_for(&self, address: SocketAddr) -> String {
        format!(
            "[{}]:{} {}\n",
            address.ip(),
            address.port(),
            self.files.host_key
        )
    }

    /// The file with [`Sshd::known_hosts`].
    pub fn known_hosts_file(&self) -> PathBuf {
        self.files.scratch.join("known_hosts")
    }

    /// Runs a script in a session through the `ssh` program: what the far side sees.
    pub fn exec(&self, script: &str) -> Result<Output> {
        process::output(self.ssh().arg(script))
    }

    /// The `ssh` program for this server, without a command.
    pub fn ssh(&self) -> Command {
        self.ssh_with(
            &self.private_key_file(),
            &self.known_hosts_file(),
            self.port(),
        )
    }

    /// The `ssh` program with another key, other known hosts, or through the port of
    /// a relay.
    pub fn ssh_with(&self, key: &Path, known_hosts: &Path, port: u16) -> Command {
        let mut command = Command::new("ssh");
        command
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=5",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
            ])
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .arg("-i")
            .arg(key)
            .args(["-p", &port.to_string()])
            .arg(format!("{}@{}", self.user(), self.address().ip()));
        command
    }

    /// How many connections have logged in so far.
    pub fn logins(&self) -> usize {
        self.log().matches("Accepted publickey for").count()
    }

    /// How many sessions were opened so far, over all connections.
    pub fn sessions(&self) -> usize {
        self.log().matches("Starting session:").count()
    }

    /// The server's log at level VERBOSE.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Ends every open connection, as a network that fails would; what runs in the
    /// sessions goes on. The server stays.
    pub fn drop_connections(&self) {
        // The connections are the server's sshd processes; commands are below them.
        let connections: Vec<u32> = process::descendants(self.server.pid())
            .into_iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.trim_end().starts_with("sshd"))
            })
            .collect();
        process::signal("KILL", &connections);
    }

    /// Process id of the listening server.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Sessions are in process groups of their own: the listener's end leaves them.
        process::signal("KILL", &process::descendants(self.server.pid()));
    }
}

/// What the server and its client read.
#[derive(Debug)]
struct ServerFiles {
    scratch: Scratch,
    address: SocketAddr,
    user: String,
    config: PathBuf,
    private_key: String,
    host_key: String,
}

impl ServerFiles {
    fn write(wanted: &Builder) -> Result<Self> {
        let scratch = Scratch::new()?;
        let user = process::capture(Command::new("id").arg("-un"))?
            .trim()
            .to_owned();
        if process::capture(Command::new("id").arg("-u"))?.trim() == "0" {
            // Started by root, sshd wants its privilege separation directory.
            fs::create_dir_all("/run/sshd").map_err(Error::file("make", "/run/sshd"))?;
        }
        let host_key = keygen(&scratch.join("host"))?;
        let client_key = keygen(&scratch.join("client"))?;
        scratch.write("authorized_keys", format!("{client_key}\n"))?;
        scratch.dir("srv")?;
        scratch.dir("home")?;
        let port = match wanted.port {
            Some(port) => port,
            None => free_port(wanted.ip)?,
        };
        let address = SocketAddr::new(wanted.ip, port);
        scratch.write(
            "known_hosts",
            format!("[{}]:{port} {host_key}\n", wanted.ip),
        )?;
        if port == 22 {
            scratch.write("known_hosts", format!("{} {host_key}\n", wanted.ip))?;
        }
        let config = scratch.write("sshd_config", config(wanted, &scratch, address))?;
        let key = scratch.join("client");
        let private_key = fs::read_to_string(&key).map_err(Error::file("read", &key))?;
        Ok(Self {
            scratch,
            address,
            user,
            config,
            private_key,
            host_key,
        })
    }
}

fn config(wanted: &Builder, scratch: &Scratch, address: SocketAddr) -> String {
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let mut lines = vec![
        format!("Port {}", address.port()),
        format!("ListenAddress {}", address.ip()),
        format!("HostKey {}", scratch.join("host").display()),
        format!(
            "AuthorizedKeysFile {}",
            scratch.join("authorized_keys").display()
        ),
        "PidFile none".to_owned(),
        // The keys lie below /tmp, which all may write.
        "StrictModes no".to_owned(),
        "UsePAM no".to_owned(),
        "PasswordAuthentication no".to_owned(),
        "KbdInteractiveAuthentication no".to_owned(),
        "PermitRootLogin prohibit-password".to_owned(),
        "UseDNS no".to_owned(),
        "PrintMotd no".to_owned(),
        "PrintLastLog no".to_owned(),
        "LogLevel VERBOSE".to_owned(),
        "Subsystem sftp internal-sftp".to_owned(),
        format!("MaxSessions {}", wanted.max_sessions),
        "MaxStartups 200".to_owned(),
        format!("AllowTcpForwarding {}", word(wanted.tcp_forwarding)),
        format!(
            "AllowStreamLocalForwarding {}",
            word(wanted.stream_local_forwarding)
        ),
    ];
    lines.extend(wanted.extra.iter().cloned());
    // A home of its own: leases lie there, and the user's is no part of a test.
    let mut env = wanted.env.clone();
    env.entry("HOME".to_owned())
        .or_insert_with(|| scratch.join("home").display().to_string());
    // Only the first SetEnv line counts, so all of them stand on one.
    let pairs: Vec<String> = env
        .iter()
        .map(|(name, value)| format!("\"{name}={value}\""))
        .collect();
    lines.push(format!("SetEnv {}", pairs.join(" ")));
    lines.join("\n") + "\n"
}

/// Makes a key pair and gives the public half without its comment.
fn keygen(file: &Path) -> Result<String> {
    process::capture(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f"])
            .arg(file),
    )?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
        .map_err(Error::file("set the mode of", file))?;
    let public = file.with_extension("pub");
    let text = fs::read_to_string(&public).map_err(Error::file("read", &public))?;
    Ok(text
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" "))
}

fn banner(address: SocketAddr) -> Option<String> {
    use std::io::{BufRead as _, BufReader};
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}
