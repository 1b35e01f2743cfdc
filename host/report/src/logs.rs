//! The lines of steps that run, kept until it is known whether they are
//! wanted.

use std::collections::{HashMap, VecDeque};

use windlass_model::StepKey;

/// Kept for each step that runs. Stops a flood of lines from taking the memory
/// of the host; the journal has all of them.
const BYTES: usize = 2 * 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that came before those.
    pub(crate) dropped: usize,
}

impl Log {
    pub(crate) fn push(&mut self, line: String) {
        self.bytes += line.len() + size_of::<String>();
        self.lines.push_back(line);
        while self.bytes > BYTES {
            let Some(line) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= line.len() + size_of::<String>();
            self.dropped += 1;
        }
    }

    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.lines.iter().map(String::as_str)
    }

    pub(crate) fn last(&self) -> Option<&str> {
        self.lines.back().map(String::as_str)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Logs(HashMap<StepKey, Log>);

impl Logs {
    /// Clean text; it may still be several lines.
    pub(crate) fn push(&mut self, step: &StepKey, text: &str) {
        if !self.0.contains_key(step) {
            self.0.insert(step.clone(), Log::default());
        }
        if let Some(log) = self.0.get_mut(step) {
            for line in text.split('\n') {
                log.push(line.to_owned());
            }
        }
    }

    pub(crate) fn take(&mut self, step: &StepKey) -> Log {
        self.0.remove(step).unwrap_or_default()
    }

    pub(crate) fn last(&self, step: &StepKey) -> Option<&str> {
        self.0.get(step).and_then(Log::last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_keeps_its_end() {
        let mut log = Log::default();
        for number in 0..200_000 {
            log.push(format!("line {number}"));
        }
        assert!(log.bytes <= BYTES);
        assert_eq!(log.last(), Some("line 199999"));
        assert_eq!(log.dropped + log.lines().len(), 200_000);
    }
}
