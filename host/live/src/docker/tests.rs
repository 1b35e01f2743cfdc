//! Against a real engine and a real registry.

use std::time::{Duration, Instant};

use windlass_model::call::{BuildSpec, DockerCall, DockerOp, RunSpec};
use windlass_model::reply::{ContainerInfo, Exit, Health};
use windlass_model::{
    CallContext, CallError, ErrorKind, LogStream, Reply, RunId, TargetName, Text,
};
use windlass_tests::{require, scratch};

use super::testing::{World, login};

impl World {
    async fn call(&self, op: DockerOp) -> Result<Reply, CallError> {
        self.call_in(&self.context(), op).await
    }

    async fn call_in(&self, context: &CallContext, op: DockerOp) -> Result<Reply, CallError> {
        let engine = self.engine.clone();
        self.docker.call(context, DockerCall { engine, op }).await
    }

    async fn build(&self, dockerfile: &str, spec: BuildSpec) -> Result<Exit, CallError> {
        // The engine does equal steps of simultaneous builds once: keep apart
        // those of different tests.
        let own = format!("COPY program /program\nENV OWN={}", scratch::unique_name());
        let dockerfile = &dockerfile.replacen("COPY program /program", &own, 1);
        let context = Some(self.archive(&[("Dockerfile", dockerfile), ("data.txt", "data")]));
        let op = DockerOp::Build(Box::new(BuildSpec { context, ..spec }));
        match self.call(op).await? {
            Reply::Exit(exit) => Ok(exit),
            other => panic!("a build answers {}", other.kind()),
        }
    }

    async fn inspect(&self, id: &str) -> ContainerInfo {
        match self
            .call(DockerOp::InspectContainer { id: id.into() })
            .await
        {
            Ok(Reply::Container(info)) => *info,
            other => panic!("{other:?}"),
        }
    }

