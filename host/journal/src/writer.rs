//! The one thread that writes. It takes what waits, writes it in one
//! transaction, syncs once, and tells everyone who waited: so a hundred steps
//! at once cost about as many syncs as one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};
use windlass_model::event::{Envelope, Event};
use windlass_model::{CallId, Class, RunId, StepKey};

use crate::error::JournalError;
use crate::record::{Body, Reopened, nanoseconds, word};
use crate::schema;

/// Bodies up to this size stand in their row; larger ones are blobs.
pub const INLINE_BYTES: usize = 64 * 1024;

/// What one run may store in blobs. Stops a guest that reads large files or
/// pages in a loop from filling the disk; past it a step can be resumed only as
/// a whole.
pub const BLOB_BYTES_PER_RUN: u64 = 32 * 1024 * 1024;

/// What may wait for the writer. Bounds the memory that a flood of log lines
/// takes while the disk is slow: then those who append wait.
const QUEUE: usize = 4096;

/// What one transaction may hold, so that the first to come does not wait for
/// a flood behind it, and another process gets its turn.
const GROUP: usize = 2048;

pub(crate) struct EventRow {
    run: RunId,
    number: i64,
    at: i64,
    kind: String,
    step: Option<StepKey>,
    level: Option<String>,
    stream: Option<String>,
    body: String,
    facts: Option<Facts>,
}

/// Of an event, which one it is.
#[derive(serde::Deserialize)]
struct Kind<'a> {
    event: &'a str,
}

/// What an event says about the whole run.
enum Facts {
    Started {
        pipeline: String,
        environment: String,
        tag: String,
        commit: String,
        dirty: bool,
        link: Option<String>,
    },
    Finished {
        outcome: String,
        exit_code: u8,
        duration_ms: i64,
    },
}

impl EventRow {
    pub(crate) fn new(run: RunId, envelope: &Envelope) -> Result<Self, serde_json::Error> {
        let mut row = Self {
            run,
            number: signed(envelope.number),
            at: nanoseconds(envelope.at),
            kind: String::new(),
            step: step_of(&envelope.event).cloned(),
            level: None,
            stream: None,
            body: String::new(),
            facts: None,
        };
        if let Event::StepLog {
            level,
            stream,
            text,
            ..
        } = &envelope.event
        {
            row.kind = "step-log".into();
            row.level = Some(word(level));
            row.stream = stream.as_ref().map(word);
            row.body.clone_from(text);
            return Ok(row);
        }
        row.body = serde_json::to_string(&envelope.event)?;
        row.kind = serde_json::from_str::<Kind<'_>>(&row.body)?.event.into();
        row.facts = match &envelope.event {
            Event::RunStarted(started) => Some(Facts::Started {
                pipeline: started.pipeline.clone(),
                environment: started.environment.clone(),
                tag: started.tag.clone(),
                commit: started.commit.clone(),
                dirty: started.dirty,
                link: started.link.clone(),
            }),
            Event::RunFinished(finished) => Some(Facts::Finished {
                outcome: word(&finished.outcome),
                exit_code: finished.exit_code,
                duration_ms: signed(finished.duration_ms),
            }),
            _ => None,
        };
        Ok(row)
    }
}

fn step_of(event: &Event) -> Option<&StepKey> {
    match event {
        Event::Finding { step, .. }
        | Event::StepStarted { step, .. }
        | Event::StepLog { step, .. }
        | Event::StepProgress { step, .. }
        | Event::StepRetried { step, .. }
        | Event::StepFinished { step, .. } => Some(step),
        _ => None,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) struct CallRow {
    pub(crate) id: CallId,
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) at: Timestamp,
    pub(crate) body: Body,
}

