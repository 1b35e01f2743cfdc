//! The service of the example: what its HEALTHCHECK, `docker stop` and the tests of
//! failing deploys rely on.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use windlass_tests::http::{Request, Response};
use windlass_tests::registry::free_port;
use windlass_tests::{docker, process, require, tools};

struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(env: &[(&str, &str)]) -> Self {
        let port = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let child = observer(port, env).stderr(Stdio::null()).spawn().unwrap();
        let service = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while service.get("/").is_none() {
            assert!(Instant::now() < deadline, "observer does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        service
    }

    fn get(&self, path: &str) -> Option<Response> {
        Request::get(format!("127.0.0.1:{}", self.port), path)
            .send()
            .ok()
    }

    fn probe(&self) -> Output {
        process::output(observer(self.port, &[]).arg("health")).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn observer(port: u16, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(tools::observer_binary());
    command
        .env_clear()
        .env("PORT", port.to_string())
        .envs(env.iter().copied());
    command
}

#[test]
fn health_tells_the_version() {
    require!(Observer);
    let service = Service::start(&[("VERSION", "20260124-014658")]);
    let answer = service.get("/health").unwrap();
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.json()["status"], "ok");
    assert_eq!(answer.json()["version"], "20260124-014658");
    assert!(service.get("/").unwrap().body.contains("20260124-014658"));
    assert_eq!(service.get("/other").unwrap().status, 404);
}

#[test]
fn the_probe_says_why_it_fails() {
    require!(Observer);
    let healthy = Service::start(&[]);
    assert_eq!(healthy.probe().status.code(), Some(0));

    let unhealthy = Service::start(&[("OBSERVER_UNHEALTHY", "1")]);
    assert_eq!(unhealthy.get("/health").unwrap().status, 503);
    let output = unhealthy.probe();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        process::both(&output).contains("answered 503"),
        "{}",
        process::both(&output)
    );

    let port = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    let nobody = process::output(observer(port, &[]).arg("health")).unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        process::both(&nobody).contains("refused"),
        "{}",
        process::both(&nobody)
    );
}

#[test]
fn it_ends_in_order_on_sigterm() {
    require!(Observer);
    let mut service = Service::start(&[]);
    let started = Instant::now();
    process::signal("TERM", &[service.child.id()]);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn it_ends_at_once_when_told_so() {
    require!(Observer);
    let output = process::output(&mut observer(0, &[("OBSERVER_EXIT", "3")])).unwrap();
    assert_eq!(output.status.code(), Some(3));
    let output = process::output(&mut observer(0, &[("OBSERVER_EXIT", "many")])).unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn both_composes_read_the_servers_file() {
    require!(Docker, Compose);
    let file = tools::project_root().join("examples/observer/docker-compose.server.yml");
    let mut v2 = docker::command();
    v2.arg("compose");
    let mut commands = vec![v2];
    // Version 1 is served as long as machines have it.
    commands.extend(process::find_program("docker-compose").map(Command::new));
    for mut command in commands {
        command.arg("--file").arg(&file).arg("config");
        let text =
            process::capture(command.env("IMAGE", "a/b:1").env("OBSERVER_PORT", "4711")).unwrap();
        assert!(
            text.contains("image: a/b:1") && text.contains("4711"),
            "{text}"
        );
    }
}
