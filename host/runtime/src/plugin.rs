//! A loaded plugin: what it says of itself, and how it is run.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTableError};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;
use windlass_model::event::{Level, Severity};
use windlass_model::{CallError, ErrorKind, PluginDigest};

use crate::bindings::exports::windlass::plugin as exports;
use crate::capabilities::cut;
use crate::guest::{Guest, LastAnswer, Setup};
use crate::limits;
use crate::output::Capture;
use crate::room::Room;
use crate::runtime::Host;

/// The version of `windlass:plugin` that this host has.
pub(crate) const INTERFACE: (u64, u64) = (0, 1);

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("plugin {name} is {bytes} bytes, more than the {} MiB a component may have", limits::MAX_COMPONENT_BYTES / (1024 * 1024))]
    TooLarge { name: String, bytes: usize },
    #[error("plugin {name} is no WebAssembly component: {reason}")]
    NotAComponent { name: String, reason: String },
    #[error("plugin {name} cannot be used: {reason}")]
    Invalid { name: String, reason: String },
    #[error("plugin {name} needs {wanted}, this host has {has}")]
    Interface {
        name: String,
        wanted: String,
        has: String,
    },
    #[error("plugin {name} could not describe itself: {}", of_itself(name, &error.message))]
    Describe { name: String, error: CallError },
    #[error("{0}")]
    Engine(String),
}

/// A message about the plugin, within a sentence about it.
fn of_itself(name: &str, message: &str) -> String {
    match message.strip_prefix(&format!("plugin {name} ")) {
        Some(rest) => format!("it {rest}"),
        None => message.to_owned(),
    }
}

impl PluginError {
    /// Refuses what is not a component by its first bytes, so that the reason
    /// is better than a parser's.
    pub(crate) fn check_preamble(name: &str, bytes: &[u8]) -> Result<(), Self> {
        let reason = match bytes {
            [] => "the file is empty",
            // The layer in the preamble: 0 for a core module, 1 for a component.
            [0x00, b'a', b's', b'm', _, _, 0x00, 0x00, ..] => "it is a core WebAssembly module",
            [0x00, b'a', b's', b'm', _, _, 0x01, 0x00, ..] => return Ok(()),
            _ => "it does not begin as WebAssembly does",
        };
        Err(Self::NotAComponent {
            name: name.to_owned(),
            reason: reason.to_owned(),
        })
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooLarge { .. } => "build it with optimisation and without debug information",
            Self::NotAComponent { .. } => {
                "build it for the target wasm32-wasip2, or wrap the module with `wasm-tools component new`"
            }
            Self::Interface { .. } => {
                "use a plugin built for this host's interface, or a newer windlass"
            }
            Self::Describe { .. } => {
                "this is the plugin's fault: `describe` calls nothing and returns at once"
            }
            Self::Invalid { .. } | Self::Engine(_) => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    Text,
    Number,
    Boolean,
    Json,
}

impl OutputType {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Json => "json",
        }
    }
}

#[derive(Clone, Debug)]
pub struct OutputSpec {
    pub name: String,
    pub kind: OutputType,
    pub summary: String,
}

/// What `describe` said.
#[derive(Clone, Debug)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub config_schema: Json,
    pub outputs: Vec<OutputSpec>,
    pub requests: Vec<String>,
    pub has_preflight: bool,
    pub has_rollback: bool,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    pub message: String,
    pub hint: Option<String>,
}

/// How a step's run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub result: Result<(), CallError>,
    pub outputs: IndexMap<String, Json>,
    /// The last call that was denied, if any.
    pub denied: Option<CallError>,
    /// Bytes of linear memory at the peak.
    pub peak_memory: usize,
}