    async fn start(&self, image: &str, command: &[&str]) -> String {
        let spec = RunSpec {
            image: image.into(),
            command: command.iter().map(|word| Text::from(*word)).collect(),
            ..RunSpec::default()
        };
        match self.call(DockerOp::Run(Box::new(spec))).await {
            Ok(Reply::Id(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn remove(&self, id: &str) {
        let op = DockerOp::RemoveContainer {
            id: id.into(),
            grace_ms: 0,
        };
        assert_eq!(self.call(op).await, Ok(Reply::Done));
    }
}

fn value(exit: &Exit, name: &str) -> String {
    exit.values
        .iter()
        .find(|(key, _)| key == name)
        .and_then(|(_, value)| value.as_plain())
        .unwrap_or_else(|| panic!("no value {name} in {exit:?}"))
        .to_owned()
}

/// An image under a name of this process; goes with it.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = windlass_tests::docker::run(["rmi", "--force", &self.0]);
    }
}

async fn image(world: &World, dockerfile: &str) -> Image {
    let tag = format!("{}:1", scratch::unique_name());
    let spec = BuildSpec {
        tags: vec![tag.clone()],
        ..BuildSpec::default()
    };
    world.build(dockerfile, spec).await.expect("build");
    Image(tag)
}

const PLAIN: &str = "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\n";

#[tokio::test]
async fn the_engine_says_what_it_is() {
    require!(Docker);
    let world = World::new();
    let Ok(Reply::Engine(info)) = world.call(DockerOp::Info).await else {
        panic!("info");
    };
    assert_eq!(info.os, "linux");
    assert!(
        matches!(info.architecture.as_str(), "amd64" | "arm64"),
        "{info:?}"
    );
    assert!(info.buildkit && !info.version.is_empty());
}

#[tokio::test]
async fn buildkit_builds_with_log_args_labels_and_stage() {
    require!(Docker);
    let world = World::new();
    let tags = [1, 2].map(|n| format!("{}:{n}", scratch::unique_name()));
    let _images = tags.clone().map(Image);
    let spec = BuildSpec {
        tags: tags.to_vec(),
        args: vec![("WORD".into(), "from & an=arg".into())],
        labels: vec![("org.example.a".into(), "ä \"b\"".into())],
        stage: Some("wanted".into()),
        no_cache: true,
        ..BuildSpec::default()
    };
    let dockerfile = "FROM scratch AS wanted\nARG WORD\nCOPY program /program\n\
        RUN [\"/program\", \"env\", \"WORD\", \"err\", \"to stderr\"]\n\
        HEALTHCHECK --interval=2s CMD [\"/program\", \"exit\", \"0\"]\n\
        FROM wanted AS unwanted\nRUN [\"/program\", \"exit\", \"1\"]\n";
    let exit = world.build(dockerfile, spec).await.expect("build");
    let id = value(&exit, "image");
    assert!(id.starts_with("sha256:"), "{id}");
    let log = world.seen.text();
    assert!(
        log.contains("WORD=from & an=arg") && log.contains("to stderr"),
        "{log}"
    );
    assert!(
        log.lines()
            .any(|line| line.starts_with('#') && line.contains("COPY program /program")),
        "{log}"
    );
    assert!(exit.tail.contains("DONE"), "{}", exit.tail);
    for tag in &tags {
        let op = DockerOp::InspectImage {
            image: tag.as_str().into(),
        };
        let Ok(Reply::Image(Some(info))) = world.call(op).await else {
            panic!("inspect");
        };
        assert_eq!(info.id, id);
        assert!(
            info.labels
                .contains(&("org.example.a".into(), "ä \"b\"".into())),
            "{info:?}"
        );
        assert!(info.has_healthcheck && info.health_interval_ms == 2000);
        assert!(info.tags.iter().any(|name| name == tag) && info.size > 0);
    }
}

#[tokio::test]
async fn build_secrets_come_from_memory_and_stay_out_of_the_image() {
    require!(Docker);
    let world = World::with(&[("TOKEN", "hunter2-very-secret")], Vec::new());
    let dockerfile = "FROM scratch\nCOPY program /program\n\
        RUN --mount=type=secret,id=token,required=true [\"/program\", \"length\", \"/run/secrets/token\"]\n\
        RUN [\"/program\", \"length\", \"/run/secrets/token\"]\n";
    let spec = BuildSpec {
        secrets: vec![("token".into(), Text::secret("TOKEN"))],
        no_cache: true,
        ..BuildSpec::default()
    };
    let exit = world.build(dockerfile, spec.clone()).await.expect("build");
    let _image = Image(value(&exit, "image"));
    let log = world.seen.text();
    assert!(log.contains("/run/secrets/token: 19 bytes"), "{log}");
    assert!(log.contains("/run/secrets/token: absent"), "{log}");

    // Without the secret, `required` fails the build.
    let without = BuildSpec {
        secrets: Vec::new(),
        ..spec.clone()
    };
    let error = world
        .build(dockerfile, without)
        .await
        .expect_err("no secret");
    assert_eq!(error.code, "docker.build-failed");

    // The classic builder cannot have it: said before anything is built.
    let mut classic = World::with(&[("TOKEN", "hunter2-very-secret")], Vec::new());
    classic.docker.classic = true;
    let error = classic.build(dockerfile, spec).await.expect_err("classic");
    assert_eq!(error.code, "docker.no-buildkit");
    assert!(error.hint.expect("hint").contains("DOCKER_BUILDKIT"));
}

#[tokio::test]
async fn the_classic_builder_builds_too() {
    require!(Docker);
    let mut world = World::new();
    world.docker.classic = true;
    let image = image(&world, PLAIN).await;
    let log = world.seen.text();
    assert!(log.contains("Step 1/4 : FROM scratch"), "{log}");
    let op = DockerOp::InspectImage {
        image: image.0.as_str().into(),
    };
    assert!(matches!(world.call(op).await, Ok(Reply::Image(Some(_)))));

    let spec = BuildSpec::default();
    let error = world
        .build("FROM scratch\nCOPY nothing /\n", spec)
        .await
        .expect_err("no such file");
    assert_eq!(error.code, "docker.build-failed");
}

#[tokio::test]
async fn a_failing_build_says_why_and_leaves_no_image() {
    require!(Docker);
    let world = World::new();
    let tag = format!("{}:1", scratch::unique_name());
    let spec = BuildSpec {
        tags: vec![tag.clone()],
        ..BuildSpec::default()
    };
    let dockerfile = "FROM scratch\nCOPY program /program\n\
        RUN [\"/program\", \"err\", \"cannot find the moon\", \"exit\", \"3\"]\n";
    let error = world
        .build(dockerfile, spec.clone())
        .await
        .expect_err("exit 3");
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Invalid, "docker.build-failed")
    );
    assert!(
        error.message.contains("cannot find the moon"),
        "{}",
        error.message
    );
    assert!(error.message.contains("exit code: 3"), "{}", error.message);
    let op = DockerOp::InspectImage {
        image: tag.as_str().into(),
    };
    assert_eq!(world.call(op).await, Ok(Reply::Image(None)));

