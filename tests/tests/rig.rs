//! The rig itself: each part is what the tests on top of it take it for, and is gone
//! afterwards.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use windlass_tests::http::Request;
use windlass_tests::process::Supervised;
use windlass_tests::recorder::Reply;
use windlass_tests::scratch::Scratch;
use windlass_tests::{
    HttpRecorder, Registry, Relay, Rig, Sshd, Windlass, Workspace, docker, process, require, sweep,
    tools,
};

#[test]
fn the_registry_lets_only_its_user_in() {
    require!(Registry);
    let registry = Registry::start().unwrap();
    let ask = |request: Request| request.send().unwrap().status;
    let plain = Request::get(registry.address(), "/v2/");
    assert_eq!(ask(plain.clone()), 401);
    assert_eq!(ask(plain.clone().basic(registry.user(), "wrong")), 401);
    assert_eq!(ask(plain.basic(registry.user(), registry.password())), 200);
    assert!(registry.log().contains("/v2/"), "{}", registry.log());

    let open = Registry::open().unwrap();
    assert_eq!(ask(Request::get(open.address(), "/v2/")), 200);
}

#[test]
fn docker_pushes_with_the_login_and_not_without() {
    require!(Docker, Registry, Observer);
    let registry = Registry::start().unwrap();
    let image = format!("{}:1", registry.repository("empty"));
    let context = Scratch::new().unwrap();
    context
        .write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        .unwrap();
    let mut build = docker::command();
    process::capture(
        build
            .args(["build", "--quiet", "--tag", &image])
            .arg(context.path()),
    )
    .unwrap();

    let refused = process::output(docker::command().args(["push", &image])).unwrap();
    assert!(
        !refused.status.success(),
        "a push without a login must be refused"
    );
    assert_eq!(registry.tags("empty").unwrap(), [""; 0]);

    let config = registry.docker_config().unwrap();
    process::capture(docker::with_config(&config).args(["push", &image])).unwrap();
    assert_eq!(registry.tags("empty").unwrap(), ["1"]);
    let digest = registry.digest("empty", "1").unwrap().unwrap();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
    assert_eq!(registry.digest("empty", "2").unwrap(), None);

    drop(registry);
    let left = docker::run(["image", "ls", "--quiet", &image]).unwrap();
    assert_eq!(left, "", "the registry's images go with it");
}

#[test]
fn a_session_has_docker_and_compose() {
    require!(Docker, Sshd, Compose);
    let sshd = Sshd::start().unwrap();
    let run = |script: &str| {
        let output = sshd.exec(script).unwrap();
        let text = process::both(&output);
        assert!(output.status.success(), "{script}: {text}\n{}", sshd.log());
        text
    };
    assert!(
        run("docker version --format '{{.Server.Version}}'")
            .trim()
            .len()
            > 2
    );
    let compose = run("docker compose version --short");
    assert!(
        compose
            .trim_start_matches('v')
            .starts_with(|c: char| c >= '2'),
        "{compose}"
    );
    // Its logins are not the user's: a deploy must bring its own.
    assert!(run("echo $DOCKER_CONFIG").contains("windlass-tools"));
    assert_eq!((sshd.logins(), sshd.sessions()), (3, 3), "{}", sshd.log());
}

#[test]
fn a_server_has_the_environment_it_is_given() {
    require!(Sshd);
    let sshd = Sshd::builder()
        .env("DOCKER_HOST", "unix:///not there.sock")
        .without_env("DOCKER_CONFIG")
        .start()
        .unwrap();
    let output = sshd
        .exec("echo \"$DOCKER_HOST|$DOCKER_CONFIG|\"; exit 7")
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "unix:///not there.sock||\n"
    );
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_login_needs_the_key_and_the_host_key() {
    require!(Sshd);
    let (sshd, other) = (Sshd::start().unwrap(), Sshd::start().unwrap());
    assert!(
        sshd.known_hosts()
            .starts_with(&format!("[127.0.0.1]:{} ssh-ed25519 ", sshd.port()))
    );

    let login = |key: &Path, known_hosts: &Path| {
        let mut ssh = sshd.ssh_with(key, known_hosts, sshd.port());
        process::both(&process::output(ssh.arg("echo in")).unwrap())
    };
    let (key, known_hosts) = (sshd.private_key_file(), sshd.known_hosts_file());
    assert!(login(&key, &known_hosts).contains("in\n"));
    assert!(login(&other.private_key_file(), &known_hosts).contains("Permission denied"));
    assert!(login(&key, Path::new("/dev/null")).contains("Host key verification failed"));

    let files = Scratch::new().unwrap();
    let changed = files
        .write("known_hosts", other.known_hosts_for(sshd.address()))
        .unwrap();
    assert!(login(&key, &changed).contains("HOST IDENTIFICATION HAS CHANGED"));
}

