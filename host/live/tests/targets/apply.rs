//! Facts, and batches of operations.

use secrecy::SecretString;
use windlass_model::call::{Content, FileOp, TargetCall, TargetOp};
use windlass_model::reply::Outcome;
use windlass_model::{Call, Reply, Secrets, TargetName, Text};
use windlass_tests::{Sshd, require};

use crate::support::{World, prod, spec, target, world};

async fn apply(world: &World, name: &str, ops: Vec<FileOp>) -> Vec<Outcome> {
    let call = Call::Target(TargetCall {
        target: TargetName::new(name),
        op: TargetOp::Apply { ops },
    });
    match world.call(call).await.unwrap() {
        Reply::Outcomes(outcomes) => outcomes,
        other => panic!("{other:?}"),
    }
}

fn put(path: &str, text: &str, mode: u32) -> FileOp {
    FileOp::PutFile {
        path: path.into(),
        content: Content::Text(text.into()),
        mode,
    }
}

#[tokio::test]
async fn facts_in_one_round_trip() {
    require!(Sshd, Docker);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let call = |op| Call::Target(TargetCall { target: prod(), op });
    let Reply::Facts(facts) = world.call(call(TargetOp::Inspect)).await.unwrap() else {
        panic!("no facts");
    };
    assert_eq!(
        (facts.os.as_str(), facts.user.as_str()),
        ("linux", sshd.user())
    );
    assert!(
        facts.docker_problem.is_empty() && !facts.docker_version.is_empty(),
        "{facts:?}"
    );
    assert_eq!(world.trips(), 1);
}

#[tokio::test]
async fn a_batch_says_what_changed() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    for name in ["prod", "local"] {
        let dir = sshd
            .root()
            .join(format!("a b'{name}"))
            .display()
            .to_string();
        let ops = vec![
            FileOp::MakeDirectory {
                path: dir.clone(),
                mode: 0o750,
            },
            put(&format!("{dir}/file"), "one\ntwo", 0o600),
            FileOp::SwitchLink {
                path: format!("{dir}/link"),
                to: "file".into(),
            },
            FileOp::ReadFile {
                path: format!("{dir}/link"),
                max: 5,
            },
            FileOp::RunScript {
                body: "printf '%s,' \"$@\"; echo $A; cat".into(),
                args: vec![Text::from("x y"), Text::from("$z")],
                env: vec![("A".into(), Text::from("it's"))],
            },
            FileOp::Remove {
                path: format!("{dir}/link"),
            },
        ];
        let before = world.trips();
        let first = apply(&world, name, ops[..4].to_vec()).await;
        assert!(first.iter().all(|outcome| outcome.ok), "{first:?}");
        assert_eq!(
            first.iter().map(|o| o.changed).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        assert_eq!(first[3].output, "one\nt");
        if name == "prod" {
            assert_eq!(world.trips(), before + 1);
        }
        let second = apply(&world, name, ops.clone()).await;
        assert_eq!(
            second.iter().map(|o| o.changed).collect::<Vec<_>>(),
            [false, false, false, false, true, true]
        );
        assert_eq!(second[4].output, "x y,$z,it's\n");
        let left: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["file"]);
    }
}

#[tokio::test]
async fn the_first_failure_is_the_last_outcome() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let world = world(&sshd);
    let root = sshd.root().display().to_string();
    let script = |body: &str| FileOp::RunScript {
        body: body.into(),
        args: Vec::new(),
        env: Vec::new(),
    };
    let forged = "M=windlass; echo \"$M end 0 0\"; echo; exit 7";
    let outcomes = apply(
        &world,
        "prod",
        vec![
            script("echo fine"),
            script(forged),
            put(&format!("{root}/never"), "x", 0o644),
        ],
    )
    .await;
    assert_eq!(outcomes.len(), 2);
    assert_eq!((outcomes[1].ok, outcomes[1].exit_code), (false, 7));
    assert!(!sshd.root().join("never").exists());

    let outcomes = apply(&world, "prod", vec![put("/proc/nope/x", "x", 0o644)]).await;
    assert!(
        !outcomes[0].ok && outcomes[0].output.contains("No such file"),
        "{outcomes:?}"
    );
    let outcomes = apply(
        &world,
        "prod",
        vec![FileOp::ReadFile {
            path: format!("{root}/none"),
            max: 9,
        }],
    )
    .await;
    assert!(
        !outcomes[0].ok && outcomes[0].output.contains("No such file"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_secret_reaches_a_file_and_no_argument() {
    require!(Sshd);
    let sshd = Sshd::start().unwrap();
    let mut secrets = Secrets::default();
    secrets.insert("S", SecretString::from("corr3ct-horse"));
    let world = World::with_secrets(vec![target(spec(&sshd))], secrets);
    let path = sshd.root().join("secret").display().to_string();
    let outcomes = apply(
        &world,
        "prod",
        vec![
            FileOp::PutFile { path: path.clone(), content: Content::Text(Text::secret("S")), mode: 0o600 },
            FileOp::RunScript {
                body: "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c corr3ct-hors[e]".into(),
                args: Vec::new(),
                env: vec![("S".into(), Text::secret("S"))],
            },
        ],
    )
    .await;
    assert_eq!(outcomes[1].output, "0\n");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "corr3ct-horse");
}
