//! Stands in live's place: answers from a script, and keeps what was asked.
//!
//! A guest of any language runs against it unmodified; nothing is mocked in
//! the guest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use windlass_model::{Call, CallContext, CallError, Capability, LogStream, Reply};

/// What a script answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Reply(Reply),
    Error(CallError),
    /// Never answers: ends with the deadline or a cancel.
    Hang,
}

/// A call that is expected, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// As [`Call::name`]: `docker.push`.
    pub call: String,
    /// What the call's JSON must contain: objects may have more keys, lists
    /// and the rest must be equal.
    #[serde(default)]
    pub with: Json,
    /// Lines that stream before the answer.
    #[serde(default)]
    pub log: Vec<String>,
    pub answer: Answer,
    /// How often it may be used.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

impl Expectation {
    pub fn new(call: &str, with: Json, answer: Answer) -> Self {
        Self {
            call: call.to_owned(),
            with,
            log: Vec::new(),
            answer,
            times: 1,
        }
    }

    fn matches(&self, name: &str, call: &Json) -> bool {
        self.call == name && contains(call, &self.with)
    }
}

/// Whether `whole` has everything that `part` has.
fn contains(whole: &Json, part: &Json) -> bool {
    match (whole, part) {
        (_, Json::Null) => true,
        (Json::Object(whole), Json::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Json::Array(whole), Json::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(a, b)| contains(a, b))
        }
        (whole, part) => whole == part,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only the first expectation that is not used up may match.
    Strict,
    Any,
}

/// Every call that was made, as JSON, with its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript(pub Vec<(Json, Result<Reply, CallError>)>);

#[derive(Debug)]
struct State {
    expected: Vec<(Expectation, u32)>,
    transcript: Transcript,
    unexpected: Vec<String>,
    /// Milliseconds that the script's clock has moved.
    slept_ms: u64,
    removed: HashMap<String, u32>,
}

/// Answers calls from a script. `clock.sleep` moves a virtual clock and needs
/// no expectation, and neither does the host's own removal of containers.
#[derive(Debug)]
pub struct Scripted {
    order: Order,
    state: Mutex<State>,
}

impl Scripted {
    pub fn new(order: Order, expected: Vec<Expectation>) -> Self {
        Self {
            order,
            state: Mutex::new(State {
                expected: expected
                    .into_iter()
                    .map(|expectation| (expectation, 0))
                    .collect(),
                transcript: Transcript::default(),
                unexpected: Vec::new(),
                slept_ms: 0,
                removed: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn transcript(&self) -> Transcript {
        self.state().transcript.clone()
    }

    /// Milliseconds that steps slept.
    pub fn slept_ms(&self) -> u64 {
        self.state().slept_ms
    }

    /// How often the container was removed.
    pub fn removals(&self, id: &str) -> u32 {
        self.state().removed.get(id).copied().unwrap_or_default()
    }

    /// What went otherwise than the script says: calls that it does not have,
    /// and expectations that were not met.
    pub fn complaints(&self) -> Vec<String> {
        let state = self.state();
        let mut complaints = state.unexpected.clone();
        for (expectation, used) in &state.expected {
            if *used == 0 {
                complaints.push(format!(
                    "expected but never called: {} with {}",
                    expectation.call, expectation.with
                ));
            }
        }
        complaints
    }

    /// Finds the answer. The lock is not held while the answer is given.
    fn answer(&self, name: &str, call: &Json) -> Option<Expectation> {
        let order = self.order;
        let mut state = self.state();
        let open = state
            .expected
            .iter_mut()
            .filter(|(expectation, used)| *used < expectation.times);
        let mut found = None;
        for (expectation, used) in open {
            if expectation.matches(name, call) {
                *used += 1;
                found = Some(expectation.clone());
                break;
            }
            // One that may be used again, and was, may also be passed by.
            if order == Order::Strict && *used == 0 {
                break;
            }
        }
        found
    }
}

#[async_trait]
impl Capability for Scripted {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let name = call.name();
        let json = serde_json::to_value(&call).map_err(|error| {
            CallError::internal("script.call", format!("write a call as JSON: {error}"))
        })?;
        if let Call::Clock(windlass_model::call::ClockCall::Sleep { ms }) = &call {
            self.state().slept_ms += ms;
            return Ok(Reply::Done);
        }
        let answer = match self.answer(&name, &json) {
            Some(expectation) => {
                for line in &expectation.log {
                    context.log.line(LogStream::Stdout, line);
                }
                match expectation.answer {
                    Answer::Reply(reply) => Ok(reply),
                    Answer::Error(error) => Err(error),
                    Answer::Hang => tokio::select! {
                        () = context.cancel.cancelled() => Err(CallError::cancelled()),
                        () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
                            "script.hang",
                            format!("{name} did not answer by the deadline"),
                        )),
                    },
                }
            }
            None if name == "docker.remove-container" => Ok(Reply::Done),
            None => {
                let message = format!("not expected: {name} with {json}");
                self.state().unexpected.push(message.clone());
                Err(CallError::internal("script.unexpected", message))
            }
        };
        let mut state = self.state();
        if name == "docker.remove-container"
            && let Some(id) = json.get("id").and_then(Json::as_str)
        {
            *state.removed.entry(id.to_owned()).or_default() += 1;
        }
        state.transcript.0.push((json, answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets() {
        let whole = serde_json::json!({"a": 1, "b": {"c": [1, 2], "d": 3}});
        assert!(contains(&whole, &serde_json::json!({"b": {"c": [1, 2]}})));
        assert!(!contains(&whole, &serde_json::json!({"b": {"c": [1]}})));
        assert!(!contains(&whole, &serde_json::json!({"e": 1})));
        assert!(contains(&whole, &Json::Null));
    }
}
