//! A deploy to a server: what arrives there, what stays away from it, and what a file
//! or a server that is not fit gets.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_tests::deploys::{files_with, fresh_docker_config, identity};
use windlass_tests::scratch::Scratch;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Rig, Sshd, docker, process, require};

const TOKEN: &str = "tok-7f3a/9c&e1 \"x\"";

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The secrets of a rig in the forms in which they could leak: plain, and encoded as
/// logins, as URLs and as JSON are.
fn secrets(rig: &Rig) -> Vec<String> {
    let password = rig.registry.password();
    let mut forms = vec![
        password.to_owned(),
        password.replace('"', "\\\""),
        password
            .replace('/', "%2F")
            .replace('+', "%2B")
            .replace('"', "%22"),
        STANDARD.encode(password),
        STANDARD.encode(format!("{}:{password}", rig.registry.user())),
        TOKEN.to_owned(),
        TOKEN.replace('"', "\\\""),
        STANDARD.encode(TOKEN),
    ];
    forms.extend(
        rig.sshd
            .private_key()
            .lines()
            .filter(|line| !line.starts_with("---"))
            .map(str::to_owned),
    );
    forms
}

fn round_trips(outcome: &Outcome) -> u32 {
    let line = outcome
        .stderr
        .lines()
        .find(|line| line.ends_with(" round trips"));
    let count = line.and_then(|line| line.split(' ').nth(1));
    count
        .unwrap_or_else(|| panic!("{outcome}"))
        .parse()
        .unwrap()
}

/// The whole pipeline of the example, twice.
#[test]
fn a_commit_reaches_the_server_and_a_second_run_changes_nothing() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let files = Scratch::new().unwrap();
    let server_config = fresh_docker_config(&files).unwrap();
    let server = Sshd::builder().env("DOCKER_CONFIG", server_config.display().to_string());
    let mut rig = Rig::start_with(&server).unwrap();
    rig.workspace.set_env("API_TOKEN", TOKEN);
    rig.change("windlass.toml", |text| {
        text.replacen(
            "dir = \"{{ environment.dir }}\",",
            "dir = \"{{ environment.dir }}\", directories = [\"data\"], \
             env_files = { \"app.env\" = { API_TOKEN = { secret = \"API_TOKEN\" } } },",
            1,
        )
    })
    .unwrap();
    rig.change("docker-compose.server.yml", |text| {
        format!("{text}    env_file: app.env\n    volumes:\n      - ./data:/data\n")
    })
    .unwrap();
    rig.workspace.git(["push", "--quiet"]).unwrap();

    let first = rig
        .windlass(["run", "--json", "--verbose", "--tag", "20260124-014658"])
        .run()
        .unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    assert_eq!(rig.version(), "20260124-014658");

    // Every output.
    let output =
        |step: &str, target: &str, name: &str| first.step(step, target)["outputs"][name].clone();
    let image = output("build", "", "image");
    assert!(image.as_str().unwrap().starts_with("sha256:"), "{first}");
    assert_eq!(
        output("build", "", "platform"),
        format!(
            "linux/{}",
            docker::run(["version", "--format", "{{.Server.Arch}}"]).unwrap()
        )
    );
    assert_eq!(output("verify", "", "image"), image);
    let digest = output("push", "", "digest");
    let reference = output("push", "", "ref");
    let repository = rig.registry.repository("observer");
    assert_eq!(
        reference.as_str().unwrap(),
        format!("{repository}@{}", digest.as_str().unwrap())
    );
    let release = output("deploy", "prod_1", "release");
    let release = release.as_str().unwrap();
    assert_eq!(output("deploy", "prod_1", "changed"), true);
    assert_eq!(output("deploy", "prod_1", "previous"), "");
    assert_eq!(output("health", "prod_1", "status"), 200);
    let finished = first.finished();
    assert_eq!(finished["outcome"], "succeeded", "{first}");
    assert_eq!(finished["releases"][0][1], release, "{first}");

    // What lies on the server.
    assert_eq!(rig.current().as_deref(), Some(release));
    assert_eq!(rig.state(release), "good");
    let at = |name: &str| rig.far(format!("releases/{release}/{name}"));
    assert_eq!(
        fs::read_to_string(at("compose.yml")).unwrap(),
        rig.workspace.read("docker-compose.server.yml").unwrap()
    );
    let env = fs::read_to_string(at(".env")).unwrap();
    assert!(env.contains("IMAGE_TAG=20260124-014658"), "{env}");
    assert_eq!((mode(at(".env")), mode(at("app.env"))), (0o600, 0o600));
    assert!(rig.far("data").is_dir());
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(at("release.json")).unwrap()).unwrap();
    assert_eq!(record["tag"], "20260124-014658", "{record}");
    assert_eq!(
        record["commit"],
        rig.workspace.git(["rev-parse", "HEAD"]).unwrap()
    );
    assert_eq!(record["images"][0][1], reference, "{record}");
    assert_eq!(record["run"], finished_run(&first), "{record}");
    assert!(!rig.is_leased());

    // The container runs what was pushed, under the project's name, with its secret.
    let containers = rig.containers().unwrap();
    assert_eq!(containers.len(), 1);
    let before = identity(&containers[0]).unwrap();
    let inspected = docker::run([
        "inspect",
        "--format",
        "{{.Image}} {{.Config.Env}}",
        &containers[0],
    ])
    .unwrap();
    assert!(
        inspected.starts_with(image.as_str().unwrap()),
        "{inspected}"
    );
    assert!(inspected.contains(TOKEN), "{inspected}");

    // No secret anywhere else, and no login left behind.
    let second = rig
        .windlass(["run", "--verbose", "--tag", "20260124-014658"])
        .run()
        .unwrap();
    assert_eq!(second.code, Some(0), "{second}");
    let secrets = secrets(&rig);
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    for outcome in [&first, &second] {
        for secret in &secrets {
            assert!(!outcome.says(secret), "{secret} in {outcome}");
        }
    }
    let journal = rig.workspace.path().join(".windlass");
    assert!(
        !files_with(&journal, &["20260124-014658"]).is_empty(),
        "the journal is there"
    );
    assert_eq!(files_with(&journal, &secrets), []);
    let on_server = files_with(Path::new(&rig.dir()), &secrets);
    assert!(
        !on_server.is_empty() && on_server.iter().all(|(path, _)| path.ends_with("app.env")),
        "{on_server:?}"
    );
    assert_eq!(files_with(files.path(), &secrets), []);
    assert!(!server_config.join("config.json").exists());
    assert_eq!(files_with(&rig.workspace.home(), &secrets), []);

    // The second run left everything as it was.
    assert!(second.says("changed false"), "{second}");
    assert_eq!(rig.containers().unwrap(), containers);
    assert_eq!(identity(&containers[0]).unwrap(), before);
    assert_eq!(rig.releases(), [release]);
    assert_eq!(rig.current().as_deref(), Some(release));
    // The whole pipeline: the build's look at the architecture and the probe's forward
    // are one each.
    assert!(round_trips(&second) <= 6, "{second}");
    let alone = [
        "run",
        "--verbose",
        "--only",
        "deploy",
        "--tag",
        "20260124-014658",
    ];
    let alone = rig.windlass(alone).run().unwrap();
    assert_eq!(alone.code, Some(0), "{alone}");
    assert!(alone.says("changed false"), "{alone}");
    assert!(round_trips(&alone) <= 5, "{alone}");
}

