//! `windlass plan` on real parts: it tells what a run would do and does
//! nothing; a saved plan is refused when the world moved.

use windlass_tests::{Rig, docker, require};

fn lines_with<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(part)).collect()
}

#[test]
fn a_plan_lists_effects_and_has_none() {
    require!(Docker, Sshd, Registry, Compose, Observer, Windlass);
    let rig = Rig::start().expect("rig");
    let plan = rig
        .windlass(["plan", "--env", "prod", "--tag", "t1"])
        .run()
        .expect("plan");
    assert_eq!(plan.code, Some(10), "{plan}");
    for part in [
        "+ build ",
        "+ tag ",
        "+ push ",
        "+ the first release in ",
        "from here on: at most",
        "nothing was changed now",
    ] {
        assert!(plan.stdout.contains(part), "no {part:?} in\n{plan}");
    }
    assert_eq!(rig.registry.tags("observer").unwrap_or_default(), [""; 0]);
    assert!(!std::path::Path::new(&rig.dir()).join("releases").exists());
    assert!(rig.containers().expect("containers").is_empty());
    assert!(docker::problem().is_none());
}

#[test]
fn a_saved_plan_is_done_once_and_refused_when_the_world_moved() {
    require!(Docker, Sshd, Registry, Compose, Observer, Windlass);
    let rig = Rig::start().expect("rig");
    let run = rig
        .windlass(["run", "--env", "prod", "--tag", "t1"])
        .run()
        .expect("run");
    assert_eq!(run.code, Some(0), "{run}");

    let saved = [
        "plan",
        "--env",
        "prod",
        "--tag",
        "t2",
        "--out",
        ".windlass/plan.json",
    ];
    let plan = rig.windlass(saved).run().expect("plan");
    assert_eq!(plan.code, Some(10), "{plan}");
    assert!(plan.stdout.contains("- IMAGE_TAG=t1"), "{plan}");
    assert!(plan.stdout.contains("+ IMAGE_TAG=t2"), "{plan}");
    assert!(plan.stdout.contains("~ a new release in "), "{plan}");
    // What did not change is not shown.
    assert!(
        lines_with(&plan.stdout, "OBSERVER_PORT")
            .iter()
            .all(|line| !line.contains("+ "))
    );

    let replay = ["run", "--env", "prod", "--plan", ".windlass/plan.json"];
    let first = rig.windlass(replay).run().expect("run");
    assert_eq!(first.code, Some(0), "{first}");
    let health = rig.health().expect("health");
    assert!(health.body.contains("t2"), "{}", health.body);

    let second = rig.windlass(replay).run().expect("run");
    assert_eq!(second.code, Some(6), "{second}");
    assert!(
        second
            .stderr
            .contains("not as it was when the plan was made"),
        "{second}"
    );
    assert!(second.stderr.contains("releases.list"), "{second}");
}
