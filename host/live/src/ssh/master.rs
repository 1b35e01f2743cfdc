//! Opens a target's connection: OpenSSH's own client as a multiplexing master,
//! so that aliases, jump hosts, agents and hardware keys work as people know.
//!
//! While the engine lives it holds the master's control socket open. When the
//! engine is killed the master is idle then, and ends after [`PERSIST`].

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use openssh::Session;
use tempfile::TempDir;
use windlass_model::target::{KeySource, KnownHosts, SshSpec};
use windlass_model::{CallError, TargetName};

use super::key;
use super::lines::excerpt;
use crate::Config;

/// How long a master outlives an engine that was killed.
const PERSIST: &str = "10s";
/// Three of these without an answer, and the connection counts as lost.
const ALIVE_SECONDS: u32 = 5;
/// The longest path that a control socket may have: 108 bytes less what ssh
/// appends while it binds.
const MAX_CONTROL_PATH: usize = 84;
/// Of the client's log, which a hostile server can fill by its banner.
const MAX_LOG: u64 = 64 * 1024;

/// A running master, ended when dropped.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) session: Arc<Session>,
    /// Control socket, log, and the sockets of forwards.
    pub(crate) dir: TempDir,
    log: PathBuf,
    control: PathBuf,
    /// An open client keeps the master from ending itself.
    _held: Option<UnixStream>,
}

impl Master {
    /// Connects and logs in, within the spec's `connect_timeout`.
    pub(crate) async fn open(
        config: &Config,
        target: &TargetName,
        spec: &SshSpec,
    ) -> Result<Self, CallError> {
        let dir = short_directory(config)?;
        // Key and known hosts are needed until the login only.
        let files = tempfile::Builder::new()
            .prefix("k")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir_in(dir.path())
            .map_err(scratch)?;
        let key_file = key_file(config, target, spec, files.path())?;
        let text = client_config(config, spec, files.path(), key_file.as_deref())?;
        let config_file = files.path().join("config");
        key::write_private(&config_file, &text)?;

        let (control, log) = (dir.path().join("c"), dir.path().join("log"));
        let mut client = tokio::process::Command::new("ssh");
        client
            .arg("-F")
            .arg(&config_file)
            .arg("-S")
            .arg(&control)
            .args(["-M", "-N", "-f", "-E"])
            .arg(&log)
            .args(["-o", &format!("ControlPersist={PERSIST}")])
            .env("LC_ALL", "C")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the engine to handle; and one signal ends a jump
            // host's client, too.
            .process_group(0);
        if let Some(user) = &spec.user {
            client.args(["-l", checked(user, "user", target)?]);
        }
        if let Some(port) = spec.port {
            client.args(["-p", &port.to_string()]);
        }
        client.args(["--", checked(&spec.host, "host", target)?]);
        let child = client.spawn().map_err(|error| {
            CallError::unavailable("ssh.no-client", format!("`ssh` cannot be started: {error}"))
                .hint("install OpenSSH's client")
        })?;
        let mut connecting = Connecting(Some(child));
        let status = match tokio::time::timeout(spec.connect_timeout, connecting.wait()).await {
            Ok(status) => status.map_err(scratch)?,
            Err(_) => return Err(timed_out(target, spec)),
        };
        if !status {
            let said = read_log(&log);
            return Err(explain(&said, target, spec, key_file).await);
        }
        let held = UnixStream::connect(&control).ok();
        Ok(Self {
            session: Arc::new(Session::resume_mux(control.clone().into(), None)),
            dir,
            log,
            control,
            _held: held,
        })
    }

    /// What the client said since it connected: refused channels, for instance.
    pub(crate) fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Whether the master still runs.
    pub(crate) async fn is_alive(&self) -> bool {
        tokio::time::timeout(Duration::from_secs(2), self.session.check())
            .await
            .is_ok_and(|checked| checked.is_ok())
    }

