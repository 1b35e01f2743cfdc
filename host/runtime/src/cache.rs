//! Compiled code, kept for the user: keyed by the component's bytes and by what
//! compiled it, never read from a project.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A directory of the user's own, 0700.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: Option<PathBuf>,
    /// Of wasmtime's version and settings.
    compatibility: String,
}

/// A file of the cache is this digest of the rest, then the rest: a torn or
/// changed file is compiled anew instead of run.
const DIGEST_BYTES: usize = 32;

impl Cache {
    pub(crate) fn new(dir: Option<PathBuf>, engine: &wasmtime::Engine) -> Self {
        use std::hash::{Hash as _, Hasher as _};
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self {
            dir: dir.filter(|dir| prepare(dir)),
            compatibility: format!("{:016x}", hasher.finish()),
        }
    }

    fn path(&self, sha256: &str) -> Option<PathBuf> {
        Some(
            self.dir
                .as_ref()?
                .join(format!("{sha256}-{}.cwasm", self.compatibility)),
        )
    }

    /// The compiled code, if it is there and whole.
    pub(crate) fn load(&self, sha256: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(sha256)?).ok()?;
        if bytes.len() < DIGEST_BYTES {
            return None;
        }
        let code = bytes.split_off(DIGEST_BYTES);
        (Sha256::digest(&code).as_slice() == bytes.as_slice()).then_some(code)
    }

    /// Best effort: without a cache things are slower, not wrong.
    pub(crate) fn store(&self, sha256: &str, code: &[u8]) {
        let (Some(dir), Some(path)) = (&self.dir, self.path(sha256)) else {
            return;
        };
        let Ok(mut file) = tempfile::NamedTempFile::new_in(dir) else {
            return;
        };
        let written = file
            .write_all(&Sha256::digest(code))
            .and_then(|()| file.write_all(code));
        if written.is_ok() {
            let _ = file.persist(path);
        }
    }
}

/// Makes the directory, and refuses one that others can write to: what is in
/// it runs as native code.
fn prepare(dir: &Path) -> bool {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    if made.is_err() {
        return false;
    }
    let Ok(meta) = std::fs::symlink_metadata(dir) else {
        return false;
    };
    let own = std::fs::metadata("/proc/self").map(|meta| meta.uid());
    meta.is_dir()
        && meta.permissions().mode().trailing_zeros() >= 6
        && own.map_or(true, |uid| uid == meta.uid())
}