/// A component that may be run any number of times.
#[derive(Clone)]
pub struct Plugin {
    host: Host,
    pre: InstancePre<Guest>,
    /// Memories that each guest takes of the host's room.
    takes: u32,
    name: String,
    pub digest: PluginDigest,
    pub description: Description,
    /// Names of the interfaces it imports.
    pub imports: Vec<String>,
    step: Arc<exports::step::GuestIndices>,
    preflight: Option<Arc<exports::preflight::GuestIndices>>,
    rollback: Option<Arc<exports::rollback::GuestIndices>>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    pub(crate) async fn new(
        host: Host,
        linker: &Linker<Guest>,
        name: &str,
        component: Component,
        digest: PluginDigest,
    ) -> Result<Self, PluginError> {
        let imports: Vec<String> = component
            .component_type()
            .imports(&host.engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        check_interfaces(name, imports.iter())?;
        let exported: Vec<String> = component
            .component_type()
            .exports(&host.engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        // What else it exports is its own business.
        let ours = exported
            .iter()
            .filter(|export| export.starts_with("windlass:plugin/"));
        check_interfaces(name, ours)?;
        if !exported
            .iter()
            .any(|export| export.starts_with("windlass:plugin/step@"))
        {
            return Err(PluginError::Invalid {
                name: name.to_owned(),
                reason: "it does not export windlass:plugin/step".to_owned(),
            });
        }
        let invalid = |error: wasmtime::Error| PluginError::Invalid {
            name: name.to_owned(),
            reason: format!("{error:#}"),
        };
        let pre = linker.instantiate_pre(&component).map_err(invalid)?;
        let step = exports::step::GuestIndices::new(&pre).map_err(invalid)?;
        let mut plugin = Self {
            step: Arc::new(step),
            preflight: exports::preflight::GuestIndices::new(&pre)
                .ok()
                .map(Into::into),
            rollback: exports::rollback::GuestIndices::new(&pre)
                .ok()
                .map(Into::into),
            host,
            pre,
            takes: Room::of(&component),
            name: name.to_owned(),
            digest,
            imports,
            description: Description {
                name: String::new(),
                version: String::new(),
                summary: String::new(),
                config_schema: Json::Null,
                outputs: Vec::new(),
                requests: Vec::new(),
                has_preflight: false,
                has_rollback: false,
            },
        };
        plugin.description = plugin.describe().await?;
        Ok(plugin)
    }

    async fn describe(&self) -> Result<Description, PluginError> {
        let setup = Setup::without_capabilities(Instant::now() + self.host.limits.describe);
        let (result, _) = self
            .enter(setup, async |store, plugin| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                let step = plugin.step.load(&mut *store, &instance)?;
                step.call_describe(&mut *store).await
            })
            .await;
        let failed = |error: CallError| PluginError::Describe {
            name: self.name.clone(),
            error,
        };
        let said = result.map_err(failed)?;
        let too_much = |what: &str, is: usize, may_be: usize| {
            failed(CallError::exhausted(
                "plugin.description",
                format!("{what}: {is}, where {may_be} is the limit"),
            ))
        };
        for (what, is, may_be) in [
            ("outputs", said.outputs.len(), limits::MAX_OUTPUTS),
            ("requests", said.requests.len(), limits::MAX_REQUESTS),
            (
                "bytes of configuration schema",
                said.config_schema.len(),
                limits::MAX_SCHEMA_BYTES,
            ),
        ] {
            if is > may_be {
                return Err(too_much(what, is, may_be));
            }
        }
        let name = |text: String| cut(text, limits::MAX_NAME_BYTES);
        let summary = |text: String| cut(text, limits::MAX_MESSAGE_BYTES);
        let config_schema = serde_json::from_str(&said.config_schema).map_err(|error| {
            failed(CallError::invalid(
                "plugin.schema",
                format!("its configuration schema is not JSON: {error}"),
            ))
        })?;
        Ok(Description {
            name: name(said.name),
            version: name(said.version),
            summary: summary(said.summary),
            config_schema,
            outputs: said
                .outputs
                .into_iter()
                .map(|output| OutputSpec {
                    name: name(output.name),
                    kind: match output.kind {
                        exports::step::OutputType::Text => OutputType::Text,
                        exports::step::OutputType::Number => OutputType::Number,
                        exports::step::OutputType::Boolean => OutputType::Boolean,
                        exports::step::OutputType::Json => OutputType::Json,
                    },
                    summary: summary(output.summary),
                })
                .collect(),
            requests: said.requests,
            has_preflight: said.has_preflight && self.preflight.is_some(),
            has_rollback: said.has_rollback && self.rollback.is_some(),
        })
    }

    /// Runs the step. Always comes back: at the deadline, or shortly after a
    /// cancel, the guest is stopped; then what it left open is cleaned up.
    pub async fn run(&self, setup: Setup) -> Finished {
        let cancel = setup.cancel.clone();
        let (result, guest) = self
            .enter(setup, async |store, plugin| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                let step = plugin.step.load(&mut *store, &instance)?;
                step.call_run(&mut *store).await
            })
            .await;
        let result = match result {
            Ok(Ok(())) => self.check_outputs(&guest.outputs),
            Ok(Err(error)) => Err(claimed(error.into(), &cancel)),
            Err(error) => Err(error),
        };
        Finished {
            result,
            peak_memory: guest.limiter.peak_memory_bytes,
            denied: guest.denied,
            outputs: guest.outputs,
        }
    }

