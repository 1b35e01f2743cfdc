//! The capability `target`: facts about a target, and batches of typed
//! operations, each in one round trip.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use windlass_model::call::{TargetCall, TargetOp};
use windlass_model::reply::TargetFacts;
use windlass_model::{BlobRef, CallContext, CallError, ErrorKind, Reply, TargetName};
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
    inspected: HashMap<TargetName, Mutex<Option<Inspected>>>,
}

#[derive(Debug)]
struct Inspected {
    at: Instant,
    result: Result<TargetFacts, CallError>,
}

impl Target {
    pub fn new(config: Arc<Config>, ssh: Arc<Connections>) -> Self {
        let names = config.targets.iter().map(|target| target.name.clone());
        Self {
            ssh,
            inspected: names.map(|name| (name, Mutex::default())).collect(),
        }
    }

    pub async fn call(&self, context: &CallContext, call: TargetCall) -> Result<Reply, CallError> {
        match call.op {
            TargetOp::Inspect => {
                let facts = self.inspect(context, &call.target).await?;
                Ok(Reply::Facts(Box::new(facts)))
            }
            TargetOp::Apply { ops } => apply::apply(&self.ssh, context, &call.target, &ops)
                .await
                .map(Reply::Outcomes),
        }
    }

    /// All steps ask before the first effect, at once: those who ask while an answer is
    /// under way share it.
    async fn inspect(
        &self,
        context: &CallContext,
        target: &TargetName,
    ) -> Result<TargetFacts, CallError> {
        let asked = Instant::now();
        let Some(last) = self.inspected.get(target) else {
            return inspect(&self.ssh, context, target).await;
        };
        let mut last = tokio::select! {
            last = timeout_at(context.deadline, last.lock()) => last.map_err(|_| {
                CallError::timeout("target.inspect", format!("{target} was not looked at in time"))
            })?,
            () = context.cancel.cancelled() => return Err(CallError::cancelled()),
        };
        if let Some(last) = last.as_ref().filter(|last| last.at >= asked) {
            return last.result.clone();
        }
        let result = inspect(&self.ssh, context, target).await;
        // What only this caller's own end was says nothing about the target.
        let shared = !matches!(
            result.as_ref().map_err(|error| error.kind),
            Err(ErrorKind::Cancelled | ErrorKind::Timeout)
        );
        *last = shared.then(|| Inspected {
            at: Instant::now(),
            result: result.clone(),
        });
        result
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
}
