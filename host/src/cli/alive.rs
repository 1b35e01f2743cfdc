//! Tells runs that are under way from those that a kill ended, and clears away
//! what the latter left: containers on engines, keys and sockets here.
//!
//! Each run holds a lock on a file of its own while it lives; the kernel gives
//! it up when the process ends, however it ends. The file goes with the run, unless
//! a container of it is left: on an engine that was away, or at work still when
//! nobody could say yet how the run goes on. Which engines those are the journal says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use windlass_journal::Journal;
use windlass_model::{Call, RunId, TargetName};

use super::StateArgs;
use super::session::{Backends, Session};
use super::terminal::Terminal;
use crate::engine::resume::{Containers, at_work};
use crate::project::outside_a_run;

const DIRECTORY: &str = "alive";
/// Looking for leftovers must not hold up a deploy.
pub(crate) const SWEEP: Duration = Duration::from_secs(15);
/// Nor the end of a run, which somebody may have cancelled.
pub(crate) const SWEEP_AFTER: Duration = Duration::from_secs(3);

/// While it lives, so does the run.
pub(crate) struct Alive {
    path: PathBuf,
    _lock: Option<File>,
    held: bool,
    /// Engines with containers of the run that are still to be removed, or gone on with.
    left: BTreeSet<TargetName>,
}

impl Alive {
    /// False where another process has the run's lock.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// Removes what a former process of the run left, but for containers of the calls
    /// that are wanted. An engine that does not answer in time is left to the next run.
    pub(crate) async fn clear(
        &mut self,
        session: &Session,
        backends: &Backends,
        wanted: &BTreeSet<String>,
        limit: Duration,
        terminal: &Terminal,
    ) {
        let sweep = Sweep {
            session,
            backends,
            terminal,
            runs: [session.run.to_string()].into(),
            wanted,
        };
        let deadline = Instant::now() + limit;
        for engine in self.left.clone() {
            let kept = sweep.on(&engine, deadline).await;
            if kept.is_some_and(|kept| kept.is_empty()) {
                self.left.remove(&engine);
            }
        }
    }

    /// The end of the process, which left containers on these engines. Gives all
    /// engines where there are any.
    pub(crate) fn end(mut self, left: BTreeSet<TargetName>) -> BTreeSet<TargetName> {
        self.left.extend(left);
        self.left.clone()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.held && self.left.is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Clears up after dead runs, then marks this one as alive. Best effort: what
/// cannot be cleared is tried again by the next run. Gives the containers of a run that
/// is resumed that are at work: they stay until [`Alive::clear`].
pub(crate) async fn enter(
    session: &Session,
    state: &StateArgs,
    backends: &Backends,
    journal: &Journal,
    terminal: &Terminal,
) -> (Alive, Containers) {
    let directory = session.state_dir(state).join(DIRECTORY);
    let _ = std::fs::create_dir_all(&directory);
    let mut dead = dead_runs(&directory);
    for dead in &mut dead {
        dead.left = engines(session, journal, dead.run);
    }
    let kept = sweep(session, backends, journal, &mut dead, terminal).await;
    // A run that is resumed takes over what is left of itself.
    let left = dead.into_iter().find(|dead| dead.run == session.run);
    let left = left.map(|dead| dead.left).unwrap_or_default();
    let path = directory.join(session.run.to_string());
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .ok();
    if let Some(mut file) = lock.as_ref() {
        if file.try_lock().is_err() {
            let alive = Alive {
                path,
                _lock: None,
                held: false,
                left: BTreeSet::new(),
            };
            return (alive, Containers::default());
        }
        let _ = file.set_len(0);
        let scratch = backends.scratch.path().display();
        let _ = writeln!(file, "{scratch}\n{}", std::process::id());
    }
    let alive = Alive {
        path,
        _lock: lock,
        held: true,
        left,
    };
    (alive, Containers::new(kept))
}

/// Whether a process is at work on a run, and which.
pub(crate) fn living(state: &Path, run: RunId) -> Option<Option<u32>> {
    let mut file = File::open(state.join(DIRECTORY).join(run.to_string())).ok()?;
    if file.try_lock().is_ok() {
        return None;
    }
    let mut text = String::new();
    let _ = (&mut file).take(4096).read_to_string(&mut text);
    Some(text.lines().nth(1).and_then(|line| line.parse().ok()))
}

struct Dead {
    run: RunId,
    marker: PathBuf,
    scratch: Option<PathBuf>,
    /// Engines that may have containers of it.
    left: BTreeSet<TargetName>,
}

/// Runs whose lock nobody holds.
fn dead_runs(directory: &Path) -> Vec<Dead> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut dead = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(run) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let Ok(mut file) = File::open(&path) else {
            continue;
        };
        if file.try_lock().is_err() {
            continue;
        }
        let mut text = String::new();
        let _ = (&mut file).take(4096).read_to_string(&mut text);
        dead.push(Dead {
            run,
            marker: path,
            scratch: text
                .lines()
                .next()
                .map(PathBuf::from)
                .filter(|path| is_scratch(path)),
            left: BTreeSet::new(),
        });
    }
    dead
}

