//! Bulk bytes on the host's side. Calls name them by digest; backends stream
//! them from here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A blob as calls, replies and the journal name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// Where the bytes are.
#[derive(Debug)]
pub enum Source {
    Memory(Bytes),
    /// A file that does not change while the run lasts: a spool of ours,
    /// removed when the blob is dropped if `temporary`.
    File {
        path: PathBuf,
        temporary: bool,
    },
}

#[derive(Debug)]
pub struct Blob {
    pub reference: BlobRef,
    source: Source,
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Source::File {
            path,
            temporary: true,
        } = &self.source
        {
            // Best effort: a file that stays is swept with its directory.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Blob {
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self {
            reference: BlobRef {
                sha256: hex::encode(Sha256::digest(&bytes)),
                size: bytes.len() as u64,
            },
            source: Source::Memory(bytes),
        }
    }

    /// A file whose digest the writer computed while it wrote.
    pub fn from_file(path: PathBuf, temporary: bool, reference: BlobRef) -> Self {
        Self {
            reference,
            source: Source::File { path, temporary },
        }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// At most `len` bytes from `offset`.
    pub fn read(&self, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        match &self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let end = start.saturating_add(len as usize).min(bytes.len());
                Ok(bytes[start..end].to_vec())
            }
            Source::File { path, .. } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                let mut out = Vec::new();
                file.take(u64::from(len)).read_to_end(&mut out)?;
                Ok(out)
            }
        }
    }
}

/// The blobs of a run.
#[derive(Debug, Default)]
pub struct Blobs(Mutex<HashMap<String, Arc<Blob>>>);

impl Blobs {
    pub fn add(&self, blob: Blob) -> BlobRef {
        let reference = blob.reference.clone();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(reference.sha256.clone())
            .or_insert_with(|| Arc::new(blob));
        reference
    }

    pub fn get(&self, reference: &BlobRef) -> Option<Arc<Blob>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&reference.sha256)
            .cloned()
    }
}
