//! Events: numbered, journalled, then shown; in this order, by one task.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use windlass_journal::Journal;
use windlass_layers::Redactor;
use windlass_model::event::{Envelope, Event, Level};
use windlass_model::{LogSink, LogStream, RunId, StepKey};
use windlass_report::Reporters;
use windlass_runtime::StepSink;

/// Log lines that may wait for the disk; more are dropped and counted. It
/// bounds what a far side that prints without end can take of memory.
const MAX_WAITING: usize = 50_000;
/// A longer line is cut: reporters and databases are for lines people read.
const MAX_LINE: usize = 16 * 1024;
/// The same for what a step says that it is doing: one line of a terminal.
const MAX_PROGRESS: usize = 1024;
/// How long the first event of a batch waits for more: each batch is a transaction and
/// wakes every reporter, which costs several times what a small step costs. Nobody waits
/// for it but a flush, which ends it.
const LINGER: Duration = Duration::from_millis(2);
/// Events of one batch.
const BATCH: usize = 256;
/// How often a live display is drawn again.
const TICK: Duration = Duration::from_millis(100);

#[allow(
    clippy::large_enum_variant,
    reason = "nearly every message is an event, and a box for each would cost more"
)]
enum Message {
    Event(Timestamp, Event),
    Flush(oneshot::Sender<()>),
    Finish(oneshot::Sender<Option<String>>),
}

/// What was said before this process went on with the run.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Of the last event.
    pub number: u64,
    /// Without logs, and without its end.
    pub history: Vec<Envelope>,
}

/// Takes events from everywhere. Cheap to clone, never blocks.
#[derive(Clone)]
pub struct Bus {
    queue: mpsc::UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    /// Somebody waits for what is queued.
    urgent: Arc<Notify>,
    /// What was said so far, without logs and progress.
    history: Arc<Mutex<Vec<Envelope>>>,
    redactor: Arc<Redactor>,
}

impl Bus {
    pub fn start(
        run: RunId,
        journal: Option<Journal>,
        mut reporters: Reporters,
        redactor: Arc<Redactor>,
        before: Option<Before>,
    ) -> Self {
        let before = before.unwrap_or_default();
        for envelope in &before.history {
            reporters.event(envelope);
        }
        let (queue, receiver) = mpsc::unbounded_channel();
        let bus = Self {
            queue,
            waiting: Arc::default(),
            dropped: Arc::default(),
            urgent: Arc::default(),
            history: Arc::new(Mutex::new(before.history)),
            redactor,
        };
        tokio::spawn(
            Writer {
                run,
                journal,
                reporters,
                number: before.number,
                failed: None,
                waiting: Arc::clone(&bus.waiting),
                dropped: Arc::clone(&bus.dropped),
                urgent: Arc::clone(&bus.urgent),
                history: Arc::clone(&bus.history),
            }
            .work(receiver),
        );
        bus
    }

    pub fn emit(&self, event: Event) {
        // Fails only after `finish`, when nobody listens any more.
        let _ = self.queue.send(Message::Event(Timestamp::now(), event));
    }

    /// An event whose time a guest takes for its own.
    pub fn emit_at(&self, event: Event, at: Timestamp) {
        let _ = self.queue.send(Message::Event(at, event));
    }

    /// Everything emitted so far is journalled and shown when it returns.
    pub async fn flush(&self) {
        let (done, waits) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).is_ok() {
            self.urgent.notify_one();
            let _ = waits.await;
        }
    }

    /// Ends the listeners; says what of the journal was lost.
    pub async fn finish(&self) -> Option<String> {
        let (done, waits) = oneshot::channel();
        self.queue.send(Message::Finish(done)).ok()?;
        self.urgent.notify_one();
        waits.await.ok().flatten()
    }

    /// Every event so far but logs and progress.
    pub fn history(&self) -> Vec<Envelope> {
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where a step's log goes.
    pub fn sink(&self, step: StepKey) -> Arc<dyn StepSink> {
        Arc::new(Sink {
            bus: self.clone(),
            step,
        })
    }

    fn log(&self, step: &StepKey, level: Level, stream: Option<LogStream>, text: &str) {
        if self.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let text = shown(&self.redactor, text, MAX_LINE);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.emit(Event::StepLog {
            step: step.clone(),
            level,
            stream,
            text,
        });
    }
}

/// A line as people may see it: without secrets, at most `longest` bytes of it, and
/// without control characters and escape sequences, since what guests and servers print
/// must not move the cursor, nor look like what Windlass prints.
///
/// Secrets go first: of one that lies across the cut, the beginning would be left.
fn shown(redactor: &Redactor, text: &str, longest: usize) -> String {
    let clean = redactor.clean(text);
    let cut = &clean[..clean.floor_char_boundary(longest)];
    let mut line = windlass_report::clean_line(cut).into_owned();
    if cut.len() < clean.len() {
        line.push_str(" […]");
    }
    line
}