    /// Reads only: the caller's stack lets no effect through.
    pub async fn preflight(&self, setup: Setup) -> Result<Vec<Finding>, CallError> {
        let Some(indices) = self.preflight.clone() else {
            return Ok(Vec::new());
        };
        let (result, _) = self
            .enter(setup, async move |store, plugin| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                let preflight = indices.load(&mut *store, &instance)?;
                preflight.call_check(&mut *store).await
            })
            .await;
        Ok(result?
            .map_err(CallError::from)?
            .into_iter()
            .take(limits::MAX_FINDINGS)
            .map(|finding| Finding {
                severity: finding.severity.into(),
                message: cut(finding.message, limits::MAX_MESSAGE_BYTES),
                hint: finding
                    .hint
                    .map(|hint| cut(hint, limits::MAX_MESSAGE_BYTES)),
            })
            .collect())
    }

    /// Undoes what `run` did, where the plugin says it can.
    pub async fn rollback(&self, setup: Setup) -> Result<(), CallError> {
        let Some(indices) = self.rollback.clone() else {
            return Ok(());
        };
        let (result, _) = self
            .enter(setup, async move |store, plugin| {
                let instance = plugin.pre.instantiate_async(&mut *store).await?;
                let rollback = indices.load(&mut *store, &instance)?;
                rollback.call_undo(&mut *store).await
            })
            .await;
        result?.map_err(Into::into)
    }

    fn check_outputs(&self, outputs: &IndexMap<String, Json>) -> Result<(), CallError> {
        for (name, value) in outputs {
            let Some(spec) = self
                .description
                .outputs
                .iter()
                .find(|spec| spec.name == *name)
            else {
                return Err(CallError::invalid(
                    "plugin.undeclared-output",
                    format!(
                        "plugin {} set output {name}, which it does not declare",
                        self.name
                    ),
                ));
            };
            let fits = value.get("$unknown").is_some()
                || match spec.kind {
                    OutputType::Text => value.is_string(),
                    OutputType::Number => value.is_number(),
                    OutputType::Boolean => value.is_boolean(),
                    OutputType::Json => true,
                };
            if !fits {
                return Err(CallError::invalid(
                    "plugin.output-type",
                    format!(
                        "plugin {} set output {name} to {}, which is no {}",
                        self.name,
                        cut(value.to_string(), limits::MAX_NAME_BYTES),
                        spec.kind.name()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Runs `work` in a fresh store with every limit in force. After it, jobs
    /// and containers that the guest left are gone.
    async fn enter<T>(
        &self,
        setup: Setup,
        work: impl AsyncFnOnce(&mut Store<Guest>, &Self) -> wasmtime::Result<T>,
    ) -> (Result<T, CallError>, Guest) {
        let (stdout, stderr) = (Capture::default(), Capture::default());
        let now = LastAnswer::default();
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout.clone())
            .stderr(stderr.clone())
            .wall_clock(now.clone())
            .monotonic_clock(now.clone())
            .secure_random(Seeded::new(setup.seed, 1))
            .insecure_random(Seeded::new(setup.seed, 2))
            .insecure_random_seed(u128::from(setup.seed))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        let (deadline, cancel) = (setup.deadline, setup.cancel.clone());
        let mut store = Store::new(
            &self.host.engine,
            Guest::new(setup, Arc::clone(&self.host.limits), wasi.build(), now),
        );
        store.limiter(|guest| &mut guest.limiter);
        store.set_max_component_handles(limits::MAX_HANDLES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let guest = context.data_mut();
            guest.compute = guest.compute.saturating_sub(1);
            if guest.compute == 0 {
                let seconds = guest.limits.compute.as_secs_f64();
                return Err(guest.reached(format!("its limit of {seconds} s of computing")));
            }
            Ok(UpdateDeadline::Yield(1))
        });

        let mut room = None;
        let ended = {
            let stopped = async {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => Stop::Deadline,
                    () = cancel.cancelled() => Stop::Cancel,
                }
            };
            let work = async {
                room = Some(self.host.room.take(self.takes).await?);
                work(&mut store, self).await
            };
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => Ended::Result(result),
                stop = stopped => {
                    // The pending call answers `cancelled` or `timeout`; the
                    // guest may still say what it makes of it.
                    match tokio::time::timeout(self.host.limits.cancel_grace, work).await {
                        Ok(result) => Ended::Result(result),
                        Err(_) => Ended::Stopped(stop),
                    }
                }
            }
        };
        for line in stdout.text().lines().take(PRINTED_LINES) {
            store.data().setup.sink.log(Level::Info, line);
        }
        let trap = matches!(ended, Ended::Result(Err(_)));
        let level = if trap { Level::Error } else { Level::Info };
        for line in stderr.text().lines().take(PRINTED_LINES) {
            store.data().setup.sink.log(level, line);
        }
        let result = match ended {
            Ended::Result(Ok(value)) => Ok(value),
            Ended::Result(Err(trap)) => Err(self.trapped(&trap, store.data(), &stderr)),
            Ended::Stopped(Stop::Cancel) => Err(CallError::cancelled()),
            Ended::Stopped(Stop::Deadline) => Err(CallError::timeout(
                "step.timeout",
                format!("plugin {} did not end by its deadline", self.name),
            )
            .hint("raise `timeout` of the step, or find out in its log what it waits for")),
        };
        let mut guest = store.into_data();
        drop(room);
        guest.clean_up().await;
        (result, guest)
    }

    fn trapped(&self, trap: &wasmtime::Error, guest: &Guest, stderr: &Capture) -> CallError {
        let name = &self.name;
        if guest.unreplayable {
            return CallError::conflict(
                UNREPLAYABLE,
                format!(
                    "plugin {name} looks at the events of a job, which the journal does not have"
                ),
            )
            .hint("`windlass retry-failed` runs the step again from its start");
        }
        let mut limit = guest.limiter.reached.clone();
        let full = matches!(trap.downcast_ref(), Some(ResourceTableError::Full));
        // Wasmtime counts handles and lends, too, and has no type for it.
        if full || trap.root_cause().to_string().contains("handle limit") {
            limit = Some(format!("its limit of {} handles", limits::MAX_HANDLES));
        }
        if let Some(wasmtime::Trap::StackOverflow) = trap.downcast_ref() {
            let kib = limits::MAX_WASM_STACK_BYTES / 1024;
            limit = Some(format!("its stack limit of {kib} KiB"));
        }
        if let Some(limit) = limit {
            return CallError::exhausted("plugin.limit", format!("plugin {name} reached {limit}"))
                .hint("it was stopped; nothing else was affected");
        }
        let said = stderr.text();
        // Rust's panics: `thread '…' panicked at file:line:column:` and the
        // message on the next line; the SDK's hook has both on one.
        let mut panic = said
            .lines()
            .filter_map(|line| Some(&line[line.find("panicked at")?..]))
            .take(1)
            .chain(
                said.lines()
                    .skip_while(|line| !line.contains("panicked at"))
                    .skip(1),
            )
            .map(str::trim);
        let reason = if let Some(first) = panic.next() {
            match panic.next().filter(|_| first.ends_with(':')) {
                Some(second) => format!("{first} {second}"),
                None => first.to_owned(),
            }
        } else if trap.is::<wasmtime_wasi::I32Exit>() {
            "it ended its process instead of returning".to_owned()
        } else if let Some(trap) = trap.downcast_ref::<wasmtime::Trap>() {
            trap.to_string()
        } else {
            trap.root_cause().to_string()
        };
        if let Some(backtrace) = trap.downcast_ref() {
            for line in frames(backtrace) {
                guest.setup.sink.log(Level::Debug, &line);
            }
        }
        CallError::new(
            ErrorKind::Internal,
            TRAPPED,
            format!(
                "plugin {name} trapped: {}",
                cut(reason, limits::MAX_MESSAGE_BYTES)
            ),
        )
        .hint("this is a bug of the plugin; its log has what it printed, and the backtrace")
    }
}

/// Where the guest was, innermost first, as far as its line tables tell. What a
/// panic itself goes through is left out.
fn frames(backtrace: &wasmtime::WasmBacktrace) -> Vec<String> {
    const LIBRARIES: [&str; 5] = [
        "/rustc/",
        "/library/std/",
        "/library/core/",
        "/library/alloc/",
        "wasisdk://",
    ];
    let mut lines = Vec::new();
    for symbol in backtrace.frames().iter().flat_map(|frame| frame.symbols()) {
        let (Some(name), Some(file), Some(line)) = (symbol.name(), symbol.file(), symbol.line())
        else {
            continue;
        };
        if LIBRARIES.iter().any(|library| file.contains(library)) {
            continue;
        }
        lines.push(format!("at {name} ({file}:{line})"));
    }
    if lines.is_empty() {
        // Built without line tables: names of functions are better than nothing.
        lines.extend(backtrace.to_string().lines().map(str::to_owned));
    }
    lines.truncate(BACKTRACE_LINES);
    lines
}

/// The code of what a replay cannot give.
const UNREPLAYABLE: &str = "resume.not-replayable";
/// The code of a guest's trap.
const TRAPPED: &str = "plugin.trapped";
/// Lines of stdout and of stderr that go to the step's log.
const PRINTED_LINES: usize = 1000;
const BACKTRACE_LINES: usize = 60;

/// An error as the guest gives it. `cancelled` is for what the run's own cancel
/// ended: a job that the guest itself cancelled is a failure like others.
fn claimed(mut error: CallError, cancel: &CancellationToken) -> CallError {
    if error.kind == ErrorKind::Cancelled && !cancel.is_cancelled() {
        error.kind = ErrorKind::Unavailable;
    }
    error
}

enum Stop {
    Deadline,
    Cancel,
}

enum Ended<T> {
    Result(wasmtime::Result<T>),
    Stopped(Stop),
}

/// `windlass:plugin/x@0.3.1`, for one, is not for a host of 0.1.
fn check_interfaces<'a>(
    name: &str,
    interfaces: impl Iterator<Item = &'a String>,
) -> Result<(), PluginError> {
    for interface in interfaces {
        if let Some(rest) = interface.strip_prefix("windlass:plugin/") {
            let version = rest.split_once('@').map_or("", |(_, version)| version);
            let mut numbers = version.split('.').map(str::parse::<u64>);
            let fits = matches!(
                (numbers.next(), numbers.next()),
                (Some(Ok(major)), Some(Ok(minor))) if (major, minor) == INTERFACE
            );
            if !fits {
                return Err(PluginError::Interface {
                    name: name.to_owned(),
                    wanted: format!("windlass:plugin {version}"),
                    has: format!("{}.{}", INTERFACE.0, INTERFACE.1),
                });
            }
        } else if !interface.starts_with("wasi:") {
            return Err(PluginError::Interface {
                name: name.to_owned(),
                wanted: format!("the interface {interface}"),
                has: "windlass:plugin and WASI 0.2 only".to_owned(),
            });
        }
    }
    Ok(())
}

