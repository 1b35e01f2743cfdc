//! Makes a case out of a run that the journal has: its calls become expectations, their
//! answers the script, its end the assertions. The same run always gives the same text.

mod answer;
mod expected;
mod printed;
mod private;
pub(crate) mod stable;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use windlass_journal::RecordedCall;
use windlass_model::event::{Envelope, Event, Outcome, RunFinished, RunStarted, StepState};
use windlass_model::{CallError, StepKey};

use crate::write;
use stable::Stable;

/// What the journal has of a run.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    pub events: &'a [Envelope],
    pub calls: &'a [RecordedCall],
}

/// What becomes a case, with what the journal does not have of it.
#[derive(Clone, Debug)]
pub enum Wanted {
    Pipeline {
        /// From the case's directory.
        manifest: String,
        vars: BTreeMap<String, String>,
        env: BTreeMap<String, String>,
        only: Vec<String>,
        from: Option<String>,
    },
    Step {
        key: StepKey,
        /// As `plugin` has it.
        plugin: String,
        /// With `{"$secret": NAME}` for secrets.
        config: Json,
        /// Of a plugin that is not built in.
        grants: Option<Vec<String>>,
        timeout: Duration,
        targets: Vec<String>,
        /// Files of the project as they are now, by path in it: their digest, and where
        /// they are, from the case's directory.
        files: BTreeMap<String, (String, String)>,
    },
}

#[derive(Clone, Debug)]
pub struct Recording {
    pub wanted: Wanted,
    /// What the guests see as the time.
    pub now: Timestamp,
    /// Names of secrets, besides those that calls have.
    pub secrets: BTreeSet<String>,
    /// Secrets that the step reads. The journal does not know.
    pub reveals: BTreeSet<String>,
    /// Calls that were denied, as `docker.push ghcr.io/acme/app:1`. Nor of these.
    pub denied: BTreeSet<String>,
    /// Hosts of targets.
    pub hosts: BTreeSet<String>,
}

/// A recorded case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub text: String,
    /// Private names, with the lines that have them, counted from 1.
    pub private: BTreeMap<String, Vec<usize>>,
    /// What a person has to add.
    pub notes: Vec<String>,
}

/// Why there is no case in a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RecordError {
    pub message: String,
    pub hint: String,
}

impl RecordError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// The instances that a run started, in its order: what a name without a target means.
pub fn instances(events: &[Envelope], step: &str) -> Vec<StepKey> {
    let mut found: Vec<StepKey> = Vec::new();
    for envelope in events {
        if let Event::StepStarted { step: key, .. } = &envelope.event
            && (key.name.as_str() == step || key.to_string() == step)
            && !found.contains(key)
        {
            found.push(key.clone());
        }
    }
    found
}

/// The case of a run, or of one of its steps.
pub fn record(past: Past<'_>, recording: &Recording) -> Result<Recorded, RecordError> {
    let (started, finished) = ends(past)?;
    let mut stable = Stable::new(started.run);
    for call in past.calls {
        expected::name_container(call, &mut stable);
    }
    let mut notes = Vec::new();
    let mut body = String::new();
    let mut secrets = recording.secrets.clone();
    let mut steps = match &recording.wanted {
        Wanted::Pipeline { .. } => order(started, past),
        Wanted::Step { key, .. } => vec![key.clone()],
    };
    steps.dedup();
    for key in &steps {
        let mut calls: Vec<&RecordedCall> = past
            .calls
            .iter()
            .filter(|call| call.id.step == *key)
            .collect();
        if let Wanted::Step { .. } = recording.wanted {
            let last = attempt(past.events, key);
            calls.retain(|call| call.id.attempt == last);
        }
        let lines = expected::lines(past.events, key, &recording.wanted);
        let section = expected::Section {
            key,
            wanted: &recording.wanted,
            stable: &stable,
        };
        section.write(&calls, lines, &mut body, &mut secrets, &mut notes);
    }
    let mut text = String::new();
    let what = match &recording.wanted {
        Wanted::Pipeline { .. } => "a run".to_owned(),
        Wanted::Step { key, .. } => format!("step {key} in a run"),
    };
    write::comment(
        &mut text,
        &format!(
            "Recorded from {what} of the pipeline {}, tag {}. Calls, answers and outputs are \
             those of the run; secrets are fake. `windlass test --update` accepts what changes.",
            started.pipeline, started.tag
        ),
    );
    // What is private shows when the whole text is there; its place is here.
    let head = text.len();
    subject(&mut text, past, recording, started);
    table(&mut text, "inputs", &inputs(past, recording, started));
    let fake: Map<String, Json> = secrets
        .iter()
        .map(|name| (name.clone(), format!("fake-value-of-{name}").into()))
        .collect();
    table(&mut text, "secrets", &Json::Object(fake));
    if let Wanted::Step { config, .. } = &recording.wanted {
        table(&mut text, "config", &handles(config));
    }
    files(&mut text, past, recording);
    table(
        &mut text,
        "assert",
        &asserts(past, recording, &finished, &stable),
    );
    text.push_str(&body);
    let private = with_private(&mut text, head, &recording.hosts);
    Ok(Recorded {
        text,
        private,
        notes,
    })
}

