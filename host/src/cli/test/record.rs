//! `windlass test --record`: a case out of a run that the journal has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use windlass_cases::{Case, Past, Recorded, Recording, Wanted, instances};
use windlass_journal::{Reader, RecordedCall, RunSummary, Stored};
use windlass_layers::Redactor;
use windlass_manifest::graph::{Node, PluginSource, RunFacts};
use windlass_manifest::manifest::SecretSource;
use windlass_manifest::{Graph, Inputs, Manifest, Outputs};
use windlass_model::call::{Call, FileCall};
use windlass_model::event::{Envelope, Event, RunStarted};
use windlass_model::target::Address;
use windlass_model::{RunInputs, StepKey, TargetName};

use super::super::terminal::Terminal;
use super::super::{StateArgs, history, session};
use crate::exit::Exit;
use crate::project::MANIFEST;
use crate::secrets;

/// A file of the project that a case may point at.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Where cases are looked for, beside the manifest.
const CASES: &str = "tests";

/// `RUN[/STEP[@TARGET]]` of the project here.
pub(super) async fn record(
    wanted: &str,
    out: Option<&Path>,
    state: &StateArgs,
    terminal: &Terminal,
) -> Result<Exit, Exit> {
    let (run, step) = match wanted.split_once('/') {
        Some((run, step)) => (run, Some(step)),
        None => (wanted, None),
    };
    if let Some(path) = out
        && path.exists()
    {
        terminal.error(
            &format!("{} is there already", path.display()),
            Some("name another file, or remove it first"),
        );
        return Err(Exit::Invalid);
    }
    let reader = history::reader(state, terminal)?;
    let read = Run::read(&reader, run).map_err(|error| history::failed(&error, terminal))?;
    let root = history::root();
    let root = root.canonicalize().unwrap_or(root);
    let directory = match out {
        Some(path) => absolute(path.parent().unwrap_or(Path::new("."))),
        None => root.join(CASES),
    };
    let place = Place {
        root: &root,
        back: back(&directory, &root),
    };
    let graph = read.graph(&root, terminal)?;
    let past = Past {
        events: &read.events,
        calls: &read.calls,
    };
    let make = |place: &Place<'_>, seen: &Seen| {
        let mut recording = read.recording(&graph, step, place, terminal)?;
        recording.reveals.clone_from(&seen.reveals);
        recording.denied.clone_from(&seen.denied);
        windlass_cases::record(past, &recording).map_err(|error| {
            terminal.error(&error.message, Some(&error.hint));
            Exit::Invalid
        })
    };
    // It is tried out in the project's own directory: its own may not be there yet.
    let here = Place {
        root: &root,
        back: PathBuf::new(),
    };
    let (mut problems, seen) = try_out(&make(&here, &Seen::default())?, &root, terminal).await?;
    if seen != Seen::default() {
        (problems, _) = try_out(&make(&here, &seen)?, &root, terminal).await?;
    }
    let mut recorded = make(&place, &seen)?;
    let leaked = mask(&mut recorded, &graph, &root).await;
    write(&recorded, out, terminal)?;
    tell(&recorded, out, &read, terminal);
    for name in &leaked {
        terminal.error(
            &format!("the run had secret {name} in plain text; the case has its name instead"),
            Some(
                "a step read it and passed it on: see that it passes on the handle, and change it",
            ),
        );
    }
    if !leaked.is_empty() {
        return Ok(Exit::StepFailed);
    }
    if problems.is_empty() {
        terminal.say("it passes");
        return Ok(Exit::Succeeded);
    }
    let _ = std::io::Write::write_all(&mut std::io::stderr(), problems.as_bytes());
    terminal.error(
        "the case does not pass as it is",
        Some(
            "the manifest, a plugin or a file is not what it was in the run, or the step makes \
             something of what is not kept: see the notes above, and docs/testing.md",
        ),
    );
    Err(Exit::StepFailed)
}

