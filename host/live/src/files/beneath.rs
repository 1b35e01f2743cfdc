//! Opens files beneath the project's root: no link and no `..` leads out of it,
//! and none leads into `.git` or `.windlass`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use windlass_model::CallError;

use super::archive::failed;

/// A directory that stays open, so that a rename does not move it under us.
#[derive(Debug)]
pub(super) struct Beneath {
    root: PathBuf,
    directory: File,
}

/// Never part of a blob: history and state hold more than the project's files.
pub(super) fn is_hidden(name: &str) -> bool {
    name.eq_ignore_ascii_case(".git") || name.eq_ignore_ascii_case(".windlass")
}

impl Beneath {
    pub(super) fn new(root: &Path) -> Result<Self, CallError> {
        let root = root
            .canonicalize()
            .map_err(|error| failed(&root.display().to_string(), &error))?;
        let directory =
            File::open(&root).map_err(|error| failed(&root.display().to_string(), &error))?;
        Ok(Self { root, directory })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Links are followed while they stay beneath the root.
    pub(super) fn open(&self, path: &Path) -> Result<File, CallError> {
        self.open_with(
            path,
            OFlags::NONBLOCK,
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
        .and_then(|file| regular(path, file))
    }

    /// No link at all: for a file that a walk has found.
    pub(super) fn open_plain(&self, path: &Path) -> Result<File, CallError> {
        self.open_with(
            path,
            OFlags::NONBLOCK,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .and_then(|file| regular(path, file))
    }

    /// A directory's real path, relative to the root.
    pub(super) fn directory(&self, path: &Path) -> Result<PathBuf, CallError> {
        let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = self.open_with(path, OFlags::DIRECTORY, flags)?;
        self.real(path, &file)
    }

    fn open_with(
        &self,
        path: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<File, CallError> {
        let plain = path.components().all(|component| match component {
            Component::Normal(name) => name.to_str().is_some_and(|name| !is_hidden(name)),
            Component::CurDir | Component::ParentDir => true,
            Component::RootDir | Component::Prefix(_) => false,
        });
        if !plain {
            return Err(outside(path));
        }
        let path_or_dot = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened =
            rustix::fs::openat2(&self.directory, path_or_dot, flags, Mode::empty(), resolve);
        let file = File::from(opened.map_err(|error| {
            if matches!(error, rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) {
                outside(path)
            } else {
                failed(&path.display().to_string(), &error.into())
            }
        })?);
        // A link may have led into what is hidden.
        let real = self.real(path, &file)?;
        if real
            .components()
            .any(|part| part.as_os_str().to_str().is_none_or(is_hidden))
        {
            return Err(outside(path));
        }
        Ok(file)
    }

    fn real(&self, path: &Path, file: &File) -> Result<PathBuf, CallError> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let real = std::fs::read_link(link)
            .map_err(|error| failed(&path.display().to_string(), &error))?;
        real.strip_prefix(&self.root)
            .map(Path::to_owned)
            .map_err(|_| outside(path))
    }
}

fn regular(path: &Path, file: File) -> Result<File, CallError> {
    let facts = file
        .metadata()
        .map_err(|error| failed(&path.display().to_string(), &error))?;
    if facts.is_file() {
        return Ok(file);
    }
    Err(CallError::invalid(
        "file.not-a-file",
        format!("{} is not a regular file", path.display()),
    ))
}

fn outside(path: &Path) -> CallError {
    CallError::denied(
        "file.outside",
        format!("{} is not a file of the project", path.display()),
    )
    .hint("paths are relative to the project's root; links must stay beneath it, and .git and .windlass are not readable")
}