/// Its first and its last event; an error for runs that make no case.
fn ends(past: Past<'_>) -> Result<(&RunStarted, RunFinished), RecordError> {
    let started = past
        .events
        .iter()
        .find_map(|envelope| match &envelope.event {
            Event::RunStarted(started) => Some(started.as_ref()),
            _ => None,
        });
    let finished = past
        .events
        .iter()
        .find_map(|envelope| match &envelope.event {
            Event::RunFinished(finished) => Some(finished.as_ref().clone()),
            _ => None,
        });
    let Some(started) = started else {
        return Err(RecordError::new(
            "the journal has no beginning of this run",
            "record another one: `windlass runs` lists them",
        ));
    };
    let Some(finished) = finished else {
        return Err(RecordError::new(
            format!("run {} has not ended, or was killed", started.run.short()),
            "record one that ended; what happens when a guest is killed is a `fault` of a case",
        ));
    };
    if finished.outcome == Outcome::Cancelled {
        return Err(RecordError::new(
            format!("run {} was cancelled: no case ends so", started.run.short()),
            "record one that was not, and add a `fault` of the kind cancel to the case",
        ));
    }
    let steps = past
        .events
        .iter()
        .any(|envelope| matches!(envelope.event, Event::StepFinished { .. }));
    if !steps
        && past
            .calls
            .iter()
            .any(|call| call.name == "releases.restore")
    {
        return Err(RecordError::new(
            format!("run {} is a rollback by hand", started.run.short()),
            "only runs of the pipeline make cases",
        ));
    }
    Ok((started, finished))
}

/// Whose calls there are, in the order of the graph; then whoever else made some.
fn order(started: &RunStarted, past: Past<'_>) -> Vec<StepKey> {
    let mut keys: Vec<StepKey> = Vec::new();
    for node in &started.steps {
        if node.targets.is_empty() {
            keys.push(StepKey::new(node.name.as_str(), None));
        }
        for target in &node.targets {
            keys.push(StepKey::new(node.name.as_str(), Some(target.clone())));
        }
    }
    let mut others: Vec<StepKey> = Vec::new();
    for call in past.calls {
        if !keys.contains(&call.id.step) && !others.contains(&call.id.step) {
            others.push(call.id.step.clone());
        }
    }
    others.sort();
    keys.extend(others);
    keys
}

/// The last one that was started.
fn attempt(events: &[Envelope], key: &StepKey) -> u32 {
    let started = events.iter().filter_map(|envelope| match &envelope.event {
        Event::StepStarted { step, attempt } if step == key => Some(*attempt),
        _ => None,
    });
    started.max().unwrap_or(1)
}

