//! A command whose connection is cut runs once, and its reply is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windlass_model::call::SshOp;
use windlass_model::reply::Exit;
use windlass_model::target::KnownHosts;
use windlass_model::{Capability as _, Text};
use windlass_tests::{Relay, Sshd, require};

use crate::support::{World, argv, eventually, exit, processes_with, sh, spec, ssh, target, world};

/// What calls of this run keep on the target.
fn kept(sshd: &Sshd, world: &World) -> Vec<PathBuf> {
    let run = world.run.0.simple().to_string();
    let said = sshd.exec("echo $HOME").unwrap().stdout;
    let home = PathBuf::from(String::from_utf8(said).unwrap().trim());
    let entries = std::fs::read_dir(home.join(".windlass/calls"));
    let paths = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(&run)
        })
        .collect()
}

fn through(sshd: &Sshd, relay: &Relay) -> World {
    let mut spec = spec(sshd);
    spec.port = Some(relay.port());
    spec.known_hosts = KnownHosts::Text(Text::from(sshd.known_hosts_for(relay.address())));
    World::new(vec![target(spec)])
}

fn times(file: &Path) -> usize {
    std::fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .count()
}

/// The lines of the log that the command printed.
fn printed(world: &World) -> Vec<String> {
    let lines = world.log.lines();
    lines
        .into_iter()
        .filter(|line| !line.starts_with("windlass: "))
        .collect()
}

fn check(world: &World, exit: &Exit, file: &Path) {
    assert_eq!(
        (exit.code, exit.tail.as_str()),
        (7, "one\ntwo\n"),
        "{exit:?}"
    );
    assert_eq!(printed(world), ["one", "two"]);
    assert_eq!(times(file), 1, "it did not run once");
}

async fn nothing_is_kept(sshd: &Sshd, world: &World) {
    assert_eq!(kept(sshd, world).len(), 1);
    world.live.close().await;
    assert_eq!(kept(sshd, world), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn cut_before_it_starts() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    world.sh("true").await.unwrap();
    let file = sshd.root().join("times");
    sshd.drop_connections();
    let exit = world
        .sh(&format!(
            "echo x >> {}; echo one; echo two; exit 7",
            file.display()
        ))
        .await
        .unwrap();
    check(&world, &exit, &file);
    nothing_is_kept(&sshd, &world).await;
}

#[tokio::test]
async fn cut_while_it_runs() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let (file, go) = (sshd.root().join("times"), sshd.root().join("go"));
    let script = format!(
        "echo x >> {}; echo one; until [ -e {} ]; do sleep 0.05; done; echo two; exit 7",
        file.display(),
        go.display()
    );
    let (exit, ()) = tokio::join!(world.sh(&script), async {
        eventually("the first line", || printed(&world) == ["one"]).await;
        sshd.drop_connections();
        // Twice: the second time while it is waited for.
        eventually("another login", || sshd.logins() == 2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(kept(&sshd, &world).len(), 1);
        sshd.drop_connections();
        std::fs::write(&go, "").unwrap();
    });
    check(&world, &exit.unwrap(), &file);
    nothing_is_kept(&sshd, &world).await;
}

/// The line swallows everything and closes nothing, and the command prints more than fits.
#[tokio::test]
async fn a_line_that_dies_silently_does_not_hold_the_command() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    let world = through(&sshd, &relay);
    let (file, go) = (sshd.root().join("times"), sshd.root().join("go"));
    let script = format!(
        "echo x >> {}; echo one; until [ -e {} ]; do sleep 0.05; done; \
         head -c 20000000 /dev/zero | tr '\\0' 'x' | fold -w 100; echo; echo last; exit 7",
        file.display(),
        go.display()
    );
    let (exit, ()) = tokio::join!(world.sh(&script), async {
        eventually("the first line", || printed(&world) == ["one"]).await;
        relay.blackhole();
        std::fs::write(&go, "").unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        relay.cut();
        relay.restore();
    });
    let exit = exit.unwrap();
    assert_eq!(exit.code, 7, "{exit:?}");
    assert!(exit.tail.ends_with("xxx\nlast\n"), "{exit:?}");
    assert_eq!(times(&file), 1);
    nothing_is_kept(&sshd, &world).await;
}

