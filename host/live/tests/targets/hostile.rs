//! Targets that lie, and directories of Windlass with rubbish in them: each is handled
//! or gets a clear error, and nothing hangs, panics, or is written elsewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use windlass_model::call::{LeaseOp, ReleasesCall, ReleasesOp};
use windlass_model::reply::{Release, ReleaseState};
use windlass_model::{Call, CallError, ErrorKind, Reply};
use windlass_tests::{Sshd, require};

use crate::lease::{acquire, lease};
use crate::support::{World, prod, world};

/// A server that answers each script with what the file `answer` beside it says, with
/// the script's own mark for MARK. It runs nothing.
struct Liar {
    sshd: Sshd,
    dir: tempfile::TempDir,
}

impl Liar {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let answer = dir.path().join("answer");
        let program = dir.path().join("liar");
        let script = format!(
            "#!/bin/sh\nmark=$(sed -n \"s/^M='\\{{0,1\\}}\\([^']*\\)'\\{{0,1\\}}$/\\1/p\" | head -n 1)\n\
             sed \"s/MARK/$mark/\" {answer}\n[ ! -e {answer}.endless ] || exec yes \"$mark\"\n",
            answer = answer.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let sshd = Sshd::builder()
            .config_line(format!("ForceCommand {}", program.display()))
            .start()
            .unwrap();
        Self { sshd, dir }
    }

    fn says(&self, answer: &str) {
        fs::write(self.dir.path().join("answer"), answer).unwrap();
    }

    fn says_without_end(&self) {
        fs::write(self.dir.path().join("answer.endless"), "").unwrap();
    }
}

const END: &str = "MARK end 0 0\n\n";

fn frame(kind: &str, number: &str, data: &str) -> String {
    format!("MARK {kind} {number} {}\n{data}\n", data.len())
}

async fn take(world: &World, path: &Path) -> Result<bool, CallError> {
    let path = path.display().to_string();
    let lease = lease(world, &path, acquire("ann@ci", 60_000)).await?;
    Ok(lease.is_some_and(|lease| lease.ours))
}