fn subject(text: &mut String, past: Past<'_>, recording: &Recording, started: &RunStarted) {
    text.push('\n');
    match &recording.wanted {
        Wanted::Pipeline { manifest, .. } => {
            let _ = writeln!(text, "pipeline = {}", write::text(manifest));
        }
        Wanted::Step {
            key,
            plugin,
            grants,
            timeout,
            ..
        } => {
            let _ = writeln!(text, "plugin = {}", write::text(plugin));
            if let Some(grants) = grants {
                write::lines(text, "grants", &json!(grants));
            }
            if *timeout != windlass_manifest::graph::DEFAULT_TIMEOUT {
                let _ = writeln!(text, "timeout = \"{}ms\"", timeout.as_millis());
            }
            let retried = attempt(past.events, key) > 1;
            if retried {
                write::comment(text, "The last of its attempts.");
            }
        }
    }
    let _ = started;
    text.push_str("arguments = \"all\" # every call must be as it was, in each argument\n");
}

fn inputs(past: Past<'_>, recording: &Recording, started: &RunStarted) -> Json {
    let mut inputs = Map::new();
    let mut put = |name: &str, value: Json| {
        if !windlass_layers::scripted::is_empty(&value) {
            inputs.insert(name.to_owned(), value);
        }
    };
    let to_second = jiff::TimestampRound::new().smallest(jiff::Unit::Millisecond);
    let now = recording.now.round(to_second).unwrap_or(recording.now);
    put("now", now.to_string().into());
    put("environment", started.environment.as_str().into());
    put("tag", started.tag.as_str().into());
    put("commit", started.commit.as_str().into());
    put("branch", started.branch.as_str().into());
    put("link", json!(started.link));
    match &recording.wanted {
        Wanted::Pipeline {
            vars,
            env,
            only,
            from,
            ..
        } => {
            put("dirty", started.dirty.into());
            put("only", json!(only));
            put("from", json!(from));
            put("vars", json!(vars));
            put("env", json!(env));
        }
        Wanted::Step { key, targets, .. } => {
            put("pipeline", started.pipeline.as_str().into());
            put("step", key.name.as_str().into());
            put(
                "target",
                json!(key.target.as_ref().map(|target| target.as_str())),
            );
            put("targets", json!(targets));
            let attempt = attempt(past.events, key);
            put("attempt", if attempt > 1 { attempt } else { 0 }.into());
        }
    }
    // Outside a repository both are empty; a case has some unless it says so.
    for name in ["commit", "branch"] {
        inputs.entry(name).or_insert_with(|| "".into());
    }
    Json::Object(inputs)
}

/// `[name]`, with a line for each of its values; nothing when it is empty.
fn table(text: &mut String, name: &str, values: &Json) {
    let Some(table) = values.as_object().filter(|table| !table.is_empty()) else {
        return;
    };
    let _ = writeln!(text, "\n[{name}]");
    for (key, value) in table {
        write::lines(text, &write::key(key), value);
    }
}

/// A configuration as a case has it.
fn handles(value: &Json) -> Json {
    match value {
        Json::Object(table) => match table.get("$secret") {
            Some(name) if table.len() == 1 => json!({ "secret": name }),
            _ => table
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), handles(value)))
                .collect::<Map<_, _>>()
                .into(),
        },
        Json::Array(list) => list.iter().map(handles).collect(),
        plain => plain.clone(),
    }
}

/// Files that the step opened and that are still what they were then.
fn files(text: &mut String, past: Past<'_>, recording: &Recording) {
    let Wanted::Step { key, files, .. } = &recording.wanted else {
        return;
    };
    let mut given = Map::new();
    for call in past.calls.iter().filter(|call| call.id.step == *key) {
        if let Some(path) = expected::opened(call, files)
            && let Some((_, place)) = files.get(path)
        {
            given.insert(path.to_owned(), json!({ "path": place }));
        }
    }
    table(text, "files", &Json::Object(given));
}