    let error = world
        .build("FROM scratch\nCOPY gone.txt /\n", spec.clone())
        .await
        .expect_err("no file");
    assert!(
        error
            .hint
            .as_deref()
            .unwrap_or_default()
            .contains("not in the context"),
        "{error:?}"
    );

    let spec = BuildSpec {
        dockerfile: "deploy/Dockerfile".into(),
        ..spec
    };
    let error = world.build(PLAIN, spec).await.expect_err("no Dockerfile");
    assert!(error.hint.is_some(), "{error:?}");
}

#[tokio::test]
async fn a_cancelled_build_stops_in_the_engine() {
    require!(Docker);
    let marker = scratch::unique_name();
    let dockerfile = format!(
        "FROM scratch\nCOPY program /program\n\
         RUN [\"/program\", \"out\", \"begun\", \"sleep\", \"40000\", \"out\", \"{marker}\"]\n"
    );
    for classic in [false, true] {
        let mut world = World::new();
        world.docker.classic = classic;
        let context = world.context();
        let archive = world.archive(&[("Dockerfile", &dockerfile)]);
        let spec = BuildSpec {
            context: Some(archive),
            no_cache: true,
            ..BuildSpec::default()
        };
        let cancel = context.cancel.clone();
        let began = Instant::now();
        let (result, ()) = tokio::join!(
            world.call_in(&context, DockerOp::Build(Box::new(spec))),
            async {
                world.seen.wait_for("begun").await;
                cancel.cancel();
            }
        );
        assert_eq!(result, Err(CallError::cancelled()), "classic: {classic}");
        assert!(began.elapsed() < Duration::from_secs(20));
        // The process of the build is gone, long before it would have ended.
        let mut alive = true;
        for _ in 0..100 {
            alive = running(&marker);
            if !alive {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!alive, "the build goes on; classic: {classic}");
    }
}

/// Whether a program runs that was started with this argument.
fn running(argument: &str) -> bool {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| {
            line.starts_with(b"/program") && String::from_utf8_lossy(&line).contains(argument)
        })
}

#[tokio::test]
async fn a_container_runs_logs_ends_and_goes() {
    require!(Docker);
    let world = World::with(&[("KEY", "s3cr3t-value")], Vec::new());
    let image = image(&world, PLAIN).await;
    let spec = RunSpec {
        image: image.0.as_str().into(),
        command: [
            "env", "KEY", "sleep", "300", "err", "oh", "sleep", "300", "exit", "7",
        ]
        .map(Text::from)
        .into(),
        env: vec![("KEY".into(), Text::secret("KEY"))],
        ..RunSpec::default()
    };
    let context = world.context();
    let stamp = context.id.stamp();
    let Ok(Reply::Id(id)) = world.call_in(&context, DockerOp::Run(Box::new(spec))).await else {
        panic!("run");
    };
    let labels = windlass_tests::docker::run([
        "inspect",
        "--format",
        "{{.Name}} {{index .Config.Labels \"windlass.run\"}} {{index .Config.Labels \"windlass.call\"}}",
        &id,
    ])
    .expect("inspect");
    assert_eq!(
        labels.trim(),
        format!("/windlass-{stamp} {} {stamp}", world.run)
    );

    let Ok(Reply::Exit(exit)) = world.call(DockerOp::WaitContainer { id: id.clone() }).await else {
        panic!("wait");
    };
    assert_eq!(exit.code, 7);
    assert!(world.seen.has(LogStream::Stdout, "KEY=s3cr3t-value"));
    assert!(world.seen.has(LogStream::Stderr, "oh"));
    let info = world.inspect(&id).await;
    assert_eq!((info.state.as_str(), info.exit_code), ("exited", 7));
    assert_eq!(info.health, Health::None);

    let op = DockerOp::ContainerLogs {
        id: id.clone(),
        max_bytes: 3,
    };
    assert_eq!(world.call(op).await, Ok(Reply::Text("oh\n".into())));

    world.remove(&id).await;
    world.remove(&id).await;
    let error = world
        .call(DockerOp::InspectContainer { id })
        .await
        .expect_err("gone");
    assert_eq!(error.code, "docker.no-container");
}

