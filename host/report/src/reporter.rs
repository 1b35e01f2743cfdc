//! What all reporters have in common, and the one who calls them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use jiff::Timestamp;
use windlass_model::event::{Envelope, Event, Level};

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

/// Text of log lines that may wait for one reporter. Past it, lines are left
/// out there, and counted: a terminal that was stopped, or a pipe that nobody
/// reads, must take neither the run's time nor the host's memory.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// What an envelope takes beside its text, about.
const ENVELOPE_BYTES: usize = 256;

/// Calls each reporter, on a thread of its own, so that none holds up the run
/// or another. One that fails (a closed pipe, a full disk, a bug) is called no
/// more.
#[derive(Default)]
pub struct Reporters {
    lanes: Vec<Lane>,
    failures: Vec<ReporterFailure>,
}

struct Lane {
    name: &'static str,
    queue: Sender<Message>,
    waiting: Arc<Waiting>,
    thread: JoinHandle<io::Result<()>>,
}

/// What a lane's queue holds.
#[derive(Default)]
struct Waiting {
    messages: AtomicUsize,
    log_bytes: AtomicUsize,
    /// Lines left out since it was last told.
    left_out: AtomicU64,
}

enum Message {
    Event(Arc<Envelope>),
    Tick(Timestamp),
    Finish,
}

impl std::fmt::Debug for Reporters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.lanes.iter().map(|lane| lane.name))
            .finish()
    }
}

impl Reporters {
    pub fn new() -> Self {
        Self::default()
    }

    /// The name is for messages about its failure: `--json`, `terminal`.
    pub fn add(&mut self, name: &'static str, reporter: impl Reporter + 'static) {
        let (queue, messages) = mpsc::channel();
        let waiting = Arc::new(Waiting::default());
        let shared = Arc::clone(&waiting);
        let spawned = std::thread::Builder::new()
            .name(format!("report {name}"))
            .spawn(move || serve(reporter, &messages, &shared));
        match spawned {
            Ok(thread) => self.lanes.push(Lane {
                name,
                queue,
                waiting,
                thread,
            }),
            Err(error) => self.failures.push(ReporterFailure { name, error }),
        }
    }

    /// Never waits.
    pub fn event(&mut self, envelope: &Envelope) {
        if self.lanes.is_empty() {
            return;
        }
        let size = log_bytes(envelope);
        let envelope = Arc::new(envelope.clone());
        self.each(|lane| {
            let waiting = &lane.waiting;
            if size > 0 && waiting.log_bytes.load(Ordering::Relaxed) > MAX_WAITING_BYTES {
                waiting.left_out.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            waiting.log_bytes.fetch_add(size, Ordering::Relaxed);
            lane.send(Message::Event(Arc::clone(&envelope)))
        });
    }

    /// Never waits; a reporter that is behind is not told.
    pub fn tick(&mut self, now: Timestamp) {
        self.each(|lane| {
            lane.waiting.messages.load(Ordering::Relaxed) > 0 || lane.send(Message::Tick(now))
        });
    }

    /// Returns when all that was reported is written.
    pub fn finish(&mut self) {
        for lane in &self.lanes {
            lane.send(Message::Finish);
        }
        self.end();
    }

    /// Those that failed so far, and why; a closed pipe among them is no news.
    /// Complete after [`Reporters::finish`].
    pub fn failures(&self) -> &[ReporterFailure] {
        &self.failures
    }

    fn each(&mut self, mut send: impl FnMut(&Lane) -> bool) {
        let (alive, dead): (Vec<Lane>, Vec<Lane>) =
            self.lanes.drain(..).partition(|lane| send(lane));
        self.lanes = alive;
        for lane in dead {
            self.failures.extend(lane.end());
        }
    }

    fn end(&mut self) {
        for lane in self.lanes.drain(..) {
            self.failures.extend(lane.end());
        }
    }
}

impl Drop for Reporters {
    fn drop(&mut self) {
        self.end();
    }
}

impl Lane {
    /// Whether there is still somebody to read it.
    fn send(&self, message: Message) -> bool {
        self.waiting.messages.fetch_add(1, Ordering::Relaxed);
        self.queue.send(message).is_ok()
    }

