//! Deploys to machines of their own: several at once, one that is away, one whose disk is
//! full, one whose login is not root.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use windlass_tests::fleet::{Fleet, current, version};
use windlass_tests::hosts::Host;
use windlass_tests::windlass::Outcome;
use windlass_tests::{parts, process, require};

/// Where in the run something happened to `deploy` on each target.
fn places(outcome: &Outcome, kind: &str) -> Vec<usize> {
    let events = outcome.events();
    let of_deploy =
        |event: &serde_json::Value| event["event"] == kind && event["step"]["name"] == "deploy";
    (0..events.len())
        .filter(|&index| of_deploy(&events[index]))
        .collect()
}

#[test]
fn all_at_once_and_all_back_when_one_fails() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let fleet = Fleet::start(3, "root").unwrap();
    let first = fleet.deploy("v1").unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    assert_eq!(fleet.versions(), ["v1", "v1", "v1"]);
    let (started, finished) = (
        places(&first, "step-started"),
        places(&first, "step-finished"),
    );
    assert_eq!((started.len(), finished.len()), (3, 3), "{first}");
    assert!(
        started.last() < finished.first(),
        "one after the other: {first}"
    );
    let good: Vec<String> = fleet
        .hosts
        .all()
        .iter()
        .map(|host| current(host).unwrap())
        .collect();

    // One is not well afterwards: none keeps the new release.
    fleet
        .change("docker-compose.server.yml", |text| {
            format!("{text}    environment:\n      OBSERVER_UNHEALTHY: \"${{UNHEALTHY}}\"\n")
        })
        .unwrap();
    fleet
        .change("windlass.toml", |text| {
            text.replacen(
                "env = { ",
                "env = { UNHEALTHY = \"{{ '1' if target.name == 'prod_2' else '0' }}\", ",
                1,
            )
        })
        .unwrap();
    let second = fleet.deploy("v2").unwrap();
    assert_eq!(second.code, Some(1), "{second}");
    assert_eq!(
        second.finished()["failed_step"],
        serde_json::json!({"name": "health", "target": "prod_2"}),
        "{second}"
    );
    assert_eq!(
        second.step("health", "prod_1")["state"],
        "succeeded",
        "{second}"
    );
    assert_eq!(second.events_of("rollback-finished").len(), 3, "{second}");
    assert_eq!(fleet.versions(), ["v1", "v1", "v1"]);
    let now: Vec<String> = fleet
        .hosts
        .all()
        .iter()
        .map(|host| current(host).unwrap())
        .collect();
    assert_eq!(now, good, "{second}");
    for host in fleet.hosts.all() {
        assert!(!host.srv().join("app/.windlass-lease/holder").exists());
    }
    for release in &good {
        assert!(
            second.stderr.contains(&format!("is back on {release}")),
            "{second}"
        );
    }

    // One is away: that is known after the connect timeout, and holds up nobody.
    fleet
        .change("windlass.toml", |text| {
            text.replacen("{{ '1' if target.name == 'prod_2' else '0' }}", "0", 1)
        })
        .unwrap();
    fleet.hosts.host(2).blackhole().unwrap();
    let third = fleet.deploy("v3").unwrap();
    assert_eq!(third.code, Some(1), "{third}");
    for target in ["prod_1", "prod_2"] {
        assert_eq!(
            third.step("deploy", target)["state"],
            "succeeded",
            "{third}"
        );
        assert_eq!(
            third.step("health", target)["state"],
            "succeeded",
            "{third}"
        );
    }
    let lost = third.step("deploy", "prod_3");
    assert_eq!(lost["state"], "failed", "{third}");
    assert!(
        lost["error"]["message"]
            .as_str()
            .unwrap()
            .contains("prod_3"),
        "{third}"
    );
    let back: Vec<String> = third
        .events_of("rollback-finished")
        .iter()
        .map(|event| event["target"].to_string())
        .collect();
    assert_eq!(back.len(), 2, "{back:?} {third}");
    assert!(third.took < Duration::from_secs(40), "{third}");
    fleet.hosts.host(2).restore().unwrap();
    assert_eq!(fleet.versions(), ["v1", "v1", "v1"], "{third}");
}

