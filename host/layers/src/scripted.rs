//! Stands in live's place: answers from a script, and keeps what was asked.
//!
//! A guest of any language runs against it unmodified; nothing is mocked in
//! the guest. Time is tokio's: under a paused clock a wait of an hour takes
//! none.

mod matcher;
mod usual;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value as Json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::call::{ClockCall, FileCall};
use windlass_model::{
    Blob, Call, CallContext, CallError, CallId, Capability, ErrorKind, LogStream, Reply,
};

pub use matcher::{Matcher, Mismatch, is_empty};
pub use usual::usual_reply;
pub use view::view;

/// What a script answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What such a call gives when all goes well: see [`usual_reply`].
    Usual,
    Reply(Reply),
    /// A blob with these bytes.
    Bytes(Bytes),
    Error(CallError),
    /// The connection is lost after the log lines.
    Lost,
    /// Never answers: ends with the deadline or a cancel.
    Hang,
}

/// A line of output, some time after the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub after: Duration,
    pub stream: LogStream,
    pub text: String,
}

/// A call that is expected, and its answer.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// As [`Call::name`]: `docker.push`.
    pub call: String,
    /// `deploy@prod_1`; any step when absent.
    pub step: Option<String>,
    /// Of the call's [`view`].
    pub with: Matcher,
    pub log: Vec<LogLine>,
    /// Between the last line and the answer.
    pub takes: Duration,
    pub answer: Answer,
    /// How often it must, and how often it may be used.
    pub at_least: u32,
    pub at_most: u32,
    /// Where it is written, for people.
    pub place: String,
    /// Its number in the script, counted from 0.
    pub index: usize,
}

impl Expectation {
    pub fn new(call: &str, with: Matcher, answer: Answer) -> Self {
        Self {
            call: call.to_owned(),
            step: None,
            with,
            log: Vec::new(),
            takes: Duration::ZERO,
            answer,
            at_least: 1,
            at_most: 1,
            place: String::new(),
            index: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only the first expectation that is not used up may match.
    Strict,
    /// As above among those of the same step.
    Steps,
    Any,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: CallId,
    pub name: String,
    /// Its [`view`].
    pub with: Json,
    /// Absent while there is none.
    pub answer: Option<Result<Reply, CallError>>,
    /// Since the script began.
    pub at: Duration,
}

/// A call that the script does not have.
#[derive(Clone, Debug)]
pub struct Unexpected {
    /// Index in the transcript.
    pub call: usize,
    /// The expectation that came nearest, and what differs.
    pub nearest: Option<(Expectation, Vec<Mismatch>)>,
}

/// An expectation that was used too seldom.
#[derive(Clone, Debug)]
pub struct Unused {
    pub expectation: Expectation,
    pub used: u32,
}

#[derive(Debug, Default)]
struct State {
    used: Vec<u32>,
    transcript: Vec<Asked>,
    unexpected: Vec<Unexpected>,
    slept: Duration,
}

/// What goes wrong at a call, whatever the script says of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Answered with this error; nothing happened.
    Error(CallError),
    /// Never answered.
    Timeout,
    /// The run is cancelled while the call is under way.
    Cancel,
    /// The connection goes after half of the output.
    Cut,
    /// The guest is stopped in the middle of the call: it gets no answer.
    Kill,
}

/// What a script has besides its expectations.
#[derive(Default)]
pub struct Extras {
    /// By number of the call in the transcript, counted from 1.
    pub faults: Vec<(usize, Fault)>,
    /// Fired by faults that cancel.
    pub cancel: CancellationToken,
    /// Answers calls of the capability `file` that no expectation has.
    pub files: Option<Arc<dyn Capability>>,
    /// What `secret.reveal` answers.
    pub secrets: BTreeMap<String, String>,
    /// Expectations may be used again, in any order, and calls that none has
    /// get the usual reply, if there is one: for looking at what a step does
    /// after something went wrong.
    pub lenient: bool,
}

/// Answers calls from a script. `clock.sleep` needs no expectation, and
/// neither does what the host does by itself: removing containers, leases,
/// marking releases.
pub struct Scripted {
    order: Order,
    expected: Vec<Expectation>,
    extras: Extras,
    begun: Instant,
    state: Mutex<State>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted")
            .field("expected", &self.expected.len())
            .finish_non_exhaustive()
    }
}