#[test]
fn a_server_can_refuse_to_forward_sockets() {
    require!(Sshd);
    let forwards = |sshd: &Sshd| {
        let files = Scratch::new().unwrap();
        let (here, there) = (files.join("here"), files.join("there"));
        let _listener = std::os::unix::net::UnixListener::bind(&there).unwrap();
        let mut ssh = sshd.ssh();
        let mut child = ssh
            .arg("-L")
            .arg(format!("{}:{}", here.display(), there.display()))
            .arg("sleep 20")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| here.exists());
        let mut stream = std::os::unix::net::UnixStream::connect(&here).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        // Refused: the client closes at once. Allowed: nobody answers, the read times out.
        let answer = stream.read(&mut [0; 1]);
        child.kill().unwrap();
        child.wait().unwrap();
        answer.is_err()
    };
    assert!(forwards(&Sshd::start().unwrap()));
    assert!(!forwards(
        &Sshd::builder()
            .stream_local_forwarding(false)
            .start()
            .unwrap()
    ));
}

#[test]
fn dropped_connections_end_and_the_server_stays() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut child = sshd
        .ssh()
        .arg("sleep 30")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| sshd.sessions() == 1);
    let started = Instant::now();
    sshd.drop_connections();
    assert_eq!(child.wait().unwrap().code(), Some(255));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(sshd.exec("true").unwrap().status.success());
}

#[test]
fn a_part_ends_with_its_value_and_with_its_sessions() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (pid, address, files) = (sshd.pid(), sshd.address(), sshd.root());
    let mut child = sshd
        .ssh()
        .arg("sleep 30")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| sshd.sessions() == 1);
    drop(sshd);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(TcpStream::connect(address).is_err());
    assert!(!files.exists());
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

