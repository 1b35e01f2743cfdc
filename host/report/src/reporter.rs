//! What all reporters have in common, and the one who calls them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use windlass_model::event::Envelope;

use crate::theme::Theme;

/// `--quiet`, nothing, `--verbose`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Failures, and how it ended.
    Quiet,
    #[default]
    Normal,
    /// Every line that a step prints.
    Verbose,
}

/// For [`Plain`](crate::Plain) and [`Live`](crate::Live).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub theme: Theme,
    pub verbosity: Verbosity,
    /// Columns of the summary; a live terminal asks for itself.
    pub width: usize,
    /// Whether the run ends with its summary.
    pub summary: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            theme: Theme::PLAIN,
            verbosity: Verbosity::Normal,
            width: 100,
            summary: true,
        }
    }
}

/// Shows a run as it happens.
pub trait Reporter: Send {
    fn event(&mut self, envelope: &Envelope) -> io::Result<()>;

    /// Time has passed: called some ten times a second.
    fn tick(&mut self, _now: Timestamp) -> io::Result<()> {
        Ok(())
    }

    /// Nothing follows. Leaves the terminal as it was.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reporter that is called no more.
#[derive(Debug)]
pub struct ReporterFailure {
    pub name: &'static str,
    pub error: io::Error,
}

/// Calls each reporter. One that fails (a closed pipe, a full disk, a bug) is
/// called no more; the run and the others go on.
#[derive(Default)]
pub struct Reporters {
    reporters: Vec<(&'static str, Box<dyn Reporter>)>,
    failures: Vec<ReporterFailure>,
}

impl std::fmt::Debug for Reporters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.reporters.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Reporters {
    pub fn new() -> Self {
        Self::default()
    }

    /// The name is for messages about its failure: `--json`, `terminal`.
    pub fn add(&mut self, name: &'static str, reporter: impl Reporter + 'static) {
        self.reporters.push((name, Box::new(reporter)));
    }

    pub fn event(&mut self, envelope: &Envelope) {
        self.each(|reporter| reporter.event(envelope));
    }

    pub fn tick(&mut self, now: Timestamp) {
        self.each(|reporter| reporter.tick(now));
    }

    pub fn finish(&mut self) {
        self.each(|reporter| reporter.finish());
    }

    /// Those that failed, and why; a closed pipe among them is no news.
    pub fn failures(&self) -> &[ReporterFailure] {
        &self.failures
    }

    fn each(&mut self, mut call: impl FnMut(&mut dyn Reporter) -> io::Result<()>) {
        let failures = &mut self.failures;
        self.reporters.retain_mut(|(name, reporter)| {
            let error = match catch_unwind(AssertUnwindSafe(|| call(reporter.as_mut()))) {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => error,
                Err(_) => io::Error::other("it panicked"),
            };
            failures.push(ReporterFailure { name, error });
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(u32);

    impl Reporter for Fails {
        fn event(&mut self, _envelope: &Envelope) -> io::Result<()> {
            self.0 -= 1;
            assert!(self.0 != 5, "a bug");
            if self.0 == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        }
    }

    struct Counts(std::sync::Arc<std::sync::atomic::AtomicU32>);

    impl Reporter for Counts {
        fn event(&mut self, _envelope: &Envelope) -> io::Result<()> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_failing_reporter_stops_nobody_else() {
        let count = std::sync::Arc::default();
        let mut reporters = Reporters::new();
        reporters.add("pipe", Fails(2));
        reporters.add("bug", Fails(6));
        reporters.add("good", Counts(std::sync::Arc::clone(&count)));
        let envelope = Envelope {
            number: 1,
            at: Timestamp::UNIX_EPOCH,
            event: windlass_model::event::Event::Notice {
                level: windlass_model::event::Level::Info,
                message: "x".into(),
                hint: None,
            },
        };
        for _ in 0..4 {
            reporters.event(&envelope);
        }
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 4);
        let names: Vec<&str> = reporters.failures().iter().map(|it| it.name).collect();
        assert_eq!(names, ["bug", "pipe"]);
    }
}