impl Scripted {
    pub fn new(order: Order, expected: Vec<Expectation>) -> Self {
        Self::with(order, expected, Extras::default())
    }

    pub fn with(order: Order, mut expected: Vec<Expectation>, extras: Extras) -> Self {
        for (index, expectation) in expected.iter_mut().enumerate() {
            expectation.index = index;
        }
        let state = State {
            used: vec![0; expected.len()],
            ..State::default()
        };
        Self {
            order,
            expected,
            extras,
            begun: Instant::now(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call but `clock.sleep`, in the order in which they came.
    pub fn transcript(&self) -> Vec<Asked> {
        self.state().transcript.clone()
    }

    /// How long steps slept.
    pub fn slept(&self) -> Duration {
        self.state().slept
    }

    /// Calls that the script does not have.
    pub fn unexpected(&self) -> Vec<Unexpected> {
        self.state().unexpected.clone()
    }

    /// How often each expectation was used.
    pub fn used(&self) -> Vec<u32> {
        self.state().used.clone()
    }

    /// Expectations that were used too seldom.
    pub fn unused(&self) -> Vec<Unused> {
        let state = self.state();
        self.expected
            .iter()
            .zip(&state.used)
            .filter(|(expectation, used)| **used < expectation.at_least)
            .map(|(expectation, used)| Unused {
                expectation: expectation.clone(),
                used: *used,
            })
            .collect()
    }

    /// Finds the expectation. The lock is not held while the answer is given.
    fn find(&self, id: &CallId, name: &str, with: &Json) -> Option<&Expectation> {
        let step = id.step.to_string();
        let mut state = self.state();
        for (expectation, used) in self.expected.iter().zip(&mut state.used) {
            if *used >= expectation.at_most {
                continue;
            }
            let ours = expectation.step.as_ref().is_none_or(|of| *of == step);
            if ours && expectation.call == name && expectation.with.matches(with) {
                *used += 1;
                return Some(expectation);
            }
            // One that was used often enough may be passed by.
            let skippable = match self.order {
                Order::Strict => false,
                Order::Steps => !ours,
                Order::Any => true,
            };
            if !skippable && *used < expectation.at_least {
                break;
            }
        }
        if !self.extras.lenient {
            return None;
        }
        self.expected.iter().find(|expectation| {
            let ours = expectation.step.as_ref().is_none_or(|of| *of == step);
            ours && expectation.call == name && expectation.with.matches(with)
        })
    }

    /// The open expectation that is most like the call.
    fn nearest(
        &self,
        id: &CallId,
        name: &str,
        with: &Json,
    ) -> Option<(Expectation, Vec<Mismatch>)> {
        let step = id.step.to_string();
        let state = self.state();
        let open = self
            .expected
            .iter()
            .zip(&state.used)
            .filter(|(expectation, used)| {
                **used < expectation.at_most
                    && expectation.step.as_ref().is_none_or(|of| *of == step)
            })
            .map(|(expectation, _)| expectation);
        let compared = |expectation: &Expectation| {
            (expectation.clone(), expectation.with.mismatches(Some(with)))
        };
        if self.order == Order::Any {
            open.filter(|expectation| expectation.call == name)
                .map(compared)
                .min_by_key(|(_, mismatches)| mismatches.len())
        } else {
            open.map(compared).next()
        }
    }

    async fn tell(context: &CallContext, expectation: &Expectation) -> Result<(), CallError> {
        for line in &expectation.log {
            wait(context, line.after).await?;
            context.log.line(line.stream, &line.text);
        }
        wait(context, expectation.takes).await
    }

    async fn give(
        &self,
        context: &CallContext,
        name: &str,
        call: &Call,
        expectation: &Expectation,
    ) -> Result<Reply, CallError> {
        Self::tell(context, expectation).await?;
        match &expectation.answer {
            Answer::Usual => self
                .usual(call)
                .map(|mut reply| {
                    // As everywhere, it has the end of what was printed.
                    if let Reply::Exit(exit) = &mut reply {
                        let lines: Vec<&str> = expectation
                            .log
                            .iter()
                            .map(|line| line.text.as_str())
                            .collect();
                        exit.tail = lines.join("\n");
                    }
                    reply
                })
                .ok_or_else(|| {
                    CallError::internal(
                        "script.no-reply",
                        format!("the script says nothing of what {name} answers"),
                    )
                }),
            Answer::Reply(reply) => Ok(reply.clone()),
            Answer::Bytes(bytes) => Ok(Reply::Blob(
                context.blobs.add(Blob::from_bytes(bytes.clone())),
            )),
            Answer::Error(error) => Err(error.clone()),
            Answer::Lost => Err(lost(call)),
            Answer::Hang => Err(hang(context, name).await),
        }
    }

    async fn go_wrong(
        &self,
        context: &CallContext,
        name: &str,
        call: &Call,
        expectation: Option<&Expectation>,
        fault: &Fault,
    ) -> Result<Reply, CallError> {
        match fault {
            Fault::Error(error) => Err(error.clone()),
            Fault::Timeout => Err(hang(context, name).await),
            Fault::Cancel => {
                self.extras.cancel.cancel();
                Err(hang(context, name).await)
            }
            Fault::Cut => {
                let lines = expectation.map_or(&[][..], |expectation| &expectation.log);
                for line in &lines[..lines.len() / 2] {
                    context.log.line(line.stream, &line.text);
                }
                Err(lost(call))
            }
            Fault::Kill => {
                self.extras.cancel.cancel();
                std::future::pending().await
            }
        }
    }

    fn usual(&self, call: &Call) -> Option<Reply> {
        if let Call::Secret(windlass_model::call::SecretCall::Reveal { name }) = call
            && let Some(value) = self.extras.secrets.get(name)
        {
            return Some(Reply::Text(value.clone()));
        }
        usual_reply(call)
    }

    async fn answer(
        &self,
        context: &CallContext,
        name: &str,
        call: Call,
        with: &Json,
        index: usize,
    ) -> Result<Reply, CallError> {
        let fault = self
            .extras
            .faults
            .iter()
            .find(|(number, _)| *number == index + 1);
        if let Some((_, fault)) = fault {
            let expectation = self.find(&context.id, name, with);
            return self
                .go_wrong(context, name, &call, expectation, fault)
                .await;
        }
        if let Some(expectation) = self.find(&context.id, name, with) {
            return self.give(context, name, &call, expectation).await;
        }
        if let (Call::File(_), Some(files)) = (&call, &self.extras.files) {
            return files.call(context, call).await;
        }
        if usual::needs_no_expectation(&call) || self.extras.lenient {
            if let Some(reply) = self.usual(&call) {
                return Ok(reply);
            }
        } else if let Call::File(FileCall::Open { path }) = &call {
            return Err(CallError::not_found(
                "file.not-found",
                format!("there is no file {path}"),
            ));
        }
        let nearest = self.nearest(&context.id, name, with);
        self.state().unexpected.push(Unexpected {
            call: index,
            nearest,
        });
        Err(CallError::internal(
            "script.unexpected",
            format!("the script does not expect {name} here"),
        ))
    }

    async fn sleep(&self, context: &CallContext, ms: u64) -> Result<Reply, CallError> {
        let begun = Instant::now();
        let slept = wait(context, Duration::from_millis(ms)).await;
        self.state().slept += begun.elapsed();
        slept.map(|()| Reply::Done)
    }
}

/// Lets time pass, up to the deadline or a cancel.
async fn wait(context: &CallContext, time: Duration) -> Result<(), CallError> {
    if context.cancel.is_cancelled() {
        return Err(CallError::cancelled());
    }
    if time.is_zero() {
        return Ok(());
    }
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = context.cancel.cancelled() => Err(CallError::cancelled()),
        () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
            "clock.deadline",
            "the step's deadline passed while it waited",
        )),
    }
}

