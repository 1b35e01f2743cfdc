//! Two runs on one target.

use windlass_model::call::{LeaseCall, LeaseOp};
use windlass_model::reply::Lease;
use windlass_model::{Call, CallError, Reply};
use windlass_tests::{Sshd, require};

use crate::support::{World, prod, world};

async fn lease(world: &World, path: &str, op: LeaseOp) -> Result<Option<Lease>, CallError> {
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

fn acquire(owner: &str, ttl_ms: u64) -> LeaseOp {
    LeaseOp::Acquire {
        owner: owner.into(),
        ttl_ms,
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
        held.ours && held.fence == 1 && held.remaining_ms == 60_000,
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