#[test]
fn a_part_ends_when_its_owner_is_killed() {
    const OWNER: &str = "WINDLASS_RIG_OWNER";
    // This test runs itself as the owner that is to be killed.
    if let Some(dir) = std::env::var_os(OWNER) {
        let dir = Path::new(&dir);
        let grace = Duration::from_secs(1);
        let part =
            Supervised::start(Path::new("/bin/sleep"), ["60"], &dir.join("log"), grace).unwrap();
        std::fs::write(dir.join("partial"), part.pid().to_string()).unwrap();
        std::fs::rename(dir.join("partial"), dir.join("pid")).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let files = Scratch::new().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_part_ends_when_its_owner_is_killed"])
        .env(OWNER, files.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| files.join("pid").exists());
    let pid = std::fs::read_to_string(files.join("pid")).unwrap();
    let part = format!("/proc/{pid}");
    assert!(Path::new(&part).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until(|| !Path::new(&part).exists());
}

#[test]
fn a_relay_delays_each_way() {
    let (relay, _echo) = relay_to_echo();
    let mut stream = TcpStream::connect(relay.address()).unwrap();
    let mut round_trip = || {
        let started = Instant::now();
        stream.write_all(b"ping\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "ping\n");
        started.elapsed()
    };
    round_trip();
    relay.set_latency(Duration::from_millis(100));
    let took = round_trip();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert_eq!(
        (relay.connections(), relay.bytes(), relay.round_trips()),
        (1, 20, 1)
    );
}

#[test]
fn a_cut_relay_closes_and_comes_back() {
    let (relay, _echo) = relay_to_echo();
    let mut stream = TcpStream::connect(relay.address()).unwrap();
    stream.write_all(b"ping\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    relay.cut();
    assert!(matches!(reader.read(&mut [0; 1]), Ok(0) | Err(_)));

    let mut refused = TcpStream::connect(relay.address()).unwrap();
    assert!(
        matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)),
        "a new one is closed too"
    );

    relay.restore();
    let mut again = TcpStream::connect(relay.address()).unwrap();
    again.write_all(b"back\n").unwrap();
    let mut line = String::new();
    BufReader::new(again).read_line(&mut line).unwrap();
    assert_eq!(line, "back\n");
}

#[test]
fn a_blackhole_answers_nothing_and_closes_nothing() {
    let (relay, _echo) = relay_to_echo();
    relay.blackhole();
    let mut stream = TcpStream::connect(relay.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    stream.write_all(b"ping\n").unwrap();
    let problem = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(problem.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(relay.bytes(), 0);
}

#[test]
fn ssh_goes_through_a_relay() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    relay.set_latency(Duration::from_millis(10));
    let files = Scratch::new().unwrap();
    let known_hosts = files
        .write("known_hosts", sshd.known_hosts_for(relay.address()))
        .unwrap();
    let mut ssh = sshd.ssh_with(&sshd.private_key_file(), &known_hosts, relay.port());
    let output = process::output(ssh.arg("echo far")).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "far\n",
        "{}",
        process::both(&output)
    );
    assert!(relay.round_trips() >= 5, "{}", relay.round_trips());
}

#[test]
fn the_recorder_answers_by_script_and_keeps_what_came() {
    let recorder = HttpRecorder::script([
        Reply::new(429, r#"{"retry_after":1}"#).header("retry-after", "1"),
        Reply::new(200, "ok"),
    ])
    .unwrap();
    let post = |body: &str| {
        Request::new("POST", recorder.address(), "/hook?x=1")
            .header("content-type", "application/json")
            .body(body)
            .send()
            .unwrap()
    };
    let first = post(r#"{"text":"one"}"#);
    assert_eq!(
        (first.status, first.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(first.json()["retry_after"], 1);
    assert_eq!((post("two").status, post("three").status), (200, 200));

    let received = recorder.wait_for(3, Duration::from_secs(5));
    assert_eq!(received.len(), 3);
    assert_eq!(
        (received[0].method.as_str(), received[0].path.as_str()),
        ("POST", "/hook?x=1")
    );
    assert_eq!(received[0].json()["text"], "one");
    assert_eq!(received[2].text(), "three");
    assert_eq!(received[0].header("content-type"), Some("application/json"));
    let started = Instant::now();
    assert_eq!(recorder.wait_for(4, Duration::from_millis(200)).len(), 3);
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[test]
fn the_recorder_reads_chunks_and_keeps_a_connection() {
    let recorder = HttpRecorder::answering(|received| match received.path.as_str() {
        "/silent" => Reply::hang_up(),
        path => Reply::new(200, path.to_owned()),
    })
    .unwrap();
    let mut stream = TcpStream::connect(recorder.address()).unwrap();
    let chunked =
        "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).unwrap();
    stream.write_all(b"GET /silent HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("/a"),
        "{text}"
    );
    let received = recorder.requests();
    assert_eq!((received.len(), received[0].text().as_str()), (2, "abcde"));
}

#[test]
fn a_workspace_is_a_clean_repository_with_a_remote() {
    require!(Git, Observer);
    let workspace = Workspace::observer().unwrap();
    assert_eq!(workspace.git(["status", "--porcelain"]).unwrap(), "");
    assert_eq!(
        workspace.git(["rev-parse", "HEAD"]).unwrap(),
        workspace.git(["rev-parse", "origin/main"]).unwrap(),
    );
    let mode = std::fs::metadata(workspace.path().join("bin/observer"))
        .unwrap()
        .permissions();
    assert_ne!(mode.mode() & 0o111, 0);
    workspace
        .edit("windlass.toml", |text| text + "# changed\n")
        .unwrap();
    assert!(
        workspace
            .git(["status", "--porcelain"])
            .unwrap()
            .contains("windlass.toml")
    );
    let before = workspace.git(["rev-parse", "HEAD"]).unwrap();
    assert_ne!(workspace.commit("Change").unwrap(), before);
}

#[test]
fn an_invocation_is_captured_and_limited() {
    let files = Scratch::new().unwrap();
    let program = files
        .write(
            "windlass",
            "#!/bin/sh\necho out; echo err >&2; env > env; eval \"$1\"\n",
        )
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let call = |script: &str| Windlass::new(files.path(), [script]).program(&program);

    let outcome = call("exit 4").env("SEEN", "yes").run().unwrap();
    assert_eq!((outcome.code, outcome.signal()), (Some(4), None));
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    let env = std::fs::read_to_string(files.join("env")).unwrap();
    assert!(env.contains("SEEN=yes") && !env.contains("CARGO"), "{env}");

    let started = Instant::now();
    let problem = call("sleep 60")
        .limit(Duration::from_millis(300))
        .run()
        .unwrap_err();
    assert!(
        problem.to_string().contains("it was killed\nout\n"),
        "{problem}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));

    let mut running = call("trap 'echo caught; exit 130' INT; while :; do sleep 0.05; done")
        .spawn()
        .unwrap();
    assert!(running.wait_for("err", Duration::from_secs(5)));
    assert!(!running.wait_for("never", Duration::from_millis(100)));
    std::thread::sleep(Duration::from_millis(100));
    running.signal("INT");
    let outcome = running.wait().unwrap();
    assert!(
        outcome.code == Some(130) && outcome.says("caught"),
        "{outcome}"
    );
}

#[test]
fn the_rig_is_wired_and_leaves_nothing() {
    require!(Docker, Registry, Sshd, Compose, Observer, Git);
    let rig = Rig::start().unwrap();
    let manifest = rig.workspace.read("windlass.toml").unwrap();
    assert!(
        manifest.contains(&format!("name = \"{}\"", rig.name())),
        "{manifest}"
    );
    assert_eq!(
        rig.workspace.env()["OBSERVER_REGISTRY_HOST"],
        rig.registry.address()
    );
    assert_eq!(rig.workspace.git(["status", "--porcelain"]).unwrap(), "");

    // By hand what the pipeline does: build, push, and up on the far side.
    let image = format!("{}:by-hand", rig.registry.repository("observer"));
    let mut build = docker::command();
    build.args([
        "build",
        "--quiet",
        "--build-arg",
        "VERSION=by-hand",
        "--tag",
        &image,
    ]);
    process::capture(build.arg(rig.workspace.path())).unwrap();
    let config = rig.registry.docker_config().unwrap();
    process::capture(docker::with_config(&config).args(["push", &image])).unwrap();
    let script = format!(
        "cd {} && IMAGE={image} OBSERVER_PORT={} docker compose --project-name {} --file \
         docker-compose.server.yml up --detach --wait",
        rig.workspace.path().display(),
        rig.port(),
        rig.name(),
    );
    let output = rig.sshd.exec(&script).unwrap();
    assert!(output.status.success(), "{}", process::both(&output));
    let answer = rig.wait_until_healthy(Duration::from_secs(10)).unwrap();
    assert_eq!(answer.json()["version"], "by-hand");
    assert_eq!(rig.containers().unwrap().len(), 1);

    let project = format!("label=com.docker.compose.project={}", rig.name());
    drop(rig);
    assert_eq!(docker::containers(&project).unwrap(), [""; 0]);
    assert_eq!(
        docker::run(["network", "ls", "--quiet", "--filter", &project]).unwrap(),
        ""
    );
    assert_eq!(docker::run(["image", "ls", "--quiet", &image]).unwrap(), "");
}

#[test]
fn the_rig_can_be_far_away() {
    require!(Registry, Sshd, Observer, Git);
    let mut rig = Rig::start().unwrap();
    let relay = Relay::to(rig.sshd.address()).unwrap();
    rig.through(&relay).unwrap();
    let destination = format!("{}@127.0.0.1:{}", rig.sshd.user(), relay.port());
    assert_eq!(rig.workspace.env()["DEPLOY_HOST"], destination);
    assert_eq!(rig.workspace.git(["status", "--porcelain"]).unwrap(), "");
    // The committed file is the one that lets ssh through.
    let known_hosts = rig.workspace.path().join("deploy/known_hosts");
    let key = rig.sshd.private_key_file();
    let mut ssh = rig.sshd.ssh_with(&key, &known_hosts, relay.port());
    assert!(process::output(ssh.arg("true")).unwrap().status.success());
    assert_eq!(relay.connections(), 1);
}

#[test]
fn the_tools_are_inside_the_target_directory() {
    assert!(tools::project_root().join("Cargo.toml").is_file());
    assert!(tools::compose_plugin().starts_with(tools::project_root().join("target")));
}

/// A relay to a server that sends every line back.
fn relay_to_echo() -> (Relay, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    let _ = (&stream).write_all(line.as_bytes());
                    line.clear();
                }
            });
        }
    });
    (Relay::to(address).unwrap(), address)
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_a_killed_run_left_is_swept() {
    require!(Docker);
    // Beyond the kernel's largest process id: an owner that never lives.
    let dead = "wlrig_4194305_0";
    let image = format!("127.0.0.1:1/{dead}/observer:1");
    let context = Scratch::new().unwrap();
    context
        .write(
            "Dockerfile",
            "FROM scratch\nCOPY Dockerfile /\nCMD [\"/no\"]\n",
        )
        .unwrap();
    process::capture(
        docker::command()
            .args(["build", "-qt", &image])
            .arg(context.path()),
    )
    .unwrap();
    let container = docker::run(["create", &image]).unwrap();
    let label = format!("com.docker.compose.project={dead}");
    docker::run(["network", "create", "--label", &label, dead]).unwrap();
    let dir = std::env::temp_dir().join(format!("{dead}-x"));
    std::fs::create_dir_all(dir.join("inner")).unwrap();
    let mine = Scratch::new().unwrap();

    sweep::now();
    assert!(docker::run(["inspect", &container]).is_err());
    assert!(docker::run(["image", "inspect", &image]).is_err());
    assert!(docker::run(["network", "inspect", dead]).is_err());
    assert!(!dir.exists());
    assert!(mine.path().exists());
}
