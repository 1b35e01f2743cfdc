//! The stream of JSON values that build, push and pull answer with.

use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use windlass_model::CallError;

use super::engine::Engine;

/// Cap on one message: BuildKit's carry the log of a moment.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) id: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) status: Option<String>,
    pub(super) error: Option<String>,
    #[serde(rename = "errorDetail")]
    pub(super) error_detail: Option<ErrorDetail>,
    #[serde(rename = "progressDetail")]
    pub(super) progress: Option<Progress>,
    pub(super) aux: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorDetail {
    pub(super) message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    pub(super) current: Option<u64>,
    pub(super) total: Option<u64>,
}

impl Message {
    /// What the engine says went wrong, if anything did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.error_detail
            .as_ref()
            .and_then(|detail| detail.message.as_deref())
            .or(self.error.as_deref())
    }
}

/// Reads messages as they come. Dropping it drops the connection, and that
/// stops the work in the engine.
#[derive(Debug)]
pub(super) struct Messages {
    body: http_body_util::BodyDataStream<Incoming>,
    /// For an error: `during the build`.
    during: &'static str,
    buffer: Vec<u8>,
    /// Where the search for a line's end goes on.
    searched: usize,
    ended: bool,
}

impl Messages {
    pub(super) fn new(body: Incoming, during: &'static str) -> Self {
        Self {
            body: body.into_data_stream(),
            during,
            buffer: Vec::new(),
            searched: 0,
            ended: false,
        }
    }

    pub(super) async fn next(&mut self, engine: &Engine) -> Result<Option<Message>, CallError> {
        loop {
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return engine.decode(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.ended {
                let line = std::mem::take(&mut self.buffer);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    return Ok(None);
                }
                return engine.decode(&line).map(Some);
            }
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    if self.buffer.len() + chunk.len() > MAX_MESSAGE {
                        return Err(CallError::exhausted(
                            "docker.answer-too-large",
                            format!(
                                "the Docker engine of {} sent a message of more than {MAX_MESSAGE} bytes",
                                engine.name
                            ),
                        ));
                    }
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(_)) => return Err(engine.gone(self.during).await),
                None => self.ended = true,
            }
        }
    }
}