struct Sink {
    bus: Bus,
    step: StepKey,
}

impl LogSink for Sink {
    fn line(&self, stream: LogStream, line: &str) {
        self.bus.log(&self.step, Level::Info, Some(stream), line);
    }

    fn status(&self, status: &str) {
        self.progress(status, 0, 0);
    }
}

impl StepSink for Sink {
    fn log(&self, level: Level, text: &str) {
        self.bus.log(&self.step, level, None, text);
    }

    fn progress(&self, message: &str, done: u64, total: u64) {
        if self.bus.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            return;
        }
        let message = shown(&self.bus.redactor, message, MAX_PROGRESS);
        self.bus.waiting.fetch_add(1, Ordering::Relaxed);
        self.bus.emit(Event::StepProgress {
            step: self.step.clone(),
            message,
            done,
            total,
        });
    }
}

struct Writer {
    run: RunId,
    journal: Option<Journal>,
    reporters: Reporters,
    number: u64,
    /// Why the journal is no longer written.
    failed: Option<String>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    urgent: Arc<Notify>,
    history: Arc<Mutex<Vec<Envelope>>>,
}

impl Writer {
    async fn work(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    // Not on the queue: it would be woken by each event.
                    if batch.len() < BATCH {
                        tokio::select! {
                            () = self.urgent.notified() => {}
                            () = tokio::time::sleep(LINGER) => {}
                        }
                    }
                    while batch.len() < BATCH && let Ok(message) = queue.try_recv() {
                        batch.push(message);
                    }
                    if self.handle(&mut batch).await {
                        break;
                    }
                }
                _ = tick.tick() => {
                    self.reporters.tick(Timestamp::now());
                }
            }
        }
    }

    /// Journals a batch with one sync, then shows it. True when it was the
    /// last one.
    async fn handle(&mut self, batch: &mut Vec<Message>) -> bool {
        let mut flushes = Vec::new();
        let mut last = None;
        let mut envelopes = Vec::new();
        let mut lines = 0;
        for message in batch.drain(..) {
            match message {
                Message::Event(at, event) => {
                    if matches!(event, Event::StepLog { .. } | Event::StepProgress { .. }) {
                        lines += 1;
                    }
                    envelopes.push(self.number(at, event));
                }
                Message::Flush(done) => flushes.push(done),
                Message::Finish(done) => last = Some(done),
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let event = Event::Notice {
                level: Level::Warning,
                message: format!(
                    "{dropped} log lines came faster than they could be stored, and were dropped"
                ),
                hint: None,
            };
            envelopes.push(self.number(Timestamp::now(), event));
        }
        let journal = self.journal.as_ref().filter(|_| self.failed.is_none());
        let stored = match journal {
            Some(journal) => journal.record_all(self.run, &envelopes).await,
            None => Ok(()),
        };
        if let Err(error) = stored {
            let message = format!("the journal is not written any more: {error}");
            self.failed = Some(message.clone());
            let event = Event::Notice {
                level: Level::Error,
                message,
                hint: error.hint(),
            };
            envelopes.push(self.number(Timestamp::now(), event));
        }
        for envelope in &envelopes {
            self.reporters.event(envelope);
        }
        let kept = envelopes.into_iter().filter(|envelope| {
            !matches!(
                envelope.event,
                Event::StepLog { .. } | Event::StepProgress { .. }
            )
        });
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(kept);
        self.waiting.fetch_sub(lines, Ordering::Relaxed);
        for flush in flushes {
            let _ = flush.send(());
        }
        match last {
            Some(done) => {
                self.reporters.finish();
                let _ = done.send(self.failed.take());
                true
            }
            None => false,
        }
    }

    fn number(&mut self, at: Timestamp, event: Event) -> Envelope {
        if event.is_durable() {
            self.number += 1;
        }
        Envelope {
            number: self.number,
            at,
            event,
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::Secrets;

    use super::*;

    #[test]
    fn a_secret_across_the_cut_leaves_no_beginning() {
        let mut secrets = Secrets::default();
        secrets.insert("TOKEN", "hunter2hunter2".to_owned().into());
        let redactor = Redactor::new(&secrets);
        let line = format!("{}hunter2hunter2", "x".repeat(95));
        assert_eq!(
            shown(&redactor, &line, 100),
            format!("{}[secr […]", "x".repeat(95)),
        );
    }

    #[test]
    fn escape_sequences_do_not_get_through() {
        let redactor = Redactor::new(&Secrets::default());
        assert_eq!(shown(&redactor, "a\u{1b}[2Jb", 100), "ab");
    }
}
