//! Which parts this machine has, and what a test does without one.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{docker, guests, process, tools};

/// Something real that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A Docker engine that answers.
    Docker,
    /// OpenSSH's server and client.
    Sshd,
    /// `docker-registry` and `htpasswd`.
    Registry,
    /// Compose v2 for the far side.
    Compose,
    /// Compose v1, which is served as long as machines have it.
    ComposeV1,
    /// The static `observer` binary.
    Observer,
    /// The components of `tests/guests/`.
    Guests,
    /// componentize-py and zig, which build plugins in Python and C.
    PluginTools,
    /// The `windlass` binary.
    Windlass,
    /// sudo.
    Sudo,
    /// git.
    Git,
    /// Root's right to make network namespaces, and the programs for it.
    Namespaces,
}

impl Part {
    /// Every part, in the order in which they build on each other.
    pub const ALL: [Self; 12] = [
        Self::Git,
        Self::Docker,
        Self::Sshd,
        Self::Registry,
        Self::Compose,
        Self::ComposeV1,
        Self::Sudo,
        Self::Observer,
        Self::Guests,
        Self::PluginTools,
        Self::Windlass,
        Self::Namespaces,
    ];

    /// None when it is there, else what is missing and how to get it.
    pub fn missing(self) -> Option<String> {
        let program = |name: &str| {
            process::find_program(name)
                .is_none()
                .then(|| format!("`{name}` is not installed: run `cargo xtask setup`"))
        };
        let file = |path: std::path::PathBuf, make: &str| {
            (!path.is_file()).then(|| format!("there is no {}: run `{make}`", path.display()))
        };
        match self {
            Self::Docker => docker::problem(),
            Self::Sshd => ["sshd", "ssh", "ssh-keygen"].into_iter().find_map(program),
            Self::Registry => ["docker-registry", "htpasswd"]
                .into_iter()
                .find_map(program),
            Self::Compose => file(tools::compose_plugin(), "cargo xtask setup"),
            Self::ComposeV1 => program("docker-compose"),
            Self::Sudo => program("sudo"),
            Self::Observer => file(tools::observer_binary(), "cargo xtask setup"),
            Self::Guests => guests::NAMES
                .into_iter()
                .find_map(|name| file(guests::path(name), "cargo xtask setup")),
            Self::PluginTools => ["componentize-py", "python-zig"]
                .into_iter()
                .map(|name| tools::python_dir().join("bin").join(name))
                .find_map(|path| file(path, "cargo xtask setup")),
            Self::Windlass => file(tools::windlass_binary(), "cargo build"),
            Self::Git => program("git"),
            Self::Namespaces => ["ip", "nsenter", "unshare", "iptables", "dockerd"]
                .into_iter()
                .find_map(program)
                .or_else(namespaces_problem),
        }
    }
}

fn namespaces_problem() -> Option<String> {
    static PROBLEM: OnceLock<Option<String>> = OnceLock::new();
    let probe = || {
        let made = Command::new("unshare")
            .args(["--net", "--mount", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match made {
            Ok(status) if status.success() => None,
            _ => {
                Some("this user may not make network namespaces: run the tests as root".to_owned())
            }
        }
    };
    PROBLEM.get_or_init(probe).clone()
}

/// Whether all `parts` are there. What is missing is said on the real stderr, past
/// the capture of a test runner.
///
/// # Panics
///
/// With `CI=true` a missing part is a failure: a suite that skips itself is green
/// for the wrong reason.
pub fn available(parts: &[Part], test: &str) -> bool {
    let missing: Vec<String> = parts.iter().filter_map(|part| part.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let reasons = missing.join("; ");
    assert!(!in_ci(), "{test} cannot run, and CI=true: {reasons}");
    say_skipped(test, &reasons);
    false
}

/// Says on the real stderr that a test does not run.
pub fn say_skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// Whether this is a CI run, in which nothing may be skipped.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Leaves the test, loudly, unless the named [`Part`]s are there.
///
/// `require!(Docker, Sshd);` is the first line of a test that needs both.
#[macro_export]
macro_rules! require {
    ($($part:ident),+ $(,)?) => {
        if !$crate::parts::available(
            &[$($crate::Part::$part),+],
            concat!(module_path!(), ":", line!()),
        ) {
            return;
        }
    };
}
