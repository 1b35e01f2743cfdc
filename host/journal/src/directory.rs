//! The state directory: this user's only, and unseen by git.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::FILE_NAME;
use crate::error::JournalError;

/// Makes what is missing, and gives the path of the journal's file.
pub(crate) fn prepare(directory: &Path) -> Result<PathBuf, JournalError> {
    make_directory(directory)
        .map_err(|source| JournalError::io("make the state directory", directory, source))?;
    let ignore = directory.join(".gitignore");
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&ignore)
    {
        Ok(mut file) => {
            io::Write::write_all(&mut file, b"*\n")
                .map_err(|source| JournalError::io("write", &ignore, source))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(JournalError::io("write", &ignore, source)),
    }
    let file = directory.join(FILE_NAME);
    // SQLite gives its other files the mode of this one.
    make_file(&file).map_err(|source| JournalError::io("open the journal", &file, source))?;
    Ok(file)
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        other => other,
    }
}

fn make_file(file: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file).map(drop)
}
