//! Runs one case once, in a world of its own: a script for every capability,
//! a clock that only waiting moves, random numbers from a seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_layers::scripted::{self, Asked, Extras, Fault, Scripted, Unexpected};
use windlass_layers::{Guard, Policy, Redact, Redactor};
use windlass_live::files::Files;
use windlass_manifest::request;
use windlass_model::event::{Envelope, Event, Level, Outcome};
use windlass_model::grant::Grant;
use windlass_model::{
    Blobs, Call, CallContext, CallError, Capability, ErrorKind, LogSink, LogStream, Reply, RunId,
    Secrets, StepKey, TargetName,
};
use windlass_runtime::{Clock, Facts, Finding, Plugin, Setup, StepSink};

use crate::case::{Case, Inputs};
use crate::format::{Ending, FaultKind, Phase, RawFault};

/// A pipeline that can be run against any backend. The engine implements it.
#[async_trait]
pub trait Pipeline: Send + Sync {
    /// The directory of the manifest.
    fn root(&self) -> &Path;
    /// Every event of the run; what is wrong when it cannot even start.
    async fn run(&self, run: PipelineRun) -> Result<Vec<Envelope>, String>;
}

/// What a pipeline is run with.
pub struct PipelineRun {
    pub run: RunId,
    pub inputs: Inputs,
    pub secrets: Arc<Secrets>,
    pub backend: Arc<dyn Capability>,
    pub clock: Arc<dyn Clock>,
    pub cancel: CancellationToken,
}

/// What is tested, loaded.
#[derive(Clone)]
pub enum Tested {
    Plugin(Box<Plugin>),
    Pipeline(Arc<dyn Pipeline>),
}

/// What happened.
#[derive(Debug)]
pub struct Actual {
    pub outcome: Ending,
    pub error: Option<CallError>,
    /// The step that it came from, in a pipeline.
    pub failed_step: Option<String>,
    /// By name; in a pipeline by step, then by name.
    pub outputs: Json,
    pub logs: Vec<Line>,
    pub findings: Vec<Finding>,
    /// What was refused, as `docker.push ghcr.io/acme/app:1`.
    pub denied: Vec<String>,
    pub transcript: Vec<Asked>,
    pub unexpected: Vec<Unexpected>,
    pub unused: Vec<scripted::Unused>,
    /// How often each expectation was used.
    pub used: Vec<u32>,
    pub slept: Duration,
    /// States of a pipeline's steps.
    pub steps: Map<String, Json>,
    /// Whether each notification was sent.
    pub notifications: BTreeMap<String, bool>,
    /// What a rollback put back, by target.
    pub restored: BTreeMap<String, String>,
    /// A pipeline that could not start.
    pub refused: Option<String>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub step: String,
    pub text: String,
}

/// Time as tokio's clock has it, from a beginning.
struct VirtualClock {
    begun: Instant,
    at_ms: u64,
}

impl VirtualClock {
    fn new(now: Timestamp) -> Self {
        Self {
            begun: Instant::now(),
            at_ms: u64::try_from(now.as_millisecond()).unwrap_or_default(),
        }
    }
}

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.saturating_add(passed)
    }
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn push(&self, text: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.to_owned());
    }

    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
            .into_iter()
            .map(|text| Line {
                step: String::new(),
                text,
            })
            .collect()
    }
}

impl LogSink for Log {
    fn line(&self, _stream: LogStream, line: &str) {
        self.push(line);
    }

    fn status(&self, _status: &str) {}
}

impl StepSink for Log {
    fn log(&self, _level: Level, text: &str) {
        for line in text.lines() {
            self.push(line);
        }
    }

    fn progress(&self, _message: &str, _done: u64, _total: u64) {}
}

/// Outermost: remembers what was refused.
struct Refused {
    next: Guard,
    list: Mutex<Vec<String>>,
}

#[async_trait]
impl Capability for Refused {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let answer = self.next.call(context, call).await;
        if let Err(error) = &answer
            && let Some(refused) = refused(error)
        {
            self.list
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(refused);
        }
        answer
    }
}

/// What an error says was denied.
fn refused(error: &CallError) -> Option<String> {
    if error.kind != ErrorKind::Denied {
        return None;
    }
    let quoted = error.message.split('`').nth(1);
    Some(quoted.unwrap_or(&error.code).to_owned())
}

/// As the engine's: a preflight only reads.
struct ReadsOnly(Arc<dyn Capability>);