#[tokio::test]
async fn health_and_its_probes_are_told() {
    require!(Docker);
    let world = World::new();
    let image = image(
        &world,
        "FROM scratch\nCOPY program /program\n\
         HEALTHCHECK --interval=1s --retries=1 CMD [\"/program\", \"out\", \"no moon\", \"exit\", \"1\"]\n\
         ENTRYPOINT [\"/program\"]\n",
    )
    .await;
    let id = world.start(&image.0, &["sleep", "60000"]).await;
    let mut info = world.inspect(&id).await;
    assert_eq!(info.health, Health::Starting);
    for _ in 0..100 {
        if info.health != Health::Starting {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        info = world.inspect(&id).await;
    }
    world.remove(&id).await;
    assert_eq!(info.health, Health::Unhealthy);
    let probe = info.probes.last().expect("a probe");
    assert_eq!((probe.exit_code, probe.output.trim()), (1, "no moon"));
}

#[tokio::test]
async fn what_cannot_start_leaves_no_container() {
    require!(Docker);
    let world = World::new();
    let image = image(&world, PLAIN).await;
    let spec = RunSpec {
        image: image.0.as_str().into(),
        entrypoint: Some(vec!["/not-there".into()]),
        ..RunSpec::default()
    };
    let error = world
        .call(DockerOp::Run(Box::new(spec)))
        .await
        .expect_err("no program");
    assert!(
        error
            .hint
            .as_deref()
            .unwrap_or_default()
            .contains("entrypoint"),
        "{error:?}"
    );
    let left = windlass_tests::docker::containers(&format!("label=windlass.run={}", world.run))
        .expect("list");
    assert!(left.is_empty(), "{left:?}");

    let spec = RunSpec {
        image: "windlass-no-such-image:1".into(),
        ..RunSpec::default()
    };
    let error = world
        .call(DockerOp::Run(Box::new(spec)))
        .await
        .expect_err("no image");
    assert_eq!(error.code, "docker.no-image");

    let spec = RunSpec {
        image: image.0.as_str().into(),
        command: vec![Text::secret("KEY")],
        ..RunSpec::default()
    };
    let error = world
        .call(DockerOp::Run(Box::new(spec)))
        .await
        .expect_err("a secret in argv");
    assert_eq!(error.code, "docker.secret-in-command");
}

#[tokio::test]
async fn a_stop_has_its_grace_and_a_cancelled_step_can_still_clean_up() {
    require!(Docker);
    let world = World::new();
    let image = image(&world, PLAIN).await;
    let id = world.start(&image.0, &["sleep", "60000"]).await;
    let context = world.context();
    context.cancel.cancel();
    let began = Instant::now();
    // PID 1 ignores SIGTERM: the grace passes, then SIGKILL.
    let op = DockerOp::RemoveContainer {
        id: id.clone(),
        grace_ms: 900,
    };
    assert_eq!(world.call_in(&context, op).await, Ok(Reply::Done));
    assert!(
        began.elapsed() >= Duration::from_millis(900) && began.elapsed() < Duration::from_secs(5)
    );
    assert!(world.call(DockerOp::InspectContainer { id }).await.is_err());
}

#[tokio::test]
async fn the_sweep_takes_only_what_dead_runs_left() {
    require!(Docker);
    let dead = World::new();
    let alive = World::new();
    let image = image(&dead, PLAIN).await;
    let left = dead.start(&image.0, &["sleep", "60000"]).await;
    let used = alive.start(&image.0, &["sleep", "60000"]).await;
    // One at work, and one that was created and not started.
    let works = dead.start(&image.0, &["sleep", "60000"]).await;
    let idle = dead.start(&image.0, &["sleep", "60000"]).await;
    let label = "{{index .Config.Labels \"windlass.call\"}}";
    let stamp = |id: &str| {
        let said = windlass_tests::docker::run(["inspect", "--format", label, id]);
        said.expect("label").trim().to_owned()
    };
    let label = format!("windlass.call={}", stamp(&idle));
    let (run, call) = (format!("windlass.run={}", dead.run), stamp(&works));
    windlass_tests::docker::run(["rm", "--force", &idle]).expect("removed");
    let words = ["create", "--label", &run, "--label", &label, &image.0];
    windlass_tests::docker::run(words).expect("created");
    let gone = dead.run.to_string();
    let swept = alive
        .docker
        .sweep(
            &alive.context(),
            &TargetName::local(),
            |run| run != gone,
            |stamp| label.ends_with(stamp) || stamp == call,
        )
        .await
        .expect("sweep");
    assert_eq!(swept.removed.len(), 2, "{swept:?}");
    assert_eq!(swept.kept, [(call, works.clone())].into(), "{swept:?}");
    assert_eq!(alive.inspect(&works).await.state, "running");
    alive.remove(&works).await;
    assert!(
        alive
            .call(DockerOp::InspectContainer { id: left })
            .await
            .is_err()
    );
    assert_eq!(alive.inspect(&used).await.state, "running");
    alive.remove(&used).await;
}

#[tokio::test]
async fn a_push_needs_the_login_and_gives_the_digest() {
    require!(Docker, Registry);
    let registry = windlass_tests::registry::Registry::start().expect("registry");
    let name = registry.repository("app");
    let target = format!("{name}:1.0");
    let logins = |password: &str| {
        World::with(
            &[("PASSWORD", password)],
            vec![login(&registry.address(), registry.user(), "PASSWORD")],
        )
    };
    let world = logins(registry.password());
    let built = image(&world, PLAIN).await;
    let tag = DockerOp::Tag {
        image: built.0.as_str().into(),
        new_tag: target.as_str().into(),
    };
    assert_eq!(world.call(tag).await, Ok(Reply::Done));
    let push = || DockerOp::Push {
        image: target.as_str().into(),
    };

    let stranger = World::new();
    let error = stranger.call(push()).await.expect_err("no login");
    assert_eq!(error.code, "registry.not-logged-in", "{error:?}");
    let wrong = logins("wrong-password-1");
    let error = wrong.call(push()).await.expect_err("wrong login");
    assert_eq!(error.code, "registry.bad-login", "{error:?}");
    assert!(!format!("{error:?}").contains("wrong-password-1"));
    assert!(registry.tags("app").expect("tags").is_empty());

    let Ok(Reply::Exit(exit)) = world.call(push()).await else {
        panic!("push: {}", world.seen.text());
    };
    let digest = value(&exit, "digest");
    assert_eq!(
        registry.digest("app", "1.0").expect("digest"),
        Some(digest.clone())
    );
    assert_eq!(value(&exit, "ref"), format!("{name}@{digest}"));
    assert!(
        world.seen.text().contains("Pushed"),
        "{}",
        world.seen.text()
    );

    // And back, by the digest, with the same login.
    world
        .call(DockerOp::RemoveImage {
            image: target.as_str().into(),
        })
        .await
        .expect("removed");
    let by_digest = format!("{name}@{digest}");
    let pull = || DockerOp::Pull {
        image: by_digest.as_str().into(),
    };
    let error = stranger.call(pull()).await.expect_err("no login");
    assert_eq!(error.code, "registry.not-logged-in", "{error:?}");
    let Ok(Reply::Exit(exit)) = world.call(pull()).await else {
        panic!("pull");
    };
    assert!(value(&exit, "image").starts_with("sha256:"));
    let _pulled = Image(by_digest);

    let missing = DockerOp::Push {
        image: format!("{name}:not-there").as_str().into(),
    };
    let error = world.call(missing).await.expect_err("no such tag");
    assert_eq!(error.code, "docker.no-image");
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told() {
    let world = World::new();
    let engine = super::engine::Engine::new(
        "local",
        super::engine::Endpoint::Unix("/nowhere/docker.sock".into()),
    );
    let error = world
        .docker
        .info(&engine)
        .await
        .expect_err("nothing listens");
    assert_eq!(error.code, "docker.no-engine");
    assert!(
        error.message.contains("/nowhere/docker.sock"),
        "{}",
        error.message
    );
    assert!(error.hint.expect("hint").contains("systemctl start docker"));
}

#[tokio::test]
async fn a_silent_engine_ends_with_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let world = World::new();
    let engine = super::engine::Engine::new("local", super::engine::Endpoint::Tcp(address));
    let mut context = world.context();
    context.deadline = tokio::time::Instant::now() + Duration::from_millis(200);
    let error = world
        .docker
        .bounded(&context, world.docker.info(&engine))
        .await
        .expect_err("silence");
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Timeout, "docker.deadline")
    );
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let server = windlass_tests::recorder::HttpRecorder::answering(|_| {
        windlass_tests::recorder::Reply::new(200, vec![b' '; 9 * 1024 * 1024])
    })
    .expect("server");
    let engine =
        super::engine::Engine::new("local", super::engine::Endpoint::Tcp(server.address()));
    let error = World::new()
        .docker
        .info(&engine)
        .await
        .expect_err("too large");
    assert_eq!(error.code, "docker.answer-too-large");
}

