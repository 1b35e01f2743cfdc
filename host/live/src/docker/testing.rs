//! What the tests of this crate's backends share.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::target::{Address, KeySource, KnownHosts, RegistryLogin, SshSpec, TargetSpec};
use windlass_model::{
    Blob, BlobRef, Blobs, CallContext, CallId, LogSink, LogStream, RunId, Secrets, StepKey,
    TargetName, Text,
};
use windlass_tests::Sshd;

use crate::Config;
use crate::docker::Docker;
use crate::registry::Registry;
use crate::ssh::Connections;

/// A log that can be read.
#[derive(Default)]
pub(crate) struct Seen(Mutex<Vec<(LogStream, String)>>);

impl LogSink for Seen {
    fn line(&self, stream: LogStream, line: &str) {
        self.lock().push((stream, line.to_owned()));
    }
    fn status(&self, _: &str) {}
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(LogStream, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn text(&self) -> String {
        self.lock()
            .iter()
            .map(|(_, line)| line.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) fn has(&self, stream: LogStream, line: &str) -> bool {
        self.lock()
            .iter()
            .any(|(on, text)| *on == stream && text == line)
    }

    /// Waits until a line that contains this was logged.
    pub(crate) async fn wait_for(&self, needle: &str) {
        for _ in 0..600 {
            if self.text().contains(needle) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{needle:?} was never logged; the log:\n{}", self.text());
    }
}

pub(crate) struct World {
    pub(crate) docker: Docker,
    pub(crate) seen: Arc<Seen>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) run: RunId,
    /// Where the calls of the tests go.
    pub(crate) engine: TargetName,
    pub(crate) ssh: Arc<Connections>,
    _scratch: tempfile::TempDir,
    seq: std::sync::atomic::AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[], Vec::new())
    }

    pub(crate) fn with(secrets: &[(&str, &str)], registries: Vec<RegistryLogin>) -> Self {
        Self::of(secrets, registries, Vec::new(), TargetName::local())
    }

    /// Calls go to the engine that is reached through this server.
    pub(crate) fn over(sshd: &Sshd, secrets: &[(&str, &str)]) -> Self {
        Self::of(secrets, Vec::new(), vec![target(sshd)], "prod".into())
    }

    fn of(
        secrets: &[(&str, &str)],
        registries: Vec<RegistryLogin>,
        targets: Vec<TargetSpec>,
        engine: TargetName,
    ) -> Self {
        let scratch = tempfile::tempdir().expect("directory");
        let config = make_config(secrets, registries, targets, scratch.path().into());
        let ssh = Arc::new(Connections::new(Arc::clone(&config)));
        let registry = Arc::new(Registry::new(Arc::clone(&config)).expect("registry"));
        Self {
            docker: Docker::new(config, Arc::clone(&ssh), registry),
            seen: Arc::default(),
            blobs: Arc::default(),
            run: RunId(uuid::Uuid::now_v7()),
            engine,
            ssh,
            _scratch: scratch,
            seq: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(crate) fn context(&self) -> CallContext {
        let seq = self.seq.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        CallContext {
            id: CallId {
                run: self.run,
                step: StepKey::new("test", None),
                attempt: 1,
                seq,
            },
            deadline: Instant::now() + Duration::from_secs(120),
            cancel: CancellationToken::new(),
            log: self.seen.clone(),
            blobs: Arc::clone(&self.blobs),
            answered: Default::default(),
        }
    }

    /// A build context of these files, besides the test's program as `program`.
    pub(crate) fn archive(&self, files: &[(&str, &str)]) -> BlobRef {
        let mut archive = tar::Builder::new(Vec::new());
        let program = std::fs::read(program()).expect("program");
        let mut add = |name: &str, mode: u32, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            header.set_cksum();
            archive
                .append_data(&mut header, name, bytes)
                .expect("entry");
        };
        add("program", 0o755, &program);
        for (name, text) in files {
            add(name, 0o644, text.as_bytes());
        }
        let bytes = archive.into_inner().expect("archive");
        self.blobs.add(Blob::from_bytes(Bytes::from(bytes)))
    }
}

pub(crate) fn config(secrets: &[(&str, &str)], registries: Vec<RegistryLogin>) -> Arc<Config> {
    make_config(secrets, registries, Vec::new(), std::env::temp_dir())
}

pub(crate) fn make_config(
    secrets: &[(&str, &str)],
    registries: Vec<RegistryLogin>,
    targets: Vec<TargetSpec>,
    scratch: PathBuf,
) -> Arc<Config> {
    let mut all = Secrets::default();
    for (name, value) in secrets {
        all.insert(*name, SecretString::from((*value).to_owned()));
    }
    Arc::new(Config {
        root: "/".into(),
        scratch,
        targets,
        registries,
        secrets: Arc::new(all),
    })
}

/// The target `prod`: this machine, through that server.
pub(crate) fn target(sshd: &Sshd) -> TargetSpec {
    TargetSpec {
        name: "prod".into(),
        address: Address::Ssh(Box::new(SshSpec {
            user: Some(sshd.user().to_owned()),
            host: sshd.address().ip().to_string(),
            port: Some(sshd.port()),
            key: KeySource::File(sshd.private_key_file()),
            known_hosts: KnownHosts::File(sshd.known_hosts_file()),
            ssh_config: None,
            connect_timeout: Duration::from_secs(10),
        })),
        sudo: false,
        docker_socket: None,
    }
}

pub(crate) fn login(registry: &str, username: &str, secret: &str) -> RegistryLogin {
    RegistryLogin {
        registry: registry.into(),
        username: username.into(),
        password: Text::secret(secret),
    }
}

/// A static program for images that start from nothing.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *what = argv[i], *arg = argv[i + 1];
        if (!strcmp(what, "out")) printf("%s\n", arg);
        else if (!strcmp(what, "err")) fprintf(stderr, "%s\n", arg);
        else if (!strcmp(what, "env")) printf("%s=%s\n", arg, getenv(arg) ? getenv(arg) : "(none)");
        else if (!strcmp(what, "sleep")) usleep(atoi(arg) * 1000);
        else if (!strcmp(what, "exit")) return atoi(arg);
        else if (!strcmp(what, "flood")) for (int n = 0; n < atoi(arg); n++) printf("line %d\n", n);
        else if (!strcmp(what, "length")) {
            FILE *file = fopen(arg, "r");
            if (!file) { printf("%s: absent\n", arg); continue; }
            int n = 0;
            while (fgetc(file) != EOF) n++;
            printf("%s: %d bytes\n", arg, n);
        }
    }
    return 0;
}
"#;

fn program() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let dir = tempfile::tempdir().expect("directory").keep();
        let path = dir.join("program");
        let mut compiler = Command::new("cc")
            .args(["-static", "-Os", "-s", "-x", "c", "-o"])
            .arg(&path)
            .arg("-")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a C compiler");
        compiler
            .stdin
            .take()
            .expect("stdin")
            .write_all(PROGRAM.as_bytes())
            .expect("written");
        assert!(compiler.wait().expect("compiled").success());
        path
    })
    .clone()
}
