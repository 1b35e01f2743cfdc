//! Several hosts: each is a machine of its own, and they can be taken from the net.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use windlass_tests::scratch::Scratch;
use windlass_tests::{Hosts, Registry, docker, process, require};

#[test]
fn each_host_is_a_machine_of_its_own() {
    require!(Namespaces, Docker, Sshd, Registry, Compose);
    let registry = Registry::open().unwrap();
    let mut hosts = Hosts::start(2).unwrap();
    hosts.reach(&registry).unwrap();
    let run = |index: usize, script: &str| {
        let output = hosts.host(index).exec(script).unwrap();
        let text = process::both(&output);
        assert!(
            output.status.success(),
            "{script}: {text}\n{}",
            hosts.host(index).engine_log()
        );
        text.trim().to_owned()
    };
    assert_eq!(run(0, "hostname"), hosts.host(0).name());
    assert!(run(1, "docker compose version").contains("v2"));
    run(0, "echo mine > /srv/file");
    assert!(hosts.host(0).srv().join("file").exists());
    assert!(!hosts.host(1).srv().join("file").exists());
    assert!(!Path::new("/srv/file").exists());

    // One name for an image here and there.
    let image = format!("{}:1", registry.repository("shared"));
    let context = Scratch::new().unwrap();
    context
        .write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        .unwrap();
    process::capture(
        docker::command()
            .args(["build", "-qt", &image])
            .arg(context.path()),
    )
    .unwrap();
    docker::run(["push", "--quiet", &image]).unwrap();
    let images = "docker image ls --quiet";
    run(0, &format!("docker pull --quiet {image}"));
    assert_eq!(
        (run(0, images).is_empty(), run(1, images).is_empty()),
        (false, true)
    );
    run(1, &format!("docker pull --quiet {image}"));
    assert_eq!(run(0, images), run(1, images));

    let (bridge, files) = (hosts.gateway(), hosts.host(0).srv());
    drop(hosts);
    assert!(!files.exists());
    assert!(
        std::net::TcpListener::bind((bridge, 0)).is_err(),
        "the bridge is gone"
    );
}

#[test]
fn a_host_can_be_lost_and_full() {
    require!(Namespaces, Sshd);
    let hosts = Hosts::without_engines(2).unwrap();
    let (lost, other) = (hosts.host(0), hosts.host(1));
    let limit = Duration::from_millis(700);
    let reach = || TcpStream::connect_timeout(&lost.sshd.address(), limit);
    assert!(reach().is_ok());
    // Hosts see each other, not only this machine.
    let hello = format!(
        "timeout 5 bash -c 'head -c 8 < /dev/tcp/{}/22'",
        lost.address()
    );
    assert_eq!(process::both(&other.exec(&hello).unwrap()), "SSH-2.0-");
    lost.blackhole().unwrap();
    assert_eq!(reach().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(other.exec("true").unwrap().status.success());
    lost.restore().unwrap();
    assert!(reach().is_ok());

    lost.small_disk("64k").unwrap();
    let output = lost.exec("head -c 100000 /dev/zero > /srv/large").unwrap();
    assert!(
        process::both(&output).contains("No space left"),
        "{}",
        process::both(&output)
    );
}
