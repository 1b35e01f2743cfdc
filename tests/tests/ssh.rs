//! Targets over SSH, as a person meets them: keys and host keys that do not fit,
//! hosts that do not answer, scripts, secrets, and what stays behind.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use windlass_tests::scratch::Scratch;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Relay, Sshd, Workspace, process, require};

/// One step that says hello on one target.
const HELLO: &str = r#"
[pipeline]
name = "hello"

[vars]
host = { env = "DEPLOY_HOST" }

[run]
tag = "1"

[target.box]
ssh = "{{ vars.host }}"
key = { secret = "SSH_KEY" }
known_hosts = "deploy/known_hosts"
connect_timeout = "5s"

[step.hello]
uses = "ssh-run"
on = ["box"]
with = { argv = ["echo", "hello from the box"] }
"#;

/// A server, and a project that may deploy to it.
struct Server {
    sshd: Sshd,
    workspace: Workspace,
    /// Where the binary has its keys and sockets: nobody else's.
    runtime: Scratch,
}

impl Server {
    fn with(manifest: &str) -> Self {
        let sshd = Sshd::start().unwrap();
        let mut workspace = Workspace::with_manifest(manifest).unwrap();
        workspace.set_env("DEPLOY_HOST", sshd.destination());
        workspace.set_env("SSH_KEY", sshd.private_key());
        let runtime = Scratch::new().unwrap();
        workspace.set_env("XDG_RUNTIME_DIR", runtime.path().to_str().unwrap());
        let server = Self {
            sshd,
            workspace,
            runtime,
        };
        server.write("deploy/known_hosts", &server.sshd.known_hosts());
        server
    }

    fn hello() -> Self {
        Self::with(HELLO)
    }

    /// Writes a file of the project and commits it.
    fn write(&self, name: &str, text: &str) {
        self.workspace.write(name, text).unwrap();
        self.workspace.commit(name).unwrap();
    }

    fn run(&self) -> Outcome {
        self.windlass(["run", "--verbose"])
    }

    fn windlass<const N: usize>(&self, args: [&str; N]) -> Outcome {
        self.workspace.windlass(args).run().unwrap()
    }

    /// Whatever a run wrote to disk, as text.
    fn journal(&self) -> String {
        files(&self.workspace.path().join(".windlass"))
            .iter()
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
            .collect()
    }

