//! A case, read and checked: everything that a run of it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use toml::{Spanned, Table, Value};
use windlass_layers::scripted::{Answer, Expectation, LogLine, Matcher, Order};
use windlass_manifest::parse_duration;
use windlass_model::grant::{Grant, Pattern, is_verb};
use windlass_model::reply::Exit;
use windlass_model::{CallError, ErrorKind, LogStream, Reply};

use crate::answer;
use crate::format::{
    Ending, Phase, RawAssert, RawCase, RawExpect, RawFault, RawFile, RawInputs, RawLine, RawOrder,
    RawTimes, Sent, Unused,
};

/// A case file is written by people; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// A file that a case gives to a step.
const MAX_GIVEN_BYTES: u64 = 64 * 1024 * 1024;
/// The deadline of a step that has none written, as in a manifest.
const TIMEOUT: Duration = windlass_manifest::graph::DEFAULT_TIMEOUT;
const NOW: &str = "2026-01-24T01:46:58Z";
const TAG: &str = "20260124-014658";
const COMMIT: &str = "9f1c2ab04d5e6f708192a3b4c5d6e7f801234567";

/// Why a file is no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}: {message}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct CaseError {
    pub path: String,
    /// Counted from 1.
    pub line: Option<usize>,
    pub message: String,
}

/// What is tested.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// As `uses` has it, and the directory where its path begins.
    Plugin(String, PathBuf),
    /// A manifest.
    Pipeline(PathBuf),
}

/// What the run knows.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub vars: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub environment: Option<String>,
    pub pipeline: String,
    pub step: String,
    pub tag: String,
    pub commit: String,
    pub branch: String,
    pub dirty: bool,
    pub link: Option<String>,
    pub now: Timestamp,
    pub target: Option<String>,
    pub targets: Vec<String>,
    pub attempt: u32,
    pub only: Vec<String>,
    pub from: Option<String>,
}

/// What must be true afterwards.
#[derive(Clone, Debug, Default)]
pub struct Assert {
    pub outcome: Ending,
    pub error: Option<Matcher>,
    pub outputs: Option<Matcher>,
    pub logs: Vec<Matcher>,
    pub no_logs: Vec<Matcher>,
    /// Names, with patterns as in grants.
    pub transcript: Option<Vec<String>>,
    pub denied: Vec<Pattern>,
    pub reveals: BTreeSet<String>,
    pub findings: Option<Vec<Matcher>>,
    pub slept: Option<Duration>,
    pub steps: Option<BTreeMap<String, Matcher>>,
    pub notifications: Option<BTreeMap<String, Sent>>,
    pub restored: Option<BTreeMap<String, String>>,
    pub unused: Unused,
}

#[derive(Clone, Debug)]
pub struct Case {
    /// `http-probe::waits`: the file's directory and stem make it unique.
    pub name: String,
    pub path: String,
    /// Where it begins in the file, counted from 1.
    pub line: usize,
    pub subject: Subject,
    pub phase: Phase,
    pub order: Order,
    pub timeout: Duration,
    pub seed: Option<u64>,
    pub grants: Option<Vec<Grant>>,
    /// With `{"$secret": NAME}` for secrets.
    pub config: Json,
    pub inputs: Inputs,
    /// For notifications: the report of a run.
    pub report: Option<Json>,
    pub secrets: BTreeMap<String, String>,
    /// By path in the project.
    pub files: BTreeMap<String, Vec<u8>>,
    pub expect: Vec<Expectation>,
    pub faults: Vec<RawFault>,
    pub assert: Assert,
}

/// Whether a TOML file is meant to be a case: it names what it tests.
pub fn is_case(text: &str) -> bool {
    text.parse::<Table>().map_or_else(
        |_| {
            // One with a slip in it is to be told of, not passed by.
            text.lines()
                .any(|line| line.starts_with("plugin =") || line.starts_with("pipeline ="))
        },
        |table| {
            let names = |table: &Table| {
                table.get("plugin").is_some_and(Value::is_str)
                    || table.get("pipeline").is_some_and(Value::is_str)
            };
            let inner = table.get("case").and_then(Value::as_array);
            names(&table)
                || inner.is_some_and(|list| list.iter().filter_map(Value::as_table).any(names))
        },
    )
}

