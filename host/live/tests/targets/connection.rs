//! Opening, sharing and losing connections; errors told apart.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use windlass_model::call::SshOp;
use windlass_model::target::{KeySource, KnownHosts, SshSpec};
use windlass_model::{CallError, Capability as _, ErrorKind, Secrets, TargetName, Text};
use windlass_tests::{Relay, Sshd, require};

use crate::support::{World, eventually, processes_with, prod, sh, spec, ssh, target, world};

async fn fails(spec: SshSpec) -> CallError {
    let world = World::new(vec![target(spec)]);
    world.sh("true").await.unwrap_err()
}

#[tokio::test]
async fn concurrent_calls_share_one_login() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let calls = (0..12).map(|_| world.sh("sleep 0.2; echo hello"));
    for exit in futures_util::future::join_all(calls).await {
        assert_eq!(exit.unwrap().tail, "hello\n");
    }
    assert_eq!((sshd.logins(), world.trips()), (1, 12));
    let sockets = world.scratch.display().to_string();
    assert_eq!(processes_with(&sockets).len(), 1);
    world.live.close().await;
    eventually("the end of the client", || {
        processes_with(&sockets).is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_stays_open_while_the_engine_lives() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    world.sh("true").await.unwrap();
    // Longer than the client would stay by itself.
    tokio::time::sleep(Duration::from_secs(13)).await;
    world.sh("true").await.unwrap();
    assert_eq!(sshd.logins(), 1);
    // Dropped without a farewell, it goes as well. It calls itself by its socket.
    let sockets = world.scratch.display().to_string();
    assert_eq!(processes_with(&sockets).len(), 1);
    drop(world);
    eventually("the end of the client", || {
        processes_with(&sockets).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_server_with_few_sessions_is_queued_for() {
    require!(Sshd);
    let sshd = Sshd::builder().max_sessions(2).start().unwrap();
    let world = world(&sshd);
    let calls = (0..6).map(|_| world.sh("sleep 0.2; echo hello"));
    for exit in futures_util::future::join_all(calls).await {
        assert_eq!(exit.unwrap().tail, "hello\n");
    }
}

#[tokio::test]
async fn a_key_from_a_secret_is_mended_and_leaves_no_file() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut secrets = Secrets::default();
    let mangled = sshd.private_key().trim_end().replace('\n', "\r\n");
    secrets.insert("KEY", SecretString::from(mangled));
    let mut spec = spec(&sshd);
    spec.key = KeySource::Text(Text::secret("KEY"));
    spec.known_hosts = KnownHosts::Text(Text::from(sshd.known_hosts().trim_end()));
    let world = World::with_secrets(vec![target(spec)], secrets);
    assert_eq!(world.sh("echo in").await.unwrap().tail, "in\n");
    let files = |dir: &std::path::Path| -> Vec<String> {
        let list = std::process::Command::new("find")
            .arg(dir)
            .args(["-type", "f"])
            .output();
        let text = String::from_utf8(list.unwrap().stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let left = files(&world.scratch);
    assert!(left.iter().all(|path| path.ends_with("/log")), "{left:?}");
    world.live.close().await;
    drop(world);
}

#[tokio::test]
async fn unknown_and_changed_host_keys_are_told_apart() {
    require!(Sshd);
    let (sshd, other) = (Sshd::start().unwrap(), Sshd::start().unwrap());
    let mut unknown = spec(&sshd);
    unknown.known_hosts = KnownHosts::Text(Text::from("example.org ssh-ed25519 AAAA"));
    let error = fails(unknown).await;
    assert_eq!(error.code, "ssh.unknown-host-key", "{error:?}");
    assert!(error.hint.unwrap().contains("windlass trust prod"));

    let mut changed = spec(&sshd);
    changed.known_hosts = KnownHosts::Text(Text::from(other.known_hosts_for(sshd.address())));
    let error = fails(changed).await;
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("ssh.changed-host-key", ErrorKind::Denied)
    );
}

#[tokio::test]
async fn scanned_keys_can_be_trusted() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut spec = spec(&sshd);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let keys = windlass_live::ssh::scan_host_keys(&spec, deadline)
        .await
        .unwrap();
    assert_eq!(keys[0].algorithm, "ssh-ed25519");
    assert_eq!(keys[0].line, sshd.known_hosts().trim_end());
    assert!(
        sshd.log().contains(&keys[0].fingerprint) || keys[0].fingerprint.starts_with("SHA256:")
    );
    spec.known_hosts = KnownHosts::Text(Text::from(keys[0].line.as_str()));
    assert!(World::new(vec![target(spec)]).sh("true").await.is_ok());
}

#[tokio::test]
async fn keys_that_do_not_serve_are_told_apart() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let keygen = |name: &str, passphrase: &str| {
        let file = dir.path().join(name);
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", passphrase, "-f"])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
        file
    };
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n").unwrap();
    let cases = [
        (
            KeySource::File(keygen("secret", "geheim")),
            "ssh.key-needs-passphrase",
        ),
        (
            KeySource::File(keygen("stranger", "")),
            "ssh.permission-denied",
        ),
        (KeySource::File(garbage), "ssh.bad-key"),
        (KeySource::File("no/such/key".into()), "ssh.bad-key"),
        (
            KeySource::Text(Text::from("ssh-ed25519 AAAA me")),
            "ssh.bad-key",
        ),
    ];
    for (key, code) in cases {
        let mut spec = spec(&sshd);
        spec.key = key;
        let error = fails(spec).await;
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.hint.is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_host_that_swallows_everything_fails_in_time_and_leaves_no_client() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    relay.blackhole();
    let mut spec = spec(&sshd);
    spec.port = Some(relay.port());
    spec.connect_timeout = Duration::from_secs(1);
    let world = World::new(vec![target(spec)]);
    let begun = Instant::now();
    // Those who waited share the failure: no second second for the second.
    let (first, second) = tokio::join!(world.sh("true"), world.sh("true"));
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "{:?}",
        begun.elapsed()
    );
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(
            (error.code.as_str(), error.kind),
            ("ssh.connect-timeout", ErrorKind::Timeout)
        );
        assert!(error.retryable);
    }
    let port = format!("-p {}", relay.port());
    eventually("no client", || processes_with(&port).is_empty()).await;
}

#[tokio::test]
async fn hosts_that_cannot_be_reached() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut closed = spec(&sshd);
    closed.port = Some(1);
    let error = fails(closed).await;
    assert_eq!(error.code, "ssh.unreachable", "{error:?}");
    let mut option = spec(&sshd);
    option.host = "-oProxyCommand=touch /tmp/x".into();
    assert_eq!(fails(option).await.code, "ssh.invalid-target");
    let world = world(&sshd);
    let error = world.call(sh("staging", "true")).await.unwrap_err();
    assert_eq!(error.code, "ssh.target-unknown");
    assert!(error.hint.unwrap().contains("local, prod"));
}