pub(crate) enum Job {
    Event(Box<EventRow>),
    Call(Box<CallRow>),
    Reply {
        id: Box<CallId>,
        at: Timestamp,
        ok: bool,
        body: Body,
    },
    Inputs {
        run: RunId,
        body: String,
    },
    Reopen {
        run: RunId,
        goes: Vec<Reopened>,
    },
    Prune {
        keep: usize,
    },
    Flush,
}

impl Job {
    fn run(&self) -> Option<RunId> {
        match self {
            Self::Event(row) => Some(row.run),
            Self::Call(row) => Some(row.id.run),
            Self::Reply { id, .. } => Some(id.run),
            Self::Inputs { run, .. } | Self::Reopen { run, .. } => Some(*run),
            Self::Prune { .. } | Self::Flush => None,
        }
    }

    fn is_effect(&self) -> bool {
        matches!(self, Self::Call(row) if row.class.is_effect())
    }
}

/// Gives the number of rows that a prune removed.
type Done = oneshot::Sender<Result<u64, JournalError>>;

struct Request {
    job: Job,
    /// Absent for relaxed records.
    done: Option<Done>,
    /// Whether it is to be on disk, not only in the file, when it is done.
    sync: bool,
}

#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    synced: Arc<AtomicU64>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Writer {
    pub(crate) fn start(connection: Connection, file: PathBuf) -> Result<Self, JournalError> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let synced = Arc::new(AtomicU64::new(0));
        let task = Task {
            connection,
            file: file.clone(),
            runs: HashMap::new(),
            torn: HashMap::new(),
            lost: None,
            relaxed: false,
            synced: Arc::clone(&synced),
        };
        let thread = std::thread::Builder::new()
            .name("windlass-journal".into())
            .spawn(move || task.serve(requests))
            .map_err(|source| JournalError::io("start the writer of", &file, source))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            synced,
        })
    }

    async fn send(&self, request: Request) -> Result<(), JournalError> {
        let queue = self.queue.as_ref().ok_or(JournalError::Closed)?;
        queue.send(request).await.map_err(|_| JournalError::Closed)
    }

    /// In order, but nobody waits for it.
    pub(crate) async fn relaxed(&self, job: Job) -> Result<(), JournalError> {
        let request = Request {
            job,
            done: None,
            sync: false,
        };
        self.send(request).await
    }

    /// In the file: it outlives this process, though not a power cut.
    pub(crate) async fn written(&self, job: Job) -> Result<(), JournalError> {
        self.answered(job, false).await.map(drop)
    }

    /// On disk.
    pub(crate) async fn durable(&self, job: Job) -> Result<(), JournalError> {
        self.answered(job, true).await.map(drop)
    }

    pub(crate) async fn prune(&self, keep: usize) -> Result<u64, JournalError> {
        self.answered(Job::Prune { keep }, true).await
    }

    async fn answered(&self, job: Job, sync: bool) -> Result<u64, JournalError> {
        let (done, answer) = oneshot::channel();
        let request = Request {
            job,
            done: Some(done),
            sync,
        };
        self.send(request).await?;
        answer.await.map_err(|_| JournalError::Closed)?
    }

    pub(crate) fn synced_commits(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when it has written what is queued.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was told to those who waited: `Closed`.
            let _ = thread.join();
        }
    }
}

struct Task {
    connection: Connection,
    file: PathBuf,
    /// Keys of the rows in `run`.
    runs: HashMap<RunId, i64>,
    /// Runs of which a record was lost that nobody waited for, and why.
    torn: HashMap<RunId, JournalError>,
    /// Why a record was lost since the last flush.
    lost: Option<JournalError>,
    /// Whether something was committed since the last sync.
    relaxed: bool,
    synced: Arc<AtomicU64>,
}