/// Reads a file's cases.
pub fn read(path: &Path) -> Result<Vec<Case>, CaseError> {
    let shown = path.display().to_string();
    let fail = |message: String| CaseError {
        path: shown.clone(),
        line: None,
        message,
    };
    let meta = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if meta.len() > MAX_FILE_BYTES {
        return Err(fail("it is larger than 4 MiB".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    parse(path, &text)
}

/// As [`read`], for text that is at hand; paths in it begin at its directory.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Case>, CaseError> {
    let reader = Reader {
        path,
        shown: path.display().to_string(),
        breaks: text.match_indices('\n').map(|(at, _)| at).collect(),
    };
    let mut file: RawCase = toml::from_str(text).map_err(|error| CaseError {
        path: reader.shown.clone(),
        line: error.span().map(|span| reader.line(span.start)),
        message: error.message().to_owned(),
    })?;
    let base = base_name(path);
    let Some(cases) = file.case.take() else {
        let name = match &file.name {
            Some(name) => format!("{base}::{name}"),
            None => base,
        };
        return Ok(vec![reader.case(file, name, 1)?]);
    };
    let mut names = BTreeSet::new();
    cases
        .into_iter()
        .map(|case| {
            let line = reader.line(case.span().start);
            let case = case.into_inner();
            let fail = |message: &str| reader.fail(line, message);
            if case.case.is_some() {
                return Err(fail("a case has no cases of its own"));
            }
            let Some(name) = case.name.clone() else {
                return Err(fail("the case has no `name`"));
            };
            if !names.insert(name.clone()) {
                return Err(fail(&format!("there are two cases {name:?}")));
            }
            reader.case(case.over(&file), format!("{base}::{name}"), line)
        })
        .collect()
}

/// `http-probe/status` for `…/http-probe/tests/status.toml`.
fn base_name(path: &Path) -> String {
    let stem = |path: &Path| {
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let above = path
        .parent()
        .into_iter()
        .flat_map(Path::ancestors)
        .find(|dir| dir.file_name().is_some_and(|name| name != "tests"))
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    match above {
        Some(above) => format!("{above}/{}", stem(path)),
        None => stem(path),
    }
}

struct Reader<'a> {
    path: &'a Path,
    shown: String,
    /// Where lines end, in bytes.
    breaks: Vec<usize>,
}

impl Reader<'_> {
    /// The line of a byte, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.breaks.partition_point(|end| *end < at) + 1
    }

    fn fail(&self, line: usize, message: &str) -> CaseError {
        CaseError {
            path: self.shown.clone(),
            line: Some(line),
            message: message.to_owned(),
        }
    }

    fn case(&self, raw: RawCase, name: String, line: usize) -> Result<Case, CaseError> {
        let fail = |message: String| self.fail(line, &message);
        let base = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let subject = match (raw.plugin, raw.pipeline) {
            (Some(plugin), None) => Subject::Plugin(plugin, base.clone()),
            (None, Some(pipeline)) => Subject::Pipeline(base.join(pipeline)),
            (None, None) => return Err(fail("it names no `plugin` and no `pipeline`".to_owned())),
            (Some(_), Some(_)) => {
                return Err(fail("it names a `plugin` and a `pipeline`".to_owned()));
            }
        };
        let pipeline = matches!(subject, Subject::Pipeline(_));
        for (given, key) in [
            (raw.config.is_some(), "config"),
            (raw.grants.is_some(), "grants"),
            (raw.report.is_some(), "report"),
            (raw.phase.is_some(), "phase"),
            (raw.timeout.is_some(), "timeout"),
        ] {
            if pipeline && given {
                return Err(fail(format!("`{key}` is the manifest's to say")));
            }
        }
        let order = match raw.order {
            Some(RawOrder::Strict) => Order::Strict,
            Some(RawOrder::Steps) => Order::Steps,
            Some(RawOrder::Any) => Order::Any,
            None if pipeline => Order::Steps,
            None => Order::Strict,
        };
        let inputs = match raw.inputs {
            Some(inputs) => {
                let line = self.line(inputs.span().start);
                self.inputs(inputs.into_inner(), pipeline)
                    .map_err(|message| self.fail(line, &message))?
            }
            None => self.inputs(RawInputs::default(), pipeline).map_err(fail)?,
        };
        let secrets = raw.secrets.unwrap_or_default();
        let timeout = match &raw.timeout {
            Some(text) => self.duration_at(text)?,
            None => TIMEOUT,
        };
        let grants = match &raw.grants {
            Some(grants) => Some(self.grants(grants)?),
            None => None,
        };
        let config = config(raw.config.unwrap_or_default(), &secrets).map_err(fail)?;
        let mut expect = Vec::new();
        for raw in raw.expect.unwrap_or_default() {
            let line = self.line(raw.span().start);
            let one = self
                .expectation(raw.into_inner(), line)
                .map_err(|message| self.fail(line, &message))?;
            expect.push(one);
        }
        let assert = match raw.assert {
            Some(assert) => {
                let line = self.line(assert.span().start);
                asserts(assert.into_inner()).map_err(|message| self.fail(line, &message))?
            }
            None => Assert::default(),
        };
        let mut files = BTreeMap::new();
        for (name, file) in raw.files.unwrap_or_default() {
            files.insert(name, given(&base, file).map_err(fail)?);
        }
        Ok(Case {
            name,
            path: self.shown.clone(),
            line,
            subject,
            phase: raw.phase.unwrap_or_default(),
            order,
            timeout,
            seed: raw.seed,
            grants,
            config,
            inputs,
            report: raw.report.map(|report| to_json(Value::Table(report))),
            secrets,
            files,
            expect,
            faults: raw.fault.unwrap_or_default(),
            assert,
        })
    }

    fn duration_at(&self, text: &Spanned<String>) -> Result<Duration, CaseError> {
        duration(text.get_ref())
            .map_err(|message| self.fail(self.line(text.span().start), &message))
    }

    fn grants(&self, grants: &Spanned<Vec<String>>) -> Result<Vec<Grant>, CaseError> {
        grants
            .get_ref()
            .iter()
            .map(|text| {
                Grant::parse(text)
                    .map_err(|error| self.fail(self.line(grants.span().start), &error.message))
            })
            .collect()
    }

    fn inputs(&self, raw: RawInputs, pipeline: bool) -> Result<Inputs, String> {
        let wrong = if pipeline {
            [
                (raw.target.is_some(), "target"),
                (raw.targets.is_some(), "targets"),
                (raw.attempt.is_some(), "attempt"),
                (raw.pipeline.is_some(), "pipeline"),
                (raw.step.is_some(), "step"),
            ]
        } else {
            [
                (!raw.vars.is_empty(), "vars"),
                (!raw.env.is_empty(), "env"),
                (!raw.only.is_empty(), "only"),
                (raw.from.is_some(), "from"),
                (raw.dirty, "dirty"),
            ]
        };
        if let Some((_, key)) = wrong.into_iter().find(|(given, _)| *given) {
            let of = if pipeline { "plugin" } else { "pipeline" };
            return Err(format!("the input `{key}` is for a case of a {of}"));
        }
        let now = raw.now.as_deref().unwrap_or(NOW);
        Ok(Inputs {
            vars: raw.vars,
            env: raw.env,
            environment: raw.environment,
            pipeline: raw.pipeline.unwrap_or_else(|| "test".to_owned()),
            step: raw.step.unwrap_or_else(|| "step".to_owned()),
            tag: raw.tag.unwrap_or_else(|| TAG.to_owned()),
            commit: raw.commit.unwrap_or_else(|| COMMIT.to_owned()),
            branch: raw.branch.unwrap_or_else(|| "main".to_owned()),
            dirty: raw.dirty,
            link: raw.link,
            now: now
                .parse()
                .map_err(|_| format!("`now` is {now:?}, which is no RFC 3339 time"))?,
            target: raw.target,
            targets: raw.targets.unwrap_or_default(),
            attempt: raw.attempt.unwrap_or(1),
            only: raw.only,
            from: raw.from,
        })
    }

    fn expectation(&self, raw: RawExpect, line: usize) -> Result<Expectation, String> {
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
            Some(with) => {
                Matcher::parse(&to_json(with)).map_err(|error| format!("`with`: {error}"))?
            }
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
            answer::reply(&raw.call, &to_json(given))
                .map_err(|error| format!("`reply`: {error}"))?
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

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("{text:?} is no duration; write it as \"5s\" or \"1m30s\""))
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

fn given(base: &Path, file: RawFile) -> Result<Vec<u8>, String> {
    match file {
        RawFile::Text(text) => Ok(text.into_bytes()),
        RawFile::Repeated { text, times } => {
            let bytes = u64::try_from(text.len().saturating_mul(times)).unwrap_or(u64::MAX);
            if bytes > MAX_GIVEN_BYTES {
                return Err("a file of more than 64 MiB".to_owned());
            }
            Ok(text.repeat(times).into_bytes())
        }
        RawFile::Path { path } => {
            let path = base.join(path);
            let read = || {
                if std::fs::metadata(&path)?.len() > MAX_GIVEN_BYTES {
                    return Err(std::io::Error::other("it is larger than 64 MiB"));
                }
                std::fs::read(&path)
            };
            read().map_err(|error| format!("the file {}: {error}", path.display()))
        }
    }
}

/// TOML as JSON; dates as text.
pub(crate) fn to_json(value: Value) -> Json {
    match value {
        Value::String(text) => text.into(),
        Value::Integer(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Boolean(yes) => yes.into(),
        Value::Datetime(when) => when.to_string().into(),
        Value::Array(list) => list.into_iter().map(to_json).collect(),
        Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| (key, to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// `{ secret = "NAME" }` becomes a handle; `{ unknown = "WHAT" }` is what a
/// preview or a preflight does not know yet.
fn config(table: Table, secrets: &BTreeMap<String, String>) -> Result<Json, String> {
    fn handles(value: Json, secrets: &BTreeMap<String, String>) -> Result<Json, String> {
        Ok(match value {
            Json::Object(table) => {
                if let (1, Some(name)) = (table.len(), table.get("secret").and_then(Json::as_str)) {
                    if !secrets.contains_key(name) {
                        return Err(format!("there is no {name} under [secrets]"));
                    }
                    return Ok(json!({ "$secret": name }));
                }
                if let (1, Some(what)) = (table.len(), table.get("unknown").and_then(Json::as_str))
                {
                    return Ok(json!({ "$unknown": what }));
                }
                table
                    .into_iter()
                    .map(|(key, value)| Ok((key, handles(value, secrets)?)))
                    .collect::<Result<Map<_, _>, String>>()?
                    .into()
            }
            Json::Array(list) => list
                .into_iter()
                .map(|item| handles(item, secrets))
                .collect::<Result<Vec<_>, String>>()?
                .into(),
            plain => plain,
        })
    }
    handles(to_json(Value::Table(table)), secrets)
}

/// A text must be in the line; anything else is a matcher.
fn line_matcher(value: Value) -> Result<Matcher, String> {
    match value {
        Value::String(text) => Ok(Matcher::Contains(text)),
        other => Matcher::parse(&to_json(other)),
    }
}

/// As matchers, but a plain text need only be contained.
fn error_matcher(table: Table) -> Result<Matcher, String> {
    let mut matchers = BTreeMap::new();
    for (key, value) in table {
        let matcher = match key.as_str() {
            "message" | "hint" => line_matcher(value),
            "code" | "kind" | "step" => Matcher::parse(&to_json(value)),
            "retryable" => Matcher::parse(&to_json(value)),
            other => Err(format!(
                "an error has no {other:?}; it has kind, code, message, hint, retryable, step"
            )),
        };
        matchers.insert(key, matcher?);
    }
    Ok(Matcher::Table(matchers))
}

fn asserts(raw: RawAssert) -> Result<Assert, String> {
    let parse = |value: Value| Matcher::parse(&to_json(value));
    Ok(Assert {
        outcome: raw.outcome.unwrap_or(if raw.error.is_some() {
            Ending::Failed
        } else {
            Ending::Succeeded
        }),
        error: raw.error.map(error_matcher).transpose()?,
        outputs: raw
            .outputs
            .map(|table| parse(Value::Table(table)))
            .transpose()?,
        logs: raw
            .logs
            .into_iter()
            .map(line_matcher)
            .collect::<Result<_, _>>()?,
        no_logs: raw
            .no_logs
            .into_iter()
            .map(line_matcher)
            .collect::<Result<_, _>>()?,
        transcript: raw.transcript,
        denied: raw.denied.iter().map(|text| Pattern::parse(text)).collect(),
        reveals: raw.reveals.into_iter().collect(),
        findings: raw
            .findings
            .map(|list| {
                list.into_iter()
                    .map(|value| match value {
                        Value::Table(table) => finding_matcher(table),
                        other => Err(format!("a finding is a table, not {other}")),
                    })
                    .collect()
            })
            .transpose()?,
        slept: raw.slept.as_deref().map(duration).transpose()?,
        steps: raw
            .steps
            .map(|steps| {
                steps
                    .into_iter()
                    .map(|(name, value)| Ok((name, parse(value)?)))
                    .collect::<Result<_, String>>()
            })
            .transpose()?,
        notifications: raw.notifications,
        restored: raw.restored,
        unused: raw.unused.unwrap_or_default(),
    })
}

fn finding_matcher(table: Table) -> Result<Matcher, String> {
    let mut matchers = BTreeMap::new();
    for (key, value) in table {
        let matcher = match key.as_str() {
            "message" | "hint" => line_matcher(value),
            "severity" => Matcher::parse(&to_json(value)),
            other => Err(format!(
                "a finding has no {other:?}; it has severity, message, hint"
            )),
        };
        matchers.insert(key, matcher?);
    }
    Ok(Matcher::Table(matchers))
}
