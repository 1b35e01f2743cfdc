//! Compares what happened with what a case asserts.

use serde_json::{Value as Json, json};
use windlass_layers::Redactor;
use windlass_layers::scripted::{Asked, Expectation, Matcher, Mismatch};
use windlass_model::grant::Pattern;
use windlass_model::{CallError, Secrets};
use windlass_runtime::Finding;

use crate::bench::{Actual, Line};
use crate::case::{Case, Subject};
use crate::format::{Ending, Sent, Unused};
use crate::mess;

/// Something that is not as asserted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// A fragment: `the outcome is another`.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
}

impl Problem {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            expected: None,
            got: None,
        }
    }

    fn pair(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            expected: Some(expected.into()),
            got: Some(got.into()),
        }
    }

    fn of(what: &str, mismatch: Mismatch) -> Self {
        let what = if mismatch.path.is_empty() {
            what.to_owned()
        } else {
            format!("{what}: {}", mismatch.path)
        };
        Self::pair(what, mismatch.expected, mismatch.got)
    }
}

/// Everything that is not as it should be, the likeliest cause first.
pub fn judge(case: &Case, actual: &Actual) -> Vec<Problem> {
    if let Some(reason) = &actual.refused {
        return vec![Problem::pair("it could not start", "a run", reason)];
    }
    let mut problems = Vec::new();
    unexpected(case, actual, &mut problems);
    outcome(case, actual, &mut problems);
    if case.assert.unused == Unused::Fail {
        for unused in &actual.unused {
            let expectation = &unused.expectation;
            let wanted = match expectation.at_least {
                1 => wanted(expectation),
                more => format!("{}, {more} times", wanted(expectation)),
            };
            let got = match unused.used {
                0 => "it was never called".to_owned(),
                used => format!("it was called {used} times"),
            };
            problems.push(Problem::pair(
                format!("an expected call is missing ({})", expectation.place),
                wanted,
                got,
            ));
        }
    }
    outputs(case, actual, &mut problems);
    logs(case, actual, &mut problems);
    transcript(case, actual, &mut problems);
    denied(case, actual, &mut problems);
    findings(case, actual, &mut problems);
    run(case, actual, &mut problems);
    secrets(case, actual, &mut problems);
    for mess in mess::left(&actual.transcript, false) {
        problems.push(Problem::new(mess.to_string()));
    }
    problems
}

/// What is wrong after a fault, whatever the case asserts.
pub fn judge_fault(case: &Case, actual: &Actual) -> Vec<Problem> {
    if let Some(reason) = &actual.refused {
        return vec![Problem::pair("it could not start", "a run", reason)];
    }
    let mut problems: Vec<Problem> = mess::left(&actual.transcript, true)
        .into_iter()
        .map(|mess| Problem::new(mess.to_string()))
        .collect();
    if let Some(error) = &actual.error
        && matches!(
            error.code.as_str(),
            "plugin.trapped" | "plugin.limit" | "engine.panicked" | "engine.job-panicked"
        )
    {
        problems.push(Problem::pair(
            "it did not take the fault",
            "an error",
            &error.message,
        ));
    }
    secrets(case, actual, &mut problems);
    problems
}

fn unexpected(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    for unexpected in &actual.unexpected {
        let Some(asked) = actual.transcript.get(unexpected.call) else {
            continue;
        };
        let number = unexpected.call + 1;
        let what = format!(
            "call {number}, {}, was not expected{}",
            asked.name,
            by(case, asked)
        );
        match &unexpected.nearest {
            Some((nearest, mismatches)) if nearest.call == asked.name => {
                problems.push(Problem::new(format!(
                    "{what}; nearest is {}",
                    nearest.place
                )));
                for mismatch in mismatches {
                    let what = format!("call {number}, {}", asked.name);
                    problems.push(Problem::of(&what, mismatch.clone()));
                }
                if mismatches.is_empty() {
                    problems.push(Problem::pair(
                        format!("call {number}, {}", asked.name),
                        format!("at most {} such calls", nearest.at_most),
                        "one more",
                    ));
                }
            }
            Some((nearest, _)) => problems.push(Problem::pair(
                what,
                format!("{} ({})", wanted(nearest), nearest.place),
                format!("{} {}", asked.name, pretty(&asked.with)),
            )),
            None => problems.push(Problem::pair(
                what,
                "no more calls",
                format!("{} {}", asked.name, pretty(&asked.with)),
            )),
        }
    }
}

/// Which step of a pipeline made the call.
fn by(case: &Case, asked: &Asked) -> String {
    match case.subject {
        Subject::Pipeline(_) => format!(" of step {}", asked.id.step),
        Subject::Plugin(..) => String::new(),
    }
}

