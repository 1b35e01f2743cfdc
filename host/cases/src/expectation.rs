//! An expected call and its answer, as a case file writes them.

use std::time::Duration;

use windlass_layers::scripted::{Answer, Expectation, LogLine, Matcher};
use windlass_model::grant::is_verb;
use windlass_model::reply::Exit;
use windlass_model::{CallError, ErrorKind, LogStream, Reply};

use crate::answer;
use crate::format::{RawExpect, RawLine, RawTimes};
use crate::reader::{duration, to_json};

/// Reads one that begins in this line of its file.
pub(crate) fn read(raw: RawExpect, line: usize) -> Result<Expectation, String> {
    check_name(&raw.call)?;
    let ways = usize::from(raw.reply.is_some())
        + usize::from(raw.exit.is_some())
        + usize::from(raw.error.is_some())
        + usize::from(raw.dies)
        + usize::from(raw.hangs);
    if ways > 1 {
        return Err(
            "give one of `reply`, `exit`, `error`, `dies` and `hangs`, not several".to_owned(),
        );
    }
    let with = match raw.with {
        Some(with) => Matcher::parse(&to_json(with)).map_err(|error| format!("`with`: {error}"))?,
        None => Matcher::Any,
    };
    let log = raw
        .log
        .into_iter()
        .map(log_line)
        .collect::<Result<Vec<_>, _>>()?;
    let tail = || {
        let lines: Vec<&str> = log.iter().map(|line| line.text.as_str()).collect();
        lines.join("\n")
    };
    let mut answer = if let Some(given) = raw.reply {
        answer::reply(&raw.call, &to_json(given)).map_err(|error| format!("`reply`: {error}"))?
    } else if let Some(code) = raw.exit {
        if !answer::has_exit(&raw.call) {
            return Err(format!("{} has no exit code", raw.call));
        }
        Answer::Reply(Reply::Exit(Exit {
            code,
            ..Exit::default()
        }))
    } else if let Some(error) = raw.error {
        Answer::Error(CallError {
            kind: error.kind,
            code: error.code.unwrap_or_else(|| kind_name(error.kind)),
            message: error
                .message
                .unwrap_or_else(|| format!("{} failed", raw.call)),
            hint: error.hint,
            retryable: error.retryable,
        })
    } else if raw.dies {
        Answer::Lost
    } else if raw.hangs {
        Answer::Hang
    } else {
        Answer::Usual
    };
    if let Answer::Reply(Reply::Exit(exit)) = &mut answer
        && exit.tail.is_empty()
    {
        exit.tail = tail();
    }
    let (at_least, at_most) = times(raw.times)?;
    Ok(Expectation {
        step: raw.step,
        log,
        takes: raw
            .takes
            .as_deref()
            .map(duration)
            .transpose()?
            .unwrap_or_default(),
        at_least,
        at_most,
        place: format!("line {line}"),
        ..Expectation::new(&raw.call, with, answer)
    })
}

fn kind_name(kind: ErrorKind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|kind| kind.as_str().map(|kind| format!("test.{kind}")))
        .unwrap_or_default()
}

/// Calls have names of their own; a slip in one would never match.
fn check_name(name: &str) -> Result<(), String> {
    const NAMES: &[&str] = &[
        "docker.info",
        "docker.build",
        "docker.tag",
        "docker.push",
        "docker.pull",
        "docker.inspect-image",
        "docker.remove-image",
        "docker.run",
        "docker.inspect-container",
        "docker.container-logs",
        "docker.wait-container",
        "docker.remove-container",
        "registry.manifest",
        "registry.may-push",
        "registry.tags",
        "target.inspect",
        "target.apply",
        "ssh.exec",
        "ssh.upload",
        "ssh.download",
        "releases.stage",
        "releases.activate",
        "releases.list",
        "releases.restore",
        "releases.mark-good",
        "releases.prune",
        "lease.acquire",
        "lease.renew",
        "lease.release",
        "lease.break",
        "lease.status",
        "git.inspect",
        "git.tag-state",
        "git.create-tag",
        "git.push-tag",
        "file.open",
        "file.archive",
        "secret.reveal",
    ];
    if NAMES.contains(&name) || (name.starts_with("http.") && is_verb(name)) {
        return Ok(());
    }
    let hint = if name == "clock.sleep" {
        "; sleeping needs no expectation, and `slept` asserts it".to_owned()
    } else {
        let capability = name.split('.').next().unwrap_or_default();
        let like: Vec<&str> = NAMES
            .iter()
            .copied()
            .filter(|known| known.split('.').next() == Some(capability))
            .collect();
        if like.is_empty() {
            String::new()
        } else {
            format!("; there are {}", like.join(", "))
        }
    };
    Err(format!("there is no call {name:?}{hint}"))
}

fn log_line(raw: RawLine) -> Result<LogLine, String> {
    Ok(match raw {
        RawLine::Text(text) => LogLine {
            after: Duration::ZERO,
            stream: LogStream::Stdout,
            text,
        },
        RawLine::Line(line) => LogLine {
            after: line
                .after
                .as_deref()
                .map(duration)
                .transpose()?
                .unwrap_or_default(),
            stream: if line.stderr {
                LogStream::Stderr
            } else {
                LogStream::Stdout
            },
            text: line.text,
        },
    })
}

fn times(raw: Option<RawTimes>) -> Result<(u32, u32), String> {
    let text = match raw {
        None => return Ok((1, 1)),
        Some(RawTimes::Exactly(times)) => return Ok((times, times)),
        Some(RawTimes::Range(text)) => text,
    };
    let bad = || format!("`times` is {text:?}; write 3, \"1..\", \"..3\", \"2..3\" or \"any\"");
    if text == "any" {
        return Ok((0, u32::MAX));
    }
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let read = |text: &str, absent: u32| {
        if text.is_empty() {
            Ok(absent)
        } else {
            text.parse().map_err(|_| bad())
        }
    };
    let (from, to) = (read(from, 0)?, read(to, u32::MAX)?);
    if from > to {
        return Err(bad());
    }
    Ok((from, to))
}
