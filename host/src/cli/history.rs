//! `windlass runs`, `show` and `logs`: what the journal has.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use windlass_journal::{Journal, JournalError, Reader};
use windlass_model::RunId;
use windlass_model::event::Event;
use windlass_report::{Json, Options, Plain, Reporter, Verbosity, table};

use super::StateArgs;
use super::session::state_dir;
use super::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    state: StateArgs,
    /// How many, newest first
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
    /// Prints them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A run's id, the last digits of it, or `last`
    #[arg(default_value = "last")]
    run: String,
    #[command(flatten)]
    state: StateArgs,
    /// With every line that steps printed
    #[arg(long, short)]
    verbose: bool,
    /// Prints the events as JSON lines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// A run's id, the last digits of it, or `last`
    #[arg(default_value = "last")]
    run: String,
    /// One step, `deploy` or `deploy@prod_1`; all of them when absent
    step: Option<String>,
    #[command(flatten)]
    state: StateArgs,
}

/// The directory of the project here, without asking for a sound manifest.
pub(super) fn root() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    here.ancestors()
        .find(|dir| dir.join(crate::project::MANIFEST).is_file() || dir.join(".windlass").is_dir())
        .unwrap_or(&here)
        .to_owned()
}

/// Its journal.
pub(super) fn reader(state: &StateArgs, terminal: &Terminal) -> Result<Reader, Exit> {
    let dir = state_dir(&root(), state);
    match Journal::open_existing(&dir) {
        Ok(Some(reader)) => Ok(reader),
        Ok(None) => {
            terminal.error(
                &format!("no run is recorded in {}", dir.display()),
                Some("`windlass run` records; --state names another directory"),
            );
            Err(Exit::Invalid)
        }
        Err(error) => Err(failed(&error, terminal)),
    }
}

pub(super) fn failed(error: &JournalError, terminal: &Terminal) -> Exit {
    terminal.error(&error.to_string(), error.hint().as_deref());
    match error {
        JournalError::NoRuns
        | JournalError::NoSuchRun { .. }
        | JournalError::AmbiguousRun { .. } => Exit::Invalid,
        _ => Exit::Engine,
    }
}

pub(crate) fn runs(args: &RunsArgs, terminal: &Terminal) -> Exit {
    let rows = reader(&args.state, terminal).and_then(|reader| {
        reader
            .runs(args.limit)
            .map_err(|error| failed(&error, terminal))
    });
    let rows = match rows {
        Ok(rows) => rows,
        Err(exit) => return exit,
    };
    if args.json {
        let list: Vec<serde_json::Value> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "run": row.run,
                    "started": row.started,
                    "pipeline": row.pipeline,
                    "environment": row.environment,
                    "tag": row.tag,
                    "commit": row.commit,
                    "dirty": row.dirty,
                    "outcome": row.outcome,
                    "exit_code": row.exit_code,
                    "duration_ms": row.duration_ms,
                    "link": row.link,
                })
            })
            .collect();
        terminal.json(&serde_json::Value::Array(list));
        return Exit::Succeeded;
    }
    let rows: Vec<table::Run> = rows
        .into_iter()
        .map(|row| table::Run {
            run: row.run,
            started: row.started,
            pipeline: row.pipeline,
            environment: row.environment,
            tag: row.tag,
            commit: row.commit,
            outcome: row.outcome,
            duration_ms: row.duration_ms,
        })
        .collect();
    terminal.out(&table::runs(
        &rows,
        Timestamp::now(),
        terminal.width(),
        terminal.data,
    ));
    Exit::Succeeded
}

pub(crate) fn show(args: &ShowArgs, terminal: &Terminal) -> Exit {
    let events = reader(&args.state, terminal).and_then(|reader| {
        reader
            .find_run(&args.run)
            .and_then(|run| reader.events(run.run))
            .map_err(|error| failed(&error, terminal))
    });
    let events = match events {
        Ok(events) => events,
        Err(exit) => return exit,
    };
    let mut reporter: Box<dyn Reporter> = if args.json {
        Box::new(Json::new(std::io::stdout()))
    } else {
        Box::new(Plain::new(
            std::io::stdout(),
            Options {
                theme: terminal.data,
                verbosity: if args.verbose {
                    Verbosity::Verbose
                } else {
                    Verbosity::Normal
                },
                width: terminal.width(),
                summary: true,
            },
        ))
    };
    for envelope in &events {
        if reporter.event(envelope).is_err() {
            // The reader of a pipe went away.
            return Exit::Succeeded;
        }
    }
    let _ = reporter.finish();
    Exit::Succeeded
}

/// Names of the steps that a run's pipeline had.
fn steps_of(reader: &Reader, run: RunId) -> Option<Vec<String>> {
    let events = reader.events(run).ok()?;
    events
        .into_iter()
        .find_map(|envelope| match envelope.event {
            Event::RunStarted(started) => Some(
                started
                    .steps
                    .iter()
                    .map(|step| step.name.to_string())
                    .collect(),
            ),
            _ => None,
        })
}

pub(crate) fn logs(args: &LogsArgs, terminal: &Terminal) -> Exit {
    let reader = match reader(&args.state, terminal) {
        Ok(reader) => reader,
        Err(exit) => return exit,
    };
    let run = match reader.find_run(&args.run) {
        Ok(run) => run,
        Err(error) => return failed(&error, terminal),
    };
    let (step, target) = match &args.step {
        None => (None, None),
        Some(text) => match text.split_once('@') {
            Some((step, target)) => (Some(step), Some(target)),
            None => (Some(text.as_str()), None),
        },
    };
    let mut lines = Vec::new();
    for line in reader.logs(run.run, step, target) {
        match line {
            Ok(line) => lines.push(line),
            Err(error) => return failed(&error, terminal),
        }
    }
    if lines.is_empty() {
        if let Some(step) = step
            && let Some(names) = steps_of(&reader, run.run)
            && !names.iter().any(|name| name == step)
        {
            terminal.error(
                &format!("run {} has no step {step}", run.run.short()),
                Some(&format!("it has: {}", names.join(", "))),
            );
            return Exit::Invalid;
        }
        terminal.say(&match &args.step {
            Some(step) => format!("run {} has no log of step {step}", run.run.short()),
            None => format!("run {} has no log", run.run.short()),
        });
        return Exit::Succeeded;
    }
    // One step needs no column that names it.
    let labels = if step.is_some() && lines.iter().all(|line| line.step == lines[0].step) {
        0
    } else {
        lines
            .iter()
            .map(|line| line.step.to_string().len())
            .max()
            .unwrap_or_default()
    };
    for line in &lines {
        terminal.out(&table::log_line(
            run.started,
            line.at,
            &line.step,
            labels,
            line.level,
            &line.text,
            terminal.data,
        ));
    }
    Exit::Succeeded
}
