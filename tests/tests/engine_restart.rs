//! A Docker engine that ends in the middle of its work, as in a crash or an upgrade of
//! its package: that is told apart from a failure of the work itself, and when it is back
//! the run goes on to its end.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use windlass_tests::deploys::{processes_with, wait_until};
use windlass_tests::windlass::{Outcome, Running};
use windlass_tests::{Hosts, Workspace, process, require, scratch, tools};

const LIMIT: Duration = Duration::from_secs(60);
/// From the engine's end to the run's.
const TOLD: Duration = Duration::from_secs(20);

/// The service of the example, started in a build and in a container: it runs until it
/// gets SIGTERM, and then ends well.
const DOCKERFILE: &str = "FROM scratch\nCOPY bin/observer /observer\nENV MARK=NAME PORT=0\n\
     HEALTHCHECK --interval=1s --retries=3600 CMD [\"/observer\", \"health\"]\n\
     ENTRYPOINT [\"/observer\"]\n";
const SLOW: &str = "RUN [\"/observer\", \"serve\"]\n";

/// One host with an engine that can end, and a project that works on it.
struct Site {
    hosts: Hosts,
    workspace: Workspace,
    name: String,
}

impl Site {
    /// `steps` with `ENGINE` for the key of a plugin's configuration that names the
    /// engine, and `NAME` for the image. A local engine is reached by `DOCKER_HOST`.
    fn start(local: bool, dockerfile: &str, steps: &str) -> Self {
        let hosts = Hosts::start(1).unwrap();
        let mut workspace = Workspace::empty().unwrap();
        let name = scratch::unique_name();
        let host = hosts.host(0);
        let mut manifest = format!("[pipeline]\nname = \"{name}\"\n\n[run]\ntag = \"1\"\n\n");
        if local {
            workspace.set_env("DOCKER_HOST", host.docker_host());
        } else {
            manifest.push_str(&format!(
                "[target.builder]\nssh = \"{}\"\nkey = {{ secret = \"SSH_KEY\" }}\n\
                 known_hosts = \"known_hosts\"\n\n[environment.all]\ntargets = [\"builder\"]\n\n",
                host.sshd.destination(),
            ));
            workspace.set_env("SSH_KEY", host.sshd.private_key());
            workspace
                .copy(&host.sshd.known_hosts_file(), "known_hosts")
                .unwrap();
        }
        let engine = if local { "" } else { ", engine = \"builder\"" };
        manifest.push_str(&steps.replace("ENGINE", engine).replace("NAME", &name));
        workspace.write("windlass.toml", manifest).unwrap();
        let dockerfile = dockerfile.replace("NAME", &name);
        workspace.write("Dockerfile", dockerfile).unwrap();
        workspace.write(".gitignore", ".windlass/\n").unwrap();
        workspace
            .copy(&tools::observer_binary(), "bin/observer")
            .unwrap();
        workspace.commit("Start").unwrap();
        Self {
            hosts,
            workspace,
            name,
        }
    }

    fn begin(&self, words: &[&str]) -> Running {
        self.workspace
            .windlass(words.iter().chain(&["--json", "--verbose"]).copied())
            .spawn()
            .unwrap()
    }

    /// Processes of the project's images, in builds and in containers.
    fn at_work(&self) -> Vec<u32> {
        processes_with(&format!("MARK={}", self.name))
    }

    /// Waits until one runs that is none of these.
    #[track_caller]
    fn wait_for_work(&self, run: &mut Running, but: &[u32]) {
        let more = || self.at_work().iter().any(|pid| !but.contains(pid));
        assert!(
            wait_until(LIMIT, || !run.is_running() || more()) && run.is_running(),
            "{}{}{}",
            run.stdout(),
            run.stderr(),
            self.hosts.host(0).engine_log()
        );
    }

    fn docker(&self, words: &[&str]) -> String {
        let docker = ["docker", "--host", "unix:///run/docker.sock"];
        let words = docker.into_iter().chain(words.iter().copied());
        self.hosts.host(0).inside(words).unwrap().trim().to_owned()
    }
}

const BUILD: &str = "[step.build]\nuses = \"docker-build\"\nwith = { tags = [\"NAME:1\"]ENGINE }\n";
const WORK: &str = "[step.work]\nuses = \"docker-run\"\n\
     with = { image = \"{{ steps.build.image }}\"ENGINE }\n";
const CHECK: &str = "[step.check]\nuses = \"image-check\"\n\
     with = { image = \"{{ steps.build.image }}\", env = { OBSERVER_READY_AFTER = \"3\", PORT = \"8000\" }ENGINE }\n";

