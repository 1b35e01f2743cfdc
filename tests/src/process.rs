//! Programs of the rig that live and die with it.
//!
//! A part is started under a small shell that holds the reading end of a pipe. The
//! rig holds the writing end: when the rig's value is dropped, and also when its
//! process is killed with −9, the pipe closes, and the shell ends the part. This
//! needs no unsafe code and, other than a parent-death signal, does not depend on
//! which thread started the part.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// `$1` log file, `$2` grace in tenths of a second, then the command.
const SUPERVISOR: &str = r#"
log=$1 grace=$2; shift 2
"$@" >>"$log" 2>&1 </dev/null &
part=$!
echo "$part"
exec >/dev/null
read -r _
kill -TERM "$part" 2>/dev/null
while [ "$grace" -gt 0 ] && kill -0 "$part" 2>/dev/null; do sleep 0.1; grace=$((grace - 1)); done
kill -KILL "$part" 2>/dev/null
wait "$part"
"#;

/// A running part.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    pid: u32,
    log: PathBuf,
}

impl Supervised {
    /// Starts `program` with its output in the file `log`. On drop it gets SIGTERM,
    /// then, after `grace`, SIGKILL.
    pub fn start<I>(program: &Path, args: I, log: &Path, grace: Duration) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        Self::start_with_env(program, args, &[], log, grace)
    }

    /// As [`Supervised::start`], with additional environment variables.
    pub fn start_with_env<I>(
        program: &Path,
        args: I,
        env: &[(String, String)],
        log: &Path,
        grace: Duration,
    ) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let tenths = (grace.as_millis() / 100).to_string();
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "windlass-rig"])
            .arg(log)
            .arg(tenths)
            .arg(program)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal is for the program under test, not for its parts.
            .process_group(0)
            .spawn()
            .map_err(Error::system(format!("start {}", program.display())))?;
        let mut line = String::new();
        if let Some(stdout) = shell.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(Error::system("read the part's process id"))?;
        }
        let pid = line.trim().parse().map_err(|_| Error::NotReady {
            part: program.display().to_string(),
            waited: Duration::ZERO,
            log: "the supervising shell printed no process id".to_owned(),
        })?;
        Ok(Self {
            shell,
            pid,
            log: log.to_owned(),
        })
    }

    /// Process id of the part itself, not of its shell.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the part still runs.
    pub fn is_running(&self) -> bool {
        stat_fields(self.pid).is_some_and(|(state, _)| state != 'Z')
    }

    /// What the part printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `ready` says so, the part ends, or `limit` is over.
    pub fn wait_until(
        &self,
        part: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        while self.is_running() && started.elapsed() < limit {
            // Asked again after the answer: it may have come from another program
            // that took the port first, while this one was ending.
            if ready() && self.is_running() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Error::NotReady {
            part: part.to_owned(),
            waited: started.elapsed(),
            log: tail(&self.log(), 40),
        })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Ids of all processes below `pid`, children first.
pub fn descendants(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let all: Vec<(u32, u32)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat_fields(pid).map(|(_, parent)| (pid, parent)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            all.iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.remove(0);
    found
}

/// Name of a process's program, cut after 15 characters as the kernel has it.
pub fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Sends a signal (`"TERM"`, `"KILL"`, `"INT"`, `"STOP"`, …) to processes; one that
/// has already ended is not an error.
pub fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .arg("--")
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}

/// State letter and parent of a process, from `/proc/PID/stat`.
fn stat_fields(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything, also parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Runs a command to its end and gives its stdout; failing is an error that holds
/// both streams.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Program {
        command: display(command),
        status: output.status.to_string(),
        output: both(&output),
    })
}

/// Runs a command to its end, whatever its exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system(format!("start `{}`", display(command))))
}

/// Both streams of a finished command as text.
pub fn both(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// The command line as a person would type it, without quoting.
pub fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Looks a program up on the PATH and in the places of system programs, which are
/// not on an ordinary user's PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
