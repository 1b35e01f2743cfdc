//! What the journal knows, for commands, reporters and resume.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;
use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use windlass_model::event::{Envelope, Event};
use windlass_model::{CallId, RunId, RunInputs, StepKey, TargetName};

use crate::error::JournalError;
use crate::record::{Answer, LogLine, Origin, RecordedCall, RunSummary, Stored, from_word};
use crate::schema;

/// Rows that are held in memory at once; a run may have millions of lines.
const PAGE: u32 = 1000;

/// How many digits of a run's end name it, as [`RunId::short`] gives them.
const SHORT_DIGITS: usize = 8;

/// The name of the newest run.
const LAST: &str = "last";

/// Queries. They see what was committed, by any process.
#[derive(Debug)]
pub struct Reader {
    connection: Mutex<Connection>,
    file: PathBuf,
}

impl Reader {
    pub(crate) fn open(file: &Path) -> Result<Self, JournalError> {
        let sql = |source| JournalError::sql(file, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).map_err(sql)?;
        connection.busy_timeout(schema::BUSY).map_err(sql)?;
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(sql)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(sql)?;
        Ok(Self {
            connection: Mutex::new(connection),
            file: file.into(),
        })
    }

    /// The journal's file, for messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sql(&self, source: rusqlite::Error) -> JournalError {
        JournalError::sql(&self.file, source)
    }

    fn corrupt(&self, detail: impl std::fmt::Display) -> JournalError {
        JournalError::Corrupt {
            path: self.file.clone(),
            detail: detail.to_string(),
        }
    }

    fn json<T: DeserializeOwned>(&self, text: &str) -> Result<T, JournalError> {
        serde_json::from_str(text).map_err(|error| self.corrupt(error))
    }

    fn word<T: DeserializeOwned>(&self, text: &str) -> Result<T, JournalError> {
        from_word(text).map_err(|error| self.corrupt(error))
    }

    fn id(&self, text: &str) -> Result<RunId, JournalError> {
        text.parse().map_err(|error| self.corrupt(error))
    }

    fn time(&self, nanoseconds: i64) -> Result<Timestamp, JournalError> {
        Timestamp::from_nanosecond(i128::from(nanoseconds)).map_err(|error| self.corrupt(error))
    }

    /// Newest first.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, JournalError> {
        self.summaries("started IS NOT NULL", limit)
    }

    /// Those that still run, or were killed. Newest first.
    pub fn unfinished(&self) -> Result<Vec<RunSummary>, JournalError> {
        self.summaries("started IS NOT NULL AND outcome IS NULL", usize::MAX)
    }

    /// `None` when it never got as far as `RunStarted`.
    pub fn run(&self, run: RunId) -> Result<Option<RunSummary>, JournalError> {
        // The text of an id holds no quotes.
        let condition = format!("started IS NOT NULL AND id = '{run}'");
        Ok(self.summaries(&condition, 1)?.pop())
    }

    fn summaries(&self, condition: &str, limit: usize) -> Result<Vec<RunSummary>, JournalError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(&format!(
                "SELECT id, started, pipeline, environment, tag, commit_id, dirty, link, outcome,
                 exit_code, duration_ms FROM run WHERE {condition} ORDER BY id DESC LIMIT ?1"
            ))
            .map_err(|source| self.sql(source))?;
        let mut rows = statement
            .query([i64::try_from(limit).unwrap_or(i64::MAX)])
            .map_err(|source| self.sql(source))?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next().map_err(|source| self.sql(source))? {
            let outcome: Option<String> = self.column(row, 8)?;
            runs.push(RunSummary {
                run: self.id(&self.column::<String>(row, 0)?)?,
                started: self.time(self.column(row, 1)?)?,
                pipeline: self.column(row, 2)?,
                environment: self.column(row, 3)?,
                tag: self.column(row, 4)?,
                commit: self.column(row, 5)?,
                dirty: self.column(row, 6)?,
                link: self.column(row, 7)?,
                outcome: outcome.map(|outcome| self.word(&outcome)).transpose()?,
                exit_code: self.column(row, 9)?,
                duration_ms: self.column::<Option<i64>>(row, 10)?.map(unsigned),
            });
        }
        Ok(runs)
    }

    fn column<T: rusqlite::types::FromSql>(
        &self,
        row: &Row<'_>,
        index: usize,
    ) -> Result<T, JournalError> {
        row.get(index).map_err(|source| match source {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => self.corrupt(source),
            source => self.sql(source),
        })
    }

    /// The run that a person means: `last`, the beginning of an id, or its last
    /// eight digits as lists show them.
    pub fn find_run(&self, wanted: &str) -> Result<RunSummary, JournalError> {
        if wanted == LAST {
            return self.runs(1)?.pop().ok_or(JournalError::NoRuns);
        }
        let none = || JournalError::NoSuchRun {
            wanted: wanted.to_owned(),
            dir: self.file.parent().unwrap_or(&self.file).to_owned(),
        };
        let digits: String = wanted.chars().filter(|c| *c != '-').collect();
        let digits = digits.to_ascii_lowercase();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        // They hold hexadecimal digits only.
        let mut condition =
            format!("started IS NOT NULL AND (replace(id, '-', '') LIKE '{digits}%'");
        if digits.len() == SHORT_DIGITS {
            condition.push_str(&format!(" OR id LIKE '%{digits}'"));
        }
        condition.push(')');
        let mut found = self.summaries(&condition, SHOWN_CANDIDATES + 1)?;
        match found.len() {
            0 => Err(none()),
            1 => found.pop().ok_or_else(none),
            more => {
                let mut candidates: Vec<String> = found
                    .iter()
                    .take(SHOWN_CANDIDATES)
                    .map(|run| run.run.to_string())
                    .collect();
                if more > SHOWN_CANDIDATES {
                    candidates.push("…".into());
                }
                Err(JournalError::AmbiguousRun {
                    wanted: wanted.to_owned(),
                    candidates,
                })
            }
        }
    }

    /// All of them, in order. For long runs: [`Reader::events_after`].
    pub fn events(&self, run: RunId) -> Result<Vec<Envelope>, JournalError> {
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(0, |last: &Envelope| last.number);
            let page = self.events_after(run, after, PAGE)?;
            let done = page.len() < PAGE as usize;
            events.extend(page);
            if done {
                return Ok(events);
            }
        }
    }

    /// The same without the lines that steps printed, with the number of the last
    /// event of all.
    pub fn happenings(&self, run: RunId) -> Result<(Vec<Envelope>, u64), JournalError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT number, at, body FROM event
                 WHERE run = (SELECT key FROM run WHERE id = ?1) AND kind <> 'step-log'
                 ORDER BY number",
            )
            .map_err(|source| self.sql(source))?;
        let mut rows = statement
            .query([run.to_string()])
            .map_err(|source| self.sql(source))?;
        let mut events = Vec::new();
        while let Some(row) = rows.next().map_err(|source| self.sql(source))? {
            events.push(Envelope {
                number: unsigned(self.column(row, 0)?),
                at: self.time(self.column(row, 1)?)?,
                event: self.json(&self.column::<String>(row, 2)?)?,
            });
        }
        let last: i64 = connection
            .prepare_cached(
                "SELECT coalesce(max(number), 0) FROM event
                 WHERE run = (SELECT key FROM run WHERE id = ?1)",
            )
            .and_then(|mut statement| statement.query_row([run.to_string()], |row| row.get(0)))
            .map_err(|source| self.sql(source))?;
        Ok((events, unsigned(last)))
    }

    /// What a run was asked for; `None` for one that cannot be resumed: of a
    /// Windlass that did not write it, or of another command than `run`.
    pub fn inputs(&self, run: RunId) -> Result<Option<RunInputs>, JournalError> {
        let body: Option<Option<String>> = self
            .connection()
            .prepare_cached("SELECT inputs FROM run WHERE id = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([run.to_string()], |row| row.get(0))
                    .optional()
            })
            .map_err(|source| self.sql(source))?;
        body.flatten().map(|body| self.json(&body)).transpose()
    }

    /// At most `limit` events with numbers above `after`; also of a run that
    /// is under way in another process.
    pub fn events_after(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Envelope>, JournalError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT number, at, kind, step, target, level, stream, body FROM event
                 WHERE run = (SELECT key FROM run WHERE id = ?1) AND number > ?2
                 ORDER BY number LIMIT ?3",
            )
            .map_err(|source| self.sql(source))?;
        let mut rows = statement
            .query(params![run.to_string(), signed(after), limit])
            .map_err(|source| self.sql(source))?;
        let mut events = Vec::new();
        while let Some(row) = rows.next().map_err(|source| self.sql(source))? {
            let kind: String = self.column(row, 2)?;
            let event = if kind == "step-log" {
                let line = self.log_line(row)?;
                Event::StepLog {
                    step: line.step,
                    level: line.level,
                    stream: line.stream,
                    text: line.text,
                }
            } else {
                self.json(&self.column::<String>(row, 7)?)?
            };
            events.push(Envelope {
                number: unsigned(self.column(row, 0)?),
                at: self.time(self.column(row, 1)?)?,
                event,
            });
        }
        Ok(events)
    }

    fn log_line(&self, row: &Row<'_>) -> Result<LogLine, JournalError> {
        let step: Option<String> = self.column(row, 3)?;
        let target: Option<String> = self.column(row, 4)?;
        let level: Option<String> = self.column(row, 5)?;
        let stream: Option<String> = self.column(row, 6)?;
        Ok(LogLine {
            number: unsigned(self.column(row, 0)?),
            at: self.time(self.column(row, 1)?)?,
            step: StepKey::new(step.unwrap_or_default(), target.map(TargetName::new)),
            level: self.word(level.as_deref().unwrap_or("info"))?,
            stream: stream.map(|stream| self.word(&stream)).transpose()?,
            text: self.column(row, 7)?,
        })
    }

    /// Lines of a run; of one step, on one target, when given. Read a page at
    /// a time.
    pub fn logs(&self, run: RunId, step: Option<&str>, target: Option<&str>) -> Logs<'_> {
        Logs {
            reader: self,
            run,
            step: step.map(str::to_owned),
            target: target.map(str::to_owned),
            after: 0,
            page: Vec::new().into_iter(),
            done: false,
        }
    }

    fn log_page(&self, logs: &Logs<'_>) -> Result<Vec<LogLine>, JournalError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT number, at, kind, step, target, level, stream, body FROM event
                 WHERE run = (SELECT key FROM run WHERE id = ?1) AND number > ?2
                 AND kind = 'step-log' AND (?3 IS NULL OR step = ?3)
                 AND (?4 IS NULL OR target = ?4) ORDER BY number LIMIT ?5",
            )
            .map_err(|source| self.sql(source))?;
        let mut rows = statement
            .query(params![
                logs.run.to_string(),
                signed(logs.after),
                logs.step,
                logs.target,
                PAGE
            ])
            .map_err(|source| self.sql(source))?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next().map_err(|source| self.sql(source))? {
            lines.push(self.log_line(row)?);
        }
        Ok(lines)
    }

    /// In the order in which they were made.
    pub fn calls(&self, run: RunId) -> Result<Vec<RecordedCall>, JournalError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached(
                "SELECT step, target, attempt, seq, name, class, asked,
                 coalesce(call, (SELECT body FROM blob b WHERE b.run = c.run AND b.sha256 = c.call_sha256)),
                 call_sha256, call_bytes, answered,
                 coalesce(reply, (SELECT body FROM blob b WHERE b.run = c.run AND b.sha256 = c.reply_sha256)),
                 reply_sha256, reply_bytes
                 FROM call c WHERE run = (SELECT key FROM run WHERE id = ?1) ORDER BY key",
            )
            .map_err(|source| self.sql(source))?;
        let mut rows = statement
            .query([run.to_string()])
            .map_err(|source| self.sql(source))?;
        let mut calls = Vec::new();
        while let Some(row) = rows.next().map_err(|source| self.sql(source))? {
            let target: String = self.column(row, 1)?;
            let target = (!target.is_empty()).then(|| TargetName::new(target));
            let answered: Option<i64> = self.column(row, 10)?;
            calls.push(RecordedCall {
                id: CallId {
                    run,
                    step: StepKey::new(self.column::<String>(row, 0)?, target),
                    attempt: self.column(row, 2)?,
                    seq: unsigned(self.column(row, 3)?),
                },
                name: self.column(row, 4)?,
                class: self.word(&self.column::<String>(row, 5)?)?,
                asked: self.time(self.column(row, 6)?)?,
                call: self.stored(row, 7)?,
                answer: match answered {
                    Some(at) => Some(Answer {
                        at: self.time(at)?,
                        result: self.stored(row, 11)?,
                    }),
                    None => None,
                },
            });
        }
        Ok(calls)
    }

    /// Of three columns from `first`: body, hash, size.
    fn stored<T: DeserializeOwned>(
        &self,
        row: &Row<'_>,
        first: usize,
    ) -> Result<Stored<T>, JournalError> {
        if let Some(body) = self.column::<Option<String>>(row, first)? {
            return self.json(&body).map(Stored::Here);
        }
        Ok(match self.column::<Option<String>>(row, first + 1)? {
            Some(sha256) => Stored::TooLarge {
                sha256,
                bytes: self
                    .column::<Option<i64>>(row, first + 2)?
                    .map_or(0, unsigned),
            },
            None => Stored::Withheld,
        })
    }

    /// The outputs of a step the last time that it succeeded in a run of this
    /// origin, whatever became of the rest of that run.
    pub fn last_good_outputs(
        &self,
        origin: &Origin<'_>,
        step: &StepKey,
    ) -> Result<Option<IndexMap<String, serde_json::Value>>, JournalError> {
        let body: Option<String> = self
            .connection()
            .prepare_cached(
                "SELECT event.body FROM run JOIN event ON event.run = run.key
                 WHERE run.pipeline = ?1 AND run.environment = ?2 AND run.commit_id = ?3
                 AND run.tag = ?4 AND (?5 OR NOT run.dirty)
                 AND event.step = ?6 AND event.target IS ?7 AND event.kind = 'step-finished'
                 AND json_extract(event.body, '$.state') IN ('succeeded', 'reused')
                 ORDER BY run.id DESC LIMIT 1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row(
                        params![
                            origin.pipeline,
                            origin.environment,
                            origin.commit,
                            origin.tag,
                            origin.dirty,
                            step.name.as_str(),
                            step.target.as_ref().map(TargetName::as_str)
                        ],
                        |row| row.get(0),
                    )
                    .optional()
            })
            .map_err(|source| self.sql(source))?;
        let Some(body) = body else { return Ok(None) };
        match self.json::<Event>(&body)? {
            Event::StepFinished { outputs, .. } => Ok(Some(outputs)),
            _ => Ok(None),
        }
    }
}

/// Candidates that an error about an ambiguous id names.
const SHOWN_CANDIDATES: usize = 5;

/// See [`Reader::logs`].
#[derive(Debug)]
pub struct Logs<'a> {
    reader: &'a Reader,
    run: RunId,
    step: Option<String>,
    target: Option<String>,
    after: u64,
    page: std::vec::IntoIter<LogLine>,
    done: bool,
}

impl Iterator for Logs<'_> {
    type Item = Result<LogLine, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(line) = self.page.next() {
            self.after = line.number;
            return Some(Ok(line));
        }
        if self.done {
            return None;
        }
        match self.reader.log_page(self) {
            Ok(lines) => {
                self.done = lines.len() < PAGE as usize;
                self.page = lines.into_iter();
                let line = self.page.next()?;
                self.after = line.number;
                Some(Ok(line))
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