fn finished_run(outcome: &Outcome) -> serde_json::Value {
    outcome.events_of("run-started")[0]["run"].clone()
}

/// What a compose file can be that must never become current.
#[test]
fn a_compose_file_that_is_not_fit_never_becomes_current() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    let first = rig.deploy("v1").unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    let current = rig.current().unwrap();
    let container = identity(&rig.containers().unwrap()[0]).unwrap();
    let good = rig.workspace.read("docker-compose.server.yml").unwrap();
    let broken = [
        (
            "    labels:\n      a: b: c\n",
            "compose.refused",
            "mapping values are not allowed",
        ),
        (
            "    environment:\n      WHO: \"${NOBODY_SETS_THIS}\"\n",
            "compose.blank-variable",
            "NOBODY_SETS_THIS",
        ),
    ];
    let mut cases: Vec<(String, &str, &str)> = broken
        .iter()
        .map(|(more, code, text)| (format!("{good}{more}"), *code, *text))
        .collect();
    cases.push((
        good.replace("  observer:\n", "  observed:\n"),
        "compose.unknown-service",
        "has no service observer",
    ));
    for (number, (file, code, text)) in cases.into_iter().enumerate() {
        rig.change("docker-compose.server.yml", |_| file).unwrap();
        let outcome = rig.deploy(&format!("bad{number}")).unwrap();
        assert_eq!(outcome.code, Some(1), "{outcome}");
        let deploy = outcome.step("deploy", "prod_1");
        assert_eq!(
            (&deploy["state"], &deploy["error"]["code"]),
            (&"failed".into(), &code.into()),
            "{outcome}"
        );
        assert!(
            deploy["error"]["message"].as_str().unwrap().contains(text),
            "{outcome}"
        );
        assert!(outcome.stderr.contains(text), "{outcome}");
        assert_eq!(
            outcome.step("health", "prod_1")["state"],
            "skipped",
            "{outcome}"
        );
        // Nothing was changed, so there is nothing to put back.
        assert!(
            outcome.events_of("rollback-started").is_empty(),
            "{outcome}"
        );
        assert_eq!(rig.current().as_ref(), Some(&current));
        assert_eq!(rig.releases(), [current.as_str()]);
        assert_eq!(identity(&rig.containers().unwrap()[0]).unwrap(), container);
        assert_eq!(rig.version(), "v1");
        assert!(!rig.is_leased());
    }
}