    /// Asks the master to end, and waits for it, at most a second.
    pub(crate) fn terminate(&self) {
        let _ = terminate(&self.control);
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// MUX_C_TERMINATE of OpenSSH's PROTOCOL.mux, after the greeting it wants.
fn terminate(control: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut message = Vec::new();
    for word in [8_u32, 1, 4, 8, 0x1000_0005, 1] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    stream.write_all(&message)?;
    let mut rest = Vec::new();
    stream.take(4096).read_to_end(&mut rest)?;
    Ok(())
}

/// The client until it goes to the background: ended when dropped, with what
/// it started.
struct Connecting(Option<tokio::process::Child>);

impl Connecting {
    async fn wait(&mut self) -> std::io::Result<bool> {
        let Some(child) = &mut self.0 else {
            return Ok(false);
        };
        let status = child.wait().await?;
        self.0 = None;
        Ok(status.success())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = child.start_kill();
        // Tokio reaps it.
    }
}

/// A directory of this connection's own with a path that is short enough.
fn short_directory(config: &Config) -> Result<TempDir, CallError> {
    let make = |parent: &Path| {
        tempfile::Builder::new()
            .prefix("s")
            .rand_bytes(5)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(scratch)
    };
    let fits = |path: &Path| path.as_os_str().len() + "/s12345/c".len() <= MAX_CONTROL_PATH;
    if fits(&config.scratch) {
        return make(&config.scratch);
    }
    make(&std::env::temp_dir()).and_then(|dir| {
        if fits(dir.path()) {
            Ok(dir)
        } else {
            make(Path::new("/tmp"))
        }
    })
}

fn scratch(error: std::io::Error) -> CallError {
    CallError::internal(
        "ssh.scratch",
        format!("the connection's files cannot be written: {error}"),
    )
}

/// A word that ssh cannot take for an option.
fn checked<'a>(word: &'a str, what: &str, target: &TargetName) -> Result<&'a str, CallError> {
    let bad = word.is_empty()
        || word.starts_with('-')
        || word.contains(|c: char| {
            c.is_control() || c.is_whitespace() || "'\"`$\\;&|<>(){}".contains(c)
        });
    if bad {
        return Err(CallError::invalid(
            "ssh.invalid-target",
            format!("the {what} of {target} is not one: {word:?}"),
        )
        .hint("write `ssh = \"user@host\"`, with a port as `user@host:2222`"));
    }
    Ok(word)
}

/// The private key's file, when the spec names one.
fn key_file(
    config: &Config,
    target: &TargetName,
    spec: &SshSpec,
    files: &Path,
) -> Result<Option<PathBuf>, CallError> {
    match &spec.key {
        KeySource::Default | KeySource::Agent => Ok(None),
        KeySource::File(path) => {
            let path = expand(config, path);
            if !path.is_file() {
                return Err(CallError::invalid(
                    "ssh.bad-key",
                    format!(
                        "the key for {target} is missing: there is no file {}",
                        path.display()
                    ),
                )
                .hint(
                    "name the private key's file, or give its text with `key = { secret = … }`",
                ));
            }
            Ok(Some(path))
        }
        KeySource::Text(text) => {
            let text = key::mend(&config.secrets.resolve(text)?);
            key::check_text(&text, target.as_str())?;
            let path = files.join("key");
            key::write_private(&path, &text)?;
            Ok(Some(path))
        }
    }
}

/// Relative to the project; `~/` is the user's home.
fn expand(config: &Config, path: &Path) -> PathBuf {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(home) = std::env::var_os("HOME")
    {
        return PathBuf::from(home).join(rest);
    }
    config.root.join(path)
}

