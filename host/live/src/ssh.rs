//! The targets' connections: one SSH connection per target for the whole run,
//! over which commands, uploads and forwarded sockets go.
//!
//! A connection is opened when it is first needed, and again when it was lost.
//! The target `local` is this machine: the same operations, by processes here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use windlass_model::call::SshCall;
use windlass_model::target::{Address, SshSpec, TargetSpec};
use windlass_model::{Answered, CallContext, CallError, Reply, TargetName};

use crate::Config;
use crate::lease::Fence;

mod durable;
pub(crate) mod exec;
mod forward;
mod key;
pub(crate) mod lines;
mod master;
pub(crate) mod operation;
mod scan;
pub(crate) mod shell;
mod trace;

pub use scan::{HostKey, scan_host_keys};

use forward::{Forwards, MAX_BRIDGES};
use master::Master;

/// OpenSSH's server takes ten sessions a connection unless told otherwise. One
/// is left for ending commands.
const MAX_SESSIONS: usize = 9;

/// How long the last tidying up may take.
const FORGET: std::time::Duration = std::time::Duration::from_secs(1);

/// The connections of a run.
#[derive(Debug)]
pub struct Connections {
    config: Arc<Config>,
    entries: HashMap<TargetName, Entry>,
}

/// A target, and its connection if there is one.
#[derive(Debug)]
struct Entry {
    spec: TargetSpec,
    slot: Mutex<Slot>,
    trips: AtomicU64,
    /// The lease that this run holds there.
    fence: std::sync::Mutex<Option<Fence>>,
    /// Calls that have ended, whose directories there can go once their answers are
    /// on disk.
    ended: std::sync::Mutex<Vec<Ended>>,
    /// Sockets of a local target.
    local: Mutex<Forwards>,
}

/// A call that has left a directory on its target.
#[derive(Debug)]
struct Ended {
    stamp: String,
    answered: Answered,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<Arc<Connection>>,
    /// Those who waited while an attempt failed share its failure: a host that
    /// does not answer costs its time-out once, not once for each call.
    failed: Option<(Instant, CallError)>,
}

#[derive(Debug)]
struct Connection {
    master: Master,
    sessions: Semaphore,
    bridges: Semaphore,
    forwards: Mutex<Forwards>,
    lost: AtomicBool,
}

/// The way to a target.
#[derive(Clone, Debug)]
enum Link {
    Local,
    Remote(Arc<Connection>),
}

impl Connections {
    pub fn new(config: Arc<Config>) -> Self {
        let local = TargetSpec {
            name: TargetName::local(),
            address: Address::Local,
            sudo: false,
            docker_socket: None,
        };
        let entries = std::iter::once(&local)
            .chain(&config.targets)
            .map(|spec| (spec.name.clone(), Entry::new(spec.clone())))
            .collect();
        Self { config, entries }
    }

    pub async fn call(&self, context: &CallContext, call: SshCall) -> Result<Reply, CallError> {
        operation::call(self, context, call).await
    }

    /// Ends every connection; what still runs over them breaks.
    pub async fn close(&self) {
        self.forget().await;
        let mut open = Vec::new();
        for entry in self.entries.values() {
            open.extend(entry.slot.lock().await.open.take());
            *entry.local.lock().await = Forwards::default();
        }
        let ending = open.into_iter().map(|connection| {
            tokio::task::spawn_blocking(move || {
                connection.lost.store(true, Ordering::Relaxed);
                connection.master.terminate();
                drop(connection);
            })
        });
        futures_util::future::join_all(ending).await;
    }

    /// How many round trips (commands, uploads, forwards) went to a target so
    /// far: for tests and `--verbose`.
    pub fn round_trips(&self, target: &TargetName) -> u64 {
        self.entries
            .get(target)
            .map_or(0, |entry| entry.trips.load(Ordering::Relaxed))
    }

    /// Removes what answered calls left, where nothing came after them. What a call
    /// left whose answer could not be written down stays.
    async fn forget(&self) {
        let work = self.entries.iter().map(|(target, entry)| async move {
            let is_open = entry.slot.try_lock().is_ok_and(|slot| {
                slot.open
                    .as_ref()
                    .is_some_and(|open| !open.lost.load(Ordering::Relaxed))
            });
            if !is_open || !entry.has_answered() {
                return;
            }
            let id = windlass_model::CallId {
                run: windlass_model::RunId(uuid::Uuid::nil()),
                step: windlass_model::StepKey::engine(),
                attempt: 1,
                seq: 1,
            };
            let context = CallContext {
                id,
                deadline: Instant::now() + FORGET,
                cancel: Default::default(),
                log: Arc::new(windlass_model::backend::NoLog),
                blobs: Default::default(),
                answered: Default::default(),
            };
            let request = exec::Request::script(String::new().into(), exec::Output::Log, false);
            // Best effort: the next run sweeps what stays.
            let _ = tokio::time::timeout(FORGET, self.run(&context, target, request)).await;
        });
        futures_util::future::join_all(work).await;
    }

    fn entry(&self, target: &TargetName) -> Result<&Entry, CallError> {
        self.entries.get(target).ok_or_else(|| {
            let mut names: Vec<&str> = self.entries.keys().map(TargetName::as_str).collect();
            names.sort_unstable();
            CallError::not_found("ssh.target-unknown", format!("there is no target {target}")).hint(
                format!("declare [target.{target}]; there are: {}", names.join(", ")),
            )
        })
    }

