//! BuildKit's status stream as plain lines, the way `--progress=plain` prints
//! it: `#5 [2/3] COPY …`, `#5 0.31 output`, `#5 DONE 0.4s`.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus};
use windlass_model::LogStream;

use super::tail::{Lines, Tail};

/// Cap on the steps that are kept apart: a hostile engine could name millions.
const MAX_VERTEXES: usize = 4096;

#[derive(Debug, Default)]
struct Known {
    number: usize,
    name: String,
    /// Seconds, by the engine's clock.
    started: Option<f64>,
    announced: bool,
    finished: bool,
    out: Lines,
    err: Lines,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    vertexes: HashMap<String, Known>,
    /// Transfers that were told to have ended.
    told: HashMap<String, ()>,
}

impl Progress {
    pub(super) fn take(&mut self, response: StatusResponse, tail: &mut Tail) {
        for vertex in response.vertexes {
            self.vertex(vertex, tail);
        }
        for status in response.statuses {
            self.status(&status, tail);
        }
        for log in response.logs {
            self.log(&log, tail);
        }
        for warning in response.warnings {
            tail.line(
                LogStream::Stderr,
                &format!("warning: {}", String::from_utf8_lossy(&warning.short)),
            );
        }
    }

    fn vertex(&mut self, vertex: Vertex, tail: &mut Tail) {
        if !self.vertexes.contains_key(&vertex.digest) {
            // Not begun: it gets its number when it does, so numbers grow as
            // lines come.
            let begun = vertex.started.is_some() || vertex.cached || !vertex.error.is_empty();
            if !begun || self.vertexes.len() >= MAX_VERTEXES {
                return;
            }
            let number = self.vertexes.len() + 1;
            self.vertexes.insert(
                vertex.digest.clone(),
                Known {
                    number,
                    ..Known::default()
                },
            );
        }
        let Some(known) = self.vertexes.get_mut(&vertex.digest) else {
            return;
        };
        if !known.announced {
            known.announced = true;
            known.name = vertex.name;
            tail.line(
                LogStream::Stdout,
                &format!("#{} {}", known.number, known.name),
            );
            tail.status(&known.name);
        }
        let seconds = |at: &bollard_buildkit_proto::google::protobuf::Timestamp| {
            at.seconds as f64 + f64::from(at.nanos) / 1e9
        };
        if known.started.is_none() {
            known.started = vertex.started.as_ref().map(seconds);
        }
        if known.finished {
            return;
        }
        let number = known.number;
        let done = vertex.completed.as_ref().map(seconds);
        if done.is_some() || !vertex.error.is_empty() {
            known
                .out
                .flush(|line| tail.line(LogStream::Stdout, &format!("#{number} {line}")));
            known
                .err
                .flush(|line| tail.line(LogStream::Stderr, &format!("#{number} {line}")));
        }
        if !vertex.error.is_empty() {
            known.finished = true;
            tail.line(
                LogStream::Stderr,
                &format!("#{number} ERROR: {}", vertex.error),
            );
        } else if vertex.cached && done.is_some() {
            known.finished = true;
            tail.line(LogStream::Stdout, &format!("#{number} CACHED"));
        } else if let Some(done) = done {
            known.finished = true;
            let took = (done - known.started.unwrap_or(done)).max(0.0);
            tail.line(LogStream::Stdout, &format!("#{number} DONE {took:.1}s"));
        }
    }

    fn status(&mut self, status: &VertexStatus, tail: &mut Tail) {
        let Some(known) = self.vertexes.get(&status.vertex) else {
            return;
        };
        let name = if status.name.is_empty() {
            &status.id
        } else {
            &status.name
        };
        if status.completed.is_none() {
            if status.total > 0 {
                tail.status(&format!("{name} {}/{}", status.current, status.total));
            }
            return;
        }
        let key = format!("{} {}", status.vertex, status.id);
        if self.told.len() < MAX_VERTEXES && self.told.insert(key, ()).is_none() {
            tail.line(LogStream::Stdout, &format!("#{} {name} done", known.number));
        }
    }

    fn log(&mut self, log: &VertexLog, tail: &mut Tail) {
        let Some(known) = self.vertexes.get_mut(&log.vertex) else {
            return;
        };
        let at = match (&log.timestamp, known.started) {
            (Some(at), Some(started)) => {
                (at.seconds as f64 + f64::from(at.nanos) / 1e9 - started).max(0.0)
            }
            _ => 0.0,
        };
        let number = known.number;
        let (lines, stream) = if log.stream == 2 {
            (&mut known.err, LogStream::Stderr)
        } else {
            (&mut known.out, LogStream::Stdout)
        };
        lines.push(&log.msg, |line| {
            tail.line(stream, &format!("#{number} {at:.3} {line}"));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bollard_buildkit_proto::google::protobuf::Timestamp;
    use windlass_model::LogSink;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl LogSink for Seen {
        fn line(&self, _: LogStream, line: &str) {
            self.0.lock().expect("lock").push(line.to_owned());
        }
        fn status(&self, _: &str) {}
    }

    #[test]
    fn lines_read_like_plain_progress() {
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        let vertex = |name: &str, started, completed| Vertex {
            digest: name.into(),
            name: name.into(),
            started,
            completed,
            ..Vertex::default()
        };
        let seen = Arc::new(Seen::default());
        let sink: Arc<dyn LogSink> = seen.clone();
        let mut tail = Tail::new(&sink);
        let mut progress = Progress::default();
        progress.take(
            StatusResponse {
                vertexes: vec![
                    vertex("later", None, None),
                    vertex("[1/2] RUN x", at(10, 0), None),
                ],
                logs: vec![VertexLog {
                    vertex: "[1/2] RUN x".into(),
                    timestamp: at(10, 250_000_000),
                    stream: 1,
                    msg: b"one\ntw".to_vec(),
                }],
                ..StatusResponse::default()
            },
            &mut tail,
        );
        progress.take(
            StatusResponse {
                vertexes: vec![
                    vertex("[1/2] RUN x", at(10, 0), at(11, 500_000_000)),
                    Vertex {
                        cached: true,
                        ..vertex("[2/2] COPY", at(11, 0), at(11, 0))
                    },
                ],
                ..StatusResponse::default()
            },
            &mut tail,
        );
        assert_eq!(
            *seen.0.lock().expect("lock"),
            [
                "#1 [1/2] RUN x",
                "#1 0.250 one",
                "#1 tw",
                "#1 DONE 1.5s",
                "#2 [2/2] COPY",
                "#2 CACHED"
            ]
        );
    }
}