#[test]
fn a_full_disk_is_named_and_leaves_what_was_there() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let fleet = Fleet::start(1, "root").unwrap();
    let host = fleet.hosts.host(0);
    host.small_disk("256k").unwrap();
    let first = fleet.deploy("v1").unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    let link = || host.inside(["readlink", "/srv/app/current"]).unwrap();
    let good = link();
    // All but two pages: enough for the lease, not for a release.
    host.inside([
        "sh",
        "-c",
        "dd if=/dev/zero of=/srv/fill bs=4k 2>/dev/null; truncate -s -8192 /srv/fill",
    ])
    .unwrap();
    let second = fleet.deploy("v2").unwrap();
    assert_eq!(second.code, Some(1), "{second}");
    let error = second.step("deploy", "prod_1")["error"].clone();
    assert_eq!(error["code"], "target.disk-full", "{second}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("/srv/app on prod_1") && message.contains("No space left"),
        "{second}"
    );
    assert_eq!((link(), version(host)), (good.clone(), "v1".to_owned()));
    assert_eq!(
        host.inside(["ls", "/srv/app/releases"])
            .unwrap()
            .lines()
            .count(),
        1,
        "{second}"
    );

    // Not a page is left: the lease cannot be taken.
    host.inside([
        "sh",
        "-c",
        "dd if=/dev/zero of=/srv/more bs=4k 2>/dev/null; true",
    ])
    .unwrap();
    let third = fleet.deploy("v3").unwrap();
    assert_eq!(third.code, Some(1), "{third}");
    let error = third.finished()["error"].clone();
    assert_eq!(error["code"], "target.disk-full", "{third}");
    assert!(
        error["message"].as_str().unwrap().contains("on prod_1"),
        "{third}"
    );
    assert_eq!((link(), version(host)), (good, "v1".to_owned()));

    host.inside(["rm", "/srv/fill", "/srv/more"]).unwrap();
    let fourth = fleet.deploy("v4").unwrap();
    assert_eq!(fourth.code, Some(0), "{fourth}");
    assert_eq!(version(host), "v4");
}

/// sshd reads the keys as the user who logs in.
fn let_user_read_keys(host: &Host) {
    let keys = host.sshd.private_key_file();
    for path in [
        keys.parent().unwrap(),
        &keys.with_file_name("authorized_keys"),
    ] {
        let mode = fs::metadata(path).unwrap().permissions().mode() | 0o055;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Users of a host's own, without a trace on this machine: its mounts are its own.
fn give_user(host: &Host, in_docker: bool) {
    let members = if in_docker { "deploy" } else { "" };
    let script = format!(
        "set -e\n\
         for f in passwd group; do\n\
         [ -e /run/$f ] || {{ cp /etc/$f /run/$f; mount --bind /run/$f /etc/$f; }}\n\
         grep -v -e '^deploy:' -e '^wldocker:' /run/$f > /run/$f.new; cat /run/$f.new > /run/$f\n\
         done\n\
         mkdir -p /run/home; chown 4242:4242 /run/home /srv\n\
         echo 'deploy:*:4242:4242::/run/home:/bin/bash' >> /run/passwd\n\
         echo 'deploy:x:4242:' >> /run/group\n\
         echo 'wldocker:x:4343:{members}' >> /run/group\n\
         chgrp 4343 /run/docker.sock; chmod 660 /run/docker.sock\n"
    );
    host.inside(["sh", "-c", &script]).unwrap();
}

#[test]
fn a_login_that_is_not_root_and_what_a_server_lacks() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Observer, Windlass
    );
    let fleet = Fleet::start(1, "deploy").unwrap();
    let host = fleet.hosts.host(0);
    give_user(host, true);
    let_user_read_keys(host);
    let far = |script: &str| {
        let mut ssh = host.sshd.ssh();
        process::output(ssh.args(["-l", "deploy"]).arg(script)).unwrap()
    };
    if !far("docker compose version").status.success() {
        let reason = "another user than root cannot reach Compose in this project's directory";
        assert!(!parts::in_ci(), "{reason}");
        parts::say_skipped("a_login_that_is_not_root_and_what_a_server_lacks", reason);
        return;
    }
    let outcome = fleet.deploy("v1").unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(version(host), "v1");
    let owners = host
        .inside(["sh", "-c", "stat -c '%U %a' /srv/app/current/.env"])
        .unwrap();
    assert_eq!(owners.trim(), "deploy 600");

    let before_the_build = |tag: &str, texts: [&str; 2]| {
        let outcome = fleet.deploy(tag).unwrap();
        assert_eq!(outcome.code, Some(1), "{outcome}");
        assert!(outcome.events_of("step-started").is_empty(), "{outcome}");
        let finding = &outcome.events_of("finding")[0];
        let all = format!("{} {}", finding["message"], finding["hint"]);
        assert!(
            texts.iter().all(|text| all.contains(text)),
            "{texts:?} {outcome}"
        );
        assert_eq!(version(host), "v1");
    };
    host.inside([
        "mount",
        "--bind",
        "/dev/null",
        &windlass_tests::tools::compose_plugin()
            .display()
            .to_string(),
    ])
    .unwrap();
    let v1 = process::find_program("docker-compose");
    if let Some(v1) = &v1 {
        host.inside(["mount", "--bind", "/dev/null", &v1.display().to_string()])
            .unwrap();
    }
    before_the_build("v2", ["has no docker compose", "docker-compose-plugin"]);
    give_user(host, false);
    before_the_build("v3", ["wldocker", "group"]);
    let dirs = std::env::var("PATH").unwrap_or_default();
    for docker in std::env::split_paths(&dirs).map(|dir| dir.join("docker")) {
        if docker.is_file() {
            host.inside([
                "mount",
                "--bind",
                "/dev/null",
                &docker.display().to_string(),
            ])
            .unwrap();
        }
    }
    before_the_build("v4", ["has no `docker`", "install Docker Engine"]);
}

