//! A canonical tar: the same tree gives the same bytes on every machine.
//! Sorted, no times, no owners, modes 644 and 755; links stay links.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use windlass_model::{BlobRef, CallError};

use super::beneath::{Beneath, is_hidden};
use super::ignore::Ignore;

/// Entries of an archive: more is a mistake (a whole disk, a loop).
const MAX_ENTRIES: usize = 1_000_000;
const MAX_DEPTH: usize = 256;

/// Writes what `ignore` leaves of a directory beneath the root, and all of
/// `keep`, to `out`.
pub(super) fn write(
    beneath: &Beneath,
    root: &Path,
    ignore: &Ignore,
    keep: &[String],
    out: File,
    stop: &dyn Fn() -> Result<(), CallError>,
) -> Result<BlobRef, CallError> {
    let real = beneath.directory(root)?;
    let mut walk = Walk {
        beneath,
        base: real,
        ignore,
        keep,
        entries: Vec::new(),
        stop,
    };
    walk.directory("", 0)?;
    let entries = walk.entries;
    let mut tar = Builder::new(Hashing {
        out: BufWriter::new(out),
        hash: Sha256::new(),
        size: 0,
    });
    for entry in &entries {
        stop()?;
        walk_entry(&mut tar, beneath, &walk.base, entry)?;
    }
    let sink = tar
        .into_inner()
        .map_err(|error| failed("the archive", &error))?;
    sink.finish().map_err(|error| failed("the archive", &error))
}

#[derive(Debug)]
struct Entry {
    path: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory,
    File,
    Link(PathBuf),
}

struct Walk<'a> {
    beneath: &'a Beneath,
    /// Of the archive's root, relative to the project.
    base: PathBuf,
    ignore: &'a Ignore,
    keep: &'a [String],
    entries: Vec<Entry>,
    stop: &'a dyn Fn() -> Result<(), CallError>,
}

impl Walk<'_> {
    /// In order; whether anything below was taken.
    fn directory(&mut self, relative: &str, depth: usize) -> Result<bool, CallError> {
        (self.stop)()?;
        if depth > MAX_DEPTH {
            return Err(CallError::exhausted(
                "file.too-deep",
                format!("{relative} is nested too deeply"),
            ));
        }
        let path = self.beneath.root().join(&self.base).join(relative);
        let list = |error: &io::Error| failed(&path.display().to_string(), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(|error| list(&error))? {
            let entry = entry.map_err(|error| list(&error))?;
            let kind = entry.file_type().map_err(|error| list(&error))?;
            let name = entry.file_name().into_string().map_err(|name| {
                CallError::invalid(
                    "file.name",
                    format!("{name:?} in {} is not UTF-8", path.display()),
                )
            })?;
            names.push((name, kind));
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut any = false;
        for (name, kind) in names {
            if is_hidden(&name) {
                continue;
            }
            let path = if relative.is_empty() {
                name
            } else {
                format!("{relative}/{name}")
            };
            let kept = self
                .keep
                .iter()
                .any(|keep| keep.trim_start_matches("./") == path);
            let ignored = !kept && self.ignore.matches(&path);
            if kind.is_dir() {
                let below = format!("{path}/");
                let needed = self
                    .keep
                    .iter()
                    .any(|keep| keep.trim_start_matches("./").starts_with(&below));
                if ignored && !needed && !self.ignore.has_exceptions() {
                    continue;
                }
                self.entries.push(Entry {
                    path: path.clone(),
                    kind: Kind::Directory,
                });
                let taken = self.directory(&path, depth + 1)?;
                if ignored && !taken {
                    self.entries.pop();
                } else {
                    any = true;
                }
            } else if !ignored {
                let kind = if kind.is_symlink() {
                    let full = self.beneath.root().join(&self.base).join(&path);
                    Kind::Link(std::fs::read_link(full).map_err(|error| failed(&path, &error))?)
                } else if kind.is_file() {
                    Kind::File
                } else {
                    // Sockets, pipes and devices have no place in an archive.
                    continue;
                };
                self.entries.push(Entry { path, kind });
                any = true;
            }
            if self.entries.len() > MAX_ENTRIES {
                return Err(CallError::exhausted(
                    "file.too-many",
                    format!(
                        "{} holds more than {MAX_ENTRIES} files",
                        self.base.display()
                    ),
                )
                .hint("leave out what is not needed with a .dockerignore"));
            }
        }
        Ok(any)
    }
}

fn walk_entry(
    tar: &mut Builder<Hashing>,
    beneath: &Beneath,
    base: &Path,
    entry: &Entry,
) -> Result<(), CallError> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let written = match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, format!("{}/", entry.path), io::empty())
        }
        Kind::Link(to) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, &entry.path, to)
        }
        Kind::File => {
            let file = beneath.open_plain(&base.join(&entry.path))?;
            let facts = file
                .metadata()
                .map_err(|error| failed(&entry.path, &error))?;
            let executable =
                std::os::unix::fs::PermissionsExt::mode(&facts.permissions()) & 0o111 != 0;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if executable { 0o755 } else { 0o644 });
            header.set_size(facts.len());
            // A file that grows meanwhile must not spill into the next entry;
            // one that shrinks is an error, not a broken archive.
            let mut content = io::Read::take(file, facts.len());
            let before = facts.len();
            let appended = tar.append_data(&mut header, &entry.path, &mut content);
            if appended.is_ok() && content.limit() != 0 {
                let got = before - content.limit();
                return Err(CallError::conflict(
                    "file.changed",
                    format!(
                        "{} shrank from {before} to {got} bytes while it was read",
                        entry.path
                    ),
                )
                .retryable());
            }
            appended
        }
    };
    written.map_err(|error| failed(&entry.path, &error))
}

pub(super) fn failed(what: &str, error: &io::Error) -> CallError {
    let message = format!("{what} cannot be read or written: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull => CallError::exhausted("file.disk-full", message),
        io::ErrorKind::PermissionDenied => CallError::denied("file.permission", message),
        io::ErrorKind::NotFound => CallError::not_found("file.missing", message),
        _ => CallError::unavailable("file.failed", message),
    }
}

/// Hashes and counts what passes.
pub(super) struct Hashing {
    pub(super) out: BufWriter<File>,
    pub(super) hash: Sha256,
    pub(super) size: u64,
}

impl Hashing {
    pub(super) fn finish(mut self) -> io::Result<BlobRef> {
        self.out.flush()?;
        Ok(BlobRef {
            sha256: hex::encode(self.hash.finalize()),
            size: self.size,
        })
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