/// The journal is clean of secrets, but a guest that was let read one may have put it into
/// a call. Takes out those whose bytes are at hand without asking anybody; gives their
/// names.
async fn mask(recorded: &mut Recorded, graph: &Graph, root: &Path) -> Vec<String> {
    let mut leaked = Vec::new();
    for wanted in &graph.secrets {
        if matches!(wanted.source, SecretSource::Command(_)) {
            continue;
        }
        let env = |name: &str| std::env::var(name).ok();
        let one = std::slice::from_ref(wanted);
        let Ok(secrets) = secrets::collect(&graph.manifest, one, root, &env).await else {
            continue;
        };
        let clean = Redactor::new(&secrets).clean(&recorded.text).into_owned();
        if clean != recorded.text {
            recorded.text = clean;
            leaked.push(wanted.name.clone());
        }
    }
    leaked
}

/// Where the case is, seen from the project and the other way round.
struct Place<'a> {
    root: &'a Path,
    /// From the case's directory to the project's.
    back: PathBuf,
}

impl Place<'_> {
    fn to(&self, path: &str) -> String {
        let path = self.back.join(path.trim_start_matches("./"));
        let shown = path.display().to_string();
        if shown.contains('/') {
            shown
        } else {
            format!("./{shown}")
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    whole.canonicalize().unwrap_or(whole)
}

/// The way from one directory to another.
fn back(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (from.components().collect(), to.components().collect());
    let same = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[same..].iter().map(|_| Component::ParentDir);
    up.chain(to[same..].iter().copied()).collect()
}

/// What the journal has.
struct Run {
    summary: RunSummary,
    events: Vec<Envelope>,
    calls: Vec<RecordedCall>,
    given: Option<RunInputs>,
}

impl Run {
    fn read(reader: &Reader, wanted: &str) -> Result<Self, windlass_journal::JournalError> {
        let summary = reader.find_run(wanted)?;
        Ok(Self {
            events: reader.events(summary.run)?,
            calls: reader.calls(summary.run)?,
            given: reader.inputs(summary.run)?,
            summary,
        })
    }

    fn started(&self) -> Option<&RunStarted> {
        self.events
            .iter()
            .find_map(|envelope| match &envelope.event {
                Event::RunStarted(started) => Some(started.as_ref()),
                _ => None,
            })
    }

    fn given(&self) -> RunInputs {
        self.given.clone().unwrap_or_else(|| RunInputs {
            started: self.summary.started,
            ..RunInputs::default()
        })
    }

    /// The graph of the run, from the manifest as it is now.
    fn graph(&self, root: &Path, terminal: &Terminal) -> Result<Graph, Exit> {
        let path = root.join(MANIFEST);
        let text = fs_err::read_to_string(&path).map_err(|error| {
            terminal.error(
                &error.to_string(),
                Some("a case is made in the project whose run it was"),
            );
            Exit::Invalid
        })?;
        let (manifest, problems) = Manifest::examine(MANIFEST, &text);
        let Some(manifest) = manifest else {
            terminal.diagnostics(&problems);
            return Err(Exit::Invalid);
        };
        let given = self.given();
        if self.given.is_none() {
            terminal.say(
                "note: an older Windlass made this run, which did not keep its variables: write \
                 those that it was given under [inputs] as `vars` and `env`",
            );
        }
        let branch = self.started().map(|started| started.branch.clone());
        let inputs = Inputs {
            environment: Some(self.summary.environment.clone()).filter(|name| !name.is_empty()),
            vars: given.vars,
            env: given.env,
            run: RunFacts {
                id: self.summary.run.to_string(),
                tag: Some(self.summary.tag.clone()),
                commit: self.summary.commit.clone(),
                branch: branch.unwrap_or_default(),
                dirty: self.summary.dirty,
                now: given.started,
            },
            only: given.only,
            from: given.from,
        };
        let (graph, problems) = Graph::examine(&Arc::new(manifest), &inputs);
        if problems.has_errors() {
            terminal.diagnostics(&problems);
            terminal.error(
                "with what the run was given, the manifest is not sound any more",
                Some("take back what was changed since, or record a newer run"),
            );
            return Err(Exit::Invalid);
        }
        Ok(graph)
    }

    fn recording(
        &self,
        graph: &Graph,
        step: Option<&str>,
        place: &Place<'_>,
        terminal: &Terminal,
    ) -> Result<Recording, Exit> {
        let hosts = graph
            .targets
            .iter()
            .filter_map(|target| match &target.address {
                Address::Ssh(ssh) => Some(ssh.host.clone()),
                Address::Local => None,
            });
        let (wanted, secrets) = match step {
            None => {
                let given = self.given();
                let wanted = Wanted::Pipeline {
                    manifest: place.to(MANIFEST),
                    vars: given.vars,
                    env: given.env,
                    only: given.only,
                    from: given.from,
                };
                let names = graph.secrets.iter().map(|wanted| wanted.name.clone());
                (wanted, names.collect())
            }
            Some(step) => self.step(graph, step, place, terminal)?,
        };
        Ok(Recording {
            wanted,
            now: self.given().started,
            secrets,
            reveals: BTreeSet::new(),
            denied: BTreeSet::new(),
            hosts: hosts.collect(),
        })
    }

    /// One step, with the configuration that it had.
    fn step(
        &self,
        graph: &Graph,
        wanted: &str,
        place: &Place<'_>,
        terminal: &Terminal,
    ) -> Result<(Wanted, BTreeSet<String>), Exit> {
        let refuse = |message: String, hint: &str| {
            terminal.error(&message, Some(hint));
            Exit::Invalid
        };
        let short = self.summary.run.short();
        let found = instances(&self.events, wanted);
        let key = match found.as_slice() {
            [key] => key.clone(),
            [] => {
                return Err(refuse(
                    format!("step {wanted} did not start in run {short}"),
                    "`windlass show RUN` has its steps; RUN without a step records the whole run",
                ));
            }
            several => {
                let names: Vec<String> = several.iter().map(StepKey::to_string).collect();
                return Err(refuse(
                    format!("step {wanted} ran on several targets in run {short}"),
                    &format!("name one: {}", names.join(", ")),
                ));
            }
        };
        let Some(node) = graph.step(key.name.as_str()) else {
            return Err(refuse(
                format!("the manifest has no step {} any more", key.name),
                "record a newer run",
            ));
        };
        let scope = graph.scope(&key, &self.outputs());
        let resolved = node.config(&scope).map_err(|problem| {
            terminal.diagnostics(&problem.into());
            Exit::Invalid
        })?;
        let mut names = BTreeSet::new();
        name_secrets(&resolved.value, &mut names);
        let (plugin, grants) = plugin(node, place);
        let wanted = Wanted::Step {
            plugin,
            config: resolved.value,
            grants,
            timeout: node.timeout,
            targets: graph.active.iter().map(TargetName::to_string).collect(),
            files: self.files(place),
            key,
        };
        Ok((wanted, names))
    }

    /// What steps gave.
    fn outputs(&self) -> Outputs {
        let mut all = Outputs::default();
        for envelope in &self.events {
            if let Event::StepFinished { step, outputs, .. } = &envelope.event {
                all.insert(step, outputs.clone());
            }
        }
        all
    }

    /// Files of the project that steps opened, as they are now.
    fn files(&self, place: &Place<'_>) -> BTreeMap<String, (String, String)> {
        let mut files = BTreeMap::new();
        for call in &self.calls {
            let Stored::Here(Call::File(FileCall::Open { path })) = &call.call else {
                continue;
            };
            let whole = place.root.join(path);
            let small = fs_err::metadata(&whole).is_ok_and(|meta| meta.len() <= MAX_FILE_BYTES);
            if let (true, Ok(bytes)) = (small, fs_err::read(&whole)) {
                let digest = hex::encode(Sha256::digest(&bytes));
                files.insert(path.clone(), (digest, place.to(path)));
            }
        }
        files
    }
}

/// As a case names it, with what the manifest grants it.
fn plugin(node: &Node, place: &Place<'_>) -> (String, Option<Vec<String>>) {
    match &node.plugin {
        PluginSource::BuiltIn(name) => (name.clone(), None),
        PluginSource::File(path) => {
            let grants = node.grants.iter().map(|written| written.grant.to_string());
            (place.to(path), Some(grants.collect()))
        }
    }
}

fn name_secrets(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(table) => {
            if let Some(name) = table.get("$secret").and_then(serde_json::Value::as_str) {
                names.insert(name.to_owned());
            }
            table.values().for_each(|inner| name_secrets(inner, names));
        }
        serde_json::Value::Array(list) => {
            list.iter().for_each(|inner| name_secrets(inner, names));
        }
        _ => {}
    }
}