fn asserts(past: Past<'_>, recording: &Recording, finished: &RunFinished, stable: &Stable) -> Json {
    let mut asserts = Map::new();
    let error = |error: &CallError, step: Option<&StepKey>| {
        let mut table = Map::new();
        table.insert("code".to_owned(), error.code.as_str().into());
        if let Some(step) = step {
            table.insert("step".to_owned(), step.to_string().into());
        }
        Json::Object(table)
    };
    let mut slept = Duration::ZERO;
    for call in past.calls {
        let ours = match &recording.wanted {
            Wanted::Pipeline { .. } => true,
            Wanted::Step { key, .. } => {
                call.id.step == *key && call.id.attempt == attempt(past.events, key)
            }
        };
        slept += expected::slept(call).filter(|_| ours).unwrap_or_default();
    }
    let mut outputs = Map::new();
    let (mut steps, mut notifications, mut restored) = (Map::new(), Map::new(), Map::new());
    let mut ended = None;
    for envelope in past.events {
        match &envelope.event {
            Event::StepFinished {
                step,
                state,
                outputs: given,
                error,
                ..
            } => {
                if matches!(&recording.wanted, Wanted::Step { key, .. } if key == step) {
                    ended = Some((*state, error.clone()));
                }
                steps.insert(step.to_string(), json!(state));
                if !given.is_empty() {
                    let given: Map<String, Json> = given
                        .iter()
                        .map(|(name, value)| (name.clone(), output(name, value, stable)))
                        .collect();
                    outputs.insert(step.to_string(), given.into());
                }
            }
            Event::NotificationFinished { name, error, .. } => {
                let sent = if error.is_none() { "sent" } else { "failed" };
                notifications.insert(name.as_str().to_owned(), sent.into());
            }
            Event::RollbackFinished {
                target,
                release,
                error: None,
                ..
            } => {
                let release = stable.text(release.as_deref().unwrap_or_default());
                restored.insert(target.as_str().to_owned(), release.into());
            }
            _ => {}
        }
    }
    match &recording.wanted {
        Wanted::Pipeline { .. } => {
            if let Some(failure) = &finished.error {
                let step = finished.failed_step.as_ref();
                asserts.insert("error".to_owned(), error(failure, step));
            }
            asserts.insert("steps".to_owned(), steps.into());
            if !outputs.is_empty() {
                asserts.insert("outputs".to_owned(), outputs.into());
            }
            asserts.insert("notifications".to_owned(), notifications.into());
            asserts.insert("restored".to_owned(), restored.into());
        }
        Wanted::Step { key, .. } => {
            if let Some((StepState::Failed | StepState::Tolerated, Some(failure))) = &ended {
                asserts.insert("error".to_owned(), error(failure, None));
            }
            if let Some(own) = outputs.shift_remove(&key.to_string()) {
                asserts.insert("outputs".to_owned(), own);
            }
        }
    }
    if !slept.is_zero() {
        let millis = format!("{}ms", slept.as_millis());
        let whole = slept.as_millis().is_multiple_of(1000);
        let seconds = format!("{}s", slept.as_secs());
        let shown = if whole { seconds } else { millis };
        asserts.insert("slept".to_owned(), shown.into());
    }
    if !recording.denied.is_empty() {
        asserts.insert("denied".to_owned(), json!(recording.denied));
    }
    if !recording.reveals.is_empty() {
        asserts.insert("reveals".to_owned(), json!(recording.reveals));
    }
    Json::Object(asserts)
}

/// An output that must come. How long something took is another one each time.
fn output(name: &str, value: &Json, stable: &Stable) -> Json {
    let is_time = ["_ms", "_seconds"].iter().any(|unit| name.ends_with(unit));
    if value.is_number() && is_time {
        return json!({ "any": true });
    }
    stable.pattern_plain(value.clone())
}

/// Says at the head which private names there are; gives them with their lines.
fn with_private(
    text: &mut String,
    head: usize,
    hosts: &BTreeSet<String>,
) -> BTreeMap<String, Vec<usize>> {
    let names = private::find(text, hosts);
    if names.is_empty() {
        return names;
    }
    let mut comment = String::from("#\n");
    write::comment(
        &mut comment,
        "It names private hosts and addresses: look before you share it, and write others in \
         their place everywhere, or matchers where they are expected.",
    );
    for name in names.keys() {
        let _ = writeln!(comment, "#   {name}");
    }
    let more = comment.lines().count();
    text.insert_str(head, &comment);
    names
        .into_iter()
        .map(|(name, lines)| (name, lines.into_iter().map(|line| line + more).collect()))
        .collect()
}
