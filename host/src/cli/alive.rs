//! Tells runs that are under way from those that a kill ended, and clears away
//! what the latter left: containers on engines, keys and sockets here.
//!
//! Each run holds a lock on a file of its own while it lives; the kernel gives
//! it up when the process ends, however it ends.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use windlass_model::TargetName;

use super::StateArgs;
use super::session::{Backends, Session};
use super::terminal::Terminal;
use crate::project::outside_a_run;

const DIRECTORY: &str = "alive";
/// Looking for leftovers must not hold up a deploy.
const SWEEP: Duration = Duration::from_secs(15);

/// While it lives, so does the run.
pub(crate) struct Alive {
    path: PathBuf,
    _lock: Option<File>,
    held: bool,
}

impl Alive {
    /// False where another process has the run's lock.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.held {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Clears up after dead runs, then marks this one as alive. Best effort: what
/// cannot be cleared is tried again by the next run.
pub(crate) async fn enter(
    session: &Session,
    state: &StateArgs,
    backends: &Backends,
    terminal: &Terminal,
) -> Alive {
    let directory = session.state_dir(state).join(DIRECTORY);
    let _ = std::fs::create_dir_all(&directory);
    let dead = dead_runs(&directory);
    if !dead.is_empty() {
        sweep(session, backends, &dead, terminal).await;
    }
    let path = directory.join(session.run.to_string());
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .ok();
    if let Some(mut file) = lock.as_ref() {
        if file.try_lock().is_err() {
            return Alive {
                path,
                _lock: None,
                held: false,
            };
        }
        let _ = file.set_len(0);
        let scratch = backends.scratch.path().display();
        let _ = writeln!(file, "{scratch}\n{}", std::process::id());
    }
    Alive {
        path,
        _lock: lock,
        held: true,
    }
}

/// Whether a process is at work on a run, and which.
pub(crate) fn living(state: &Path, run: windlass_model::RunId) -> Option<Option<u32>> {
    let mut file = File::open(state.join(DIRECTORY).join(run.to_string())).ok()?;
    if file.try_lock().is_ok() {
        return None;
    }
    let mut text = String::new();
    let _ = (&mut file).take(4096).read_to_string(&mut text);
    Some(text.lines().nth(1).and_then(|line| line.parse().ok()))
}

struct Dead {
    run: String,
    marker: PathBuf,
    scratch: Option<PathBuf>,
}

/// Runs whose lock nobody holds.
fn dead_runs(directory: &Path) -> Vec<Dead> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut dead = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let run = entry.file_name().to_string_lossy().into_owned();
        if run.parse::<windlass_model::RunId>().is_err() {
            continue;
        }
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

async fn sweep(session: &Session, backends: &Backends, dead: &[Dead], terminal: &Terminal) {
    let runs: BTreeSet<&str> = dead.iter().map(|dead| dead.run.as_str()).collect();
    let mut engines = vec![TargetName::local()];
    engines.extend(session.graph.active.iter().cloned());
    engines.sort();
    engines.dedup();
    let mut reached = true;
    for engine in engines {
        let context = outside_a_run(session.run, Instant::now() + SWEEP);
        let docker = backends.live.docker();
        match docker
            .sweep(&context, &engine, |run| !runs.contains(run))
            .await
        {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => terminal.say(&format!(
                "removed what a killed run left on {engine}: {}",
                removed.join(", ")
            )),
            // An engine that is not there has nothing of ours running.
            Err(error) if error.code == "docker.no-engine" => {}
            Err(_) => reached = false,
        }
    }
    for dead in dead {
        if let Some(scratch) = &dead.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
        if reached {
            let _ = std::fs::remove_file(&dead.marker);
        }
    }
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
        assert_eq!(dead[0].run, run);
        assert_eq!(dead[0].scratch, None);
    }

    #[test]
    fn a_marker_cannot_name_any_directory() {
        assert!(!is_scratch(Path::new("/etc")));
        assert!(!is_scratch(Path::new("/tmp/wl/../../etc")));
    }
}