/// What is nowhere written down, and shows only when a case runs.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    /// Secrets that a guest read.
    reveals: BTreeSet<String>,
    /// Calls that were refused before anybody wrote them down.
    denied: BTreeSet<String>,
}

/// Runs the case once: the world that it has must do for it. Gives what is wrong.
async fn try_out(
    recorded: &Recorded,
    root: &Path,
    terminal: &Terminal,
) -> Result<(String, Seen), Exit> {
    let path = root.join("recorded.toml");
    let cases = windlass_cases::parse(&path, &recorded.text).map_err(|error| {
        terminal.error(
            &format!("the recorded case cannot be read back: {error}"),
            Some("this is a bug of Windlass: please report it"),
        );
        Exit::Engine
    })?;
    let runtime = session::runtime(terminal)?;
    let tested = super::load(&runtime, &cases, terminal).await?;
    let format = windlass_cases::Format {
        theme: terminal.people,
        width: terminal.width(),
        quiet: true,
    };
    let options = windlass_cases::Options {
        seed: 1,
        jobs: 1,
        faults: Vec::new(),
    };
    Ok(tokio::task::block_in_place(|| {
        let mut report = windlass_cases::Report::new(format, cases.len());
        let mut passed = true;
        let mut seen = Seen::default();
        windlass_cases::run_all(&cases, &tested, &options, |done| {
            let case: &Case = &cases[done.index];
            let actual = &done.verdict.actual;
            passed &= done.verdict.passed();
            seen.reveals.extend(actual.revealed().map(str::to_owned));
            seen.denied.extend(actual.denied.iter().cloned());
            report.case(done.index, case, done.verdict);
        });
        let problems = if passed {
            String::new()
        } else {
            report.finish(&cases, std::time::Duration::ZERO).0
        };
        (problems, seen)
    }))
}