    fn end(self) -> Option<ReporterFailure> {
        drop(self.queue);
        let error = match self.thread.join() {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("it panicked"),
        };
        Some(ReporterFailure {
            name: self.name,
            error,
        })
    }
}

fn log_bytes(envelope: &Envelope) -> usize {
    match &envelope.event {
        Event::StepLog { text, .. } => text.len() + ENVELOPE_BYTES,
        Event::StepProgress { message, .. } => message.len() + ENVELOPE_BYTES,
        _ => 0,
    }
}

fn serve(
    mut reporter: impl Reporter,
    messages: &Receiver<Message>,
    waiting: &Waiting,
) -> io::Result<()> {
    for message in messages {
        waiting.messages.fetch_sub(1, Ordering::Relaxed);
        match message {
            Message::Event(envelope) => {
                let size = log_bytes(&envelope);
                waiting.log_bytes.fetch_sub(size, Ordering::Relaxed);
                let left_out = waiting.left_out.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    reporter.event(&notice(left_out, &envelope))?;
                }
                reporter.event(&envelope)?;
            }
            Message::Tick(now) => reporter.tick(now)?,
            Message::Finish => return reporter.finish(),
        }
    }
    Ok(())
}

fn notice(left_out: u64, next: &Envelope) -> Envelope {
    Envelope {
        number: next.number,
        at: next.at,
        event: Event::Notice {
            level: Level::Warning,
            message: format!("{left_out} log lines came faster than they could be shown here"),
            hint: Some("`windlass logs` has all of them".to_owned()),
        },
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

    #[derive(Clone, Default)]
    struct Counts {
        events: Arc<AtomicUsize>,
        notices: Arc<AtomicUsize>,
    }

    impl Reporter for Counts {
        fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
            self.events.fetch_add(1, Ordering::Relaxed);
            if matches!(envelope.event, Event::Notice { .. }) {
                self.notices.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    }

    /// Reads nothing until it is let.
    struct Stuck(Counts, Receiver<()>);

    impl Reporter for Stuck {
        fn event(&mut self, envelope: &Envelope) -> io::Result<()> {
            // Ends with an error once, when the other side is dropped.
            let _ = self.1.recv();
            self.0.event(envelope)
        }
    }

    fn envelope(event: Event) -> Envelope {
        Envelope {
            number: 1,
            at: Timestamp::UNIX_EPOCH,
            event,
        }
    }

    fn notice_event() -> Envelope {
        envelope(Event::Notice {
            level: Level::Info,
            message: "x".into(),
            hint: None,
        })
    }

    #[test]
    fn a_failing_reporter_stops_nobody_else() {
        let counts = Counts::default();
        let mut reporters = Reporters::new();
        reporters.add("pipe", Fails(2));
        reporters.add("bug", Fails(6));
        reporters.add("good", counts.clone());
        for _ in 0..4 {
            reporters.event(&notice_event());
        }
        reporters.finish();
        assert_eq!(counts.events.load(Ordering::Relaxed), 4);
        let mut names: Vec<&str> = reporters.failures().iter().map(|it| it.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["bug", "pipe"]);
    }

    #[test]
    fn a_stuck_reporter_holds_up_nobody_and_takes_little_memory() {
        let (good, stuck) = (Counts::default(), Counts::default());
        let (let_it, wait) = mpsc::channel();
        let mut reporters = Reporters::new();
        reporters.add("stuck", Stuck(stuck.clone(), wait));
        reporters.add("good", good.clone());
        let line = envelope(Event::StepLog {
            step: windlass_model::StepKey::engine(),
            level: Level::Info,
            stream: None,
            text: "x".repeat(10_000),
        });
        let lines = 4 * MAX_WAITING_BYTES / 10_000;
        for _ in 0..lines {
            reporters.event(&line);
            // The other one keeps up.
            while reporters.lanes[1].waiting.messages.load(Ordering::Relaxed) > 10 {
                std::thread::yield_now();
            }
        }
        reporters.event(&notice_event());
        drop(let_it);
        reporters.finish();
        assert!(reporters.failures().is_empty());
        assert_eq!(good.events.load(Ordering::Relaxed), lines + 1);
        let shown = stuck.events.load(Ordering::Relaxed);
        assert!(shown < lines / 3, "{shown} of {lines} were held");
        assert_eq!(stuck.notices.load(Ordering::Relaxed), 2, "it says so");
    }
}
