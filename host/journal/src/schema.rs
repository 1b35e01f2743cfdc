//! The tables, and how an older file becomes a newer one.

use std::path::Path;
use std::time::{Duration, Instant};

use fs_err::File;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::JournalError;

/// `WDLS`: tells the file from other SQLite databases (pragma
/// `application_id`).
const APPLICATION_ID: i64 = 0x5744_4c53;

/// How long another process may hold the lock. Its transactions last
/// milliseconds; a disk that is slow to sync can make that seconds.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// Each one is applied once, in a transaction; `user_version` counts them.
/// Never change one that was released: add another.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE run (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    -- Of RunStarted; null until then: calls may come first.
    started INTEGER,
    pipeline TEXT NOT NULL DEFAULT '',
    environment TEXT NOT NULL DEFAULT '',
    tag TEXT NOT NULL DEFAULT '',
    commit_id TEXT NOT NULL DEFAULT '',
    dirty INTEGER NOT NULL DEFAULT 0,
    link TEXT,
    -- Of RunFinished; null until then.
    outcome TEXT,
    exit_code INTEGER,
    duration_ms INTEGER,
    blob_bytes INTEGER NOT NULL DEFAULT 0
);

-- Times are nanoseconds since 1970 (UTC).
CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run (key) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    step TEXT,
    target TEXT,
    -- Of log lines, whose body is the line itself; else the body is JSON.
    level TEXT,
    stream TEXT,
    body TEXT NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX event_by_step ON event (run, step, target, number);

CREATE TABLE call (
    key INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run (key) ON DELETE CASCADE,
    step TEXT NOT NULL,
    target TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    asked INTEGER NOT NULL,
    call TEXT,
    call_sha256 TEXT,
    call_bytes INTEGER NOT NULL,
    answered INTEGER,
    reply TEXT,
    reply_sha256 TEXT,
    reply_bytes INTEGER,
    UNIQUE (run, step, target, attempt, seq)
);

-- What is too large to stand in a row of `call`.
CREATE TABLE blob (
    run INTEGER NOT NULL REFERENCES run (key) ON DELETE CASCADE,
    sha256 TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, sha256)
);
",
    "
-- What the run was asked for, as JSON; null for what cannot be resumed.
ALTER TABLE run ADD COLUMN inputs TEXT;
",
];

/// A connection that can write, on tables of today's form.
pub(crate) fn open(file: &Path) -> Result<Connection, JournalError> {
    let sql = |source| JournalError::sql(file, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    // Closing would copy the log into the file, with syncs that a short run
    // waits for; the next to open reads the log as well.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sql)?;
    if version(&connection, file)? == 0 {
        create(&mut connection, file)?;
    }
    enter_wal(&connection).map_err(sql)?;
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(sql)?;
    if version(&connection, file)? < known() {
        migrate(&mut connection, file)?;
    }
    Ok(connection)
}

/// SQLite would sync a new file some ten times until its tables are there;
/// twice at the end is as good, for nothing is in it yet.
fn create(connection: &mut Connection, file: &Path) -> Result<(), JournalError> {
    let sql = |source| JournalError::sql(file, source);
    // `auto_vacuum` has to come before the first table.
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA auto_vacuum = INCREMENTAL;")
        .map_err(sql)?;
    enter_wal(connection).map_err(sql)?;
    migrate(connection, file)?;
    checkpoint(connection).map_err(sql)?;
    let io = |source| JournalError::io("sync the journal", file, source);
    File::open(file)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    #[cfg(unix)]
    if let Some(directory) = file.parent() {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io)?;
    }
    Ok(())
}

/// Moves the log into the file, as far as no other process reads it.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn pragma(connection: &Connection, file: &Path, name: &str) -> Result<i64, JournalError> {
    connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|source| JournalError::sql(file, source))
}

fn version(connection: &Connection, file: &Path) -> Result<i64, JournalError> {
    let version = pragma(connection, file, "user_version")?;
    let application = pragma(connection, file, "application_id")?;
    if application != APPLICATION_ID && (version != 0 || application != 0) {
        return Err(JournalError::Corrupt {
            path: file.into(),
            detail: "it is a database of another program".into(),
        });
    }
    if version > known() {
        return Err(JournalError::NewerSchema {
            path: file.into(),
            found: version,
            known: known(),
        });
    }
    Ok(version)
}

/// The switch to WAL needs the file for itself, and SQLite does not wait for
/// that by itself when two processes open a new journal at once.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        let switched = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched {
            Ok(_) => return Ok(()),
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && begun.elapsed() < BUSY =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

fn migrate(connection: &mut Connection, file: &Path) -> Result<(), JournalError> {
    let sql = |source| JournalError::sql(file, source);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql)?;
    // Another process may have been faster.
    let from = usize::try_from(version(&transaction, file)?).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(from) {
        transaction.execute_batch(migration).map_err(sql)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(sql)?;
    transaction
        .pragma_update(None, "user_version", known())
        .map_err(sql)?;
    transaction.commit().map_err(sql)
}