fn write(recorded: &Recorded, out: Option<&Path>, terminal: &Terminal) -> Result<(), Exit> {
    let Some(path) = out else {
        terminal.out(&recorded.text);
        return Ok(());
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent
        .map_or(Ok(()), fs_err::create_dir_all)
        .and_then(|()| fs_err::write(path, &recorded.text))
        .map_err(|error| {
            terminal.error(&error.to_string(), Some("--out names another file"));
            Exit::Engine
        })
}

/// What was made, and what is to be looked at in it.
fn tell(recorded: &Recorded, out: Option<&Path>, run: &Run, terminal: &Terminal) {
    let name = out.map_or_else(
        || format!("(put it into {CASES}/, beside the manifest)"),
        |path| path.display().to_string(),
    );
    terminal.say(&format!("recorded run {}: {name}", run.summary.run.short()));
    for note in &recorded.notes {
        terminal.say(&format!("note: {}", windlass_report::clean(note)));
    }
    if recorded.private.is_empty() {
        return;
    }
    terminal.say("it names private hosts and addresses: look before you share it");
    for (word, lines) in &recorded.private {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        terminal.say(&format!("  {word} (line {})", lines.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_from_a_case_to_the_project() {
        for (from, to, way) in [
            ("/p/tests", "/p", "../windlass.toml"),
            ("/p/tests/deep", "/p", "../../windlass.toml"),
            ("/p", "/p", "./windlass.toml"),
            ("/cases", "/p/app", "../p/app/windlass.toml"),
        ] {
            let place = Place {
                root: Path::new(to),
                back: back(Path::new(from), Path::new(to)),
            };
            assert_eq!(place.to(MANIFEST), way);
        }
    }
}