#[test]
fn stamps_are_fit_for_a_name() {
    let world = World::new();
    let stamp = world.context().id.stamp();
    assert!(super::container::check_id(&format!("windlass-{stamp}")).is_ok());
    assert_ne!(RunId(uuid::Uuid::now_v7()), world.run);
}

/// The whole way over SSH: by forwarded socket, and where the server forbids
/// that, by `docker system dial-stdio`.
#[tokio::test]
async fn a_targets_engine_is_reached_over_ssh() {
    require!(Docker, Sshd);
    for forwarding in [true, false] {
        let sshd = windlass_tests::Sshd::builder()
            .stream_local_forwarding(forwarding)
            .start()
            .expect("sshd");
        let world = World::over(&sshd, &[("TOKEN", "hunter2-very-secret")]);
        let tag = format!("{}:1", scratch::unique_name());
        let _image = Image(tag.clone());
        let spec = BuildSpec {
            tags: vec![tag.clone()],
            secrets: vec![("token".into(), Text::secret("TOKEN"))],
            no_cache: true,
            ..BuildSpec::default()
        };
        let dockerfile = "FROM scratch\nCOPY program /program\n\
            RUN --mount=type=secret,id=token,required=true [\"/program\", \"length\", \"/run/secrets/token\"]\n\
            ENTRYPOINT [\"/program\"]\n";
        world.build(dockerfile, spec).await.expect("build");
        let log = world.seen.text();
        assert!(log.contains("/run/secrets/token: 19 bytes"), "{log}");

        let id = world
            .start(&tag, &["out", "hello", "sleep", "200", "exit", "3"])
            .await;
        let Ok(Reply::Exit(exit)) = world.call(DockerOp::WaitContainer { id: id.clone() }).await
        else {
            panic!("wait");
        };
        assert_eq!((exit.code, exit.tail.as_str()), (3, "hello"));

        // Also when the step was cancelled.
        let context = world.context();
        context.cancel.cancel();
        let op = DockerOp::RemoveContainer {
            id: id.clone(),
            grace_ms: 0,
        };
        assert_eq!(world.call_in(&context, op).await, Ok(Reply::Done));
        let error = world
            .call(DockerOp::InspectContainer { id })
            .await
            .expect_err("gone");
        assert_eq!(error.code, "docker.no-container");
        assert_eq!(sshd.logins(), 1, "one connection for all");
        world.ssh.close().await;
    }
}