#[async_trait]
impl Capability for ReadsOnly {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if call.class().is_effect() {
            return Err(CallError::denied(
                "preflight.effect",
                format!(
                    "preflight called `{}`, which changes something",
                    call.name()
                ),
            ));
        }
        self.0.call(context, call).await
    }
}

/// Files that the case gives, in a directory that is there when it is needed
/// first; then the project's own.
struct GivenFiles {
    files: BTreeMap<String, Vec<u8>>,
    root: Option<std::path::PathBuf>,
    place: OnceLock<Result<Place, String>>,
}

struct Place {
    given: Files,
    project: Option<Files>,
    _directory: tempfile::TempDir,
}

impl GivenFiles {
    fn place(&self) -> Result<Place, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (root, scratch) = (directory.path().join("files"), directory.path().join("tmp"));
        let make = |path: &Path| std::fs::create_dir_all(path).map_err(|error| error.to_string());
        make(&root)?;
        make(&scratch)?;
        for (name, bytes) in &self.files {
            let inside = !name.starts_with('/') && name.split('/').all(|part| part != "..");
            if !inside {
                return Err(format!("the file {name:?} would be outside the project"));
            }
            let path = root.join(name);
            make(path.parent().unwrap_or(&root))?;
            std::fs::write(&path, bytes).map_err(|error| format!("{name}: {error}"))?;
        }
        let files = |root: &Path| {
            Files::new(Arc::new(windlass_live::Config {
                root: root.to_owned(),
                scratch: scratch.clone(),
                targets: Vec::new(),
                registries: Vec::new(),
                secrets: Arc::default(),
            }))
        };
        Ok(Place {
            given: files(&root),
            project: self.root.as_deref().map(files),
            _directory: directory,
        })
    }
}

#[async_trait]
impl Capability for GivenFiles {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let Call::File(call) = call else {
            return Err(CallError::internal(
                "test.files",
                "this is no call for a file",
            ));
        };
        let place = self
            .place
            .get_or_init(|| self.place())
            .as_ref()
            .map_err(|error| CallError::internal("test.files", error))?;
        // What a case gives stands for the whole project, if it gives any.
        let files = match &place.project {
            Some(project) if self.files.is_empty() => project,
            _ => &place.given,
        };
        files.call(context, call).await
    }
}

/// Runs the case on a thread's own runtime: its clock stands still unless
/// everything waits.
pub fn run(case: &Case, tested: &Tested, seed: u64, faults: &[RawFault], lenient: bool) -> Actual {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Actual::refused(format!("start the test's clock: {error}")),
    };
    runtime.block_on(async {
        let world = World::new(case, tested, seed, faults, lenient);
        match tested {
            Tested::Plugin(plugin) => step(case, plugin, world).await,
            Tested::Pipeline(pipeline) => whole(case, pipeline.as_ref(), world).await,
        }
    })
}

struct World {
    run: RunId,
    seed: u64,
    scripted: Arc<Scripted>,
    secrets: Arc<Secrets>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
}

impl World {
    fn new(case: &Case, tested: &Tested, seed: u64, faults: &[RawFault], lenient: bool) -> Self {
        let cancel = CancellationToken::new();
        let root = match tested {
            Tested::Pipeline(pipeline) => Some(pipeline.root().to_owned()),
            Tested::Plugin(_) => None,
        };
        let files = (root.is_some() || !case.files.is_empty()).then(|| {
            Arc::new(GivenFiles {
                files: case.files.clone(),
                root,
                place: OnceLock::new(),
            }) as Arc<dyn Capability>
        });
        let extras = Extras {
            faults: faults
                .iter()
                .map(|fault| (fault.call, as_fault(fault.kind)))
                .collect(),
            cancel: cancel.clone(),
            files,
            secrets: case.secrets.clone(),
            lenient,
        };
        let mut secrets = Secrets::default();
        for (name, value) in &case.secrets {
            secrets.insert(name.clone(), value.clone().into());
        }
        let millis = u64::try_from(case.inputs.now.as_millisecond()).unwrap_or_default();
        let mut random = [0; 10];
        random[..8].copy_from_slice(&seed.to_be_bytes());
        Self {
            run: RunId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()),
            seed,
            scripted: Arc::new(Scripted::with(case.order, case.expect.clone(), extras)),
            secrets: Arc::new(secrets),
            clock: Arc::new(VirtualClock::new(case.inputs.now)),
            cancel,
        }
    }
}