/// A path as a word of an ssh configuration, where `%` and `${` are special.
fn word(path: &Path) -> Result<String, CallError> {
    let text = path.to_str().unwrap_or("\"");
    if text.contains(['"', '\n', '\r']) || text.contains("${") {
        return Err(CallError::invalid(
            "ssh.path",
            format!("ssh cannot read a path like this: {}", path.display()),
        )
        .hint("move the file to a path without quotes, line breaks and `${`"));
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// The first value that ssh finds for an option counts, so ours come first and
/// the user's own configuration after them.
fn client_config(
    config: &Config,
    spec: &SshSpec,
    files: &Path,
    key: Option<&Path>,
) -> Result<String, CallError> {
    let seconds = spec.connect_timeout.as_secs().max(1)
        + u64::from(spec.connect_timeout.as_secs() > 0 && spec.connect_timeout.subsec_nanos() > 0);
    let mut text = format!(
        "BatchMode yes\nStrictHostKeyChecking yes\nUpdateHostKeys no\n\
         ConnectTimeout {seconds}\nConnectionAttempts 1\n\
         ServerAliveInterval {ALIVE_SECONDS}\nServerAliveCountMax 3\nTCPKeepAlive yes\n\
         ClearAllForwardings yes\nExitOnForwardFailure no\nForwardX11 no\nPermitLocalCommand no\n\
         RemoteCommand none\nRequestTTY no\nEscapeChar none\nStreamLocalBindUnlink yes\n\
         StreamLocalBindMask 0177\nLogLevel INFO\nVisualHostKey no\n"
    );
    let line = |text: &mut String, option: &str, path: &Path| -> Result<(), CallError> {
        let _ = writeln!(text, "{option} {}", word(path)?);
        Ok(())
    };
    match &spec.known_hosts {
        KnownHosts::Default => {}
        KnownHosts::File(path) => {
            line(&mut text, "UserKnownHostsFile", &expand(config, path))?;
            text.push_str("GlobalKnownHostsFile /dev/null\n");
        }
        KnownHosts::Text(lines) => {
            let path = files.join("known_hosts");
            key::write_private(&path, &key::mend(&config.secrets.resolve(lines)?))?;
            line(&mut text, "UserKnownHostsFile", &path)?;
            text.push_str("GlobalKnownHostsFile /dev/null\n");
        }
    }
    match (&spec.key, key) {
        (KeySource::Agent, _) => text.push_str("IdentityFile none\n"),
        (_, Some(path)) => {
            line(&mut text, "IdentityFile", path)?;
            text.push_str("IdentitiesOnly yes\n");
        }
        _ => {}
    }
    match &spec.ssh_config {
        Some(path) => {
            let path = expand(config, path);
            if !path.is_file() {
                return Err(CallError::invalid(
                    "ssh.config-missing",
                    format!("there is no ssh configuration {}", path.display()),
                ));
            }
            line(&mut text, "Include", &path)?;
        }
        None => text.push_str("Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n"),
    }
    Ok(text)
}

/// What a configured destination comes to: host and port behind an alias.
pub(crate) async fn resolve_alias(spec: &SshSpec) -> Option<(String, u16, Option<String>)> {
    let mut client = tokio::process::Command::new("ssh");
    client.arg("-G");
    if let Some(path) = &spec.ssh_config {
        client.arg("-F").arg(path);
    }
    if let Some(port) = spec.port {
        client.args(["-p", &port.to_string()]);
    }
    client
        .args(["--", &spec.host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(5), client.output())
        .await
        .ok()?
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let find = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::to_owned)
    };
    Some((
        find("hostname")?,
        find("port")?.parse().ok()?,
        find("hostkeyalias").filter(|alias| alias != "none"),
    ))
}

fn read_log(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_LOG).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `deploy@example.org:2222`
pub(crate) fn address(spec: &SshSpec) -> String {
    let mut text = String::new();
    if let Some(user) = &spec.user {
        let _ = write!(text, "{user}@");
    }
    text.push_str(&spec.host);
    if let Some(port) = spec.port {
        let _ = write!(text, ":{port}");
    }
    text
}

fn timed_out(target: &TargetName, spec: &SshSpec) -> CallError {
    CallError::timeout(
        "ssh.connect-timeout",
        format!(
            "{target} ({}) did not answer within {} s",
            address(spec),
            spec.connect_timeout.as_secs_f32()
        ),
    )
    .hint("is the host up, the port right, and no firewall in between?")
    .retryable()
}

/// The client's words as an error that says what to do.
async fn explain(
    said: &str,
    target: &TargetName,
    spec: &SshSpec,
    key_file: Option<PathBuf>,
) -> CallError {
    let address = address(spec);
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&[
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "has changed and you have requested",
    ]) {
        return CallError::denied(
            "ssh.changed-host-key",
            format!("the host key of {target} ({address}) is not the one that is known"),
        )
        .hint(format!(
            "another machine may be answering: find out first; if the server was set up anew, \
             run `windlass trust {target} --replace`"
        ));
    }
    if has(&["key is known for", "Host key verification failed"]) {
        return CallError::denied(
            "ssh.unknown-host-key",
            format!("the host key of {target} ({address}) is not known"),
        )
        .hint(format!(
            "run `windlass trust {target}` and commit what it writes"
        ));
    }
    if has(&[
        "Permission denied (",
        "Too many authentication failures",
        "UNPROTECTED",
    ]) {
        let what = match &spec.key {
            KeySource::File(path) => format!("the key {}", path.display()),
            _ => "the key".to_owned(),
        };
        if let Some(path) = key_file
            && let Some(error) = key::problem(path, target.as_str(), &what).await
        {
            return error;
        }
        return CallError::denied(
            "ssh.permission-denied",
            format!(
                "{target} ({address}) does not accept the login: {}",
                excerpt(said)
            ),
        )
        .hint(match &spec.key {
            KeySource::Default => {
                "is a key of yours in the server's authorized_keys? `key` in the manifest names one"
            }
            KeySource::Agent => "does the agent hold the right key? `ssh-add -l` lists them",
            _ => "is the key's public half in ~/.ssh/authorized_keys of that user on the server?",
        });
    }
    if has(&[
        "onnection timed out",
        "Operation timed out",
        "timed out during banner",
        "Timeout, server",
    ]) {
        return timed_out(target, spec);
    }
    let reason = excerpt(said);
    if has(&["Could not resolve hostname", "Name or service not known"]) {
        return CallError::unavailable(
            "ssh.unreachable",
            format!("{target} ({address}) has no address: {reason}"),
        )
        .hint("check the host's name in the manifest and the DNS")
        .retryable();
    }
    if has(&[
        "Connection refused",
        "No route to host",
        "Network is unreachable",
        "Connection closed",
        "Connection reset",
        "kex_exchange_identification",
    ]) {
        return CallError::unavailable(
            "ssh.unreachable",
            format!("{target} ({address}) cannot be reached: {reason}"),
        )
        .hint("is an SSH server running at this address and port?")
        .retryable();
    }
    if has(&[
        "Bad configuration option",
        "bad configuration options",
        "Bad owner or permissions",
    ]) {
        return CallError::invalid(
            "ssh.config",
            format!("ssh refuses its configuration for {target}: {reason}"),
        );
    }
    CallError::unavailable(
        "ssh.connect-failed",
        format!("no connection to {target} ({address}): {reason}"),
    )
    .hint(format!("try `ssh {address}` by hand"))
}
