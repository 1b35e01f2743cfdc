//! One invocation of the `windlass` binary: what a person types, with what it
//! printed, how it ended and how long it took.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::{process, tools};

/// No command of a test takes longer; one that does is killed with its children.
pub const LIMIT: Duration = Duration::from_secs(180);

/// An invocation to be run. Its environment holds only what is set here and PATH,
/// so that neither the user's settings nor CI's change what a test sees.
#[derive(Debug, Clone)]
pub struct Windlass {
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
    env: BTreeMap<OsString, OsString>,
    limit: Duration,
}

impl Windlass {
    /// `windlass` with these arguments, in `dir`.
    pub fn new<I>(dir: &Path, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut env = BTreeMap::new();
        if let Some(path) = std::env::var_os("PATH") {
            env.insert("PATH".into(), path);
        }
        for (name, value) in [("LANG", "C.UTF-8"), ("TZ", "UTC"), ("NO_COLOR", "1")] {
            env.insert(name.into(), value.into());
        }
        env.insert("XDG_CACHE_HOME".into(), tools::cache_dir().into());
        Self {
            program: tools::windlass_binary(),
            args: args.into_iter().map(Into::into).collect(),
            dir: dir.to_owned(),
            env,
            limit: LIMIT,
        }
    }

    /// Another binary than the one under test.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets several variables.
    #[must_use]
    pub fn envs<N, V>(mut self, pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        self.env.extend(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        self
    }

    /// Leaves a variable out.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Another hard limit than [`LIMIT`].
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as the standard library has it, for callers who want its streams.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(&self.env);
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Result<Outcome> {
        self.spawn()?.wait()
    }

    /// Starts it, for tests that send signals or look at the output while it runs.
    pub fn spawn(&self) -> Result<Running> {
        let mut command = self.command();
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::file("start", &self.program))?;
        let stdout = Stream::collect(child.stdout.take());
        let stderr = Stream::collect(child.stderr.take());
        let command = process::display(&command);
        Ok(Running {
            child,
            stdout,
            stderr,
            started,
            command,
            limit: self.limit,
            ended: false,
        })
    }
}

/// A started invocation; on drop it is killed if it still runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    started: Instant,
    command: String,
    limit: Duration,
    ended: bool,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal (`"INT"`, `"TERM"`, `"KILL"`, `"STOP"`, …) to it alone.
    pub fn signal(&self, name: &str) {
        process::signal(name, &[self.pid()]);
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until one of its streams holds `text`; false when it ended without, or
    /// the limit is over.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            // Asked before the look at the streams, so that a last line counts.
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return true;
            }
            if ended || Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; past the hard limit it is killed, which is an error.
    pub fn wait(mut self) -> Result<Outcome> {
        let status = loop {
            match self
                .child
                .try_wait()
                .map_err(Error::system("wait for windlass"))?
            {
                Some(status) => break status,
                None if self.started.elapsed() > self.limit => {
                    self.kill_group();
                    return Err(Error::TimedOut {
                        command: self.command.clone(),
                        limit: self.limit,
                        output: format!("{}{}", self.stdout(), self.stderr()),
                    });
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let took = self.started.elapsed();
        self.ended = true;
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        Ok(Outcome {
            command: self.command.clone(),
            code: status.code(),
            status,
            stdout,
            stderr,
            took,
        })
    }

    fn kill_group(&mut self) {
        let group = format!("-{}", self.pid());
        let _ = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
        }
    }
}

/// How an invocation ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The whole status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Outcome {
    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Whether either stream holds `text`.
    pub fn says(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    /// The events of a run with `--json`, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The events of one kind: `step-finished`, `rollback-finished`, …
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["event"] == kind);
        events
    }

    /// How a step ended on a target, `""` for one without; null when it did not.
    pub fn step(&self, name: &str, target: &str) -> Value {
        self.events_of("step-finished")
            .into_iter()
            .find(|event| {
                let step = &event["step"];
                step["name"] == name && step["target"].as_str().unwrap_or_default() == target
            })
            .unwrap_or_default()
    }

    /// The last event of a run with `--json`; null when there is none.
    pub fn finished(&self) -> Value {
        self.events_of("run-finished").pop().unwrap_or_default()
    }
}

/// For the message of an assertion: everything that a person would have seen.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "`{}` ended with {} after {:?}",
            self.command, self.status, self.took
        )?;
        writeln!(f, "--- stdout\n{}", self.stdout)?;
        writeln!(f, "--- stderr\n{}", self.stderr)
    }
}

/// A stream that a thread reads, so that a full pipe never stops the program.
#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn collect(from: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = from.map(|mut from| {
            thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
                    into.extend_from_slice(&buffer[..count]);
                }
            })
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The whole text. A grandchild that kept the pipe open (an SSH master) must not
    /// hold the test, so the rest is waited for only shortly.
    fn finish(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self
            .reader
            .as_ref()
            .is_some_and(|reader| !reader.is_finished())
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(2));
        }
        self.text()
    }
}