    /// Whether files and Docker of the target go through sudo.
    pub(crate) fn sudo(&self, target: &TargetName) -> bool {
        self.entries.get(target).is_some_and(Entry::sudo)
    }

    /// The engine's socket there, if the manifest names it.
    pub(crate) fn named_docker_socket(&self, target: &TargetName) -> Option<String> {
        self.entries.get(target).and_then(Entry::docker_socket)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The reply of a call is here: what it left on the target can go once that is on
    /// disk.
    fn answered(&self, target: &TargetName, stamp: String, answered: Answered) {
        if let Some(entry) = self.entries.get(target) {
            entry.put_ended([Ended { stamp, answered }]);
        }
    }

    /// Whether the target is this machine: then there is no connection to lose.
    fn is_local(&self, target: &TargetName) -> bool {
        let entry = self.entries.get(target);
        entry.is_some_and(|entry| matches!(entry.spec.address, Address::Local))
    }

    /// What changes something on the target from now on is done only while
    /// this lease holds there.
    pub(crate) fn set_fence(&self, target: &TargetName, fence: Option<Fence>) {
        if let Some(entry) = self.entries.get(target) {
            *entry.fence.lock().unwrap_or_else(PoisonError::into_inner) = fence;
        }
    }

    pub(crate) fn fences(&self) -> Vec<(TargetName, Fence)> {
        let names = self.entries.keys();
        names
            .filter_map(|name| Some((name.clone(), self.fence(name)?)))
            .collect()
    }

    pub(crate) fn fence(&self, target: &TargetName) -> Option<Fence> {
        let entry = self.entries.get(target)?;
        let fence = entry.fence.lock().unwrap_or_else(PoisonError::into_inner);
        fence.clone()
    }
}

impl Entry {
    fn new(spec: TargetSpec) -> Self {
        Self {
            spec,
            slot: Mutex::default(),
            trips: AtomicU64::new(0),
            fence: std::sync::Mutex::default(),
            ended: std::sync::Mutex::default(),
            local: Mutex::default(),
        }
    }

    fn sudo(&self) -> bool {
        self.spec.sudo
    }

    fn docker_socket(&self) -> Option<String> {
        self.spec.docker_socket.clone()
    }

    /// Those whose answers are on disk.
    fn take_answered(&self) -> Vec<Ended> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended
            .extract_if(.., |call| call.answered.get().is_some())
            .collect()
    }

    fn has_answered(&self) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().any(|call| call.answered.get().is_some())
    }

    fn put_ended(&self, calls: impl IntoIterator<Item = Ended>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.extend(calls);
    }

    fn count(&self) {
        self.trips.fetch_add(1, Ordering::Relaxed);
    }

    /// The target's connection, opened now if need be.
    async fn link(&self, config: &Config) -> Result<Link, CallError> {
        let spec: &SshSpec = match &self.spec.address {
            Address::Local => return Ok(Link::Local),
            Address::Ssh(spec) => spec,
        };
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        if let Some(open) = &slot.open
            && !open.lost.load(Ordering::Relaxed)
        {
            return Ok(Link::Remote(Arc::clone(open)));
        }
        if let Some((when, error)) = &slot.failed
            && *when >= asked
        {
            return Err(error.clone());
        }
        slot.open = None;
        match Master::open(config, &self.spec.name, spec).await {
            Ok(master) => {
                let connection = Arc::new(Connection {
                    master,
                    sessions: Semaphore::new(MAX_SESSIONS),
                    bridges: Semaphore::new(MAX_BRIDGES),
                    forwards: Mutex::default(),
                    lost: AtomicBool::new(false),
                });
                slot.open = Some(Arc::clone(&connection));
                slot.failed = None;
                Ok(Link::Remote(connection))
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

impl Link {
    /// Waits until the connection may have one more session.
    async fn permit(&self) -> Result<Option<SemaphorePermit<'_>>, CallError> {
        match self {
            Self::Local => Ok(None),
            Self::Remote(connection) => match connection.sessions.acquire().await {
                Ok(permit) => Ok(Some(permit)),
                Err(_) => Err(CallError::cancelled()),
            },
        }
    }
}

impl Connection {
    /// What a failure of the multiplexer means.
    async fn failed(&self, target: &TargetName, error: &openssh::Error) -> CallError {
        if !self.master.is_alive().await {
            return self.lost(target);
        }
        let text = error.to_string();
        let cause = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        if cause.contains("refused by peer") {
            return CallError::exhausted(
                "ssh.sessions-refused",
                format!("the SSH server of {target} refuses another session"),
            )
            .hint("raise MaxSessions in its sshd_config")
            .retryable();
        }
        CallError::unavailable(
            "ssh.session-failed",
            format!("no command could be started on {target}: {text}: {cause}"),
        )
        .retryable()
    }

    fn lost(&self, target: &TargetName) -> CallError {
        self.lost.store(true, Ordering::Relaxed);
        CallError::unavailable(
            "ssh.lost",
            format!(
                "the connection to {target} was lost; a command that was running may run on there"
            ),
        )
        .hint("look at the network and at the server's sshd; the next call connects anew")
        .retryable()
    }
}
