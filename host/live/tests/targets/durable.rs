//! A command whose connection is cut runs once, and its reply is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windlass_model::call::SshOp;
use windlass_model::reply::{Exit, Trace};
use windlass_model::target::KnownHosts;
use windlass_model::{Call, CallContext, CallError, Capability as _, Reply, Text};
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
    let exit = exit(second.call_as(&again, sh("prod", &script)).await).unwrap();
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

/// Until then an engine that is killed would leave neither answer nor marker.
#[tokio::test]
async fn what_is_kept_stays_until_the_answer_is_on_disk() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let context = world.context();
    let answer = world.live.call(&context, sh("prod", "exit 7")).await;
    assert_eq!(exit(answer).unwrap().code, 7);
    let before = kept(&sshd, &world);
    assert_eq!(before.len(), 1);
    world.sh("true").await.unwrap();
    world.sh("true").await.unwrap();
    assert!(before[0].join("code").exists(), "it went too early");
    context.answered.set(jiff::Timestamp::now());
    world.sh("true").await.unwrap();
    assert!(!before[0].exists(), "it stays");
    // What could not be written down outlives the process.
    let unwritten = world.context();
    let answer = world.live.call(&unwritten, sh("prod", "exit 7")).await;
    assert_eq!(exit(answer).unwrap().code, 7);
    world.live.close().await;
    let after = kept(&sshd, &world);
    let stamp = unwritten.id.stamp();
    assert!(after.len() == 1 && after[0].ends_with(stamp), "{after:?}");
}

/// A command that its engine did not live to see the end of, and one that goes on with it.
struct Orphan {
    call: Call,
    context: CallContext,
    file: PathBuf,
    go: PathBuf,
}

impl Orphan {
    /// Until it has printed its first line.
    async fn begin(sshd: &Sshd, world: &World, after: &str) -> Self {
        let (file, go) = (sshd.root().join("times"), sshd.root().join("go"));
        let script = format!(
            "echo x >> {}; echo one; until [ -e {} ]; do sleep 0.05; done; {after}",
            file.display(),
            go.display()
        );
        let (call, context) = (sh("prod", &script), world.context());
        tokio::select! {
            answer = world.live.call(&context, call.clone()) => panic!("{answer:?}"),
            () = eventually("the first line", || printed(world) == ["one"]) => {}
        }
        sshd.drop_connections();
        Self {
            call,
            context,
            file,
            go,
        }
    }

    async fn look(&self, world: &World) -> Trace {
        let probe = self.call.probe(&self.context.id).unwrap();
        match world.call(probe).await.unwrap() {
            Reply::Trace(trace) => trace,
            other => panic!("{other:?}"),
        }
    }

    fn context(&self, world: &World) -> CallContext {
        CallContext {
            log: Arc::clone(&world.log) as Arc<_>,
            answered: Default::default(),
            ..self.context.clone()
        }
    }

    async fn rejoin(&self, world: &World) -> Result<Exit, CallError> {
        let rejoin = self.call.rejoin().unwrap();
        exit(world.call_as(&self.context(world), rejoin).await)
    }
}

#[tokio::test]
async fn another_engine_sees_where_a_command_stands_and_goes_on_with_it() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (first, second) = (world(&sshd), world(&sshd));
    let orphan = Orphan::begin(&sshd, &first, "echo two; exit 7").await;
    assert_eq!(orphan.look(&second).await, Trace::Running);
    std::fs::write(&orphan.go, "").unwrap();
    eventually("its end", || {
        kept(&sshd, &first)
            .iter()
            .any(|dir| dir.join("code").exists())
    })
    .await;
    assert_eq!(orphan.look(&second).await, Trace::Ended { code: 7 });
    let exit = orphan.rejoin(&second).await.unwrap();
    check(&second, &exit, &orphan.file);
    second.live.close().await;
    assert_eq!(kept(&sshd, &first), Vec::<PathBuf>::new());
    // Nothing is there any more: nothing is begun, and nothing is made up.
    let third = world(&sshd);
    assert_eq!(orphan.look(&third).await, Trace::None);
    let error = orphan.rejoin(&third).await.unwrap_err();
    assert_eq!(error.code, "ssh.lost", "{error:?}");
    assert_eq!(times(&orphan.file), 1);
}

#[tokio::test]
async fn a_command_that_was_stopped_is_said_to_be_and_begun_again_only_when_asked() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (first, second) = (world(&sshd), world(&sshd));
    let orphan = Orphan::begin(&sshd, &first, "echo two; exit 7").await;
    let dir = kept(&sshd, &first).remove(0);
    let group = std::fs::read_to_string(dir.join("pid")).unwrap();
    let killed = sshd.exec(&format!("kill -9 -{}", group.trim())).unwrap();
    assert!(killed.status.success(), "{killed:?}");
    assert_eq!(orphan.look(&second).await, Trace::Died);
    let error = orphan.rejoin(&second).await.unwrap_err();
    assert!(error.message.contains("was killed"), "{error:?}");
    assert_eq!(times(&orphan.file), 1, "going on with it begins nothing");
    std::fs::write(&orphan.go, "").unwrap();
    let third = world(&sshd);
    let again = orphan.context(&third);
    let answer = third.call_as(&again, orphan.call.clone()).await;
    let exit = exit(answer).unwrap();
    assert_eq!((exit.code, exit.tail.as_str()), (7, "one\ntwo\n"));
    assert_eq!(times(&orphan.file), 2);
}

/// Of a long output the end is kept, from the start of a line on, and the gap is told.
#[tokio::test]
async fn what_is_lost_of_a_long_output_is_told() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let (first, second) = (world(&sshd), world(&sshd));
    let many = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done; exit 7";
    let orphan = Orphan::begin(&sshd, &first, many).await;
    std::fs::write(&orphan.go, "").unwrap();
    let exit = orphan.rejoin(&second).await.unwrap();
    assert_eq!(exit.code, 7);
    assert!(exit.tail.len() <= Exit::TAIL_BYTES, "{}", exit.tail.len());
    assert!(exit.tail.ends_with("line 19998\nline 19999\n"));
    let lines = second.log.lines();
    assert!(lines[0].contains("are not kept"), "{:?}", lines[0]);
    let numbers: Vec<u32> = lines[1..]
        .iter()
        .map(|line| line.strip_prefix("line ").unwrap().parse().unwrap())
        .collect();
    let whole = (numbers[0]..20_000).collect::<Vec<u32>>();
    assert_eq!(numbers, whole, "a part of a line, or a gap");
    assert!(numbers.len() > 5000, "{}", numbers.len());
}
