//! Whether a container ended by itself, or was stopped: by `docker stop`, or by an
//! engine that is stopped itself and ends its containers first.
//!
//! Its exit code does not tell: a program that ends well on SIGTERM exits with 0,
//! and its work is not done. The engine's events do; see
//! <https://docs.docker.com/reference/cli/docker/system/events/>.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use windlass_model::CallError;

use super::Docker;
use super::container::{Inspected, State};
use super::engine::{Engine, Failure};
use super::query::Query;

/// What ends a program, and what images name as their STOPSIGNAL: INT, QUIT, KILL,
/// TERM, WINCH, RTMIN+3. Others (HUP, USR1) are sent to programs that go on.
const ENDING: [&str; 6] = ["2", "3", "9", "15", "28", "37"];

/// When an engine went away, for an error.
pub(super) const DURING: &str = "while a container ran";

/// A program may end before the engine has noted what it sent.
const NOTED: Duration = Duration::from_millis(100);

/// A container got a signal that ended it.
#[derive(Debug)]
pub(super) struct Stopped {
    signal: String,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it was stopped from outside, by signal {}, as `docker stop` and an engine that is \
             stopped or restarted do",
            self.signal
        )
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Happened {
    action: String,
    actor: Actor,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Actor {
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    signal: String,
}

impl Docker {
    /// An error unless a container that has ended did so without being stopped.
    pub(super) async fn ended_by_itself(&self, engine: &Engine, id: &str) -> Result<(), CallError> {
        let query = Query::new(format!("/containers/{id}/json"));
        let inspected: Inspected = match engine.get(&query).await {
            Ok(inspected) => inspected,
            // Removed meanwhile, which only this run does.
            Err(Failure::Refused(_)) => return Ok(()),
            // An engine that is stopped answers to the last moment.
            Err(Failure::Failed(error)) => return Err(engine.failed(error, DURING).await),
        };
        match self.stopped(engine, id, &inspected.state).await? {
            Some(stopped) => Err(CallError::unavailable(
                "docker.container-stopped",
                format!("the container did not end by itself: {stopped}"),
            )
            .hint("see who stopped it; `windlass resume` starts it again")),
            None => Ok(()),
        }
    }

    /// What stopped a container, if something else than this run did.
    pub(super) async fn stopped(
        &self,
        engine: &Engine,
        id: &str,
        state: &State,
    ) -> Result<Option<Stopped>, CallError> {
        let time = |text: &str| text.parse::<Timestamp>();
        let (Ok(started), Ok(finished)) = (time(&state.started_at), time(&state.finished_at))
        else {
            return Ok(None);
        };
        let ended = matches!(state.status.as_str(), "exited" | "dead");
        if !ended || self.containers().stopping.contains(id) {
            return Ok(None);
        }
        let filters = json!({ "container": [id], "event": ["kill"] });
        let query = Query::new("/events")
            .with("since", seconds(started))
            .with("until", seconds(finished + NOTED))
            .with("filters", filters.to_string());
        let bytes = match engine.ask(http::Method::GET, &query, None).await {
            Ok(bytes) => bytes,
            // An engine without events: its word about the end stands.
            Err(Failure::Refused(_)) => return Ok(None),
            Err(Failure::Failed(error)) => return Err(engine.failed(error, DURING).await),
        };
        Ok(last_signal(&bytes).map(|signal| Stopped { signal }))
    }
}

/// The last signal among events that ends programs.
fn last_signal(events: &[u8]) -> Option<String> {
    serde_json::Deserializer::from_slice(events)
        .into_iter::<Happened>()
        .map_while(Result::ok)
        .filter(|event| event.action == "kill")
        .map(|event| event.actor.attributes.signal)
        .filter(|signal| ENDING.contains(&signal.as_str()))
        .last()
}

/// As the engine reads times: `SECONDS.NANOSECONDS`.
fn seconds(at: Timestamp) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(signal: &str) -> String {
        json!({ "Action": "kill", "Actor": { "Attributes": { "signal": signal } } }).to_string()
    }

    #[test]
    fn only_what_ends_a_program_counts() {
        let events = [kill("1"), kill("15"), kill("9"), kill("12")].join("\n");
        assert_eq!(last_signal(events.as_bytes()).as_deref(), Some("9"));
        assert_eq!(last_signal(kill("1").as_bytes()), None);
        assert_eq!(last_signal(b""), None);
        // Cut off, or not what was asked for.
        assert_eq!(last_signal(b"{\"Action\": \"kill"), None);
        assert_eq!(last_signal(b"[]"), None);
    }

    #[test]
    fn times_are_written_as_the_engine_reads_them() {
        let at: Timestamp = "2026-01-24T01:46:58.00000012Z".parse().expect("a time");
        assert_eq!(seconds(at), "1769219218.000000120");
    }
}
