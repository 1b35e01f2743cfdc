//! The capability `file`: files and directories of the project as blobs.

use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::call::FileCall;
use windlass_model::{Blob, CallContext, CallError, Reply};

use crate::Config;

mod archive;
mod beneath;
mod ignore;

use archive::{Hashing, failed};
use beneath::Beneath;
use ignore::Ignore;

/// Answers calls of the capability `file`.
#[derive(Debug)]
pub struct Files {
    config: Arc<Config>,
}

impl Files {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    pub async fn call(&self, context: &CallContext, call: FileCall) -> Result<Reply, CallError> {
        let config = Arc::clone(&self.config);
        let (cancel, deadline) = (context.cancel.clone(), context.deadline);
        let work = tokio::task::spawn_blocking(move || read(&config, call, &cancel, deadline));
        let blob = work.await.map_err(|error| {
            CallError::internal("file.broke", format!("reading files broke: {error}"))
        })??;
        Ok(Reply::Blob(context.blobs.add(blob)))
    }
}

fn read(
    config: &Config,
    call: FileCall,
    cancel: &CancellationToken,
    deadline: Instant,
) -> Result<Blob, CallError> {
    let beneath = Beneath::new(&config.root)?;
    let stop = move || {
        if cancel.is_cancelled() {
            return Err(CallError::cancelled());
        }
        if Instant::now() >= deadline {
            return Err(CallError::timeout(
                "file.deadline",
                "the deadline passed while files were read",
            ));
        }
        Ok(())
    };
    // A copy: the project's files may change while the run lasts.
    let spool = tempfile::Builder::new()
        .prefix("blob-")
        .tempfile_in(&config.scratch)
        .map_err(|error| failed("the spool", &error))?;
    let (out, path) = spool.into_parts();
    let reference = match call {
        FileCall::Open { path } => {
            let mut file = beneath.open(&PathBuf::from(&path))?;
            let mut sink = Hashing {
                out: BufWriter::new(out),
                hash: Sha256::new(),
                size: 0,
            };
            loop {
                stop()?;
                let mut chunk = io::Read::take(&mut file, 8 * 1024 * 1024);
                let copied =
                    io::copy(&mut chunk, &mut sink).map_err(|error| failed(&path, &error))?;
                if copied == 0 {
                    break;
                }
            }
            sink.finish().map_err(|error| failed(&path, &error))?
        }
        FileCall::Archive { root, ignore, keep } => {
            let ignore = Ignore::new(ignore.iter().map(String::as_str))?;
            archive::write(&beneath, &PathBuf::from(&root), &ignore, &keep, out, &stop)?
        }
    };
    let path = path
        .keep()
        .map_err(|error| failed("the spool", &error.error))?;
    Ok(Blob::from_file(path, true, reference))
}
