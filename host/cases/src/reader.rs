//! From the text of a case file to its cases, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use toml::{Spanned, Table, Value};
use windlass_layers::scripted::Order;
use windlass_manifest::parse_duration;
use windlass_model::grant::Grant;

use crate::case::{Assert, Case, CaseError, Inputs, Subject};
use crate::format::{RawArguments, RawCase, RawFile, RawInputs, RawOrder};
use crate::{asserts, expectation};

/// A case file is written by people; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// A file that a case gives to a step.
const MAX_GIVEN_BYTES: u64 = 64 * 1024 * 1024;
/// The deadline of a step that has none written, as in a manifest.
const TIMEOUT: Duration = windlass_manifest::graph::DEFAULT_TIMEOUT;
const NOW: &str = "2026-01-24T01:46:58Z";
const TAG: &str = "20260124-014658";
const COMMIT: &str = "9f1c2ab04d5e6f708192a3b4c5d6e7f801234567";

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
        let arguments = raw.arguments.unwrap_or(RawArguments::Named);
        let mut expect = Vec::new();
        for raw in raw.expect.unwrap_or_default() {
            let line = self.line(raw.span().start);
            let mut one = expectation::read(raw.into_inner(), line)
                .map_err(|message| self.fail(line, &message))?;
            if arguments == RawArguments::All {
                one.with = one.with.closed();
            }
            expect.push(one);
        }
        let assert = match raw.assert {
            Some(assert) => {
                let line = self.line(assert.span().start);
                asserts::read(assert.into_inner()).map_err(|message| self.fail(line, &message))?
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
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("{text:?} is no duration; write it as \"5s\" or \"1m30s\""))
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