/// What a call that is never answered ends with.
pub async fn hang(context: &CallContext, name: &str) -> CallError {
    tokio::select! {
        () = context.cancel.cancelled() => CallError::cancelled(),
        () = tokio::time::sleep_until(context.deadline) => CallError::timeout(
            "script.hang",
            format!("{name} did not answer by the deadline"),
        ),
    }
}

/// What a call ends with when its connection goes.
pub fn lost(call: &Call) -> CallError {
    let code = match call {
        Call::Docker(call) if call.engine.is_local() => "docker.connection-lost",
        Call::Http(_) => "http.lost",
        Call::Registry(_) => "registry.unreachable",
        _ if call.target().is_some() => "ssh.lost",
        _ => "connection.lost",
    };
    CallError::new(
        ErrorKind::Unavailable,
        code,
        "the connection was lost before the answer came",
    )
    .retryable()
}

#[async_trait]
impl Capability for Scripted {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if let Call::Clock(ClockCall::Sleep { ms }) = &call {
            return self.sleep(context, *ms).await;
        }
        let name = call.name();
        let with = view(&call, &context.blobs);
        let index = {
            let mut state = self.state();
            state.transcript.push(Asked {
                id: context.id.clone(),
                name: name.clone(),
                with: with.clone(),
                answer: None,
                at: self.begun.elapsed(),
            });
            state.transcript.len() - 1
        };
        let answer = self.answer(context, &name, call, &with, index).await;
        if let Some(asked) = self.state().transcript.get_mut(index) {
            asked.answer = Some(answer.clone());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use windlass_model::backend::NoLog;
    use windlass_model::call::{DockerCall, DockerOp};
    use windlass_model::{RunId, StepKey, TargetName};

    use super::*;

    fn context() -> CallContext {
        CallContext {
            id: CallId {
                run: RunId(Default::default()),
                step: StepKey::new("push", None),
                attempt: 1,
                seq: 1,
            },
            deadline: Instant::now() + Duration::from_secs(3600),
            cancel: Default::default(),
            log: Arc::new(NoLog),
            blobs: Default::default(),
            answered: Default::default(),
        }
    }

    fn push(image: &str) -> Call {
        Call::Docker(DockerCall {
            engine: TargetName::local(),
            op: DockerOp::Push {
                image: image.into(),
            },
        })
    }

    fn expect(image: &str) -> Expectation {
        let with = Matcher::parse(&json!({ "image": image })).expect("matcher");
        Expectation::new("docker.push", with, Answer::Usual)
    }

    #[tokio::test(start_paused = true)]
    async fn strict_order_and_any_order() {
        for (order, fits) in [(Order::Strict, false), (Order::Any, true)] {
            let scripted = Scripted::new(order, vec![expect("a"), expect("b")]);
            let answer = scripted.call(&context(), push("b")).await;
            assert_eq!(answer.is_ok(), fits);
            assert_eq!(scripted.unexpected().len(), usize::from(!fits));
            assert_eq!(scripted.unused().len(), if fits { 1 } else { 2 });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_usual_answer_ends_with_what_was_printed() {
        let mut build = expect("a");
        build.log = ["one", "two"]
            .map(|text| LogLine {
                after: Duration::ZERO,
                stream: LogStream::Stdout,
                text: text.to_owned(),
            })
            .to_vec();
        let scripted = Scripted::new(Order::Strict, vec![build]);
        let answer = scripted.call(&context(), push("a")).await;
        let Ok(Reply::Exit(exit)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(exit.tail, "one\ntwo");
        assert!(!exit.values.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_sleep_takes_no_time() {
        let scripted = Scripted::new(Order::Strict, vec![]);
        let before = std::time::Instant::now();
        let sleep = Call::Clock(ClockCall::Sleep { ms: 600_000 });
        for _ in 0..5 {
            assert_eq!(
                scripted.call(&context(), sleep.clone()).await,
                Ok(Reply::Done)
            );
        }
        assert_eq!(scripted.slept(), Duration::from_secs(3000));
        assert!(before.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_ends_with_the_deadline() {
        let hang = Expectation::new("docker.push", Matcher::Any, Answer::Hang);
        let scripted = Scripted::new(Order::Strict, vec![hang]);
        let error = scripted
            .call(&context(), push("a"))
            .await
            .expect_err("hangs");
        assert_eq!(error.kind, ErrorKind::Timeout);
    }
}