#[test]
fn a_login_that_uses_sudo() {
    require!(
        Namespaces, Docker, Registry, Sshd, Compose, Sudo, Observer, Windlass
    );
    let fleet = Fleet::start(1, "deploy").unwrap();
    let host = fleet.hosts.host(0);
    give_user(host, false);
    let_user_read_keys(host);
    // As Debian has it, with a line for this login. Its directory is not the login's.
    let sudoers = |rule: &str| {
        let script = format!(
            "set -e\n\
             printf 'Defaults env_reset\\nDefaults use_pty\\n{rule}\\n' > /run/sudoers.new\n\
             chmod 440 /run/sudoers.new\n\
             [ -e /run/sudoers ] || {{ cp /run/sudoers.new /run/sudoers; mount --bind /run/sudoers /etc/sudoers; }}\n\
             cat /run/sudoers.new > /run/sudoers\n\
             # sudo looks its own host's name up, which waits for a name server.\n\
             [ -e /run/hosts ] || {{ {{ cat /etc/hosts; echo 127.0.1.1 $(hostname); }} > /run/hosts; mount --bind /run/hosts /etc/hosts; }}\n\
             mkdir -p /run/home/.docker/cli-plugins; chown root:root /srv; chmod 755 /srv\n\
             ln -sf {} /run/home/.docker/cli-plugins/docker-compose\n",
            windlass_tests::tools::compose_plugin().display(),
        );
        host.inside(["sh", "-c", &script]).unwrap();
    };
    sudoers("deploy ALL=(root) NOPASSWD: ALL");
    fleet
        .change("windlass.toml", |text| {
            text.replacen("connect_timeout", "sudo = true\nconnect_timeout", 1)
        })
        .unwrap();
    let first = fleet.deploy("v1").unwrap();
    assert_eq!(first.code, Some(0), "{first}");
    assert_eq!(version(host), "v1");
    let owners = host
        .inside(["sh", "-c", "stat -c '%U %a' /srv/app/current/.env"])
        .unwrap();
    assert_eq!(owners.trim(), "root 600");

    // Without the right: told before the build, with the way out, and nothing changes.
    sudoers("# nobody");
    let second = fleet.deploy("v2").unwrap();
    assert_ne!(second.code, Some(0), "{second}");
    assert!(second.events_of("step-started").is_empty(), "{second}");
    assert!(
        second.stderr.contains("does not let this login use sudo")
            && second.stderr.contains("/etc/sudoers.d"),
        "{second}"
    );
    assert_eq!(version(host), "v1");
}
