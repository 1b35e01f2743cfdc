//! Output of a far command: cut into lines for the log, its end kept.

use std::collections::VecDeque;

use windlass_model::reply::Exit;
use windlass_model::{LogSink, LogStream};

/// Cuts one stream into lines. A carriage return ends a line, too: progress
/// bars redraw theirs with it.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: LogStream,
    open: Vec<u8>,
    after_return: bool,
    /// The word with which lines for the engine begin, and what the last one said.
    control: Option<(String, Option<String>)>,
}

impl Lines {
    pub(crate) fn new(stream: LogStream) -> Self {
        Self {
            stream,
            open: Vec::new(),
            after_return: false,
            control: None,
        }
    }

    /// Lines that begin with this word are kept, and not passed on.
    pub(crate) fn keep_control(&mut self, word: String) {
        self.control = Some((format!("{word} "), None));
    }

    pub(crate) fn take_control(&mut self) -> Option<String> {
        self.control.as_mut()?.1.take()
    }

    pub(crate) fn push(&mut self, bytes: &[u8], log: &dyn LogSink, tail: &mut Tail) {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' => self.flush(log, tail, true),
                b'\r' => self.flush(log, tail, false),
                byte => {
                    self.open.push(byte);
                    if self.open.len() >= LogStream::LONGEST_LINE {
                        self.flush(log, tail, false);
                    }
                }
            }
        }
    }

    pub(crate) fn finish(&mut self, log: &dyn LogSink, tail: &mut Tail) {
        self.flush(log, tail, false);
    }

    fn flush(&mut self, log: &dyn LogSink, tail: &mut Tail, line_feed: bool) {
        if self.open.is_empty() && !line_feed {
            return;
        }
        let line = String::from_utf8_lossy(&self.open);
        if let Some((word, said)) = &mut self.control
            && let Some(rest) = line.strip_prefix(word.as_str())
        {
            *said = Some(rest.to_owned());
            drop(line);
            self.open.clear();
            return;
        }
        log.line(self.stream, &line);
        tail.push(&line);
        self.open.clear();
    }
}

/// The last lines, at most [`Exit::TAIL_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > Exit::TAIL_BYTES {
            match self.lines.pop_front() {
                Some(line) => self.bytes -= line.len() + 1,
                None => break,
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// A fragment of what the far side said, fit for an error's message: the last
/// lines that say something, without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    const MAX: usize = 600;
    let clean: Vec<String> = text
        .lines()
        .map(|line| {
            line.chars()
                .filter(|character| !character.is_control())
                .collect::<String>()
                .trim()
                .to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect();
    let joined = clean[clean.len().saturating_sub(4)..].join("; ");
    let skip = joined.chars().count().saturating_sub(MAX);
    joined.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl LogSink for Seen {
        fn line(&self, _stream: LogStream, line: &str) {
            self.0.lock().expect("lock").push(line.to_owned());
        }
        fn status(&self, _status: &str) {}
    }

    #[test]
    fn lines_are_cut_across_chunks() {
        let (seen, mut tail) = (Seen::default(), Tail::default());
        let mut lines = Lines::new(LogStream::Stdout);
        for chunk in ["a", "b\nc\r", "\n\n", "d"] {
            lines.push(chunk.as_bytes(), &seen, &mut tail);
        }
        lines.finish(&seen, &mut tail);
        assert_eq!(*seen.0.lock().expect("lock"), ["ab", "c", "", "d"]);
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(&number.to_string());
        }
        let text = tail.text();
        assert!(text.len() <= Exit::TAIL_BYTES && text.ends_with("99999\n"));
    }
}
