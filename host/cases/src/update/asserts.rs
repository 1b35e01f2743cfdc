//! Makes assertions say how the case ended.

use serde_json::{Map, Value as Json, json};
use similar::TextDiff;
use toml_edit::{Item, TableLike, Value};
use windlass_layers::scripted::{Matcher, Mismatch};
use windlass_model::grant::Pattern;

use super::edit::{Edit, put, set, set_item, value};
use crate::bench::Actual;
use crate::case::Case;
use crate::format::Ending;
use crate::record::stable::Stable;
use crate::verdict::{error_json, findings_json, transcript_names};

/// A line of the log that is less like the one that was asserted is another one.
const ALIKE: f32 = 0.5;

pub(super) fn mend(edit: &mut Edit, case: &Case, actual: &Actual) {
    let Some(asserts) = edit.asserts() else {
        return;
    };
    let assert = &case.assert;
    outcome(asserts, case, actual);
    let whole = |matcher: Option<&Matcher>, got: &Json| {
        matcher.map_or_else(Vec::new, |matcher| matcher.mismatches(Some(got)))
    };
    let outputs = stable_json(actual, actual.outputs.clone());
    let mismatches = whole(assert.outputs.as_ref(), &actual.outputs);
    each(asserts, "outputs", &mismatches, &actual.outputs, &outputs);

    let steps = Json::Object(actual.steps.clone());
    let matcher = assert.steps.clone().map(Matcher::Table);
    each(
        asserts,
        "steps",
        &whole(matcher.as_ref(), &steps),
        &steps,
        &steps,
    );

    if let Some(expected) = &assert.findings {
        let got = findings_json(&actual.findings);
        let mismatches = Matcher::List(expected.clone()).mismatches(Some(&got));
        list(asserts, "findings", &mismatches, &got);
    }
    if let Some(expected) = &assert.notifications {
        let got: Map<String, Json> = actual
            .notifications
            .iter()
            .map(|(name, sent)| (name.clone(), if *sent { "sent" } else { "failed" }.into()))
            .collect();
        let expected = expected
            .iter()
            .map(|(name, sent)| (name.clone(), Json::from(sent.name())));
        table(asserts, "notifications", expected.collect(), got);
    }
    if let Some(expected) = &assert.restored {
        let as_json = |map: &std::collections::BTreeMap<String, String>| {
            let pairs = map.iter();
            pairs
                .map(|(target, release)| (target.clone(), Json::from(release.as_str())))
                .collect::<Map<String, Json>>()
        };
        table(
            asserts,
            "restored",
            as_json(expected),
            as_json(&actual.restored),
        );
    }
    if let Some(slept) = assert.slept
        && slept != actual.slept
    {
        let millis = actual.slept.as_millis();
        let shown = match millis % 1000 {
            0 => format!("{}s", millis / 1000),
            _ => format!("{millis}ms"),
        };
        put(asserts, "slept", &shown.into());
    }
    transcript(asserts, case, actual);
    logs(asserts, case, actual);
}

fn stable_json(actual: &Actual, value: Json) -> Json {
    match actual.transcript.first() {
        Some(asked) => Stable::new(asked.id.run).json(value),
        None => value,
    }
}

fn outcome(asserts: &mut dyn TableLike, case: &Case, actual: &Actual) {
    let got = actual
        .error
        .as_ref()
        .map(|error| error_json(error, actual.failed_step.as_ref()));
    if case.assert.outcome != actual.outcome {
        asserts.remove("outcome");
        asserts.remove("error");
        match (actual.outcome, got) {
            (Ending::Succeeded, _) => {}
            (Ending::Failed, Some(error)) => {
                let mut short = Map::new();
                for key in ["code", "step"] {
                    if let Some(value) = error.get(key) {
                        short.insert(key.to_owned(), value.clone());
                    }
                }
                put(asserts, "error", &Json::Object(short));
            }
            (ending, _) => put(asserts, "outcome", &ending.name().into()),
        }
        return;
    }
    match (&case.assert.error, got) {
        (Some(matcher), Some(got)) => {
            let mismatches = matcher.mismatches(Some(&got));
            each(asserts, "error", &mismatches, &got, &got);
        }
        (Some(_), None) => {
            asserts.remove("error");
            put(asserts, "outcome", &actual.outcome.name().into());
        }
        (None, _) => {}
    }
}

/// A table of matchers: what differs.
fn each(asserts: &mut dyn TableLike, key: &str, mismatches: &[Mismatch], got: &Json, new: &Json) {
    for mismatch in mismatches {
        match asserts.get_mut(key).and_then(Item::as_table_like_mut) {
            Some(table) if !mismatch.path.is_empty() => set(table, &mismatch.path, got, new),
            _ => put(asserts, key, new),
        }
    }
}

fn list(asserts: &mut dyn TableLike, key: &str, mismatches: &[Mismatch], got: &Json) {
    for mismatch in mismatches {
        let done = match asserts.get_mut(key) {
            Some(Item::Value(Value::Array(list))) if !mismatch.path.is_empty() => {
                set_item(list, &mismatch.path, got, got)
            }
            _ => false,
        };
        if !done {
            put(asserts, key, got);
        }
    }
}

/// A table that has to be the same as a whole.
fn table(
    asserts: &mut dyn TableLike,
    key: &str,
    expected: Map<String, Json>,
    got: Map<String, Json>,
) {
    let Some(table) = asserts.get_mut(key).and_then(Item::as_table_like_mut) else {
        return;
    };
    for name in expected.keys().filter(|name| !got.contains_key(*name)) {
        table.remove(name);
    }
    for (name, value) in got {
        if expected.get(&name) != Some(&value) {
            put(table, &name, &value);
        }
    }
}

/// Patterns that match stay; of another number of calls the whole list is new.
fn transcript(asserts: &mut dyn TableLike, case: &Case, actual: &Actual) {
    let Some(expected) = &case.assert.transcript else {
        return;
    };
    let got = transcript_names(case, actual);
    if expected.len() != got.len() {
        put(asserts, "transcript", &json!(got));
        return;
    }
    let Some(Item::Value(Value::Array(list))) = asserts.get_mut("transcript") else {
        return;
    };
    let pairs = expected.iter().zip(&got).enumerate();
    for (index, (expected, got)) in pairs {
        if !Pattern::parse(expected).matches(got) {
            let all = json!({ "transcript": [got] });
            replace(list, index, &all["transcript"][0]);
        }
    }
}

fn replace(list: &mut toml_edit::Array, index: usize, new: &Json) {
    if let Some(old) = list.get_mut(index) {
        let decor = old.decor().clone();
        *old = value(new);
        *old.decor_mut() = decor;
    }
}

/// A line that is not there any more, if one like it is.
fn logs(asserts: &mut dyn TableLike, case: &Case, actual: &Actual) {
    let Some(Item::Value(Value::Array(list))) = asserts.get_mut("logs") else {
        return;
    };
    for (index, matcher) in case.assert.logs.iter().enumerate() {
        let there = actual
            .logs
            .iter()
            .any(|line| matcher.matches(&Json::String(line.text.clone())));
        let Some(asserted) = list.get(index).and_then(Value::as_str).map(str::to_owned) else {
            continue;
        };
        if there {
            continue;
        }
        let alike = actual
            .logs
            .iter()
            .map(|line| (TextDiff::from_chars(&asserted, &line.text).ratio(), line))
            .filter(|(ratio, _)| *ratio >= ALIKE)
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        if let Some((_, line)) = alike {
            replace(list, index, &line.text.as_str().into());
        }
    }
}
