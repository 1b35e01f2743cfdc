//! Releases on a server with a real engine, registry and compose, v2 and v1.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use windlass_model::call::{LeaseCall, LeaseOp, ReleasesCall, ReleasesOp, StageSpec};
use windlass_model::reply::{Exit, Release, ReleaseState, Staged};
use windlass_model::target::KnownHosts;
use windlass_model::{Call, CallError, ErrorKind, Reply, Text};
use windlass_tests::{Registry, Relay, Sshd, docker, require, scratch, tools};

use crate::support::{World, eventually, exit, prod, spec, target};

/// A server, a registry with two images, and a project of its own.
struct Site {
    sshd: Sshd,
    registry: Registry,
    project: String,
    dir: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = docker::remove_project(&self.project);
    }
}

impl Site {
    fn new() -> Self {
        Self::on(Sshd::start().unwrap())
    }

    /// Without the plug-in, `docker-compose` is what the session finds.
    fn with_v1() -> Self {
        Self::on(
            Sshd::builder()
                .without_env("DOCKER_CONFIG")
                .start()
                .unwrap(),
        )
    }

    fn on(sshd: Sshd) -> Self {
        let dir = sshd.root().join("my app");
        let project = scratch::unique_name().to_lowercase();
        Self {
            sshd,
            registry: Registry::open().unwrap(),
            project,
            dir,
        }
    }

    fn world(&self) -> World {
        World::new(vec![target(spec(&self.sshd))])
    }

