//! Two runs on one target.

use windlass_model::call::{FileOp, LeaseCall, LeaseOp, SshOp, TargetCall, TargetOp};
use windlass_model::reply::Lease;
use windlass_model::{Call, CallError, Reply};
use windlass_tests::{Sshd, require};

use crate::support::{World, eventually, prod, sh, ssh, world};

pub(crate) async fn lease(
    world: &World,
    path: &str,
    op: LeaseOp,
) -> Result<Option<Lease>, CallError> {
    let call = Call::Lease(LeaseCall {
        target: prod(),
        path: path.into(),
        op,
    });
    match world.call(call).await? {
        Reply::Lease(lease) => Ok(lease),
        Reply::Done => Ok(None),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn acquire(owner: &str, ttl_ms: u64) -> LeaseOp {
    LeaseOp::Acquire {
        owner: owner.into(),
        ttl_ms,
        reason: String::new(),
    }
}

async fn story(sshd: &Sshd) {
    let (ours, theirs) = (world(sshd), world(sshd));
    let path = sshd.root().join("app/.lease").display().to_string();
    assert_eq!(lease(&ours, &path, LeaseOp::Status).await.unwrap(), None);
    let held = lease(&ours, &path, acquire("ann@ci", 60_000))
        .await
        .unwrap()
        .unwrap();
    assert!(
        held.ours && held.fence == 1 && held.remaining_ms == Some(60_000),
        "{held:?}"
    );
    assert_eq!(
        (held.owner.as_str(), held.run),
        ("ann@ci", ours.run.to_string())
    );
    assert_eq!(ours.trips(), 2);

    let seen = lease(&theirs, &path, acquire("bob", 60_000))
        .await
        .unwrap()
        .unwrap();
    assert!(
        !seen.ours && seen.owner == "ann@ci" && seen.fence == 1,
        "{seen:?}"
    );
    let again = lease(&ours, &path, acquire("ann@ci", 60_000))
        .await
        .unwrap()
        .unwrap();
    assert!(again.ours && again.fence == 1);
    assert!(
        lease(&ours, &path, LeaseOp::Renew { ttl_ms: 2000 })
            .await
            .unwrap()
            .unwrap()
            .ours
    );
    lease(&theirs, &path, LeaseOp::Release).await.unwrap();
    assert!(
        lease(&ours, &path, LeaseOp::Status)
            .await
            .unwrap()
            .unwrap()
            .ours
    );

    // It expires by itself; the next holder's number is higher.
    tokio::time::sleep(std::time::Duration::from_millis(3100)).await;
    let taken = lease(&theirs, &path, acquire("bob", 60_000))
        .await
        .unwrap()
        .unwrap();
    assert!(taken.ours && taken.fence == 2, "{taken:?}");
    let error = lease(&ours, &path, LeaseOp::Renew { ttl_ms: 2000 })
        .await
        .unwrap_err();
    assert_eq!(error.code, "lease.lost");
    assert!(error.message.contains("bob"), "{error:?}");
    lease(&theirs, &path, LeaseOp::Release).await.unwrap();
    assert_eq!(lease(&ours, &path, LeaseOp::Status).await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_keeps_two_runs_apart() {
    require!(Sshd);
    story(&Sshd::start().unwrap()).await;
}

#[tokio::test]
async fn a_target_without_flock_keeps_them_apart_too() {
    require!(Sshd);
    // One whose file system knows no such locks, to be exact.
    let dir = tempfile::tempdir().unwrap();
    let flock = dir.path().join("flock");
    std::fs::write(&flock, "#!/bin/sh\necho no locks available >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&flock, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let sshd = Sshd::builder().env("PATH", path).start().unwrap();
    story(&sshd).await;
}

#[tokio::test]
async fn of_many_who_ask_at_once_one_gets_it() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let path = sshd.root().join("lease").display().to_string();
    let worlds: Vec<World> = (0..6).map(|_| world(&sshd)).collect();
    let asked = worlds
        .iter()
        .map(|world| lease(world, &path, acquire("x", 30_000)));
    let got = futures_util::future::join_all(asked).await;
    let held = got
        .iter()
        .filter(|lease| lease.as_ref().unwrap().as_ref().unwrap().ours)
        .count();
    assert_eq!(held, 1);
}

/// Runs while the file `go` is not there.
fn wait_for(dir: &std::path::Path) -> Call {
    let body = format!(
        "touch {0}/begun; until [ -e {0}/go ]; do sleep 0.05; done",
        dir.display()
    );
    Call::Target(TargetCall {
        target: prod(),
        op: TargetOp::Apply {
            ops: vec![FileOp::RunScript {
                body,
                args: Vec::new(),
                env: Vec::new(),
            }],
        },
    })
}

fn upload(world: &World, path: &std::path::Path) -> Call {
    ssh(
        "prod",
        SshOp::Upload {
            path: path.display().to_string(),
            content: world.blob(b"x"),
            mode: 0o644,
        },
    )
}

#[tokio::test]
async fn what_a_stale_engine_does_next_is_refused_on_the_target() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (stale, next) = (world(&sshd), world(&sshd));
    let path = sshd.root().join("lease").display().to_string();
    lease(&stale, &path, acquire("ann", 1000)).await.unwrap();
    let file = sshd.root().join("file");
    stale.call(upload(&stale, &file)).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let taken = lease(&next, &path, acquire("bob", 60_000)).await.unwrap();
    assert!(taken.unwrap().ours);

    let touch = format!("touch {}", file.display());
    std::fs::write(sshd.root().join("go"), "").unwrap();
    let calls = [
        upload(&stale, &file),
        sh("prod", &touch),
        wait_for(&sshd.root()),
    ];
    for call in calls {
        let error = stale.call(call).await.unwrap_err();
        assert_eq!(error.code, "lease.lost", "{error:?}");
        let said = format!("bob (run {})", next.run);
        assert!(error.message.contains(&said), "{error:?}");
        assert!(error.message.contains("refused there"), "{error:?}");
    }
    assert!(!file.exists() && !sshd.root().join("begun").exists());
    assert_eq!(next.sh(&touch).await.unwrap().code, 0);
    assert!(file.exists());

    // Taken away by a person: the same, though nobody holds it.
    let gone = LeaseOp::Break {
        run: next.run.to_string(),
    };
    lease(&stale, &path, gone).await.unwrap();
    let error = next.sh(&touch).await.unwrap_err();
    assert_eq!(error.code, "lease.lost", "{error:?}");
    assert!(error.message.contains("nobody holds it"), "{error:?}");
}

#[tokio::test]
async fn nobody_takes_over_while_an_operation_still_runs() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (stale, next) = (world(&sshd), world(&sshd));
    let path = sshd.root().join("lease").display().to_string();
    lease(&stale, &path, acquire("ann", 1000)).await.unwrap();
    let story = async {
        eventually("the script", || sshd.root().join("begun").exists()).await;
        tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
        let seen = lease(&next, &path, acquire("bob", 60_000)).await.unwrap();
        let seen = seen.unwrap();
        assert_eq!(
            (seen.ours, seen.remaining_ms, seen.owner.as_str()),
            (false, Some(0), "ann"),
            "{seen:?}"
        );
        // Nobody took it, so it can be kept.
        lease(&stale, &path, LeaseOp::Renew { ttl_ms: 1000 })
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
        std::fs::write(sshd.root().join("go"), "").unwrap();
    };
    let (done, ()) = tokio::join!(stale.call(wait_for(&sshd.root())), story);
    done.unwrap();
    let taken = lease(&next, &path, acquire("bob", 60_000)).await.unwrap();
    assert!(taken.unwrap().ours);
}

#[tokio::test]
async fn a_clock_that_is_set_neither_ends_nor_prolongs_a_lease() {
    require!(Sshd);
    let dir = tempfile::tempdir().unwrap();
    let (date, offset) = (dir.path().join("date"), dir.path().join("offset"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = +%s ] || exec /bin/date \"$@\"\necho $(($(/bin/date +%s) + $(cat {})))\n",
        offset.display()
    );
    std::fs::write(&date, script).unwrap();
    std::fs::set_permissions(&date, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&offset, "0").unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let sshd = Sshd::builder().env("PATH", path).start().unwrap();
    let (ours, theirs) = (world(&sshd), world(&sshd));
    let path = sshd.root().join("lease").display().to_string();
    lease(&ours, &path, acquire("ann", 60_000)).await.unwrap();
    for jump in ["7200", "-7200"] {
        std::fs::write(&offset, jump).unwrap();
        let seen = lease(&theirs, &path, acquire("bob", 60_000)).await.unwrap();
        assert!(!seen.unwrap().ours, "after {jump} s");
        let kept = lease(&ours, &path, LeaseOp::Renew { ttl_ms: 60_000 }).await;
        assert!(kept.unwrap().unwrap().ours, "after {jump} s");
    }
    // It is set back while nobody renews: the lease ends all the same.
    lease(&ours, &path, LeaseOp::Renew { ttl_ms: 1000 })
        .await
        .unwrap();
    std::fs::write(&offset, "-14400").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let taken = lease(&theirs, &path, acquire("bob", 60_000)).await.unwrap();
    assert!(taken.unwrap().ours);
}