impl Setup {
    /// For `describe`: every call is refused.
    fn without_capabilities(deadline: Instant) -> Self {
        Self {
            run: windlass_model::RunId(Default::default()),
            step: windlass_model::StepKey::new("describe", None),
            attempt: 1,
            stack: Arc::new(Nothing),
            sink: Arc::new(Nothing),
            clock: Arc::new(Nothing),
            blobs: Default::default(),
            deadline,
            cancel: Default::default(),
            config: Json::Object(Default::default()),
            facts: Default::default(),
            who: String::new(),
            report: None,
            seed: 0,
            began_ms: None,
            replaying: Default::default(),
        }
    }
}

struct Nothing;

#[async_trait::async_trait]
impl windlass_model::Capability for Nothing {
    async fn call(
        &self,
        _context: &windlass_model::CallContext,
        call: windlass_model::Call,
    ) -> Result<windlass_model::Reply, CallError> {
        Err(CallError::denied(
            "describe.call",
            format!("`describe` called {}", call.name()),
        ))
    }
}

impl windlass_model::LogSink for Nothing {
    fn line(&self, _stream: windlass_model::LogStream, _line: &str) {}
    fn status(&self, _status: &str) {}
}

impl crate::guest::StepSink for Nothing {
    fn log(&self, _level: Level, _text: &str) {}
    fn progress(&self, _message: &str, _done: u64, _total: u64) {}
}

impl crate::guest::Clock for Nothing {
    fn now_ms(&self) -> u64 {
        0
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere. What
/// a guest sees as random need not be unpredictable, but must be repeatable.
struct Seeded(u64);

impl Seeded {
    fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl rand::TryRng for Seeded {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
