//! The calls of a step as the expectations of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value as Json, json};
use windlass_journal::{RecordedCall, Stored};
use windlass_layers::scripted::{is_empty, view};
use windlass_model::call::{ClockCall, DockerOp, FileCall, LeaseOp, ReleasesOp, SshOp};
use windlass_model::event::{Envelope, Event};
use windlass_model::{Blobs, Call, CallError, ErrorKind, LogStream, Reply, StepKey};

use super::printed::{self, Line};
use super::stable::Stable;
use super::{Wanted, answer};
use crate::write;

/// Lines that a case has of one call: what is near the end matters most.
const MAX_LINES: usize = 200;

/// One step's part of a case.
pub(super) struct Section<'a> {
    pub(super) key: &'a StepKey,
    pub(super) wanted: &'a Wanted,
    pub(super) stable: &'a Stable,
}

/// An expectation as text, without how often.
#[derive(PartialEq, Eq)]
struct Expected {
    comments: Vec<String>,
    text: String,
}

impl Section<'_> {
    pub(super) fn write(
        &self,
        calls: &[&RecordedCall],
        lines: Vec<Line>,
        out: &mut String,
        secrets: &mut BTreeSet<String>,
        notes: &mut Vec<String>,
    ) {
        let held = calls.iter().any(|call| is_held(call));
        let lost = self.lost_blobs(calls);
        let mut logs = printed::assign(calls, lines).into_iter();
        let mut done: Vec<(Expected, usize)> = Vec::new();
        for call in calls {
            let log = logs.next().unwrap_or_default();
            if let Some(asked) = call.call.here() {
                find_secrets(&json!(asked), secrets);
            }
            if self.goes_without_saying(call, held) {
                continue;
            }
            let expected = self.expected(call, &log, &lost);
            match done.last_mut() {
                Some((last, times)) if *last == expected => *times += 1,
                _ => done.push((expected, 1)),
            }
        }
        if done.is_empty() {
            return;
        }
        if matches!(self.wanted, Wanted::Pipeline { .. }) {
            let _ = writeln!(out, "\n# {}", self.key);
        }
        for (expected, times) in done {
            out.push('\n');
            for comment in &expected.comments {
                write::comment(out, comment);
                notes.push(format!("{}: {comment}", self.key));
            }
            out.push_str("[[expect]]\n");
            out.push_str(&expected.text);
            if times > 1 {
                let _ = writeln!(out, "times = {times}");
            }
        }
    }

    /// What needs no expectation, as long as it went as it usually does.
    fn goes_without_saying(&self, recorded: &RecordedCall, held: bool) -> bool {
        let Some(call) = recorded.call.here() else {
            return matches!(recorded.name.as_str(), "clock.sleep" | "secret.reveal");
        };
        let result = recorded
            .answer
            .as_ref()
            .and_then(|answer| answer.result.here());
        match call {
            Call::Clock(_) | Call::Secret(_) => true,
            // What a resume asked.
            Call::Ssh(ssh) => matches!(ssh.op, SshOp::Trace { .. } | SshOp::Rejoin { .. }),
            Call::Lease(_) => !held && matches!(result, Some(Ok(_))),
            Call::Docker(docker) => {
                matches!(docker.op, DockerOp::RemoveContainer { .. }) && is_ok(result)
            }
            Call::Releases(releases) => {
                let own = matches!(
                    releases.op,
                    ReleasesOp::MarkGood { .. } | ReleasesOp::Prune { .. }
                );
                own && is_ok(result)
            }
            Call::File(file) => match (self.wanted, file, result) {
                // The project's own are at hand.
                (Wanted::Pipeline { .. }, ..) => true,
                (_, FileCall::Open { .. }, Some(Err(error))) => error.kind == ErrorKind::NotFound,
                (Wanted::Step { files, .. }, ..) => opened(recorded, files).is_some(),
            },
            _ => false,
        }
    }

    /// Contents that a run of the case cannot have: build contexts, which change with
    /// every file, and what came from elsewhere and is not kept.
    fn lost_blobs(&self, calls: &[&RecordedCall]) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for recorded in calls {
            let result = recorded
                .answer
                .as_ref()
                .and_then(|answer| answer.result.here());
            let (Some(call), Some(Ok(Reply::Blob(blob)))) = (recorded.call.here(), result) else {
                continue;
            };
            let kept = match (call, self.wanted) {
                (Call::File(FileCall::Open { .. }), Wanted::Pipeline { .. }) => true,
                (Call::File(FileCall::Open { .. }), Wanted::Step { files, .. }) => {
                    opened(recorded, files).is_some()
                }
                _ => false,
            };
            if !kept {
                lost.insert(blob.sha256.clone());
            }
        }
        lost
    }

    fn expected(&self, recorded: &RecordedCall, log: &[Line], lost: &BTreeSet<String>) -> Expected {
        let mut text = String::new();
        let mut comments = Vec::new();
        if matches!(self.wanted, Wanted::Pipeline { .. }) {
            let _ = writeln!(text, "step = {}", write::text(&self.key.to_string()));
        }
        let _ = writeln!(text, "call = {}", write::text(&recorded.name));
        match &recorded.call {
            Stored::Here(call) => {
                let with = self.arguments(call, lost);
                write::lines(&mut text, "with", &with);
            }
            Stored::TooLarge { bytes, .. } => comments.push(format!(
                "the journal no longer has this call's {bytes} bytes of arguments: name in `with` \
                 those that matter"
            )),
            Stored::Withheld => {
                comments.push(
                    "the arguments held what a secret says: name in `with` those that \
                               matter"
                        .to_owned(),
                );
            }
        }
        let printed = self.log(recorded, log, &mut text, &mut comments);
        match (
            &recorded.call,
            recorded.answer.as_ref().map(|answer| &answer.result),
        ) {
            (Stored::Here(call), Some(Stored::Here(result))) => {
                let written = answer::written(call, result, &printed, self.stable);
                comments.extend(written.note);
                if let Some((key, value)) = written.answer {
                    write::lines(&mut text, key, &value);
                }
            }
            (_, Some(Stored::Here(Err(error)))) => {
                write::lines(&mut text, "error", &json!({ "kind": error.kind }));
            }
            (_, Some(Stored::TooLarge { bytes, .. })) => comments.push(format!(
                "the journal no longer has this answer's {bytes} bytes: write in `reply` what the \
                 step makes something of"
            )),
            (_, Some(_)) => comments.push(
                "the answer is what a secret says: write in `reply` what the step makes something \
                 of, but no secret"
                    .to_owned(),
            ),
            (_, None) => {
                text.push_str("dies = true\n");
                comments.push("nobody knows what this call answered".to_owned());
            }
        }
        Expected { comments, text }
    }

    /// The arguments that are not empty.
    fn arguments(&self, call: &Call, lost: &BTreeSet<String>) -> Json {
        let mut with = view(call, &Blobs::default());
        let notification = self.key.name.as_str().starts_with("notify.");
        if let Some(with) = with.as_object_mut() {
            with.retain(|_, value| !is_empty(value));
            for value in with.values_mut() {
                let digest = value.get("sha256").and_then(Json::as_str);
                if digest.is_some_and(|digest| lost.contains(digest)) {
                    *value = json!({ "any": true });
                }
            }
        }
        let mut with = match with {
            // Already a matcher, which `pattern` would take for a table.
            Json::Object(table) => table
                .into_iter()
                .map(|(key, value)| {
                    let any = value == json!({ "any": true });
                    let value = if any {
                        value
                    } else {
                        self.stable.pattern(value)
                    };
                    (key, value)
                })
                .collect(),
            other => other,
        };
        // Who runs it is another one in a test; how long a run took, too.
        let loose = match call {
            Call::Releases(call) if matches!(call.op, ReleasesOp::Stage(_)) => Some("who"),
            Call::Lease(call) if matches!(call.op, LeaseOp::Acquire { .. }) => Some("owner"),
            Call::Http(_) if notification => Some("body"),
            _ => None,
        };
        if let Some(key) = loose {
            with[key] = json!({ "any": true });
        }
        with
    }

    /// Writes `log` and `takes`; gives the lines.
    fn log(
        &self,
        recorded: &RecordedCall,
        log: &[Line],
        text: &mut String,
        comments: &mut Vec<String>,
    ) -> Vec<String> {
        let left_out = log.len().saturating_sub(MAX_LINES);
        if left_out > 0 {
            comments.push(format!(
                "{left_out} lines of the log before these are left out"
            ));
        }
        let mut last = recorded.asked;
        let mut printed = Vec::new();
        let mut items = Vec::new();
        for (index, line) in log.iter().enumerate() {
            let after = write::duration(since(last, line.at));
            if after.is_some() {
                last = line.at;
            }
            if index < left_out {
                continue;
            }
            let shown = self.stable.text(&line.text);
            let quoted = write::text(&shown);
            let stderr = line.stream == LogStream::Stderr;
            items.push(match (after, stderr) {
                (None, false) => quoted,
                (Some(after), false) => format!("{{ text = {quoted}, after = \"{after}\" }}"),
                (None, true) => format!("{{ text = {quoted}, stderr = true }}"),
                (Some(after), true) => {
                    format!("{{ text = {quoted}, after = \"{after}\", stderr = true }}")
                }
            });
            printed.push(shown);
        }
        if !items.is_empty() {
            write::list(text, "log", items);
        }
        if let Some(answer) = &recorded.answer
            && let Some(takes) = write::duration(since(last, answer.at))
        {
            let _ = writeln!(text, "takes = \"{takes}\"");
        }
        printed
    }
}

fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

fn is_ok(result: Option<&Result<Reply, CallError>>) -> bool {
    matches!(result, Some(Ok(_)))
}

/// Another run held a lease, or it was lost: then they are part of what is tested.
fn is_held(recorded: &RecordedCall) -> bool {
    let result = recorded
        .answer
        .as_ref()
        .and_then(|answer| answer.result.here());
    recorded.name.starts_with("lease.")
        && match result {
            Some(Ok(Reply::Lease(lease))) => lease.as_ref().is_none_or(|lease| !lease.ours),
            Some(Ok(_)) => false,
            _ => true,
        }
}

/// The file that was opened, if it is there and is what it was.
pub(super) fn opened<'a>(
    recorded: &'a RecordedCall,
    files: &BTreeMap<String, (String, String)>,
) -> Option<&'a str> {
    let Some(Call::File(FileCall::Open { path })) = recorded.call.here() else {
        return None;
    };
    let Some(Ok(Reply::Blob(blob))) = recorded.answer.as_ref()?.result.here() else {
        return None;
    };
    let (digest, _) = files.get(path)?;
    (*digest == blob.sha256).then_some(path)
}

/// How long a step slept at this call.
pub(super) fn slept(recorded: &RecordedCall) -> Option<Duration> {
    match recorded.call.here() {
        Some(Call::Clock(ClockCall::Sleep { ms })) => Some(Duration::from_millis(*ms)),
        _ => None,
    }
}

