//! What must be true afterwards, as a case file writes it.

use std::collections::BTreeMap;

use toml::{Table, Value};
use windlass_layers::scripted::Matcher;
use windlass_model::grant::Pattern;

use crate::case::Assert;
use crate::format::{Ending, RawAssert};
use crate::reader::{duration, to_json};

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

pub(crate) fn read(raw: RawAssert) -> Result<Assert, String> {
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