/// A call and what it must look like.
fn wanted(expectation: &Expectation) -> String {
    match expectation.with {
        Matcher::Any => expectation.call.clone(),
        ref with => format!("{} {with}", expectation.call),
    }
}

fn pretty(value: &Json) -> String {
    format!("{value:#}")
}

/// An error as JSON, with the step that it came from.
pub(crate) fn error_json(error: &CallError, step: Option<&String>) -> Json {
    let mut json = serde_json::to_value(error).unwrap_or_default();
    if let (Some(step), Some(table)) = (step, json.as_object_mut()) {
        table.insert("step".to_owned(), step.as_str().into());
    }
    json
}

fn shown(error: &CallError) -> String {
    let hint = error
        .hint
        .as_ref()
        .map(|hint| format!("\nhint: {hint}"))
        .unwrap_or_default();
    format!("{}: {}{hint}", error.code, error.message)
}

fn outcome(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    let expected = case.assert.outcome;
    // What follows from a call that the script does not have says no more.
    if let Some(error) = &actual.error
        && error.code == "script.unexpected"
    {
        return;
    }
    if expected != actual.outcome {
        let got = match &actual.error {
            Some(error) => format!("{}\n{}", actual.outcome.name(), shown(error)),
            None => actual.outcome.name().to_owned(),
        };
        problems.push(Problem::pair(
            "the outcome is another",
            expected.name(),
            got,
        ));
    }
    let Some(matcher) = &case.assert.error else {
        return;
    };
    match &actual.error {
        Some(error) => {
            let got = error_json(error, actual.failed_step.as_ref());
            for mismatch in matcher.mismatches(Some(&got)) {
                problems.push(text_problem("the error is another", mismatch, error));
            }
        }
        None if actual.outcome == expected => {
            problems.push(Problem::pair(
                "the error is another",
                matcher.to_string(),
                "none",
            ));
        }
        None => {}
    }
}

/// Messages of several lines are shown as they are, not as JSON.
fn text_problem(what: &str, mismatch: Mismatch, error: &CallError) -> Problem {
    let got = match mismatch.path.as_str() {
        "message" => Some(error.message.clone()),
        "hint" => error.hint.clone(),
        _ => None,
    };
    let mut problem = Problem::of(what, mismatch);
    if got.is_some() {
        problem.got = got;
    }
    problem
}

fn outputs(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    if let Some(matcher) = &case.assert.outputs {
        for mismatch in matcher.mismatches(Some(&actual.outputs)) {
            problems.push(Problem::of("an output is another", mismatch));
        }
    }
}

fn logs(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    let has = |matcher: &Matcher| {
        actual
            .logs
            .iter()
            .find(|line| matcher.matches(&Json::String(line.text.clone())))
    };
    let all = |lines: &[Line]| {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| {
                if line.step.is_empty() {
                    line.text.clone()
                } else {
                    format!("{}: {}", line.step, line.text)
                }
            })
            .collect();
        if lines.is_empty() {
            "an empty log".to_owned()
        } else {
            lines.join("\n")
        }
    };
    for matcher in &case.assert.logs {
        if has(matcher).is_none() {
            problems.push(Problem::pair(
                "the log lacks a line",
                matcher.to_string(),
                all(&actual.logs),
            ));
        }
    }
    for matcher in &case.assert.no_logs {
        if let Some(line) = has(matcher) {
            problems.push(Problem::pair(
                "the log has a line that it must not have",
                format!("no {matcher}"),
                &line.text,
            ));
        }
    }
}

/// Names of the calls that were made; in a pipeline with their steps.
pub(crate) fn transcript_names(case: &Case, actual: &Actual) -> Vec<String> {
    let pipeline = matches!(case.subject, Subject::Pipeline(_));
    actual
        .transcript
        .iter()
        .map(|asked| {
            if pipeline {
                format!("{} {}", asked.id.step, asked.name)
            } else {
                asked.name.clone()
            }
        })
        .collect()
}

fn transcript(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    let Some(expected) = &case.assert.transcript else {
        return;
    };
    let got = transcript_names(case, actual);
    let same = expected.len() == got.len()
        && expected
            .iter()
            .zip(&got)
            .all(|(expected, got)| Pattern::parse(expected).matches(got));
    if !same {
        problems.push(Problem::pair(
            "the transcript is another",
            expected.join("\n"),
            got.join("\n"),
        ));
    }
}