#[tokio::test]
async fn a_cut_connection_is_lost_and_the_next_call_connects_anew() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    let mut spec = spec(&sshd);
    spec.port = Some(relay.port());
    spec.known_hosts = KnownHosts::Text(Text::from(sshd.known_hosts_for(relay.address())));
    let world = World::new(vec![target(spec)]);
    world.sh("true").await.unwrap();
    let mut context = world.context();
    context.deadline = tokio::time::Instant::now() + Duration::from_secs(4);
    let (answer, ()) = tokio::join!(world.live.call(&context, sh("prod", "sleep 8")), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        relay.cut();
    });
    let error = answer.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.retryable),
        ("ssh.lost", true),
        "{error:?}"
    );
    relay.restore();
    assert_eq!(world.sh("echo again").await.unwrap().tail, "again\n");
}

async fn engine_answers(world: &World, target: &TargetName) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let context = world.context();
    let path = world
        .live
        .connections()
        .docker_socket(&context, target)
        .await
        .unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let ask = b"GET /version HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_far_engine_answers_on_a_local_socket() {
    require!(Sshd, Docker);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    assert!(engine_answers(&world, &prod()).await.contains("ApiVersion"));
    let trips = world.trips();
    assert!(engine_answers(&world, &prod()).await.contains("ApiVersion"));
    assert_eq!((world.trips(), sshd.logins()), (trips, 1));
    assert!(
        engine_answers(&world, &TargetName::local())
            .await
            .contains("ApiVersion")
    );
}

