//! Directories and names that tell whose they are.
//!
//! A name is `wlrig_PID_N`: a later run sees from the process id whether the owner
//! still lives, and sweeps what a dead one left (see [`crate::sweep`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// All names of the rig start with this.
pub const PREFIX: &str = "wlrig_";

/// A name nothing else on this machine has while this process lives. It is lower
/// case without dashes, so it serves as name of a pipeline, a repository, a Compose
/// project and a directory.
pub fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{PREFIX}{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Process id in a name that [`unique_name`] gave, wherever it stands in `text`.
pub fn owner(text: &str) -> Option<u32> {
    let after = &text[text.find(PREFIX)? + PREFIX.len()..];
    let digits = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    after[..digits].parse().ok()
}

/// Whether a name was given by a process that has ended.
pub fn is_leftover(text: &str) -> bool {
    owner(text).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// A directory below the system's temporary directory, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// Makes the directory. Its path is short: a Unix socket's path ends at 108 bytes.
    pub fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}_", unique_name()))
            .tempdir_in(&parent)
            .map_err(Error::file("make a directory in", parent))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Path of an entry.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file, with the directories that it needs.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        write(&path, bytes)?;
        Ok(path)
    }

    /// Makes a directory.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).map_err(Error::file("make", &path))?;
        Ok(path)
    }
}

/// Writes a file, with the directories that it needs.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
    }
    fs::write(path, bytes).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::{is_leftover, owner, unique_name};

    #[test]
    fn a_name_tells_its_owner_wherever_it_stands() {
        assert_eq!(
            owner("127.0.0.1:5000/wlrig_4194305_2/observer:1"),
            Some(4_194_305)
        );
        assert_eq!(owner("observer"), None);
        assert_eq!(owner("wlrig_"), None);
    }

    #[test]
    fn only_a_dead_owners_name_is_a_leftover() {
        assert!(!is_leftover(&unique_name()));
        // Beyond the kernel's largest process id.
        assert!(is_leftover("wlrig_4194305_0"));
        assert!(!is_leftover("observer"));
    }
}