/// Only what this program made: the file could have been written by anybody
/// who can write to the project.
fn is_scratch(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let named = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(super::session::SCRATCH_PREFIX));
    let ours = std::fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.is_dir() && std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == meta.uid())
    });
    named && ours && path.parent() == Some(super::session::scratch_base().as_path())
}

/// Engines on which a run started containers, as its journal has it: no call goes
/// out before it is there.
fn engines(session: &Session, journal: &Journal, run: RunId) -> BTreeSet<TargetName> {
    let calls = journal.calls(run).unwrap_or_default();
    let mut engines = BTreeSet::new();
    for recorded in calls.iter().filter(|call| call.name == "docker.run") {
        match recorded.call.here() {
            Some(Call::Docker(call)) => {
                engines.insert(call.engine.clone());
            }
            // Too large for the journal.
            _ => {
                engines.insert(TargetName::local());
                engines.extend(session.graph.active.iter().cloned());
            }
        }
    }
    engines
}

/// What is to be removed, and what not.
struct Sweep<'a> {
    session: &'a Session,
    backends: &'a Backends,
    terminal: &'a Terminal,
    runs: BTreeSet<String>,
    /// Calls whose containers stay, by their stamps.
    wanted: &'a BTreeSet<String>,
}

impl Sweep<'_> {
    /// Gives the containers that stay, by the stamps of their calls; `None` where the
    /// engine does not answer.
    async fn on(&self, engine: &TargetName, deadline: Instant) -> Option<BTreeMap<String, String>> {
        let context = outside_a_run(self.session.run, deadline);
        let docker = self.backends.live.docker();
        let is_alive = |run: &str| !self.runs.contains(run);
        let is_wanted = |call: &str| self.wanted.contains(call);
        let swept = docker.sweep(&context, engine, is_alive, is_wanted).await;
        let swept = swept.ok()?;
        if !swept.removed.is_empty() {
            self.terminal.say(&format!(
                "removed what an earlier run left on {engine}: {}",
                swept.removed.join(", ")
            ));
        }
        Some(swept.kept)
    }
}

/// Clears away what dead runs left, but for what is at work of the run itself, which it
/// gives.
async fn sweep(
    session: &Session,
    backends: &Backends,
    journal: &Journal,
    dead: &mut [Dead],
    terminal: &Terminal,
) -> BTreeMap<String, String> {
    let sweep = Sweep {
        session,
        backends,
        terminal,
        runs: dead.iter().map(|dead| dead.run.to_string()).collect(),
        wanted: &at_work(&journal.calls(session.run).unwrap_or_default()),
    };
    let engines: BTreeSet<TargetName> = dead.iter().flat_map(|dead| dead.left.clone()).collect();
    let mut all = BTreeMap::new();
    for engine in engines {
        // One that does not answer is tried again by the next run.
        let Some(kept) = sweep.on(&engine, Instant::now() + SWEEP).await else {
            continue;
        };
        for dead in dead.iter_mut() {
            if dead.run != session.run || kept.is_empty() {
                dead.left.remove(&engine);
            }
        }
        all.extend(kept);
    }
    for dead in dead {
        if let Some(scratch) = &dead.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
        if dead.left.is_empty() {
            let _ = std::fs::remove_file(&dead.marker);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_alive_and_a_free_one_is_dead() {
        let directory = tempfile::tempdir().expect("directory");
        let run = "019a0000-0000-7000-8000-000000000001";
        let path = directory.path().join(run);
        let file = File::create(&path).expect("file");
        file.lock().expect("lock");
        assert!(dead_runs(directory.path()).is_empty());
        drop(file);
        let dead = dead_runs(directory.path());
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].run.to_string(), run);
        assert_eq!(dead[0].scratch, None);
    }

    #[test]
    fn a_run_that_left_something_keeps_its_file() {
        let directory = tempfile::tempdir().expect("directory");
        let run = "019a0000-0000-7000-8000-000000000001";
        let enter = || {
            let path = directory.path().join(run);
            Alive {
                _lock: Some(File::create(&path).expect("file")),
                path,
                held: true,
                left: BTreeSet::new(),
            }
        };
        let there: BTreeSet<TargetName> = ["builder".into()].into();
        assert_eq!(enter().end(there.clone()), there);
        assert_eq!(dead_runs(directory.path()).len(), 1);
        assert!(enter().end(BTreeSet::new()).is_empty());
        assert!(dead_runs(directory.path()).is_empty());
        // Also where the process gives up on the way.
        let mut alive = enter();
        alive.left = there;
        drop(alive);
        assert_eq!(dead_runs(directory.path()).len(), 1);
    }

    #[test]
    fn a_marker_cannot_name_any_directory() {
        assert!(!is_scratch(Path::new("/etc")));
        assert!(!is_scratch(Path::new("/tmp/wl/../../etc")));
    }
}