#[tokio::test]
async fn a_server_that_forbids_forwarding_is_dialled() {
    require!(Sshd, Docker);
    let sshd = Sshd::builder()
        .stream_local_forwarding(false)
        .tcp_forwarding(false)
        .start()
        .unwrap();
    let world = world(&sshd);
    for _ in 0..3 {
        assert!(engine_answers(&world, &prod()).await.contains("ApiVersion"));
    }
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_to_be_missing() {
    require!(Sshd, Docker);
    let sshd = Sshd::builder()
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .start()
        .unwrap();
    let world = world(&sshd);
    let context = world.context();
    let error = world
        .live
        .connections()
        .docker_socket(&context, &prod())
        .await
        .unwrap_err();
    assert_eq!(error.code, "docker.unreachable", "{error:?}");
    assert!(
        error.message.contains("no Docker engine runs on prod"),
        "{error:?}"
    );
}

#[tokio::test]
async fn ports_of_the_target_are_reached_through_its_connection() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    for name in [prod(), TargetName::local()] {
        let context = world.context();
        let path = world
            .live
            .connections()
            .tcp_socket(&context, &name, "127.0.0.1", sshd.port());
        let mut stream = tokio::net::UnixStream::connect(path.await.unwrap())
            .await
            .unwrap();
        let mut start = [0; 7];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut start)
            .await
            .unwrap();
        assert_eq!(&start, b"SSH-2.0");
    }
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_server_that_forbids_forwarding_ports_says_so_on_the_second_try() {
    require!(Sshd);
    let sshd = Sshd::builder().tcp_forwarding(false).start().unwrap();
    let world = world(&sshd);
    let context = world.context();
    let target = prod();
    let connections = world.live.connections();
    let ask = || connections.tcp_socket(&context, &target, "127.0.0.1", 80);
    let path = ask().await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    assert_eq!(ask().await.unwrap_err().code, "ssh.forwarding-forbidden");
}

/// A server whose `sudo` is this script.
fn with_sudo(script: &str) -> (Sshd, World, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let sudo = dir.path().join("sudo");
    std::fs::write(&sudo, script).unwrap();
    std::fs::set_permissions(&sudo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let sshd = Sshd::builder().env("PATH", path).start().unwrap();
    let mut target = target(spec(&sshd));
    target.sudo = true;
    (sshd, World::new(vec![target]), dir)
}

#[tokio::test]
async fn files_and_docker_go_through_sudo_where_asked() {
    require!(Sshd, Docker);
    let log = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$1\" >> {}\nshift\nexec \"$@\"\n",
        log.path().display()
    );
    let (sshd, world, _dir) = with_sudo(&script);
    let path = sshd.root().join("x").display().to_string();
    let upload = SshOp::Upload {
        path: path.clone(),
        content: world.blob(b"x"),
        mode: 0o600,
    };
    world.call(ssh("prod", upload)).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"x");
    assert!(engine_answers(&world, &prod()).await.contains("ApiVersion"));
    let asked = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        asked.lines().count() >= 3 && asked.lines().all(|line| line == "-n"),
        "{asked}"
    );
}

#[tokio::test]
async fn sudo_that_is_not_allowed_is_said() {
    require!(Sshd);
    let (_sshd, world, _dir) =
        with_sudo("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n");
    let upload = SshOp::Upload {
        path: "/tmp/x".into(),
        content: world.blob(b"x"),
        mode: 0o644,
    };
    let error = world.call(ssh("prod", upload)).await.unwrap_err();
    assert_eq!(error.code, "target.sudo", "{error:?}");
}