#[test]
fn a_stack_started_by_hand_is_adopted_by_its_name() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start().unwrap();
    rig.quick().unwrap();
    // As its owner did it before: in the server's directory, with another image.
    let by_hand = rig.registry.repository("by-hand");
    let context = rig.workspace.path().display().to_string();
    docker::run([
        "build",
        "--quiet",
        "--tag",
        &by_hand,
        "--build-arg",
        "VERSION=by-hand",
        &context,
    ])
    .unwrap();
    fs::create_dir_all(rig.dir()).unwrap();
    fs::copy(
        rig.workspace.path().join("docker-compose.server.yml"),
        rig.far("docker-compose.yml"),
    )
    .unwrap();
    process::capture(
        docker::command()
            .args(["compose", "up", "--detach"])
            .current_dir(rig.dir())
            .env("IMAGE", &by_hand)
            .env("OBSERVER_PORT", rig.port().to_string()),
    )
    .unwrap();
    let before = rig.containers().unwrap();
    assert_eq!(before.len(), 1);

    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let after = rig.containers().unwrap();
    assert_eq!(after.len(), 1, "one stack, not two");
    assert_ne!(before, after);
    assert_eq!(rig.version(), "v1");
}

#[test]
fn compose_v1_serves_where_v2_is_not() {
    require!(
        Docker, Registry, Sshd, Compose, ComposeV1, Observer, Windlass
    );
    let files = Scratch::new().unwrap();
    let server = Sshd::builder().env("DOCKER_CONFIG", files.path().display().to_string());
    let rig = Rig::start_with(&server).unwrap();
    let v2 = rig.sshd.exec("docker compose version").unwrap();
    assert!(
        !v2.status.success(),
        "the session has v2: {}",
        process::both(&v2)
    );
    rig.quick().unwrap();
    let first = rig.deploy("v1").unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    assert_eq!(rig.version(), "v1");
    let container = rig.containers().unwrap();
    let second = rig.deploy("v1").unwrap();
    assert_eq!(
        second.step("deploy", "prod_1")["outputs"]["changed"],
        false,
        "{second}"
    );
    assert_eq!(rig.containers().unwrap(), container);
    // And its own words for the broken file.
    rig.change("docker-compose.server.yml", |text| {
        format!("{text}    labels:\n      a: b: c\n")
    })
    .unwrap();
    let broken = rig.deploy("v2").unwrap();
    assert_eq!(broken.code, Some(1), "{broken}");
    assert!(broken.says("mapping values are not allowed"), "{broken}");
    assert_eq!(rig.version(), "v1");
}

/// The engine's API goes through `docker system dial-stdio`, and the probe needs TCP.
#[test]
fn a_server_that_forwards_no_sockets_is_deployed_to() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let rig = Rig::start_with(&Sshd::builder().stream_local_forwarding(false)).unwrap();
    rig.quick().unwrap();
    // The image must be pulled there, through the engine's API.
    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(rig.version(), "v1");
}

/// Seen before the first effect: nothing is built for a server that cannot run it.
#[test]
fn a_server_without_an_engine_is_found_before_the_build() {
    require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
    let nowhere = Scratch::new().unwrap();
    let socket = format!("unix://{}", nowhere.join("docker.sock").display());
    let rig = Rig::start_with(&Sshd::builder().env("DOCKER_HOST", socket)).unwrap();
    let outcome = rig.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stderr.contains("docker on prod_1"), "{outcome}");
    assert!(outcome.events_of("step-started").is_empty(), "{outcome}");
    let finding = &outcome.events_of("finding")[0];
    assert_eq!(finding["step"]["target"], "prod_1", "{outcome}");
    assert!(finding["hint"].is_string(), "{outcome}");
    assert!(
        !Path::new(&rig.dir()).exists(),
        "something is on the server"
    );
}