fn as_fault(kind: FaultKind) -> Fault {
    match kind {
        FaultKind::Error => Fault::Error(
            CallError::unavailable("fault.error", "this call was made to fail")
                .hint("a fault of the test case"),
        ),
        FaultKind::Timeout => Fault::Timeout,
        FaultKind::Cancel => Fault::Cancel,
        FaultKind::Cut => Fault::Cut,
        FaultKind::Kill => Fault::Kill,
    }
}

/// What the plugin may do: what it requests, filled in with the configuration,
/// and of that what the case grants; all of it when the case says nothing.
fn policy(case: &Case, plugin: &Plugin, config: &Json) -> Result<Policy, String> {
    let mut known = config.clone();
    if let Some(known) = known.as_object_mut() {
        known.insert("run".to_owned(), json!({ "tag": case.inputs.tag }));
    }
    let mut requested: Vec<Grant> = Vec::new();
    for template in &plugin.description.requests {
        let requests = request::expand(
            template,
            &known,
            case.inputs.target.as_deref(),
            &Default::default(),
        )
        .map_err(|error| error.to_string())?;
        requested.extend(requests.into_iter().map(|request| request.grant));
    }
    Ok(Policy {
        place: format!("step.{}", case.inputs.step),
        plugin: plugin.description.name.clone(),
        granted: case.grants.clone().unwrap_or_else(|| requested.clone()),
        requested,
        operator: None,
    })
}

/// As the engine completes a configuration: with the targets of the run where
/// the plugin's schema asks for them.
fn complete(case: &Case, plugin: &Plugin) -> Json {
    let mut config = case.config.clone();
    let properties = plugin
        .description
        .config_schema
        .get("properties")
        .and_then(Json::as_object);
    if let (Some(properties), Some(config)) = (properties, config.as_object_mut()) {
        for (key, property) in properties {
            let default = property.get("x-windlass-default").and_then(Json::as_str);
            if default == Some("targets") && !config.contains_key(key) {
                config.insert(key.clone(), json!(case.inputs.targets));
            }
        }
    }
    config
}

async fn step(case: &Case, plugin: &Plugin, world: World) -> Actual {
    let inputs = &case.inputs;
    let config = complete(case, plugin);
    let policy = match policy(case, plugin, &config) {
        Ok(policy) => policy,
        Err(error) => return Actual::refused(error),
    };
    let redactor = Arc::new(Redactor::new(&world.secrets));
    let backend = Arc::clone(&world.scripted) as Arc<dyn Capability>;
    let mut below: Arc<dyn Capability> = Arc::new(Redact::new(Arc::clone(&redactor), backend));
    if case.phase == Phase::Preflight {
        below = Arc::new(ReadsOnly(below));
    }
    let stack = Arc::new(Refused {
        next: Guard::new(policy, below),
        list: Mutex::default(),
    });
    let log = Arc::new(Log::default());
    let target = inputs.target.as_deref().map(TargetName::new);
    let setup = Setup {
        run: world.run,
        step: StepKey::new(inputs.step.as_str(), target),
        attempt: inputs.attempt,
        stack: Arc::clone(&stack) as Arc<dyn Capability>,
        sink: Arc::clone(&log) as Arc<dyn StepSink>,
        clock: Arc::clone(&world.clock),
        blobs: Arc::new(Blobs::default()),
        deadline: Instant::now() + case.timeout,
        cancel: world.cancel.clone(),
        config,
        facts: Facts {
            pipeline: inputs.pipeline.clone(),
            environment: inputs.environment.clone().unwrap_or_default(),
            tag: inputs.tag.clone(),
            commit: inputs.commit.clone(),
            branch: inputs.branch.clone(),
            link: inputs.link.clone(),
            started: inputs.now.to_string(),
        },
        who: "test@windlass".to_owned(),
        report: case.report.as_ref().map(Json::to_string),
        seed: world.seed,
        began_ms: None,
        replaying: Default::default(),
    };
    let mut outputs = Map::new();
    let mut findings = Vec::new();
    let result = match case.phase {
        Phase::Run => {
            let finished = plugin.run(setup).await;
            outputs.extend(finished.outputs);
            finished.result
        }
        Phase::Preflight => plugin.preflight(setup).await.map(|said| findings = said),
        Phase::Rollback => plugin.rollback(setup).await,
    };
    let mut actual = Actual::from_script(&world.scripted);
    actual.outcome = match &result {
        Ok(()) => Ending::Succeeded,
        Err(_) if world.cancel.is_cancelled() => Ending::Cancelled,
        Err(_) => Ending::Failed,
    };
    actual.error = result.err();
    actual.outputs = Json::Object(outputs);
    actual.logs = log.take();
    actual.findings = findings;
    actual.denied = std::mem::take(&mut *stack.list.lock().unwrap_or_else(PoisonError::into_inner));
    actual
}

