//! `blobs`: bulk bytes that stay on the host's side.

use wasmtime::component::Resource;
use windlass_model::call::{Call, FileCall};
use windlass_model::{Blob, BlobRef, CallError, Reply};

use crate::bindings::windlass::plugin::{blobs, types};
use crate::guest::{BlobEntry, Guest, Trapped};
use crate::limits;

impl Guest {
    pub(super) fn blob_reference(&self, blob: &Resource<BlobEntry>) -> Trapped<BlobRef> {
        Ok(self.table.get(blob)?.0.reference.clone())
    }

    pub(super) fn push_blob(
        &mut self,
        reference: &BlobRef,
    ) -> Trapped<Result<Resource<BlobEntry>, types::Error>> {
        match self.setup.blobs.get(reference) {
            Some(blob) => Ok(Ok(self.table.push(BlobEntry(blob))?)),
            None => Ok(Err(CallError::internal(
                "engine.blob-lost",
                format!("blob {} is not in the run's store", reference.sha256),
            )
            .into())),
        }
    }

    async fn blob_of(&mut self, call: Call) -> Trapped<Result<Resource<BlobEntry>, types::Error>> {
        match self.invoke(call).await? {
            Ok(Reply::Blob(reference)) => self.push_blob(&reference),
            Ok(other) => Ok(Err(CallError::wrong_reply("file", other.kind()).into())),
            Err(error) => Ok(Err(error.into())),
        }
    }
}

impl blobs::Host for Guest {
    async fn open(&mut self, path: String) -> Trapped<Result<Resource<BlobEntry>, types::Error>> {
        self.blob_of(Call::File(FileCall::Open { path })).await
    }

    async fn archive(
        &mut self,
        root: String,
        options: blobs::ArchiveOptions,
    ) -> Trapped<Result<Resource<BlobEntry>, types::Error>> {
        self.blob_of(Call::File(FileCall::Archive {
            root,
            ignore: options.ignore,
            keep: options.keep,
        }))
        .await
    }
}

impl blobs::HostBlob for Guest {
    async fn from_bytes(
        &mut self,
        bytes: Vec<u8>,
    ) -> Trapped<Result<Resource<BlobEntry>, types::Error>> {
        self.blob_bytes += bytes.len() as u64;
        if self.blob_bytes > limits::MAX_GUEST_BLOB_BYTES {
            return Ok(Err(CallError::exhausted(
                "limit.blobs",
                format!(
                    "the step made more than {} MiB of blobs",
                    limits::MAX_GUEST_BLOB_BYTES / (1024 * 1024)
                ),
            )
            .hint("open large content as a file of the project")
            .into()));
        }
        let reference = self.setup.blobs.add(Blob::from_bytes(bytes.into()));
        self.push_blob(&reference)
    }

    async fn size(&mut self, blob: Resource<BlobEntry>) -> Trapped<u64> {
        Ok(self.table.get(&blob)?.0.reference.size)
    }

    async fn sha256(&mut self, blob: Resource<BlobEntry>) -> Trapped<String> {
        Ok(self.table.get(&blob)?.0.reference.sha256.clone())
    }

    async fn read(
        &mut self,
        blob: Resource<BlobEntry>,
        offset: u64,
        len: u32,
    ) -> Trapped<Result<Vec<u8>, types::Error>> {
        let blob = &self.table.get(&blob)?.0;
        // A guest asks again for more; no single answer is huge.
        Ok(blob
            .read(offset, len.min(4 * 1024 * 1024))
            .map_err(|error| {
                CallError::internal("engine.blob-unreadable", format!("read a blob: {error}"))
                    .into()
            }))
    }

    async fn drop(&mut self, blob: Resource<BlobEntry>) -> Trapped<()> {
        self.table.delete(blob)?;
        Ok(())
    }
}
