//! Asks what became of calls that the journal has no answer to, before a person is
//! asked. What a probe finds is taken as the answer only where the whole of it can be
//! had: that nothing is found proves nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_journal::Journal;
use windlass_layers::{Journalled, Redact, Redactor, Taken};
use windlass_model::backend::NoLog;
use windlass_model::reply::Trace;
use windlass_model::{
    Call, CallContext, CallError, CallId, Capability, Reply, Secrets, StepKey, TargetName,
};

use super::{Earlier, Question};

/// For a connection and one question.
const LIMIT: Duration = Duration::from_secs(30);

impl Earlier {
    /// Makes the probes, all at once, as reads of the engine's own: journalled and
    /// without secrets. Gives what is left for a person to say.
    pub async fn probe(
        &mut self,
        questions: Vec<Question>,
        journal: Journal,
        secrets: &Secrets,
        backend: Arc<dyn Capability>,
    ) -> Vec<Question> {
        let redactor = Arc::new(Redactor::new(secrets));
        let clean = Arc::new(Redact::new(Arc::clone(&redactor), backend));
        let stack = Journalled::new(journal, redactor, clean);
        let mut asked = Vec::new();
        for question in &questions {
            let probe = self.context(question);
            asked.push(probe.map(|(context, probe)| look(&stack, context, probe)));
        }
        let found = futures_util::future::join_all(
            asked
                .into_iter()
                .map(futures_util::future::OptionFuture::from),
        );
        let found = found.await;
        let pairs = questions.into_iter().zip(found);
        pairs
            .filter_map(|(question, found)| self.settle(question, found))
            .collect()
    }

    /// The probe of a call, with what goes with it.
    fn context(&mut self, question: &Question) -> Option<(CallContext, Call)> {
        let id = &question.call.id;
        let probe = question.call.call.here()?.probe(id)?;
        self.probes += 1;
        let context = CallContext {
            id: CallId {
                run: id.run,
                step: StepKey::engine(),
                attempt: 1,
                seq: self.engine_calls(),
            },
            deadline: Instant::now() + LIMIT,
            cancel: Default::default(),
            log: Arc::new(NoLog),
            blobs: Default::default(),
            answered: Default::default(),
        };
        Some((context, probe))
    }

    /// Goes on with a call whose answer can be had; gives back the question otherwise.
    fn settle(
        &mut self,
        mut question: Question,
        found: Option<Result<Trace, CallError>>,
    ) -> Option<Question> {
        let (Some(found), Some(call)) = (found, question.call.call.here()) else {
            return Some(question);
        };
        let target = call.target().cloned().unwrap_or_else(TargetName::local);
        if let Ok(trace) = found
            && trace.is_answer()
            && question.whole.is_none()
            && let Some(rejoin) = call.rejoin()
        {
            self.found.push(format!(
                "step {} goes on with {} on {target}: {}",
                question.step,
                question.call.name,
                told(&Ok(trace), &target),
            ));
            self.take(&question, Taken::Rejoin(rejoin));
            return None;
        }
        question.found = Some(told(&found, &target));
        Some(question)
    }
}

async fn look(stack: &Journalled, context: CallContext, probe: Call) -> Result<Trace, CallError> {
    let name = probe.name();
    match stack.call(&context, probe).await? {
        Reply::Trace(trace) => Ok(trace),
        other => Err(CallError::wrong_reply(&name, other.kind())),
    }
}

/// What was found, for people.
fn told(found: &Result<Trace, CallError>, target: &TargetName) -> String {
    match found {
        Ok(Trace::Running) => "it runs there still".to_owned(),
        Ok(Trace::Ended { code }) => format!("it ended there with code {code}"),
        Ok(Trace::Died) => format!(
            "{target} says that it was stopped, or the machine started anew, before it told how \
             it ended"
        ),
        Ok(Trace::None) => format!(
            "{target} has no marker of it: it never began there, or what it left was removed"
        ),
        Err(error) => format!("{target} could not be asked: {}", error.message),
    }
}