impl Task {
    fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut group = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            group.push(first);
            while group.len() < GROUP {
                match requests.try_recv() {
                    Ok(request) => group.push(request),
                    Err(_) => break,
                }
            }
            self.write(&mut group);
        }
        if self.relaxed {
            group.push(Request {
                job: Job::Flush,
                done: None,
                sync: true,
            });
            self.write(&mut group);
        }
    }

    fn write(&mut self, group: &mut Vec<Request>) {
        let durable = group.iter().any(|request| request.sync);
        let mut results = Vec::with_capacity(group.len());
        if let Err(error) = self.transact(group, durable, &mut results) {
            // Keys of rows that were rolled back.
            self.runs.clear();
            results.clear();
            for request in group.iter() {
                if request.done.is_none() {
                    self.lose(&request.job, &error);
                }
                results.push(Err(error.clone()));
            }
        }
        for (request, result) in group.drain(..).zip(results) {
            if let Some(done) = request.done {
                // When nobody waits any more, the caller was cancelled.
                drop(done.send(result));
            }
        }
    }

    /// Nobody waits for this record, so others are told.
    fn lose(&mut self, job: &Job, error: &JournalError) {
        self.lost.get_or_insert_with(|| error.clone());
        if let Some(run) = job.run() {
            self.torn.entry(run).or_insert_with(|| error.clone());
        }
    }

    /// Fails as a whole when the transaction was lost; failures of single
    /// records are among the results.
    fn transact(
        &mut self,
        group: &[Request],
        durable: bool,
        results: &mut Vec<Result<u64, JournalError>>,
    ) -> Result<(), JournalError> {
        let file = self.file.clone();
        let sql = |source| JournalError::sql(&file, source);
        // NORMAL leaves a commit in the page cache: it outlives this process,
        // and the next FULL one syncs it along.
        let level = if durable { "FULL" } else { "NORMAL" };
        self.connection
            .pragma_update(None, "synchronous", level)
            .map_err(sql)?;
        self.execute("BEGIN IMMEDIATE").map_err(sql)?;
        for request in group {
            let torn = request.job.run().and_then(|run| self.torn.get(&run));
            let result = match (&request.job, torn) {
                (job, Some(first)) if job.is_effect() => Err(JournalError::Torn {
                    first: Box::new(first.clone()),
                }),
                (job, _) => self.perform(job).map_err(sql),
            };
            match result {
                // SQLite gave up the whole transaction.
                Err(error) if self.connection.is_autocommit() => return Err(error),
                Err(error) if request.done.is_none() => {
                    self.lose(&request.job, &error);
                    results.push(Err(error));
                }
                result => results.push(result),
            }
        }
        if group
            .iter()
            .any(|request| matches!(request.job, Job::Flush))
            && let Some(error) = self.lost.take()
        {
            for (request, result) in group.iter().zip(results.iter_mut()) {
                if matches!(request.job, Job::Flush) {
                    *result = Err(error.clone());
                }
            }
        }
        if let Err(error) = self.execute("COMMIT") {
            if !self.connection.is_autocommit() {
                // Nothing is left to do when this fails, too: the next BEGIN
                // says so.
                let _ = self.execute("ROLLBACK");
            }
            return Err(sql(error));
        }
        self.relaxed = !durable;
        if durable {
            self.synced.fetch_add(1, Ordering::Relaxed);
        }
        if group
            .iter()
            .any(|request| matches!(request.job, Job::Prune { .. }))
        {
            // Best effort: while another process reads, the file shrinks later.
            let _ = schema::checkpoint(&self.connection);
        }
        Ok(())
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn perform(&mut self, job: &Job) -> rusqlite::Result<u64> {
        match job {
            Job::Event(row) => self.event(row).map(|()| 0),
            Job::Call(row) => self.call(row).map(|()| 0),
            Job::Reply { id, at, ok, body } => self.reply(id, *at, *ok, body).map(|()| 0),
            Job::Inputs { run, body } => self.inputs(*run, body).map(|()| 0),
            Job::Reopen { run, goes } => self.reopen(*run, goes).map(|()| 0),
            Job::Prune { keep } => self.prune(*keep),
            // A commit without a change would sync nothing.
            Job::Flush => self
                .connection
                .prepare_cached(
                    "UPDATE run SET blob_bytes = blob_bytes WHERE key = (SELECT max(key) FROM run)",
                )?
                .execute([])
                .map(|_| 0),
        }
    }

    fn run_key(&mut self, run: RunId) -> rusqlite::Result<i64> {
        if let Some(key) = self.runs.get(&run) {
            return Ok(*key);
        }
        let id = run.to_string();
        self.connection
            .prepare_cached("INSERT INTO run (id) VALUES (?1) ON CONFLICT DO NOTHING")?
            .execute([&id])?;
        let key = self
            .connection
            .prepare_cached("SELECT key FROM run WHERE id = ?1")?
            .query_row([&id], |row| row.get(0))?;
        self.runs.insert(run, key);
        Ok(key)
    }

    fn inputs(&mut self, run: RunId, body: &str) -> rusqlite::Result<()> {
        let key = self.run_key(run)?;
        self.connection
            .prepare_cached("UPDATE run SET inputs = ?2 WHERE key = ?1")?
            .execute(params![key, body])
            .map(drop)
    }

    fn reopen(&mut self, run: RunId, goes: &[Reopened]) -> rusqlite::Result<()> {
        let key = self.run_key(run)?;
        self.connection
            .prepare_cached(
                "UPDATE run SET outcome = NULL, exit_code = NULL, duration_ms = NULL WHERE key = ?1",
            )?
            .execute([key])?;
        self.connection
            .prepare_cached("DELETE FROM call WHERE run = ?1 AND attempt = 0")?
            .execute([key])?;
        for Reopened {
            step,
            attempt,
            from,
        } in goes
        {
            self.connection
                .prepare_cached(
                    "DELETE FROM call WHERE run = ?1 AND step = ?2 AND target = ?3
                     AND attempt = ?4 AND seq >= ?5",
                )?
                .execute(params![
                    key,
                    step.name.as_str(),
                    target_column(step),
                    attempt,
                    signed(*from)
                ])?;
        }
        Ok(())
    }

    fn event(&mut self, row: &EventRow) -> rusqlite::Result<()> {
        let key = self.run_key(row.run)?;
        self.connection
            .prepare_cached(
                "INSERT INTO event (run, number, at, kind, step, target, level, stream, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                key,
                row.number,
                row.at,
                row.kind,
                row.step.as_ref().map(|step| step.name.as_str()),
                row.step
                    .as_ref()
                    .and_then(|step| step.target.as_ref())
                    .map(|target| target.as_str()),
                row.level,
                row.stream,
                row.body,
            ])?;
        match &row.facts {
            None => Ok(()),
            Some(Facts::Started {
                pipeline,
                environment,
                tag,
                commit,
                dirty,
                link,
            }) => self
                .connection
                .prepare_cached(
                    "UPDATE run SET started = ?2, pipeline = ?3, environment = ?4, tag = ?5,
                     commit_id = ?6, dirty = ?7, link = ?8 WHERE key = ?1",
                )?
                .execute(params![
                    key,
                    row.at,
                    pipeline,
                    environment,
                    tag,
                    commit,
                    dirty,
                    link
                ])
                .map(drop),
            Some(Facts::Finished {
                outcome,
                exit_code,
                duration_ms,
            }) => self
                .connection
                .prepare_cached(
                    "UPDATE run SET outcome = ?2, exit_code = ?3, duration_ms = ?4 WHERE key = ?1",
                )?
                .execute(params![key, outcome, exit_code, duration_ms])
                .map(drop),
        }
    }

    fn call(&mut self, row: &CallRow) -> rusqlite::Result<()> {
        let key = self.run_key(row.id.run)?;
        self.blob(key, &row.body)?;
        // A resumed run makes a call again that was never answered; one that was
        // answered stays as it is, whoever asks.
        let written = self
            .connection
            .prepare_cached(
                "INSERT INTO call (run, step, target, attempt, seq, name, class, asked, call,
                 call_sha256, call_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT (run, step, target, attempt, seq)
                 DO UPDATE SET asked = excluded.asked
                 WHERE answered IS NULL AND call IS excluded.call
                 AND call_sha256 IS excluded.call_sha256",
            )?
            .execute(params![
                key,
                row.id.step.name.as_str(),
                target_column(&row.id.step),
                row.id.attempt,
                signed(row.id.seq),
                row.name,
                word(&row.class),
                nanoseconds(row.at),
                inline(&row.body),
                row.body.sha256,
                signed(row.body.json.len() as u64),
            ])?;
        if written == 0 {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        Ok(())
    }

    fn reply(&mut self, id: &CallId, at: Timestamp, ok: bool, body: &Body) -> rusqlite::Result<()> {
        let key = self.run_key(id.run)?;
        let columns = params![
            key,
            id.step.name.as_str(),
            target_column(&id.step),
            id.attempt,
            signed(id.seq)
        ];
        let name: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT name FROM call WHERE run = ?1 AND step = ?2 AND target = ?3
                 AND attempt = ?4 AND seq = ?5",
            )?
            .query_row(columns, |row| row.get(0))
            .optional()?;
        let withheld = ok && name.is_none_or(|name| name == "secret.reveal");
        if !withheld {
            self.blob(key, body)?;
        }
        let updated = self
            .connection
            .prepare_cached(
                "UPDATE call SET answered = ?6, reply = ?7, reply_sha256 = ?8, reply_bytes = ?9
                 WHERE run = ?1 AND step = ?2 AND target = ?3 AND attempt = ?4 AND seq = ?5",
            )?
            .execute(params![
                key,
                id.step.name.as_str(),
                target_column(&id.step),
                id.attempt,
                signed(id.seq),
                nanoseconds(at),
                inline(body).filter(|_| !withheld),
                body.sha256.as_ref().filter(|_| !withheld),
                (!withheld).then(|| signed(body.json.len() as u64)),
            ])?;
        // An answer to a call that was never written down.
        if updated == 0 {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        Ok(())
    }

    /// Past the run's cap nothing is stored, and the row's hash points nowhere.
    fn blob(&self, run: i64, body: &Body) -> rusqlite::Result<()> {
        let Some(sha256) = &body.sha256 else {
            return Ok(());
        };
        let size = signed(body.json.len() as u64);
        let fits = self
            .connection
            .prepare_cached(
                "UPDATE run SET blob_bytes = blob_bytes + ?2
                 WHERE key = ?1 AND blob_bytes + ?2 <= ?3
                 AND NOT EXISTS (SELECT 1 FROM blob WHERE run = ?1 AND sha256 = ?4)",
            )?
            .execute(params![run, size, signed(BLOB_BYTES_PER_RUN), sha256])?;
        if fits == 1 {
            self.connection
                .prepare_cached("INSERT INTO blob (run, sha256, body) VALUES (?1, ?2, ?3)")?
                .execute(params![run, sha256, body.json])?;
        }
        Ok(())
    }

    fn prune(&mut self, keep: usize) -> rusqlite::Result<u64> {
        let removed = self
            .connection
            .prepare_cached(
                "DELETE FROM run WHERE key NOT IN (SELECT key FROM run ORDER BY id DESC LIMIT ?1)",
            )?
            .execute([i64::try_from(keep).unwrap_or(i64::MAX)])?;
        self.runs.clear();
        let mut vacuum = self
            .connection
            .prepare_cached("PRAGMA incremental_vacuum")?;
        // Each step gives one page back to the file system.
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(removed as u64)
    }
}

fn target_column(step: &StepKey) -> &str {
    step.target.as_ref().map_or("", |target| target.as_str())
}

fn inline(body: &Body) -> Option<&str> {
    body.sha256.is_none().then_some(body.json.as_str())
}
