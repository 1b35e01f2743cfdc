//! Forwards a log line by line, and keeps its end.

use std::collections::VecDeque;
use std::sync::Arc;

use windlass_model::reply::Exit;
use windlass_model::{LogSink, LogStream};

const MAX_LINE: usize = LogStream::LONGEST_LINE;

/// Lines quoted in an error.
const QUOTED_LINES: usize = 8;
const QUOTED_BYTES: usize = 2 * 1024;

pub(super) struct Tail {
    log: Arc<dyn LogSink>,
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(log: &Arc<dyn LogSink>) -> Self {
        Self {
            log: Arc::clone(log),
            lines: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn line(&mut self, stream: LogStream, line: &str) {
        let line = line.trim_end_matches(['\r', '\n']);
        self.log.line(stream, line);
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > Exit::TAIL_BYTES && self.lines.len() > 1 {
            if let Some(old) = self.lines.pop_front() {
                self.bytes -= old.len() + 1;
            }
        }
    }

    pub(super) fn status(&self, status: &str) {
        self.log.status(status);
    }

    pub(super) fn exit(self, code: i32, values: Vec<(String, String)>) -> Exit {
        Exit {
            code,
            tail: self.lines.into_iter().collect::<Vec<_>>().join("\n"),
            values: values
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        }
    }

    /// The last lines, for an error's message.
    pub(super) fn last_lines(&self) -> String {
        let mut room = QUOTED_BYTES;
        let mut lines: Vec<&str> = Vec::new();
        for line in self
            .lines
            .iter()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(QUOTED_LINES)
        {
            let Some(rest) = room.checked_sub(line.len()) else {
                break;
            };
            room = rest;
            lines.push(line);
        }
        lines.reverse();
        lines.join("\n")
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.flush(&mut each);
            } else {
                while self.0.len() >= MAX_LINE {
                    let rest = self.0.split_off(MAX_LINE);
                    let full = std::mem::replace(&mut self.0, rest);
                    each(&String::from_utf8_lossy(&full));
                }
            }
        }
    }

    /// What is left without a line's end.
    pub(super) fn flush(&mut self, mut each: impl FnMut(&str)) {
        if self.0.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.0);
        for piece in line.chunks(MAX_LINE) {
            let text = String::from_utf8_lossy(piece);
            each(text.trim_end_matches(['\r', '\n']));
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::backend::NoLog;

    use super::*;

    #[test]
    fn bytes_become_lines() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(b"a\r\nb", |line| seen.push(line.to_owned()));
        lines.push(b"c\n\nd", |line| seen.push(line.to_owned()));
        lines.flush(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["a", "bc", "", "d"]);
        seen.clear();
        lines.push(&vec![b'x'; 100_000], |line| seen.push(line.to_owned()));
        assert!(seen.len() == 6 && seen.iter().all(|line| line.len() == MAX_LINE));
    }

    #[test]
    fn the_tail_is_capped() {
        let sink: Arc<dyn LogSink> = Arc::new(NoLog);
        let mut tail = Tail::new(&sink);
        for number in 0..10_000 {
            tail.line(LogStream::Stdout, &format!("line {number}"));
        }
        assert!(tail.last_lines().ends_with("line 9998\nline 9999"));
        let exit = tail.exit(0, Vec::new());
        assert!(exit.tail.len() <= Exit::TAIL_BYTES && exit.tail.ends_with("line 9999"));
    }
}
