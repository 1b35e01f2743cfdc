//! Goes on with an attempt that was cut short: the guest runs again from its start,
//! and hears what it heard then, call by call, until the record ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use windlass_journal::{Journal, RecordedCall};
use windlass_model::call::{FileCall, SecretCall, SshOp};
use windlass_model::{Call, CallContext, CallError, Capability, Reply};

use crate::{Redactor, journalled};

/// The code of a call that is not the one that was recorded.
pub const DIVERGED: &str = "resume.diverged";
/// The code of what the journal cannot give again.
pub const UNREPLAYABLE: &str = "resume.not-replayable";

/// What stands for an answer that the journal does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A person's word.
    Reply(Reply),
    /// The call to make in its place, under its identity, since its probe found it.
    Rejoin(Call),
}

/// The layer, above the journal.
pub struct Replayed {
    /// What was not asked for again so far, by number.
    left: Mutex<BTreeMap<u64, RecordedCall>>,
    taken: BTreeMap<u64, Taken>,
    /// Whether the guest hears the record still.
    replaying: Arc<AtomicBool>,
    stopped: Mutex<Option<CallError>>,
    journal: Journal,
    /// The record has no secret in plain text: calls are compared without.
    redactor: Arc<Redactor>,
    /// For what was not answered, or not asked.
    next: Arc<dyn Capability>,
    /// Below the journal: for bytes that were answered, and are not in it, and for what
    /// an earlier process began.
    again: Arc<dyn Capability>,
}

impl Replayed {
    pub fn new(
        calls: BTreeMap<u64, RecordedCall>,
        taken: BTreeMap<u64, Taken>,
        journal: Journal,
        redactor: Arc<Redactor>,
        next: Arc<dyn Capability>,
        again: Arc<dyn Capability>,
    ) -> Self {
        Self {
            replaying: Arc::new(AtomicBool::new(!calls.is_empty())),
            left: Mutex::new(calls),
            taken,
            stopped: Mutex::new(None),
            journal,
            redactor,
            next,
            again,
        }
    }

    /// True until the last recorded call was made again.
    pub fn replaying(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.replaying)
    }

    /// Why the replay went no further.
    pub fn stopped(&self) -> Option<CallError> {
        self.stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stop(&self, error: CallError) -> CallError {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(error).clone()
    }

    fn take(&self, seq: u64) -> Option<RecordedCall> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let found = left.remove(&seq);
        if left.is_empty() {
            self.replaying.store(false, Ordering::Release);
        }
        found
    }
}

/// Calls that answer with bytes, which the journal has by their digest only.
fn gives_bytes(call: &Call) -> bool {
    match call {
        Call::File(FileCall::Open { .. } | FileCall::Archive { .. }) => true,
        Call::Ssh(ssh) => matches!(ssh.op, SshOp::Download { .. }),
        _ => false,
    }
}

/// Longest text of a call in a message.
const SHOWN: usize = 2000;

fn shown(call: &Call) -> String {
    let mut text = serde_json::to_string(call).unwrap_or_else(|_| call.name());
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push_str(" […]");
    }
    text
}

#[async_trait]
impl Capability for Replayed {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if let Some(error) = self.stopped() {
            return Err(error);
        }
        // It was not recorded, and is asked again.
        if matches!(call, Call::Secret(SecretCall::Reveal { .. })) {
            return self.next.call(context, call).await;
        }
        let id = &context.id;
        let Some(recorded) = self.take(id.seq) else {
            return self.next.call(context, call).await;
        };
        let then = recorded.call.here();
        let clean = self.redactor.clean_call(&call)?.into_owned();
        if then != Some(&clean) {
            let then = then.map_or_else(|| recorded.name.clone(), shown);
            return Err(self.stop(
                CallError::conflict(
                    DIVERGED,
                    format!(
                        "step {} does not do what it did: call {} was\n  {then}\nand is now\n  {}",
                        id.step,
                        id.seq,
                        shown(&clean)
                    ),
                )
                .hint(
                    "its plugin does not give the same for the same, or what it reads has changed; \
                     nothing was done after that call. `windlass retry-failed` runs the step again \
                     from its start",
                ),
            ));
        }
        let Some(answer) = recorded.answer else {
            let Some(taken) = self.taken.get(&id.seq).cloned() else {
                return self.next.call(context, call).await;
            };
            // A cancel took its intent out of the journal.
            self.journal.intent(id, &clean).await?;
            let answer = match taken {
                Taken::Reply(reply) => Ok(reply),
                Taken::Rejoin(rejoin) => self.again.call(context, rejoin).await,
            };
            journalled::record(&self.journal, context, call.class(), &answer).await;
            return answer;
        };
        let Some(result) = answer.result.here().cloned() else {
            return Err(self.stop(CallError::conflict(
                UNREPLAYABLE,
                format!(
                    "step {} cannot go on from the middle: the answer to {} is not in the journal",
                    id.step, recorded.name
                ),
            )));
        };
        if let Ok(then @ Reply::Blob(_)) = &result
            && gives_bytes(&call)
        {
            let name = call.name();
            let now = self.again.call(context, call).await?;
            if now != *then {
                return Err(self.stop(CallError::conflict(
                    DIVERGED,
                    format!(
                        "step {} does not see what it saw: {name} gave other bytes then",
                        id.step
                    ),
                )
                .hint(
                    "the files have changed since; put them back, or run the step again from its \
                     start with `windlass retry-failed`",
                )));
            }
        }
        context.answered.set(answer.at);
        result
    }
}

#[cfg(test)]
mod tests;