    /// Keys, sockets and configurations that a run left.
    fn left_over(&self) -> Vec<PathBuf> {
        files(self.runtime.path())
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn assert_ends(outcome: &Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome}");
    for text in says {
        assert!(outcome.says(text), "it does not say {text:?}: {outcome}");
    }
}

#[test]
fn a_command_runs_and_nothing_is_left() {
    require!(Sshd, Git, Windlass);
    let server = Server::hello();
    let outcome = server.run();
    assert_ends(&outcome, 0, &["hello from the box"]);
    assert_eq!(server.sshd.logins(), 1, "one connection for the whole run");
    assert_eq!(server.left_over(), Vec::<PathBuf>::new());
}

#[test]
fn an_unknown_host_key_is_refused_until_it_is_trusted() {
    require!(Sshd, Git, Windlass);
    let server = Server::hello();
    server.write("deploy/known_hosts", "");
    let refused = server.run();
    assert_ends(
        &refused,
        3,
        &["host key of box", "is not known", "windlass trust box"],
    );

    // Nobody is there to look at the fingerprint.
    let unseen = server.windlass(["trust", "box"]);
    assert_ends(&unseen, 6, &["SHA256:", "--yes"]);
    assert_eq!(server.workspace.read("deploy/known_hosts").unwrap(), "");

    let trusted = server.windlass(["trust", "box", "--yes"]);
    assert_ends(&trusted, 0, &["SHA256:", "recorded in"]);
    let recorded = server.workspace.read("deploy/known_hosts").unwrap();
    assert!(
        recorded.contains(server.sshd.known_hosts().trim()),
        "{recorded}"
    );
    server.workspace.commit("Trust the box").unwrap();
    assert_ends(&server.run(), 0, &["hello from the box"]);

    let again = server.windlass(["trust", "box", "--yes"]);
    assert_ends(&again, 0, &["nothing to record"]);
    assert_eq!(
        server.workspace.read("deploy/known_hosts").unwrap(),
        recorded
    );
}

#[test]
fn a_changed_host_key_is_refused_until_it_is_replaced() {
    require!(Sshd, Git, Windlass);
    let (server, other) = (Server::hello(), Sshd::start().unwrap());
    // The other machine's key under this one's address, and a line that must stay.
    let stays = "example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEb7ljT3oEaGHWnkDTtm/S0tGmZCxVvXMkAaGKqZwfW\n";
    let changed = other.known_hosts_for(server.sshd.address());
    server.write("deploy/known_hosts", &format!("{stays}{changed}"));
    assert_ends(
        &server.run(),
        3,
        &[
            "host key of box",
            "is not the one that is known",
            "windlass trust box --replace",
        ],
    );

    let refused = server.windlass(["trust", "box", "--yes"]);
    assert_ends(&refused, 6, &["another key", "--replace"]);
    let known = server.workspace.read("deploy/known_hosts").unwrap();
    assert_eq!(known, format!("{stays}{changed}"));

    let replaced = server.windlass(["trust", "box", "--yes", "--replace"]);
    assert_ends(&replaced, 0, &["recorded in"]);
    let known = server.workspace.read("deploy/known_hosts").unwrap();
    assert!(
        known.contains(stays) && !known.contains(&changed),
        "{known}"
    );
    server.workspace.commit("The box was set up anew").unwrap();
    assert_ends(&server.run(), 0, &["hello from the box"]);
}

#[test]
fn trust_knows_which_targets_have_a_host_key() {
    require!(Sshd, Git, Windlass);
    let server = Server::hello();
    let unknown = server.windlass(["trust", "bax"]);
    assert_ends(&unknown, 2, &["no target bax", "box"]);
    let local = server.windlass(["trust", "local"]);
    assert_ends(&local, 2, &["this machine"]);
}

#[test]
fn a_key_that_does_not_fit_is_told_apart() {
    require!(Sshd, Git, Windlass);
    let mut server = Server::hello();
    let keys = Scratch::new().unwrap();
    let make = |name: &str, passphrase: &str| {
        let file = keys.join(name);
        process::capture(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", passphrase, "-f"])
                .arg(&file),
        )
        .unwrap();
        fs::read_to_string(file).unwrap()
    };
    let public = |name: &str| fs::read_to_string(keys.join(name).with_extension("pub")).unwrap();
    let (stranger, locked) = (make("stranger", ""), make("locked", "open sesame"));
    for (key, code, says) in [
        (
            stranger,
            3,
            vec!["does not accept the login", "authorized_keys"],
        ),
        (locked, 3, vec!["passphrase", "no agent", "ssh-add"]),
        (
            public("stranger"),
            1,
            vec!["not the text of a private key", "public half"],
        ),
        (
            "no key at all".to_owned(),
            1,
            vec!["not the text of a private key", "-----BEGIN"],
        ),
    ] {
        server.workspace.set_env("SSH_KEY", key.clone());
        let outcome = server.run();
        assert_ends(&outcome, code, &says);
        let line = key.lines().nth(1).unwrap_or(&key);
        assert!(!outcome.says(line), "the key is shown: {outcome}");
        assert_eq!(server.left_over(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_host_that_refuses_is_unreachable() {
    require!(Sshd, Git, Windlass);
    let mut server = Server::hello();
    let port = windlass_tests::registry::free_port([127, 0, 0, 1].into()).unwrap();
    let destination = format!("nobody@127.0.0.1:{port}");
    server.workspace.set_env("DEPLOY_HOST", destination.clone());
    let outcome = server.run();
    assert_ends(&outcome, 1, &[&destination, "cannot be reached", "refused"]);
}

#[test]
fn a_silent_host_fails_in_time_while_the_others_go_on() {
    require!(Sshd, Git, Windlass);
    let manifest = HELLO.replace("connect_timeout = \"5s\"", "connect_timeout = \"2s\"")
        + r#"
[target.far]
ssh = { env = "FAR_HOST" }
key = { secret = "SSH_KEY" }
known_hosts = "deploy/known_hosts"
connect_timeout = "2s"
"#;
    let manifest = manifest
        .replace("ssh = { env = \"FAR_HOST\" }", "ssh = \"{{ vars.far }}\"")
        .replace("[run]", "far = { env = \"FAR_HOST\" }\n\n[run]")
        .replace("on = [\"box\"]", "on = [\"box\", \"far\"]");
    let mut server = Server::with(&manifest);
    let relay = Relay::to(server.sshd.address()).unwrap();
    relay.blackhole();
    let far = format!("{}@{}", server.sshd.user(), relay.address());
    server.workspace.set_env("FAR_HOST", far);
    let outcome = server.run();
    assert_ends(
        &outcome,
        1,
        &["hello from the box", "far", "did not answer within 2 s"],
    );
    assert!(outcome.took < Duration::from_secs(8), "{outcome}");
    assert_eq!(server.left_over(), Vec::<PathBuf>::new());
}

#[test]
fn key_files_are_the_owners_alone() {
    require!(Sshd, Git, Windlass);
    let mut server = Server::hello();
    let relay = Relay::to(server.sshd.address()).unwrap();
    relay.blackhole();
    let far = format!("{}@{}", server.sshd.user(), relay.address());
    server.workspace.set_env("DEPLOY_HOST", far);
    let mut running = server.workspace.windlass(["run"]).spawn().unwrap();
    // It is waiting for the server's banner: the key lies ready.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let keys = loop {
        let keys: Vec<PathBuf> = files(server.runtime.path())
            .into_iter()
            .filter(|file| file.ends_with("key"))
            .collect();
        if !keys.is_empty() || std::time::Instant::now() > deadline {
            break keys;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(keys.len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&keys[0]), 0o600);
    assert_eq!(mode(keys[0].parent().unwrap()), 0o700);
    running.signal("INT");
    running.wait_for("cancel", Duration::from_secs(5));
    let outcome = running.wait().unwrap();
    assert_eq!(outcome.code, Some(130), "{outcome}");
    assert_eq!(server.left_over(), Vec::<PathBuf>::new());
}

#[test]
fn keys_and_known_hosts_come_mangled_from_secrets() {
    require!(Sshd, Git, Windlass);
    let manifest = HELLO.replace(
        "known_hosts = \"deploy/known_hosts\"",
        "known_hosts = { secret = \"KNOWN_HOSTS\" }",
    );
    let mut server = Server::with(&manifest);
    // As a web form and a `.env` file hand them on.
    let crlf = |text: &str| text.trim_end().replace('\n', "\r\n");
    let escaped = |text: &str| text.trim_end().replace('\n', "\\n");
    let lines = format!(
        "example.org ssh-ed25519 AAAA\n{}",
        server.sshd.known_hosts()
    );
    for mangle in [&crlf as &dyn Fn(&str) -> String, &escaped] {
        let key = mangle(server.sshd.private_key());
        server.workspace.set_env("SSH_KEY", key);
        server.workspace.set_env("KNOWN_HOSTS", mangle(&lines));
        assert_ends(&server.run(), 0, &["hello from the box"]);
        assert_eq!(server.left_over(), Vec::<PathBuf>::new());
    }
    // What is in a secret, `trust` cannot record; it gives the lines.
    let trust = server.windlass(["trust", "box", "--yes"]);
    assert_ends(&trust, 2, &["come from a secret"]);
    assert_eq!(trust.stdout, server.sshd.known_hosts());
}

#[test]
fn a_key_in_a_file_and_an_alias_serve_as_well() {
    require!(Sshd, Git, Windlass);
    let manifest = HELLO
        .replace(
            "ssh = \"{{ vars.host }}\"",
            "ssh = \"the-box\"\nssh_config = \"ssh_config\"",
        )
        .replace(
            "key = { secret = \"SSH_KEY\" }",
            "key = { file = \"~/id\" }",
        );
    let server = Server::with(&manifest);
    let address = server.sshd.address();
    server.write(
        "ssh_config",
        &format!(
            "Host the-box\n  HostName {}\n  Port {}\n  User {}\n",
            address.ip(),
            address.port(),
            server.sshd.user()
        ),
    );
    let key = server.workspace.home().join("id");
    fs::copy(server.sshd.private_key_file(), &key).unwrap();
    assert_ends(&server.run(), 0, &["hello from the box"]);

    fs::remove_file(&key).unwrap();
    let outcome = server.run();
    assert_ends(&outcome, 1, &["the key for box is missing"]);
}

/// Values that a shell would run, if it read them.
const HOSTILE: &str = "$(touch owned); `touch owned` '\"\\ && touch owned * %s ${HOME}";

#[test]
fn a_script_gets_values_as_arguments_and_environment_only() {
    require!(Sshd, Git, Windlass);
    let manifest = HELLO.replace(
        "with = { argv = [\"echo\", \"hello from the box\"] }",
        r#"with = { script = "deploy/script.sh", args = ["{{ vars.value }}", ""], env = { VALUE = "{{ vars.value }}", TOKEN = { secret = "TOKEN" } }, dir = "{{ vars.dir }}" }"#,
    )
    .replace("[run]", "value = { env = \"VALUE\" }\ndir = { env = \"DIR\" }\n[run]");
    let mut server = Server::with(&manifest);
    let dir = server.sshd.root();
    let token = "s3cret/tok+en-of-this-test";
    server.workspace.set_env("VALUE", HOSTILE);
    server.workspace.set_env("DIR", dir.to_str().unwrap());
    server.workspace.set_env("TOKEN", token);
    // A secret that came in an argument would be in some process's command line.
    server.write(
        "deploy/script.sh",
        r#"#!/bin/bash -eu
echo "arguments: $# <$1> <$2>"
echo "environment: <$VALUE>"
echo "in $PWD, with ${BASH_VERSION:+bash}"
printf '%s' "$TOKEN" > token
for file in /proc/[0-9]*/cmdline; do
    words=$(tr '\0' ' ' 2>/dev/null < "$file") || continue
    case $words in *"$TOKEN"*) echo "exposed by $file: ${words%%"$TOKEN"*}" ;; esac
done
echo "the token is $TOKEN, once more $(printf '%s' "$TOKEN" | base64)"
"#,
    );
    let outcome = server.run();
    let values = format!("arguments: 2 <{HOSTILE}> <>");
    let shown = format!("environment: <{HOSTILE}>");
    let place = format!("in {}, with bash", dir.display());
    assert_ends(&outcome, 0, &[&values, &shown, &place, "the token is "]);
    assert_eq!(fs::read_to_string(dir.join("token")).unwrap(), token);
    assert!(!dir.join("owned").exists());
    assert!(!outcome.says("exposed by"), "{outcome}");

    // The command has it, and nobody else.
    let encoded = "czNjcmV0L3Rvaytlbi1vZi10aGlzLXRlc3Q";
    let logs = server.windlass(["logs", "last"]);
    for text in [&outcome.to_string(), &logs.to_string(), &server.journal()] {
        assert!(!text.contains(token) && !text.contains(encoded), "{text}");
    }
    assert_ends(&logs, 0, &[&values, "the token is "]);
}

#[test]
fn a_secret_may_not_be_an_argument() {
    require!(Sshd, Git, Windlass);
    let manifest = HELLO.replace("\"hello from the box\"", "{ secret = \"TOKEN\" }");
    let mut server = Server::with(&manifest);
    server.workspace.set_env("TOKEN", "a-token-of-some-length");
    let outcome = server.run();
    assert_ends(&outcome, 1, &["may not be an argument", "`env`"]);
    assert!(!outcome.says("a-token-of-some-length"), "{outcome}");
    assert_eq!(server.sshd.log().matches("touch").count(), 0);
}

#[test]
fn a_failing_command_ends_the_run_with_its_code_and_its_words() {
    require!(Sshd, Git, Windlass);
    for (argv, says) in [
        (
            r#"["sh", "-c", "echo one; echo two >&2; exit 42"]"#,
            vec!["42", "one", "two"],
        ),
        (r#"["no-such-command-here"]"#, vec!["127", "not found"]),
    ] {
        let manifest = HELLO.replace("[\"echo\", \"hello from the box\"]", argv);
        let server = Server::with(&manifest);
        let outcome = server.windlass(["run"]);
        assert_ends(&outcome, 1, &["hello@box"]);
        assert_ends(&outcome, 1, &says);
    }
}

#[test]
fn this_machine_is_a_target_too() {
    require!(Git, Windlass);
    let manifest = r#"
[pipeline]
name = "here"
[run]
tag = "1"
[step.argv]
uses = "ssh-run"
on = ["local"]
with = { argv = ["printf", "<%s>", "a b", "$HOME"] }
[step.script]
uses = "ssh-run"
on = ["local"]
with = { script = "script.sh", env = { WORD = "as said" } }
"#;
    let workspace = Workspace::with_manifest(manifest).unwrap();
    workspace
        .write(
            "script.sh",
            "echo \"$WORD, no ssh: ${SSH_CONNECTION:-none}\"\n",
        )
        .unwrap();
    workspace.commit("Add a script").unwrap();
    let outcome = workspace.windlass(["run", "--verbose"]).run().unwrap();
    assert_ends(&outcome, 0, &["<a b><$HOME>", "as said, no ssh: none"]);
}
