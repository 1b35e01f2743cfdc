//! The log of a container, as it was and as it comes.

use futures_util::StreamExt;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use windlass_model::{CallError, LogStream};

use super::container::{check_id, container_error};
use super::engine::{Engine, full};
use super::query::Query;
use super::stopped::DURING;

/// Opens a container's log: what there is of it, or also what comes.
pub(super) async fn open(engine: &Engine, id: &str, follow: bool) -> Result<Logs, CallError> {
    check_id(id)?;
    let query = Query::new(format!("/containers/{id}/logs"))
        .with("stdout", "1")
        .with("stderr", "1")
        .flag("follow", follow);
    let response = engine
        .send(
            Method::GET,
            &query,
            HeaderMap::new(),
            full(bytes::Bytes::new()),
        )
        .await
        .map_err(|failure| container_error(id, failure, "has no log"))?;
    // Containers with a terminal have one stream, without frames.
    let raw = response
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value == "application/vnd.docker.raw-stream");
    let demux = Demux {
        raw,
        ..Demux::default()
    };
    Ok(Logs {
        during: if follow {
            DURING
        } else {
            "while a container's log was read"
        },
        body: response.into_body().into_data_stream(),
        demux,
    })
}

pub(super) struct Logs {
    /// For an error.
    during: &'static str,
    body: http_body_util::BodyDataStream<Incoming>,
    demux: Demux,
}

impl Logs {
    /// Hands on what came next; false at the end.
    pub(super) async fn next(
        &mut self,
        engine: &Engine,
        each: impl FnMut(LogStream, &[u8]),
    ) -> Result<bool, CallError> {
        match self.body.next().await {
            Some(Ok(chunk)) => {
                self.demux.push(&chunk, each);
                Ok(true)
            }
            Some(Err(_)) => Err(engine.gone(self.during).await),
            None => Ok(false),
        }
    }
}

/// The engine's multiplexed stream: frames of a stream's number, three zeros,
/// a length, and that many bytes. Nothing is held back, however long a frame
/// says that it is.
#[derive(Debug, Default)]
struct Demux {
    raw: bool,
    header: Vec<u8>,
    stderr: bool,
    remaining: usize,
}

impl Demux {
    fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(LogStream, &[u8])) {
        if self.raw {
            return each(LogStream::Stdout, bytes);
        }
        while !bytes.is_empty() {
            if self.remaining == 0 {
                let take = (8 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if let [stream, _, _, _, a, b, c, d] = *self.header.as_slice() {
                    self.stderr = stream == 2;
                    self.remaining = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.header.clear();
                }
                continue;
            }
            let take = self.remaining.min(bytes.len());
            let stream = if self.stderr {
                LogStream::Stderr
            } else {
                LogStream::Stdout
            };
            each(stream, &bytes[..take]);
            self.remaining -= take;
            bytes = &bytes[take..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_wherever_they_are_cut() {
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 3];
        bytes.extend(b"out");
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend(b"err");
        for size in 1..bytes.len() {
            let mut demux = Demux::default();
            let mut out = Vec::new();
            let mut err = Vec::new();
            for chunk in bytes.chunks(size) {
                demux.push(chunk, |stream, bytes| match stream {
                    LogStream::Stdout => out.extend(bytes),
                    LogStream::Stderr => err.extend(bytes),
                });
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"out"[..], &b"err"[..]));
        }
    }
}
