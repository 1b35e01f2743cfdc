//! The capability `target`: facts about a target, and batches of typed
//! operations, each in one round trip.

use std::sync::Arc;

use windlass_model::call::{TargetCall, TargetOp};
use windlass_model::reply::TargetFacts;
use windlass_model::{BlobRef, CallContext, CallError, Reply, TargetName};
use zeroize::Zeroizing;

use crate::Config;
use crate::ssh::Connections;

mod apply;
mod facts;
pub(crate) mod script;

pub(crate) use facts::inspect;

/// Answers calls of the capability `target`.
#[derive(Debug)]
pub struct Target {
    ssh: Arc<Connections>,
}

impl Target {
    pub fn new(_config: Arc<Config>, ssh: Arc<Connections>) -> Self {
        Self { ssh }
    }

    pub async fn call(&self, context: &CallContext, call: TargetCall) -> Result<Reply, CallError> {
        match call.op {
            TargetOp::Inspect => {
                let facts: TargetFacts = inspect(&self.ssh, context, &call.target).await?;
                Ok(Reply::Facts(Box::new(facts)))
            }
            TargetOp::Apply { ops } => apply::apply(&self.ssh, context, &call.target, &ops)
                .await
                .map(Reply::Outcomes),
        }
    }
}

/// As compose wants a project's name.
pub(crate) fn check_project(project: &str) -> Result<(), CallError> {
    let good = project.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && project
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if good {
        return Ok(());
    }
    Err(CallError::invalid(
        "compose.project",
        format!("{project:?} is no name of a compose project"),
    )
    .hint("use lower-case letters, digits, `-` and `_`, beginning with a letter or digit"))
}

/// A blob's bytes, when there are not more than `max`.
pub(crate) fn blob_bytes(
    context: &CallContext,
    reference: &BlobRef,
    max: u64,
) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let blob = context.blobs.get(reference).ok_or_else(|| {
        CallError::internal(
            "blob.missing",
            format!("the blob {} is not here", reference.sha256),
        )
    })?;
    if reference.size > max {
        return Err(CallError::exhausted(
            "target.content-too-large",
            format!("a content has {} bytes, more than {max}", reference.size),
        )
        .hint("send large files with `ssh.upload`"));
    }
    let len = u32::try_from(reference.size).unwrap_or(u32::MAX);
    let bytes = blob.read(0, len).map_err(|error| {
        CallError::internal("blob.unreadable", format!("a blob cannot be read: {error}"))
    })?;
    Ok(Zeroizing::new(bytes))
}

/// The target that a message is about.
pub(crate) fn bad_answer(target: &TargetName) -> CallError {
    CallError::internal(
        "target.answer",
        format!("{target} gave an answer that makes no sense"),
    )
    .hint(format!(
        "something on {target} answers in the place of its shell: `ssh HOST echo fine` has to \
         print that, and nothing else"
    ))
}
