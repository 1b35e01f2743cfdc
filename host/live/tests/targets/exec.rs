//! Commands, uploads and downloads; the same on `local`.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use windlass_model::call::SshOp;
use windlass_model::{Blob, ErrorKind, Reply, Secrets, Text};
use windlass_tests::{Sshd, require};

use crate::support::{World, argv, eventually, exit, processes_with, sh, spec, ssh, target, world};

const TARGETS: [&str; 2] = ["local", "prod"];

#[tokio::test]
async fn codes_and_both_streams_come_back() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    for name in TARGETS {
        for code in [0, 1, 3, 126, 127, 255] {
            let script = format!("echo out; echo err >&2; exit {code}");
            let got = exit(world.call(sh(name, &script)).await).unwrap();
            assert_eq!(got.code, code, "{name}");
            assert!(
                got.tail.contains("out\n") && got.tail.contains("err\n"),
                "{name} {code}: {}",
                got.tail
            );
        }
    }
    let lines = world.log.lines();
    assert_eq!(lines.iter().filter(|line| *line == "out").count(), 12);
}

#[tokio::test]
async fn arguments_variables_directory_and_stdin_arrive_as_they_are() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut secrets = Secrets::default();
    secrets.insert("TOKEN", SecretString::from("s3cret'\"$x\nline"));
    let world = World::with_secrets(vec![target(spec(&sshd))], secrets);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"from a file\0\n").unwrap();
    let reference = Blob::from_bytes(b"from a file\0\n".to_vec().into())
        .reference
        .clone();
    world.blobs.add(Blob::from_file(
        file.path().to_owned(),
        false,
        reference.clone(),
    ));
    for name in TARGETS {
        for (stdin, secret) in [
            (world.blob(b"from memory\0\n"), true),
            (reference.clone(), true),
            (reference.clone(), false),
        ] {
            let value = if secret {
                Text::secret("TOKEN")
            } else {
                Text::from("plain")
            };
            let op = SshOp::Exec {
                argv: argv(&[
                    "sh",
                    "-c",
                    "pwd; printf '%s|' \"$@\"; printf '[%s]' \"$A\"; tr '\\0' 0",
                    "x",
                    "a b",
                    "$HOME",
                    "it's",
                    "",
                    "*",
                ]),
                env: vec![("A".into(), value)],
                stdin: Some(stdin.clone()),
                dir: Some("/usr/lib".into()),
            };
            let got = exit(world.call(ssh(name, op)).await).unwrap();
            let value = if secret { "s3cret'\"$x\nline" } else { "plain" };
            let from = if stdin == reference {
                "a file"
            } else {
                "memory"
            };
            let wanted = format!("/usr/lib\na b|$HOME|it's||*|[{value}]from {from}0\n");
            assert_eq!(got.tail, wanted, "{name}");
        }
    }
}

#[tokio::test]
async fn secrets_are_not_put_into_arguments() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut secrets = Secrets::default();
    secrets.insert("TOKEN", SecretString::from("hunter2-hunter2"));
    let world = World::with_secrets(vec![target(spec(&sshd))], secrets);
    let exec = |argv, env| SshOp::Exec {
        argv,
        env,
        stdin: None,
        dir: None,
    };
    let words = vec![Text::from("echo"), Text::secret("TOKEN")];
    let error = world
        .call(ssh("prod", exec(words, Vec::new())))
        .await
        .unwrap_err();
    assert_eq!(error.code, "ssh.secret-in-argv");
    assert_eq!(world.trips(), 0);

    let env = vec![("T".to_owned(), Text::secret("TOKEN"))];
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c hunter2-hunter[2]; echo ${#T}";
    let got = exit(
        world
            .call(ssh("prod", exec(argv(&["sh", "-c", look]), env)))
            .await,
    )
    .unwrap();
    assert_eq!(got.tail, "0\n15\n");
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let world = World::new(Vec::new());
    let op = SshOp::Exec {
        argv: argv(&["pwd"]),
        env: Vec::new(),
        stdin: None,
        dir: Some("/no/such".into()),
    };
    let error = world.call(ssh("local", op)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::NotFound, "ssh.no-directory")
    );
}

#[tokio::test]
async fn cancel_and_deadline_end_the_far_processes() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    for (name, seconds) in [("prod", 86_001), ("local", 86_002), ("prod", 86_003)] {
        // One that ignores the request to end, and one that left the group.
        let script = format!("trap '' TERM; setsid sleep {seconds} & sleep {seconds}; wait");
        let context = world.context();
        let cancel = context.cancel.clone();
        let mut context = context;
        if seconds == 86_003 {
            context.deadline = tokio::time::Instant::now() + Duration::from_millis(700);
        } else {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                cancel.cancel();
            });
        }
        let begun = Instant::now();
        let error = windlass_model::Capability::call(&world.live, &context, sh(name, &script))
            .await
            .unwrap_err();
        let wanted = if seconds == 86_003 {
            ErrorKind::Timeout
        } else {
            ErrorKind::Cancelled
        };
        assert_eq!(error.kind, wanted);
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "{:?}",
            begun.elapsed()
        );
        let text = format!("sleep {seconds}");
        eventually("the end of the processes", || {
            processes_with(&text).is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_flood_of_output_does_not_fill_the_memory() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let got = world
        .sh("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
        .await
        .unwrap();
    assert!(got.tail.len() <= 16 * 1024 && got.tail.ends_with("end\n"));
    assert!(world.log.lines().iter().all(|line| line.len() <= 16 * 1024));
}

#[tokio::test]
async fn files_go_there_and_back() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let content = world.blob(&bytes);
    for name in TARGETS {
        let path = sshd
            .root()
            .join(format!("it's {name}"))
            .display()
            .to_string();
        let upload = SshOp::Upload {
            path: path.clone(),
            content: content.clone(),
            mode: 0o640,
        };
        assert_eq!(world.call(ssh(name, upload)).await.unwrap(), Reply::Done);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o7777, 0o640);
        let Reply::Blob(back) = world
            .call(ssh(name, SshOp::Download { path }))
            .await
            .unwrap()
        else {
            panic!("no blob");
        };
        assert_eq!(back, content);
    }
    assert_eq!(
        std::fs::read_dir(sshd.root()).unwrap().count(),
        2,
        "no temporary file stays"
    );
    let gone = SshOp::Download {
        path: "/no/such".into(),
    };
    assert_eq!(
        world.call(ssh("prod", gone)).await.unwrap_err().code,
        "target.no-file"
    );
    let relative = SshOp::Upload {
        path: "x".into(),
        content,
        mode: 0o644,
    };
    assert_eq!(
        world.call(ssh("prod", relative)).await.unwrap_err().code,
        "target.path"
    );
}
