//! The layer that says what a run waits for: a call that takes long, for how
//! long by now, and what it said last.
//!
//! It goes to the reporters as progress, and not to the guest: a guest sees only
//! what a replay would show it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use windlass_model::event::{Event, Level};
use windlass_model::{
    Call, CallContext, CallError, Capability, LogSink, LogStream, Reply, StepKey,
};

use super::Bus;

/// Between words about a call.
const EVERY: Duration = Duration::from_secs(10);
/// The same for what the engine itself does; those are stored.
const EVERY_OWN: Duration = Duration::from_secs(30);
/// Of what it said last.
const MAX_SAID: usize = 200;

pub(super) struct Waiting {
    pub(super) bus: Bus,
    pub(super) next: Arc<dyn Capability>,
}

/// Remembers what a call said last.
struct Last {
    log: Arc<dyn LogSink>,
    said: Mutex<String>,
}

impl Last {
    fn remember(&self, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            let end = text.floor_char_boundary(MAX_SAID);
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            text[..end].clone_into(&mut said);
        }
    }

    fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl LogSink for Last {
    fn line(&self, stream: LogStream, line: &str) {
        self.remember(line);
        self.log.line(stream, line);
    }

    fn status(&self, status: &str) {
        self.remember(status);
        self.log.status(status);
    }
}

#[async_trait]
impl Capability for Waiting {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        // A guest that sleeps says itself what for.
        if matches!(call, Call::Clock(_)) {
            return self.next.call(context, call).await;
        }
        let what = match call.target() {
            Some(target) => format!("{} on {target}", call.name()),
            None => call.name(),
        };
        let own = context.id.step == StepKey::engine();
        let last = Arc::new(Last {
            log: Arc::clone(&context.log),
            said: Mutex::default(),
        });
        let context = CallContext {
            log: Arc::clone(&last) as Arc<dyn LogSink>,
            ..context.clone()
        };
        let begun = Instant::now();
        let mut answer = self.next.call(&context, call);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = tokio::time::sleep(if own { EVERY_OWN } else { EVERY }) => {}
            }
            let mut message = format!("waiting for {what}, {} s", begun.elapsed().as_secs());
            let said = last.said();
            if !said.is_empty() {
                message.push_str(", last: ");
                message.push_str(&said);
            }
            // Clean: the layer lies above the one that takes secrets out.
            let message = windlass_report::clean_line(&message).into_owned();
            self.bus.emit(if own {
                Event::Notice {
                    level: Level::Info,
                    message,
                    hint: None,
                }
            } else {
                Event::StepProgress {
                    step: context.id.step.clone(),
                    message,
                    done: 0,
                    total: 0,
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_layers::Redactor;
    use windlass_model::backend::NoLog;
    use windlass_model::call::{DockerCall, DockerOp};
    use windlass_model::event::Envelope;
    use windlass_model::{CallId, RunId, Secrets, TargetName, Text};
    use windlass_report::{Reporter, Reporters};

    use super::*;

    /// Answers after 35 s, and says something before.
    struct Slow;

    #[async_trait]
    impl Capability for Slow {
        async fn call(&self, context: &CallContext, _call: Call) -> Result<Reply, CallError> {
            tokio::time::sleep(Duration::from_secs(15)).await;
            context.log.status("layer 3 of 7");
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok(Reply::Done)
        }
    }

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Event>>>);

    impl Reporter for Seen {
        fn event(&mut self, envelope: &Envelope) -> std::io::Result<()> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(envelope.event.clone());
            Ok(())
        }
    }

    async fn said(step: StepKey) -> Vec<String> {
        let seen = Seen::default();
        let mut reporters = Reporters::new();
        reporters.add("test", seen.clone());
        let run = RunId(uuid::Uuid::nil());
        let bus = Bus::start(
            run,
            None,
            reporters,
            Arc::new(Redactor::new(&Secrets::default())),
            None,
        );
        let waiting = Waiting {
            bus: bus.clone(),
            next: Arc::new(Slow),
        };
        let context = CallContext {
            id: CallId {
                run,
                step,
                attempt: 1,
                seq: 1,
            },
            deadline: Instant::now() + Duration::from_secs(60),
            cancel: Default::default(),
            log: Arc::new(NoLog),
            blobs: Default::default(),
            answered: Default::default(),
        };
        let call = Call::Docker(DockerCall {
            engine: TargetName::new("prod_1"),
            op: DockerOp::Pull {
                image: Text::from("app"),
            },
        });
        waiting.call(&context, call).await.expect("done");
        bus.finish().await;
        let events = seen
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let messages = events.into_iter().filter_map(|event| match event {
            Event::StepProgress { message, .. } | Event::Notice { message, .. } => Some(message),
            _ => None,
        });
        messages.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_says_for_how_long_and_what_it_said_last() {
        assert_eq!(
            said(StepKey::new("deploy", None)).await,
            [
                "waiting for docker.pull on prod_1, 10 s",
                "waiting for docker.pull on prod_1, 20 s, last: layer 3 of 7",
                "waiting for docker.pull on prod_1, 30 s, last: layer 3 of 7",
            ]
        );
        assert_eq!(
            said(StepKey::engine()).await,
            ["waiting for docker.pull on prod_1, 30 s, last: layer 3 of 7"]
        );
    }
}