    /// Builds and pushes the observer; its reference by digest.
    fn image(&self, version: &str) -> String {
        let context = tempfile::tempdir().unwrap();
        std::fs::copy(tools::observer_binary(), context.path().join("observer")).unwrap();
        let dockerfile = format!(
            "FROM scratch\nLABEL site={}\nENV VERSION={version}\nCOPY observer /observer\nENTRYPOINT [\"/observer\"]\n",
            // Of its own: another test takes its images away by their ids.
            self.project,
        );
        std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
        let tag = format!("{}:{version}", self.registry.repository("observer"));
        for args in [
            vec!["build", "-q", "-t", &tag, "."],
            vec!["push", "-q", &tag],
        ] {
            let output = docker::command()
                .args(args)
                .current_dir(context.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let digest = self.registry.digest("observer", version).unwrap().unwrap();
        format!("{}@{digest}", self.registry.repository("observer"))
    }

    fn spec(&self, world: &World, compose: &str, image: &str) -> StageSpec {
        StageSpec {
            project: self.project.clone(),
            compose: Some(world.blob(compose.as_bytes())),
            images: vec![("web".into(), Text::from(image))],
            tag: "v/1".into(),
            commit: "c0ffee".into(),
            who: "ann@ci".into(),
            ..StageSpec::default()
        }
    }

    async fn call(&self, world: &World, op: ReleasesOp) -> Result<Reply, CallError> {
        let dir = self.dir.display().to_string();
        world
            .call(Call::Releases(ReleasesCall {
                target: prod(),
                dir,
                op,
            }))
            .await
    }

    async fn stage(&self, world: &World, spec: StageSpec) -> Result<Staged, CallError> {
        match self.call(world, ReleasesOp::Stage(Box::new(spec))).await? {
            Reply::Staged(staged) => Ok(staged),
            other => panic!("{other:?}"),
        }
    }

    async fn activate(&self, world: &World, id: &str) -> Result<Exit, CallError> {
        let op = ReleasesOp::Activate {
            id: id.into(),
            timeout_ms: 60_000,
            remove_orphans: true,
        };
        exit(self.call(world, op).await)
    }

    async fn good(&self, world: &World, id: &str) -> Result<Reply, CallError> {
        self.call(world, ReleasesOp::MarkGood { id: id.into() })
            .await
    }

    /// Stages, activates, marks as good; the id.
    async fn deploy(&self, world: &World, spec: StageSpec) -> String {
        let staged = self.stage(world, spec).await.unwrap();
        assert!(
            staged.changed && staged.missing_images.is_empty(),
            "{staged:?}"
        );
        self.activate(world, &staged.id).await.unwrap();
        self.good(world, &staged.id).await.unwrap();
        staged.id
    }

    async fn list(&self, world: &World) -> Vec<Release> {
        match self.call(world, ReleasesOp::List).await.unwrap() {
            Reply::Releases(releases) => releases,
            other => panic!("{other:?}"),
        }
    }

    fn current(&self) -> Option<String> {
        let link = std::fs::read_link(self.dir.join("current")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    fn state(&self, id: &str) -> String {
        let path = self.dir.join("releases").join(id).join("state");
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// What the running containers were made of, by their variables.
    fn environment(&self) -> String {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let mut text = String::new();
        for id in docker::containers(&filter).unwrap() {
            let format = "{{json .Config.Env}} {{.State.Status}}";
            // One may be removed just now.
            text += &docker::run(["inspect", "--format", format, &id]).unwrap_or_default();
            text.push('\n');
        }
        text
    }
}

const COMPOSE: &str = "services:\n  web:\n    image: ${IMAGE:-nothing}\n    stop_grace_period: 0s\n    environment:\n      TAG: \"${IMAGE_TAG:-none}\"\n";

async fn whole_story(site: &Site) {
    let world = site.world();
    let (one, two) = (site.image("one"), site.image("two"));
    let mut spec = site.spec(&world, COMPOSE, &one);
    spec.image_tag = Some(Text::from("20260124"));
    spec.directories = vec!["data/deep".into()];
    let first = site.stage(&world, spec.clone()).await.unwrap();
    assert!(first.changed && first.previous.is_none(), "{first:?}");
    assert!(first.id.contains("Z-v-1-"), "{first:?}");
    assert_eq!(site.state(&first.id), "staged");
    assert_eq!(site.current(), None);
    assert!(site.dir.join("data/deep").is_dir());
    let got = site.activate(&world, &first.id).await.unwrap();
    assert_eq!(
        got.values,
        [("release".to_owned(), Text::from(first.id.as_str()))]
    );
    assert_eq!(
        (site.current(), site.state(&first.id)),
        (Some(first.id.clone()), "current".into())
    );
    site.good(&world, &first.id).await.unwrap();
    assert!(
        site.environment().contains("TAG=20260124"),
        "{}",
        site.environment()
    );
    let mode = |name: &str| {
        let path = site.dir.join("releases").join(&first.id).join(name);
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
            & 0o777
    };
    assert_eq!((mode(".env"), mode("compose.yml")), (0o600, 0o644));

    // Nothing changed: at most five round trips with the lease.
    let again = site.world();
    let lease = |op| {
        let path = site.dir.join(".lease").display().to_string();
        Call::Lease(LeaseCall {
            target: prod(),
            path,
            op,
        })
    };
    again
        .call(lease(LeaseOp::Acquire {
            owner: "x".into(),
            ttl_ms: 9000,
            reason: String::new(),
        }))
        .await
        .unwrap();
    again.blob(COMPOSE.as_bytes());
    let same = site.stage(&again, spec.clone()).await.unwrap();
    assert_eq!((same.changed, &same.id), (false, &first.id), "{same:?}");
    site.good(&again, &same.id).await.unwrap();
    again.call(lease(LeaseOp::Release)).await.unwrap();
    assert!(again.trips() <= 5, "{}", again.trips());
    assert_eq!(
        std::fs::read_dir(site.dir.join("releases"))
            .unwrap()
            .count(),
        1
    );

    // Another image.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    spec.images = vec![("web".into(), Text::from(two.as_str()))];
    let second = site.deploy(&world, spec.clone()).await;
    assert!(site.environment().contains("VERSION=two"));
    assert_eq!(
        (site.state(&first.id), site.state(&second)),
        ("superseded".into(), "good".into())
    );
    let listed = site.list(&world).await;
    assert_eq!(
        listed.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(),
        [second.as_str(), &first.id]
    );
    assert!(listed[0].is_current && listed[0].state == ReleaseState::Good);
    assert_eq!(
        (listed[0].who.as_str(), &listed[0].images[0].1),
        ("ann@ci", &two)
    );
    assert_eq!(listed[0].run, world.run.to_string());

    // Back: image, file and env together.
    let op = ReleasesOp::Restore {
        id: first.id.clone(),
    };
    exit(site.call(&world, op).await).unwrap();
    assert!(site.environment().contains("VERSION=one"));
    assert_eq!(
        (site.state(&first.id), site.state(&second)),
        ("good".into(), "superseded".into())
    );

    // A stopped service is not "nothing changed".
    let filter = format!("label=com.docker.compose.project={}", site.project);
    docker::run(["stop", "-t", "0", &docker::containers(&filter).unwrap()[0]]).unwrap();
    spec.images = vec![("web".into(), Text::from(one.as_str()))];
    assert!(site.stage(&world, spec).await.unwrap().changed);

    let Reply::Texts(gone) = site
        .call(&world, ReleasesOp::Prune { keep: 0 })
        .await
        .unwrap()
    else {
        panic!("no texts");
    };
    assert_eq!(gone, [second], "the current one and those under way stay");
}

#[tokio::test]
async fn a_release_becomes_current_and_another_one_goes_back() {
    require!(Sshd, Docker, Registry, Compose, Observer);
    whole_story(&Site::new()).await;
}

#[tokio::test]
async fn compose_v1_does_it_too() {
    require!(Sshd, Docker, Registry, Observer);
    if Command::new("docker-compose")
        .arg("version")
        .output()
        .is_err()
    {
        assert!(
            !windlass_tests::parts::in_ci(),
            "docker-compose v1 is not installed"
        );
        eprintln!("SKIPPED compose_v1_does_it_too: docker-compose v1 is not installed");
        return;
    }
    whole_story(&Site::with_v1()).await;
}

async fn refused(site: &Site, world: &World, spec: StageSpec) -> CallError {
    let error = site.stage(world, spec).await.unwrap_err();
    let left = std::fs::read_dir(site.dir.join("releases"))
        .unwrap()
        .count();
    assert_eq!(
        (left, site.current()),
        (0, None),
        "nothing half-done is left"
    );
    error
}

async fn refusals(site: &Site) {
    let world = site.world();
    let image = "example.org/none:1";
    let stale = "services:\n  web:\n    image: a: b\n";
    let error = refused(site, &world, site.spec(&world, stale, image)).await;
    assert_eq!(error.code, "compose.refused");
    assert!(
        error.message.contains("mapping values are not allowed"),
        "{error:?}"
    );

    let mut other = site.spec(&world, COMPOSE, image);
    other.images.push(("worker".into(), Text::from(image)));
    let error = refused(site, &world, other).await;
    assert_eq!(
        (error.code.as_str(), error.hint.as_deref()),
        ("compose.unknown-service", Some("it has: web"))
    );

    let blank = "services:\n  web:\n    image: x\n    environment:\n      A: ${DB_HOST}\n      B: ${DB_PORT}\n";
    let error = refused(site, &world, site.spec(&world, blank, image)).await;
    assert_eq!(error.code, "compose.blank-variable");
    assert!(error.message.contains("DB_HOST, DB_PORT"), "{error:?}");

    let mut bad = site.spec(&world, COMPOSE, image);
    bad.env = vec![("A-B".into(), Text::from("x"))];
    assert_eq!(
        site.stage(&world, bad).await.unwrap_err().kind,
        ErrorKind::Invalid
    );

    let staged = site
        .stage(&world, site.spec(&world, COMPOSE, image))
        .await
        .unwrap();
    assert_eq!(staged.missing_images, [image]);
    let missing = site
        .activate(&world, "20990101T000000Z-x-y")
        .await
        .unwrap_err();
    assert_eq!(missing.code, "releases.missing");
}

#[tokio::test]
async fn what_compose_refuses_leaves_nothing_behind() {
    require!(Sshd, Docker, Registry, Compose);
    refusals(&Site::new()).await;
}

#[tokio::test]
async fn values_arrive_as_they_are_and_files_of_variables_are_found() {
    require!(Sshd, Docker, Registry, Compose, Observer);
    let sshd = Sshd::builder()
        .env("ODD", "of the session")
        .start()
        .unwrap();
    let site = Site::on(sshd);
    let world = site.world();
    let odd = "it's $5 ${X} \"q\" #no \\d a=b";
    let compose = "services:\n  web:\n    image: x\n    stop_grace_period: 0s\n    env_file: app.env\n    environment:\n      ODD: \"${ODD}\"\n";
    let mut spec = site.spec(&world, compose, &site.image("one"));
    spec.env = vec![("ODD".into(), Text::from(odd))];
    spec.files = vec![(
        "app.env".into(),
        vec![("FROM_FILE".into(), Text::from(odd))],
    )];
    // The stack was there before, by hand, with a file of its own.
    std::fs::create_dir_all(&site.dir).unwrap();
    std::fs::write(site.dir.join("app.env"), "OLD=1\n").unwrap();
    let first = site.deploy(&world, spec.clone()).await;
    let json = |name: &str| serde_json::to_string(&format!("{name}={odd}")).unwrap();
    let seen = site.environment();
    assert!(
        seen.contains(&json("ODD")) && seen.contains(&json("FROM_FILE")),
        "{seen}"
    );
    assert!(site.dir.join("app.env.before-windlass").is_file());
    let link = std::fs::read_link(site.dir.join("app.env")).unwrap();
    assert_eq!(link, Path::new("releases").join(&first).join("app.env"));
    assert!(!site.stage(&world, spec).await.unwrap().changed);
}

#[tokio::test]
async fn a_stack_that_was_there_is_adopted() {
    require!(Sshd, Docker, Registry, Compose, Observer);
    let site = Site::new();
    let world = site.world();
    let image = site.image("one");
    let by_hand = tempfile::tempdir().unwrap();
    let file = by_hand.path().join("c.yml");
    std::fs::write(&file, COMPOSE.replace("${IMAGE:-nothing}", &image)).unwrap();
    let up = docker::command()
        .args(["compose", "-p", &site.project, "-f"])
        .arg(&file)
        .args(["up", "-d"])
        .output();
    assert!(up.unwrap().status.success());
    site.deploy(&world, site.spec(&world, COMPOSE, &site.image("two")))
        .await;
    let seen = site.environment();
    assert!(
        seen.contains("VERSION=two") && !seen.contains("VERSION=one"),
        "{seen}"
    );
}

const EXITS: &str = "services:\n  web:\n    image: x\n    environment:\n      OBSERVER_EXIT: \"3\"\n    restart: unless-stopped\n";

#[tokio::test]
async fn a_release_that_does_not_stay_up_gives_way_to_the_last_good_one() {
    require!(Sshd, Docker, Registry, Compose, Observer);
    let site = Site::new();
    let world = site.world();
    let (one, two) = (site.image("one"), site.image("two"));

    // Without an earlier release there is nothing to put back.
    let staged = site
        .stage(&world, site.spec(&world, EXITS, &two))
        .await
        .unwrap();
    let error = site.activate(&world, &staged.id).await.unwrap_err();
    assert_eq!(error.code, "releases.not-running", "{error:?}");
    assert!(error.message.contains("no earlier release"), "{error:?}");
    assert_eq!(
        (site.current(), site.state(&staged.id)),
        (None, "failed".into())
    );

    let first = site.deploy(&world, site.spec(&world, COMPOSE, &one)).await;
    // A container that ends at once, an image that nobody has, a file that up refuses.
    let nobody = format!(
        "{}@sha256:{}",
        site.registry.repository("observer"),
        "0".repeat(64)
    );
    let taken = COMPOSE.replace(
        "    environment",
        "    network_mode: container:nobody\n    environment",
    );
    for (compose, image) in [
        (EXITS, two.as_str()),
        (COMPOSE, nobody.as_str()),
        (&taken, two.as_str()),
    ] {
        let staged = site
            .stage(&world, site.spec(&world, compose, image))
            .await
            .unwrap();
        let error = site.activate(&world, &staged.id).await.unwrap_err();
        assert!(
            error
                .message
                .contains(&format!("release {first} was put back")),
            "{error:?}"
        );
        assert_eq!(
            (site.current(), site.state(&staged.id)),
            (Some(first.clone()), "failed".into())
        );
        assert_eq!(site.state(&first), "good");
        let seen = site.environment();
        assert!(
            seen.contains("VERSION=one") && seen.contains("running"),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn the_last_good_release_is_put_back_although_the_connection_is_cut() {
    require!(Sshd, Docker, Registry, Compose, Observer);
    let site = Site::new();
    let relay = Relay::to(site.sshd.address()).unwrap();
    let mut spec = spec(&site.sshd);
    spec.port = Some(relay.port());
    spec.known_hosts = KnownHosts::Text(Text::from(site.sshd.known_hosts_for(relay.address())));
    let world = World::new(vec![target(spec)]);
    let first = site
        .deploy(&world, site.spec(&world, COMPOSE, &site.image("one")))
        .await;
    let staged = site
        .stage(&world, site.spec(&world, EXITS, &site.image("two")))
        .await
        .unwrap();
    let (activated, ()) = tokio::join!(site.activate(&world, &staged.id), async {
        eventually("the activation", || site.state(&staged.id) == "activating").await;
        relay.cut();
    });
    assert_eq!(activated.unwrap_err().code, "ssh.lost");
    eventually("the failure", || site.state(&staged.id) == "failed").await;
    eventually("the first release", || {
        let seen = site.environment();
        seen.contains("VERSION=one") && seen.contains("running")
    })
    .await;
    assert_eq!(site.current(), Some(first));
}

/// A tiny file system, taken away again.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .status();
        assert!(mounted.unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_half_done_stays() {
    require!(Sshd, Docker, Registry, Compose, Namespaces);
    let site = Site::new();
    let _disk = SmallDisk::at(&site.dir, "64k");
    let world = site.world();
    let mut spec = site.spec(&world, COMPOSE, "example.org/x:1");
    spec.env = vec![("BULK".into(), Text::from("x".repeat(200_000)))];
    let error = site.stage(&world, spec).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.kind),
        ("target.disk-full", ErrorKind::Exhausted),
        "{error:?}"
    );
    assert!(error.message.contains("my app on prod"), "{error:?}");
    assert_eq!(
        std::fs::read_dir(site.dir.join("releases"))
            .unwrap()
            .count(),
        0
    );
}
