//! `windlass trust TARGET`: the one way in which a host key becomes known.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::time::Instant;
use windlass_live::ssh::{HostKey, scan_host_keys};
use windlass_model::target::{Address, KnownHosts};

use super::ProjectArgs;
use super::session;
use super::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The target's name
    target: String,
    #[command(flatten)]
    project: ProjectArgs,
    /// Records without asking: compare the fingerprint yourself
    #[arg(long, short = 'y')]
    yes: bool,
    /// Replaces keys that are recorded and differ
    #[arg(long)]
    replace: bool,
}

pub(crate) async fn trust(args: TrustArgs, terminal: &Terminal) -> Exit {
    match record(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn record(args: TrustArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let session = session::open(terminal, &args.project.options()).await?;
    let names: Vec<&str> = session
        .graph
        .targets
        .iter()
        .map(|target| target.name.as_str())
        .collect();
    if args.target == "local" {
        return Err(this_machine(&args.target, terminal));
    }
    let Some(target) = session
        .graph
        .targets
        .iter()
        .find(|target| target.name.as_str() == args.target)
    else {
        let hint = if names.is_empty() {
            "the manifest has no target yet: [target.NAME] with `ssh` adds one".to_owned()
        } else {
            format!("the manifest has: {}", names.join(", "))
        };
        terminal.error(&format!("there is no target {}", args.target), Some(&hint));
        return Err(Exit::Invalid);
    };
    let Address::Ssh(spec) = &target.address else {
        return Err(this_machine(&args.target, terminal));
    };
    let path = match &spec.known_hosts {
        KnownHosts::File(path) => session.project.root.join(path),
        KnownHosts::Default => home_known_hosts(terminal)?,
        KnownHosts::Text(_) => {
            terminal.error(
                &format!("the known hosts of {} come from a secret or a variable", args.target),
                Some("write known_hosts = \"deploy/known_hosts\" to keep them in a file, or put the lines below into the secret yourself"),
            );
            let keys = scan(spec, terminal).await?;
            for key in &keys {
                terminal.out(&format!("{}\n", key.line));
            }
            return Err(Exit::Invalid);
        }
    };
    let keys = scan(spec, terminal).await?;
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let fresh: Vec<&HostKey> = keys
        .iter()
        .filter(|key| !known.lines().any(|line| line.trim() == key.line.trim()))
        .collect();
    terminal.say(&format!("{} ({}) presents:", args.target, spec.host));
    for key in &keys {
        let mark = if fresh.iter().any(|fresh| std::ptr::eq(*fresh, key)) {
            "new"
        } else {
            "known"
        };
        terminal.say(&format!("  {}  {}  {mark}", key.fingerprint, key.algorithm));
    }
    if fresh.is_empty() {
        terminal.say(&format!("nothing to record in {}", path.display()));
        return Ok(Exit::Succeeded);
    }
    let stale = stale_lines(&known, &fresh);
    if !stale.is_empty() && !args.replace {
        terminal.error(
            &format!(
                "{} has another key for {}: the machine was set up anew, or somebody stands between",
                path.display(),
                spec.host
            ),
            Some("make sure which it is; then `windlass trust --replace`"),
        );
        return Err(Exit::NeedsPerson);
    }
    if !args.yes {
        if !terminal.asks() {
            terminal.error(
                "nobody is here to compare the fingerprint",
                Some("compare it with what the machine says (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there), then pass --yes"),
            );
            return Err(Exit::NeedsPerson);
        }
        if !terminal.confirm("Is that the machine?") {
            terminal.say("nothing was recorded");
            return Ok(Exit::Cancelled);
        }
    }
    let mut text: String = known
        .lines()
        .filter(|line| !stale.contains(line))
        .map(|line| format!("{line}\n"))
        .collect();
    for key in fresh {
        text.push_str(key.line.trim());
        text.push('\n');
    }
    write(&path, &text).map_err(|error| {
        terminal.error(
            &format!("{} could not be written: {error}", path.display()),
            None,
        );
        Exit::Engine
    })?;
    terminal.say(&format!("recorded in {}", path.display()));
    Ok(Exit::Succeeded)
}

fn this_machine(target: &str, terminal: &Terminal) -> Exit {
    terminal.error(
        &format!("{target} is this machine: it has no host key"),
        None,
    );
    Exit::Invalid
}

async fn scan(
    spec: &windlass_model::target::SshSpec,
    terminal: &Terminal,
) -> Result<Vec<HostKey>, Exit> {
    let deadline = Instant::now() + spec.connect_timeout * 2;
    scan_host_keys(spec, deadline)
        .await
        .map_err(|error| terminal.call_error(&error))
}

/// Recorded lines for the same host and algorithm with another key.
fn stale_lines<'a>(known: &'a str, fresh: &[&HostKey]) -> Vec<&'a str> {
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    known
        .lines()
        .filter(|line| {
            let recorded = words(line);
            recorded.is_some() && fresh.iter().any(|key| words(&key.line) == recorded)
        })
        .collect()
}

/// A torn file would lock everybody out: temporary name, then rename.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().sync_all()?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn home_known_hosts(terminal: &Terminal) -> Result<PathBuf, Exit> {
    match std::env::var_os("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".ssh/known_hosts")),
        None => {
            terminal.error(
                "HOME is not set",
                Some("write known_hosts = \"deploy/known_hosts\" for the target"),
            );
            Err(Exit::Invalid)
        }
    }
}