/// A container's id is a name that only one run has.
pub(super) fn name_container(recorded: &RecordedCall, stable: &mut Stable) {
    let result = recorded
        .answer
        .as_ref()
        .and_then(|answer| answer.result.here());
    if let ("docker.run", Some(Ok(Reply::Id(id)))) = (recorded.name.as_str(), result) {
        stable.container(id);
    }
}

/// What commands printed for a step; of one step's case in its last attempt.
pub(super) fn lines(events: &[Envelope], key: &StepKey, wanted: &Wanted) -> Vec<Line> {
    let mut lines = Vec::new();
    for envelope in events {
        match &envelope.event {
            Event::StepStarted { step, .. } if step == key => {
                if matches!(wanted, Wanted::Step { .. }) {
                    lines.clear();
                }
            }
            Event::StepLog {
                step,
                stream: Some(stream),
                text,
                ..
            } if step == key => lines.push(Line {
                at: envelope.at,
                stream: *stream,
                text: text.clone(),
            }),
            _ => {}
        }
    }
    lines
}

/// Names of secrets that a call has.
fn find_secrets(value: &Json, names: &mut BTreeSet<String>) {
    match value {
        Json::Object(table) => {
            if let (1, Some(name)) = (table.len(), table.get("secret").and_then(Json::as_str)) {
                names.insert(name.to_owned());
            }
            for inner in table.values() {
                find_secrets(inner, names);
            }
        }
        Json::Array(list) => {
            for inner in list {
                find_secrets(inner, names);
            }
        }
        _ => {}
    }
}