async fn whole(case: &Case, pipeline: &dyn Pipeline, world: World) -> Actual {
    let events = pipeline
        .run(PipelineRun {
            run: world.run,
            inputs: case.inputs.clone(),
            secrets: Arc::clone(&world.secrets),
            backend: Arc::clone(&world.scripted) as Arc<dyn Capability>,
            clock: Arc::clone(&world.clock),
            cancel: world.cancel.clone(),
        })
        .await;
    match events {
        Ok(events) => {
            let mut actual = Actual::from_script(&world.scripted);
            actual.read(events);
            actual
        }
        Err(reason) => Actual::refused(reason),
    }
}

impl Actual {
    fn refused(reason: String) -> Self {
        Self {
            outcome: Ending::Failed,
            error: None,
            failed_step: None,
            outputs: Json::Object(Map::new()),
            logs: Vec::new(),
            findings: Vec::new(),
            denied: Vec::new(),
            transcript: Vec::new(),
            unexpected: Vec::new(),
            unused: Vec::new(),
            used: Vec::new(),
            slept: Duration::ZERO,
            steps: Map::new(),
            notifications: BTreeMap::new(),
            restored: BTreeMap::new(),
            refused: Some(reason),
        }
    }

    /// Names of the secrets that reached a guest.
    pub fn revealed(&self) -> impl Iterator<Item = &str> {
        let told = |asked: &&Asked| {
            asked.name == "secret.reveal" && matches!(asked.answer, Some(Ok(Reply::Text(_))))
        };
        self.transcript
            .iter()
            .filter(told)
            .filter_map(|asked| asked.with["name"].as_str())
    }

    fn from_script(scripted: &Scripted) -> Self {
        Self {
            transcript: scripted.transcript(),
            unexpected: scripted.unexpected(),
            unused: scripted.unused(),
            used: scripted.used(),
            slept: scripted.slept(),
            refused: None,
            ..Self::refused(String::new())
        }
    }

    /// A run's events.
    fn read(&mut self, events: Vec<Envelope>) {
        let mut outputs = Map::new();
        let mut deny = |error: &Option<CallError>| {
            self.denied.extend(error.as_ref().and_then(refused));
        };
        for envelope in events {
            match envelope.event {
                Event::StepFinished {
                    step,
                    state,
                    outputs: given,
                    error,
                    ..
                } => {
                    deny(&error);
                    let state = serde_json::to_value(state).unwrap_or_default();
                    self.steps.insert(step.to_string(), state);
                    if !given.is_empty() {
                        outputs.insert(step.to_string(), given.into_iter().collect());
                    }
                }
                Event::StepLog { step, text, .. } => self.logs.push(Line {
                    step: step.to_string(),
                    text,
                }),
                Event::Notice { message, .. } => self.logs.push(Line {
                    step: String::new(),
                    text: message,
                }),
                Event::Finding {
                    severity,
                    message,
                    hint,
                    ..
                } => self.findings.push(Finding {
                    severity,
                    message,
                    hint,
                }),
                Event::NotificationFinished { name, error, .. } => {
                    deny(&error);
                    self.notifications
                        .insert(name.as_str().to_owned(), error.is_none());
                }
                Event::RollbackFinished {
                    target,
                    release,
                    error: None,
                    ..
                } => {
                    self.restored
                        .insert(target.as_str().to_owned(), release.unwrap_or_default());
                }
                Event::RunFinished(finished) => {
                    self.outcome = match finished.outcome {
                        Outcome::Succeeded => Ending::Succeeded,
                        Outcome::Failed => Ending::Failed,
                        Outcome::Cancelled => Ending::Cancelled,
                    };
                    self.failed_step = finished.failed_step.map(|step| step.to_string());
                    self.error = finished.error;
                }
                _ => {}
            }
        }
        self.outputs = Json::Object(outputs);
    }
}
