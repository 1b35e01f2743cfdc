//! What is said of an engine that is not there, or that goes away in the middle.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::Method;
use windlass_model::CallError;
use windlass_model::id::LOCAL;

use super::engine::Engine;
use super::query::Query;

/// Codes of errors: the answer was cut off, nothing listens, nothing is heard.
const LOST: &str = "docker.connection-lost";
const NO_ENGINE: &str = "docker.no-engine";
const UNREACHABLE: &str = "docker.unreachable";

/// How long an engine that went away is looked for: an engine that was stopped
/// refuses at once, and a dead line must not hold the error up.
const LOOK: Duration = Duration::from_secs(2);

impl Engine {
    /// The connection ended in the middle of an answer.
    pub(super) fn cut(&self, error: &(dyn Error + 'static)) -> CallError {
        CallError::unavailable(
            LOST,
            format!(
                "the connection to the Docker engine {} was lost: {}",
                self.place(),
                reason(error)
            ),
        )
        .hint(self.when_back())
        .retryable()
    }

    /// The same in the middle of work that takes its time: looks whether the engine
    /// went away, or the connection alone.
    pub(super) async fn gone(&self, during: &str) -> CallError {
        let ping = Query::new("/_ping");
        let look = tokio::time::timeout(LOOK, self.ask(Method::GET, &ping, None)).await;
        let now = match look {
            Ok(Ok(_)) => "it answers now, so it may have been restarted",
            _ => "it does not answer any more",
        };
        CallError::unavailable(
            LOST,
            format!(
                "the connection to the Docker engine {} was lost {during}, and {now}",
                self.place()
            ),
        )
        .hint(self.when_back())
        .retryable()
    }

    /// What an error of a request is in the middle of such work.
    pub(super) async fn failed(&self, error: CallError, during: &str) -> CallError {
        match error.code.as_str() {
            LOST | NO_ENGINE | UNREACHABLE => self.gone(during).await,
            _ => error,
        }
    }

    /// No connection came about: nothing was sent.
    pub(super) fn unreachable(&self, error: &(dyn Error + 'static)) -> CallError {
        let (at, reason) = (self.place(), reason(error));
        match io_kind(error) {
            Some(io::ErrorKind::PermissionDenied) => CallError::denied(
                "docker.permission",
                format!("this user may not use the Docker engine {at}: {reason}"),
            )
            .hint(
                "add the user to the group docker (sudo usermod -aG docker USER) and log in again",
            ),
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                CallError::unavailable(
                    NO_ENGINE,
                    format!("no Docker engine answers {at}: {reason}"),
                )
                .hint(
                    "start it: `sudo systemctl start docker` on Linux, Docker Desktop elsewhere; \
                     or set DOCKER_HOST",
                )
            }
            _ => CallError::unavailable(
                UNREACHABLE,
                format!("the Docker engine {at} cannot be reached: {reason}"),
            )
            .retryable(),
        }
    }

    fn place(&self) -> String {
        match self.name.as_str() {
            LOCAL => format!("at {}", self.endpoint),
            name => format!("on target {name}"),
        }
    }

    fn when_back(&self) -> String {
        let there = match self.name.as_str() {
            LOCAL => String::new(),
            name => format!(" on {name}"),
        };
        format!(
            "`journalctl -u docker`{there} says whether the engine was stopped or restarted; when \
             it answers again, `windlass resume` goes on with the run"
        )
    }
}

/// The last link of a chain of causes, which is the one that says something; an end
/// too early in plain words.
fn reason(error: &(dyn Error + 'static)) -> String {
    let early = chain(error).any(|error| {
        let of_http = error.downcast_ref::<hyper::Error>();
        of_http.is_some_and(hyper::Error::is_incomplete_message)
    });
    if early || io_kind(error) == Some(io::ErrorKind::UnexpectedEof) {
        return "it was closed before the answer was whole".to_owned();
    }
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).find_map(|error| error.downcast_ref::<io::Error>().map(io::Error::kind))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
