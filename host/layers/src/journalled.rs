//! Writes the intent before an effect, and its reply after.

use std::sync::Arc;

use async_trait::async_trait;
use windlass_journal::Journal;
use windlass_model::call::SecretCall;
use windlass_model::{Call, CallContext, CallError, Capability, Class, Reply};

use crate::Redactor;

/// The layer. An effect does not start before its intent is on disk; reads are
/// covered by the next intent's sync.
///
/// What a call has of a secret in plain text, put there by a guest that may read it or by
/// a person in a variable, is not written down: the file stays.
pub struct Journalled {
    journal: Journal,
    redactor: Arc<Redactor>,
    next: Arc<dyn Capability>,
}

impl Journalled {
    pub fn new(journal: Journal, redactor: Arc<Redactor>, next: Arc<dyn Capability>) -> Self {
        Self {
            journal,
            redactor,
            next,
        }
    }
}

#[async_trait]
impl Capability for Journalled {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        // What a secret says is nobody's to keep.
        if matches!(call, Call::Secret(SecretCall::Reveal { .. })) {
            return self.next.call(context, call).await;
        }
        let class = call.class();
        let id = &context.id;
        let clean = self.redactor.clean_call(&call)?;
        if class.is_effect() {
            self.journal.intent(id, &clean).await?;
        } else {
            self.journal.read_call(id, &clean).await?;
        }
        drop(clean);
        let answer = self.next.call(context, call).await;
        record(&self.journal, context, class, &answer).await;
        answer
    }
}

/// Writes an answer down, and says so.
pub(crate) async fn record(
    journal: &Journal,
    context: &CallContext,
    class: Class,
    answer: &Result<Reply, CallError>,
) {
    let id = &context.id;
    match journal.reply(id, class, answer).await {
        Ok(at) => context.answered.set(at),
        Err(error) => {
            // The effect happened. Its answer still counts; that it could not
            // be written down is for the log, and for the next intent, which
            // will fail.
            context.log.line(
                windlass_model::LogStream::Stderr,
                &format!("the journal could not record the answer of {id}: {error}"),
            );
        }
    }
}
