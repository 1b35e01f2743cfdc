//! What the tests of targets share: a run's surroundings, and short words for
//! calls.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use windlass_live::{Config, Live};
use windlass_model::call::{SshCall, SshOp};
use windlass_model::reply::Exit;
use windlass_model::target::{Address, KeySource, KnownHosts, SshSpec, TargetSpec};
use windlass_model::{
    Blob, BlobRef, Blobs, Call, CallContext, CallError, CallId, Capability as _, LogSink,
    LogStream, Reply, RunId, Secrets, StepKey, TargetName, Text,
};
use windlass_tests::Sshd;

/// Keeps the lines of a log.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl LogSink for Log {
    fn line(&self, _stream: LogStream, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn status(&self, _status: &str) {}
}

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The live backends of one run.
pub(crate) struct World {
    pub(crate) live: Live,
    pub(crate) run: RunId,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) log: Arc<Log>,
    pub(crate) scratch: PathBuf,
    seq: AtomicU64,
    _dirs: (TempDir, TempDir),
}

impl World {
    pub(crate) fn new(targets: Vec<TargetSpec>) -> Self {
        Self::with_secrets(targets, Secrets::default())
    }

    pub(crate) fn with_secrets(targets: Vec<TargetSpec>, secrets: Secrets) -> Self {
        let (root, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let config = Config {
            root: root.path().to_owned(),
            scratch: scratch.path().to_owned(),
            targets,
            registries: Vec::new(),
            secrets: Arc::new(secrets),
        };
        Self {
            live: Live::new(config).unwrap(),
            run: RunId(uuid::Uuid::now_v7()),
            blobs: Arc::default(),
            log: Arc::default(),
            scratch: scratch.path().to_owned(),
            seq: AtomicU64::new(0),
            _dirs: (root, scratch),
        }
    }

    pub(crate) fn context(&self) -> CallContext {
        CallContext {
            id: CallId {
                run: self.run,
                step: StepKey::new("deploy", Some(TargetName::new("prod"))),
                attempt: 1,
                seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            },
            deadline: tokio::time::Instant::now() + Duration::from_secs(60),
            cancel: CancellationToken::new(),
            log: self.log.clone(),
            blobs: Arc::clone(&self.blobs),
            answered: Default::default(),
        }
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Reply, CallError> {
        self.call_as(&self.context(), call).await
    }

    /// As the journal does: the answer is on disk, then it is said to be.
    pub(crate) async fn call_as(
        &self,
        context: &CallContext,
        call: Call,
    ) -> Result<Reply, CallError> {
        let answer = self.live.call(context, call).await;
        context.answered.set(jiff::Timestamp::now());
        answer
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> BlobRef {
        self.blobs.add(Blob::from_bytes(bytes.to_vec().into()))
    }

    pub(crate) fn trips(&self) -> u64 {
        self.live.connections().round_trips(&prod())
    }

    pub(crate) async fn sh(&self, script: &str) -> Result<Exit, CallError> {
        exit(self.call(sh("prod", script)).await)
    }
}

pub(crate) fn prod() -> TargetName {
    TargetName::new("prod")
}

pub(crate) fn exit(reply: Result<Reply, CallError>) -> Result<Exit, CallError> {
    match reply? {
        Reply::Exit(exit) => Ok(exit),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn argv(words: &[&str]) -> Vec<Text> {
    words.iter().map(|word| Text::from(*word)).collect()
}

/// `sh -c SCRIPT` on a target.
pub(crate) fn sh(target: &str, script: &str) -> Call {
    ssh(
        target,
        SshOp::Exec {
            argv: argv(&["sh", "-c", script]),
            env: Vec::new(),
            stdin: None,
            dir: None,
        },
    )
}

pub(crate) fn ssh(target: &str, op: SshOp) -> Call {
    Call::Ssh(SshCall {
        target: TargetName::new(target),
        op,
    })
}

/// How `prod` is reached: by key and known hosts of the rig's server.
pub(crate) fn spec(sshd: &Sshd) -> SshSpec {
    SshSpec {
        user: Some(sshd.user().to_owned()),
        host: sshd.address().ip().to_string(),
        port: Some(sshd.port()),
        key: KeySource::File(sshd.private_key_file()),
        known_hosts: KnownHosts::File(sshd.known_hosts_file()),
        ssh_config: None,
        connect_timeout: Duration::from_secs(10),
    }
}

pub(crate) fn target(spec: SshSpec) -> TargetSpec {
    TargetSpec {
        name: prod(),
        address: Address::Ssh(Box::new(spec)),
        sudo: false,
        docker_socket: None,
    }
}

pub(crate) fn world(sshd: &Sshd) -> World {
    World::new(vec![target(spec(sshd))])
}

/// Processes on this machine whose command line holds a text.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    found
}

/// Waits until something holds, at most ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come to be");
}