fn denied(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    for refused in &actual.denied {
        if !case
            .assert
            .denied
            .iter()
            .any(|pattern| pattern.matches(refused))
        {
            problems.push(Problem::pair(
                "a call was denied",
                "only granted calls",
                refused,
            ));
        }
    }
    for pattern in &case.assert.denied {
        if !actual.denied.iter().any(|refused| pattern.matches(refused)) {
            problems.push(Problem::pair(
                "a call was not denied",
                format!("{pattern} is denied"),
                match actual.denied.as_slice() {
                    [] => "nothing was denied".to_owned(),
                    denied => denied.join("\n"),
                },
            ));
        }
    }
}

/// What preflight said, as cases assert it.
pub(crate) fn findings_json(findings: &[Finding]) -> Json {
    findings
        .iter()
        .map(|finding| {
            let mut table = json!({
                "severity": finding.severity,
                "message": finding.message,
            });
            if let Some(hint) = &finding.hint {
                table["hint"] = hint.as_str().into();
            }
            table
        })
        .collect()
}

fn findings(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    let Some(expected) = &case.assert.findings else {
        return;
    };
    let got = findings_json(&actual.findings);
    for mismatch in Matcher::List(expected.clone()).mismatches(Some(&got)) {
        problems.push(Problem::of("preflight found something else", mismatch));
    }
}

/// What only pipelines, or only the clock, have.
fn run(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    let assert = &case.assert;
    if let Some(slept) = assert.slept
        && slept != actual.slept
    {
        problems.push(Problem::pair(
            "it slept for another time",
            format!("{slept:?}"),
            format!("{:?}", actual.slept),
        ));
    }
    if let Some(steps) = &assert.steps {
        let got = Json::Object(actual.steps.clone());
        for mismatch in Matcher::Table(steps.clone()).mismatches(Some(&got)) {
            problems.push(Problem::of("a step ended otherwise", mismatch));
        }
    }
    if let Some(notifications) = &assert.notifications {
        let expected: Vec<String> = notifications
            .iter()
            .map(|(name, sent)| format!("{name}: {}", sent.name()))
            .collect();
        let got: Vec<String> = actual
            .notifications
            .iter()
            .map(|(name, sent)| {
                let sent = if *sent { Sent::Sent } else { Sent::Failed };
                format!("{name}: {}", sent.name())
            })
            .collect();
        if expected != got {
            problems.push(Problem::pair(
                "the notifications are others",
                or_none(&expected),
                or_none(&got),
            ));
        }
    }
    if let Some(restored) = &assert.restored
        && *restored != actual.restored
    {
        let list = |map: &std::collections::BTreeMap<String, String>| {
            let lines: Vec<String> = map
                .iter()
                .map(|(target, release)| format!("{target}: {release}"))
                .collect();
            or_none(&lines)
        };
        problems.push(Problem::pair(
            "other releases were put back",
            list(restored),
            list(&actual.restored),
        ));
    }
}

fn or_none(lines: &[String]) -> String {
    if lines.is_empty() {
        "none".to_owned()
    } else {
        lines.join("\n")
    }
}

/// Always checked: no plaintext of a secret reaches the guest, unless the case
/// says so, nor what the guest says.
fn secrets(case: &Case, actual: &Actual, problems: &mut Vec<Problem>) {
    if case.secrets.is_empty() {
        return;
    }
    let mut secrets = Secrets::default();
    for (name, value) in &case.secrets {
        secrets.insert(name.clone(), value.clone().into());
    }
    let redactor = Redactor::new(&secrets);
    let mut check = |place: String, text: &str| {
        let clean = redactor.clean(text);
        if clean != text {
            problems.push(Problem::pair(
                format!("{place} has a secret in plain text"),
                "no secret",
                clean.into_owned(),
            ));
        }
    };
    for line in &actual.logs {
        check("the log".to_owned(), &line.text);
    }
    check("an output".to_owned(), &actual.outputs.to_string());
    if let Some(error) = &actual.error {
        check("the error".to_owned(), &shown(error));
    }
    for (index, asked) in actual.transcript.iter().enumerate() {
        check(
            format!("call {}, {},", index + 1, asked.name),
            &asked.with.to_string(),
        );
    }
    for name in actual.revealed() {
        if !case.assert.reveals.contains(name) {
            problems.push(Problem::pair(
                "a secret reached the guest",
                format!("`reveals` has {name}, or it stays a handle"),
                format!("secret.reveal {name}"),
            ));
        }
    }
    for name in &case.assert.reveals {
        let revealed = actual
            .transcript
            .iter()
            .any(|asked| asked.name == "secret.reveal" && asked.with["name"] == name.as_str());
        if !revealed && actual.outcome == Ending::Succeeded {
            problems.push(Problem::pair(
                "a secret did not reach the guest",
                format!("secret.reveal {name}"),
                "it was never revealed",
            ));
        }
    }
}