/// Ends the engine under a run, which then ends in time, with an error that says where
/// the engine was and how to go on. Gives that error.
#[track_caller]
fn end_engine(site: &mut Site, run: Running, step: &str, signal: &str) -> Value {
    let ended = Instant::now();
    site.hosts.host_mut(0).end_engine(signal).unwrap();
    let outcome = run.wait().unwrap();
    assert!(ended.elapsed() < TOLD, "{outcome}");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert_eq!(outcome.step(step, "")["state"], "failed", "{outcome}");
    let error = outcome.step(step, "")["error"].clone();
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("windlass resume"), "{outcome}");

    // What is stored is whole: the same events, to the last one.
    let shown = site.workspace.windlass(["show", "last", "--json"]).run();
    let (shown, told) = (shown.unwrap().events(), outcome.events());
    assert_eq!(shown.last().unwrap()["event"], "run-finished");
    assert_eq!(shown.last(), told.last());
    error
}

/// The engine comes back, and the run goes on until work begins anew.
fn go_on(site: &mut Site) -> Running {
    site.hosts.host_mut(0).start_engine().unwrap();
    let before = site.at_work();
    let mut run = site.begin(&["resume"]);
    site.wait_for_work(&mut run, &before);
    run
}

/// The run ends well, and nothing of either part is left.
#[track_caller]
fn ends_well(site: &Site, run: Running) -> Outcome {
    let outcome = run.wait().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(outcome.finished()["outcome"], "succeeded", "{outcome}");
    assert_eq!(site.docker(&["ps", "--all", "--quiet"]), "", "{outcome}");
    let alive = site.workspace.path().join(".windlass/alive");
    assert_eq!(fs::read_dir(alive).unwrap().count(), 0, "{outcome}");
    outcome
}

fn in_a_build(local: bool, signal: &str) {
    let mut site = Site::start(local, &format!("{DOCKERFILE}{SLOW}"), BUILD);
    let mut run = site.begin(&["run"]);
    site.wait_for_work(&mut run, &[]);
    let error = end_engine(&mut site, run, "build", signal);
    assert_eq!(error["code"], "docker.connection-lost", "{error}");
    let message = error["message"].as_str().unwrap();
    let place = if local {
        site.hosts.host(0).docker_host()
    } else {
        "on target builder".to_owned()
    };
    assert!(
        message.contains(&place) && message.contains("during the build"),
        "{message}"
    );
    let run = go_on(&mut site);
    process::signal("TERM", &site.at_work());
    ends_well(&site, run);
    let image = format!("{}:1", site.name);
    assert_ne!(site.docker(&["images", "--quiet", &image]), "");
}

#[test]
fn in_a_build_on_a_target() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_build(false, "KILL");
}

#[test]
fn in_a_build_here() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_build(true, "TERM");
}

/// A command that ends with 0 when the engine stops it has not done its work.
fn in_a_container(local: bool, signal: &str) {
    let mut site = Site::start(local, DOCKERFILE, &format!("{BUILD}{WORK}"));
    let mut run = site.begin(&["run"]);
    assert!(
        run.wait_for("observer dev listens", LIMIT),
        "{}",
        run.stderr()
    );
    let error = end_engine(&mut site, run, "work", signal);
    let codes = ["docker.connection-lost", "docker.container-stopped"];
    assert!(codes.contains(&error["code"].as_str().unwrap()), "{error}");
    let run = go_on(&mut site);
    process::signal("TERM", &site.at_work());
    let outcome = ends_well(&site, run);
    // An engine that is killed removes nothing any more.
    let swept = outcome.says("removed what an earlier run left on");
    assert!(swept || signal == "TERM", "{outcome}");
}

#[test]
fn in_a_container_on_a_target() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_container(false, "KILL");
}

#[test]
fn in_a_container_here() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_container(true, "TERM");
}

fn in_a_check(local: bool, signal: &str) {
    let mut site = Site::start(local, DOCKERFILE, &format!("{BUILD}{CHECK}"));
    let mut run = site.begin(&["run"]);
    let probed = run.wait_for("the HEALTHCHECK exited with 1", LIMIT);
    assert!(probed, "{}", run.stderr());
    let error = end_engine(&mut site, run, "check", signal);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("the connection to the Docker engine")
            || message.contains("it was stopped from outside"),
        "{message}"
    );
    let run = go_on(&mut site);
    ends_well(&site, run);
}

#[test]
fn in_a_check_on_a_target() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_check(false, "TERM");
}

#[test]
fn in_a_check_here() {
    require!(Namespaces, Docker, Sshd, Observer, Windlass);
    in_a_check(true, "KILL");
}