#[tokio::test]
async fn a_server_that_lies_about_a_lease() {
    require!(Sshd);
    let liar = Liar::start();
    let world = world(&liar.sshd);
    let path = Path::new("/srv/lease");
    let words = "someone 7 2026-01-24T01:46:58Z Ym9i 60 -";

    // Numbers that cannot be are no panic: somebody else has it, for long, or no longer.
    for (left, remaining) in [
        (i64::MAX.to_string(), u64::MAX),
        (i64::MIN.to_string(), 0),
        ("-5".to_owned(), 0),
    ] {
        liar.says(&(frame("lease", &left, words) + END));
        let held = lease(&world, "/srv/lease", acquire("ann", 60_000)).await;
        let held = held.unwrap().unwrap();
        assert!(!held.ours && held.owner == "bob", "{held:?}");
        assert_eq!(held.remaining_ms, Some(remaining), "{left}");
    }

    // What makes no sense is said to, with the target's name.
    let forged = [
        String::new(),
        "noise\n".to_owned(),
        END.to_owned(),
        // Cut off, longer than it is, or more than whole.
        frame("lease", "9", words),
        format!("MARK lease 9 18446744073709551615\n{words}\n{END}"),
        format!("MARK lease 9 -1\n{words}\n{END}"),
        format!("MARK lease 9 9999999\n{words}\n{END}"),
        frame("lease", "1e3", words) + END,
        frame("lease", "99999999999999999999", words) + END,
        frame("lease", "9", words) + END + &frame("lease", "9", words) + END,
        // Words missing, or no number.
        frame("lease", "9", "someone") + END,
        frame("lease", "9", "") + END,
        frame("lease", "9", "someone -7 now Ym9i 60 -") + END,
        frame("lease", "9", "someone 99999999999999999999 now Ym9i 60 -") + END,
        // Its own bytes are not shown as they are.
        frame("failed", "0", "\u{1b}[2Jgone\u{7}") + END,
    ];
    for answer in forged {
        liar.says(&answer);
        let error = take(&world, path).await.expect_err(&answer);
        assert!(error.message.contains("prod"), "{answer:?}: {error:?}");
        assert!(
            !error.message.contains(['\u{1b}', '\u{7}']),
            "{answer:?}: {error:?}"
        );
        assert_ne!(error.kind, ErrorKind::Timeout, "{answer:?}: {error:?}");
    }

    // Without end: nobody waits for it.
    liar.says_without_end();
    let began = Instant::now();
    let error = take(&world, path).await.unwrap_err();
    assert_eq!(error.code, "ssh.output-too-large", "{error:?}");
    assert!(error.hint.is_some(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{error:?}");
}

#[tokio::test]
async fn a_server_that_lies_about_releases() {
    require!(Sshd);
    let liar = Liar::start();
    let world = world(&liar.sshd);
    let list = || releases(&world, Path::new("/srv/app"), ReleasesOp::List);

    // Names that could leave their place are not taken over.
    let names = ["../../etc 1", "-rf good", "a;b good", "good", ""];
    let told = names.map(|name| frame("state", "1", name) + &frame("release", "1", "{}"));
    liar.says(&(told.concat() + END));
    assert_eq!(list().await, Ok(Reply::Releases(Vec::new())));
    // Frames in another order are none of ours.
    let answer = frame("release", "1", "{}") + &frame("state", "1", "20260124T014658Z-v1 good");
    liar.says(&(answer + END));
    assert_eq!(list().await, Ok(Reply::Releases(Vec::new())));
    // A record that is none, of any size.
    let deep = "[".repeat(100_000);
    for record in ["", "null", "[]", "{\"created\":7}", deep.as_str()] {
        let answer =
            frame("state", "0", "20260124T014658Z-v1 good") + &frame("release", "1", record);
        liar.says(&(answer + END));
        let Ok(Reply::Releases(told)) = list().await else {
            panic!("{record:.20}");
        };
        assert_eq!(
            (told.len(), told[0].state),
            (1, ReleaseState::Good),
            "{record:.20}"
        );
    }
    for reason in ["service ../x", "nonsense", ""] {
        liar.says(&(frame("refused", "0", reason) + END));
        let op = ReleasesOp::MarkGood {
            id: "20260124T014658Z-v1".into(),
        };
        let error = releases(&world, Path::new("/srv/app"), op).await;
        assert!(error.is_err(), "{reason:?}");
    }
    liar.says_without_end();
    let error = list().await.unwrap_err();
    assert_eq!(error.code, "ssh.output-too-large", "{error:?}");
}

async fn releases(world: &World, dir: &Path, op: ReleasesOp) -> Result<Reply, CallError> {
    let call = ReleasesCall {
        target: prod(),
        dir: dir.display().to_string(),
        op,
    };
    world.call(Call::Releases(call)).await
}

/// What holds nothing is taken over, and the fence works from then on.
#[tokio::test]
async fn rubbish_in_the_holder_of_a_lease_holds_nothing() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let long = "a".repeat(1 << 20);
    let huge = "9".repeat(400);
    let holders = [
        "",
        "\n\n\n",
        "\0\0\0",
        "\u{1b}[31m $(touch /tmp/x) `id` ; exit 9",
        long.as_str(),
        "run 1 1000 -1060 60 Pw== date - .",
        "run -1 1000 1060 60 Pw== date - .",
        "run 08 1000 1060 09 Pw== date - .",
        "run 1 1000 1e9 60 Pw== date - .",
        &format!("run 1 1000 {huge} 60 Pw== date - ."),
        &format!("run 1 1000 1060 {huge} Pw== date - ."),
        "run 1 1000 9223372036854775808 60 Pw== date - .",
    ];
    for (index, holder) in holders.iter().enumerate() {
        let path = sshd.root().join(format!("lease-{index}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("holder"), format!("{holder}\n")).unwrap();
        let world = world(&sshd);
        let status = lease(&world, &path.display().to_string(), LeaseOp::Status).await;
        assert_eq!(status, Ok(None), "{holder:.40}");
        assert_eq!(take(&world, &path).await, Ok(true), "{holder:.40}");
        let done = world.sh("echo done").await.unwrap();
        assert_eq!(done.tail, "done\n", "{holder:.40}");
    }
    // The number of the last holder, gone bad: counting begins anew.
    let fences = ["", "x", "-3", "08", huge.as_str(), "9223372036854775807"];
    for (index, fence) in fences.into_iter().enumerate() {
        let path = sshd.root().join(format!("fence-{index}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("fence"), fence).unwrap();
        let world = world(&sshd);
        let held = lease(&world, &path.display().to_string(), acquire("ann", 60_000)).await;
        let held = held.unwrap().unwrap();
        assert!(held.ours && held.fence == 1, "{fence:.40}: {held:?}");
        assert_eq!(world.sh("echo done").await.unwrap().tail, "done\n");
    }
}

#[tokio::test]
async fn a_lease_that_is_no_file_is_named_or_replaced() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let root = sshd.root();
    let place = |name: &str| {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        path
    };

    for name in ["holder", "fence", "mutex", "operations"] {
        let path = place(&format!("directory-{name}"));
        fs::create_dir(path.join(name)).unwrap();
        let error = take(&world(&sshd), &path).await.expect_err(name);
        let says = ["on prod cannot be used as a lease", name, "irectory"];
        assert!(
            says.iter().all(|text| error.message.contains(text)),
            "{error:?}"
        );
        let inside = fs::read_dir(path.join(name)).unwrap().count();
        assert_eq!(inside, 0, "something was moved into {name}");
    }

    // Links: to what is no holder, to nothing, to themselves. What they lead to stays.
    let victim = root.join("victim");
    fs::write(&victim, "precious\n").unwrap();
    for (name, to) in [
        ("link", victim.clone()),
        ("dangling", root.join("nothing")),
        ("loop", root.join("loop/holder")),
    ] {
        let path = place(name);
        symlink(to, path.join("holder")).unwrap();
        assert_eq!(take(&world(&sshd), &path).await, Ok(true), "{name}");
        assert!(!path.join("holder").is_symlink(), "{name}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious\n");
    assert!(!root.join("nothing").exists());

    // A pipe, which nobody writes to, holds nothing and nobody up.
    let path = place("pipe");
    let made = Command::new("mkfifo").arg(path.join("holder")).status();
    assert!(made.unwrap().success());
    assert_eq!(take(&world(&sshd), &path).await, Ok(true));

    // The directory itself: a file, a link to nothing.
    fs::write(root.join("file"), "").unwrap();
    symlink(root.join("nowhere"), root.join("astray")).unwrap();
    for name in ["file", "astray"] {
        let error = take(&world(&sshd), &root.join(name)).await.expect_err(name);
        assert!(
            error
                .message
                .contains(&format!("/{name} on prod cannot be used as a lease")),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn rubbish_among_releases_is_listed_as_failed_and_pruned() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let dir = sshd.root().join("app");
    let all = dir.join("releases");
    let release = |id: &str, state: &[u8], record: &[u8]| {
        fs::create_dir_all(all.join(id)).unwrap();
        fs::write(all.join(id).join("state"), state).unwrap();
        fs::write(all.join(id).join("release.json"), record).unwrap();
    };
    let id = |number: u32| format!("20260124T01465{number}Z-v{number}-abcdef0{number}");
    let record = br#"{"id":"../../etc","created":"2026-01-24T01:46:58Z","tag":"v0"}"#;
    release(&id(0), b"good\n", record);
    release(&id(1), b"\x1b[31mgood\n", record);
    release(&id(2), &vec![b'g'; 1 << 20], record);
    release(&id(3), b"good\n", &vec![b'['; 1 << 20]);
    release(&id(4), b"", b"");
    // Others than ours, and what is no file.
    release("backup", b"good\n", record);
    fs::create_dir_all(all.join(id(5)).join("state")).unwrap();
    fs::write(all.join(id(5)).join("release.json"), record).unwrap();
    fs::create_dir_all(all.join(id(6))).unwrap();
    let made = Command::new("mkfifo")
        .arg(all.join(id(6)).join("state"))
        .status();
    assert!(made.unwrap().success());
    symlink("..", dir.join("current")).unwrap();

    let world = world(&sshd);
    let list = async || -> Vec<Release> {
        match releases(&world, &dir, ReleasesOp::List).await {
            Ok(Reply::Releases(all)) => all,
            other => panic!("{other:?}"),
        }
    };
    let told = list().await;
    let states: Vec<_> = told
        .iter()
        .map(|told| (told.id.clone(), told.state))
        .collect();
    let failed = ReleaseState::Failed;
    assert_eq!(
        states,
        [
            (id(4), failed),
            (id(3), ReleaseState::Good),
            (id(2), failed),
            (id(1), failed),
            (id(0), ReleaseState::Good),
        ]
    );
    assert!(told.iter().all(|told| !told.is_current), "{told:?}");
    assert_eq!(told[4].tag, "v0");

    // A state that cannot be written is named, and nothing is moved into it.
    fs::remove_file(dir.join("current")).unwrap();
    symlink(format!("releases/{}", id(5)), dir.join("current")).unwrap();
    let good = ReleasesOp::MarkGood { id: id(5) };
    let error = releases(&world, &dir, good).await.unwrap_err();
    assert!(error.message.contains("state is a directory"), "{error:?}");
    assert_eq!(
        fs::read_dir(all.join(id(5)).join("state")).unwrap().count(),
        0
    );

    let pruned = releases(&world, &dir, ReleasesOp::Prune { keep: 1 }).await;
    let Ok(Reply::Texts(gone)) = pruned else {
        panic!("{pruned:?}");
    };
    assert_eq!(gone, [id(2), id(1), id(0)], "the newest good one stays");
    assert!(all.join("backup").exists());
}