#[tokio::test]
async fn cut_after_it_ended() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    let world = through(&sshd, &relay);
    world.sh("true").await.unwrap();
    let file = sshd.root().join("times");
    relay.set_latency(Duration::from_millis(700));
    let script = format!("echo x >> {}; echo one; echo two; exit 7", file.display());
    let (exit, ()) = tokio::join!(world.sh(&script), async {
        eventually("its end", || {
            kept(&sshd, &world)
                .iter()
                .any(|dir| dir.join("code").exists() && times(&file) == 1)
        })
        .await;
        relay.cut();
        relay.set_latency(Duration::ZERO);
        relay.restore();
    });
    check(&world, &exit.unwrap(), &file);
    nothing_is_kept(&sshd, &world).await;
}

#[tokio::test]
async fn stdin_that_broke_off_is_not_given_to_the_command() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let relay = Relay::to(sshd.address()).unwrap();
    let world = through(&sshd, &relay);
    world.sh("true").await.unwrap();
    let file = sshd.root().join("times");
    let blob = world.blob(&vec![b'x'; 8 * 1024 * 1024]);
    let script = format!("echo x >> {}; wc -c", file.display());
    let call = ssh(
        "prod",
        SshOp::Exec {
            argv: argv(&["sh", "-c", &script]),
            env: Vec::new(),
            stdin: Some(blob),
            dir: None,
        },
    );
    let begun = relay.bytes();
    let (answer, ()) = tokio::join!(world.call(call), async {
        eventually("half of it", || relay.bytes() > begun + 1024 * 1024).await;
        relay.cut();
        assert_eq!(times(&file), 0);
        relay.restore();
    });
    let exit = exit(answer).unwrap();
    assert_eq!((exit.code, exit.tail.trim()), (0, "8388608"), "{exit:?}");
    assert_eq!(times(&file), 1);
    nothing_is_kept(&sshd, &world).await;
}

/// Also what has another environment, and so no mark.
#[tokio::test]
async fn a_cancel_ends_the_process_group() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let mark = format!("mark-{}-cancel", std::process::id());
    let context = world.context();
    let script = format!("env -i sh -c 'echo begun; sleep 600; echo {mark}'");
    let (answer, ()) = tokio::join!(world.live.call(&context, sh("prod", &script)), async {
        eventually("its begin", || printed(&world) == ["begun"]).await;
        context.cancel.cancel();
    });
    assert_eq!(answer.unwrap_err().code, "cancelled");
    eventually("its end", || processes_with(&mark).is_empty()).await;
    eventually("nothing kept", || kept(&sshd, &world).is_empty()).await;
}

/// The engine that asks again is another one: a run that is resumed.
#[tokio::test]
async fn the_same_call_of_another_engine_finds_the_command() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (first, second) = (world(&sshd), world(&sshd));
    let (file, go) = (sshd.root().join("times"), sshd.root().join("go"));
    let script = format!(
        "echo x >> {}; echo one; until [ -e {} ]; do sleep 0.05; done; echo two; exit 7",
        file.display(),
        go.display()
    );
    let context = first.context();
    tokio::select! {
        answer = first.live.call(&context, sh("prod", &script)) => panic!("{answer:?}"),
        () = eventually("the first line", || printed(&first) == ["one"]) => {}
    }
    sshd.drop_connections();
    std::fs::write(&go, "").unwrap();
    let mut again = context.clone();
    again.log = Arc::clone(&second.log) as Arc<_>;
    let exit = exit(second.live.call(&again, sh("prod", &script)).await).unwrap();
    check(&second, &exit, &file);
    second.live.close().await;
    eventually("nothing kept", || kept(&sshd, &first).is_empty()).await;
}

/// What a dead run left goes after a day; what is younger may still be asked for.
#[tokio::test]
async fn what_a_dead_run_left_goes_after_a_day() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let said = sshd.exec("echo $HOME").unwrap().stdout;
    let calls = PathBuf::from(String::from_utf8(said).unwrap().trim()).join(".windlass/calls");
    let [old, young] = ["0-old-1-1", "0-young-1-1"].map(|name| calls.join(name));
    for dir in [&old, &young] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("out"), "x").unwrap();
    }
    let touched = sshd.exec(&format!("touch -d '2 days ago' {}", old.display()));
    assert!(touched.unwrap().status.success());
    assert_eq!(world.sh("true").await.unwrap().code, 0);
    assert!(!old.exists() && young.exists());
}
