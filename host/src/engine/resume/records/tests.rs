use std::sync::Arc;

use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Inputs, Manifest};
use windlass_model::event::StepState;

use super::*;

const MANIFEST: &str = r#"
[pipeline]
name = "app"
[target.prod_1]
ssh = "deploy@one.example.org"
[target.prod_2]
ssh = "deploy@two.example.org"
[environment.prod]
targets = ["prod_1", "prod_2"]
[step.build]
uses = "docker-build"
with = { tags = ["app:1"] }
[step.push]
uses = "docker-push"
with = { image = "{{ steps.build.image }}", tags = ["registry/app:1"] }
[step.deploy]
uses = "compose-deploy"
on = "{{ environment.targets }}"
with = { file = "compose.yml", dir = "/srv/app", services = { app = "{{ steps.push.ref }}" } }
[step.health]
uses = "http-probe"
needs = ["deploy"]
on = "{{ environment.targets }}"
with = { url = "http://localhost/" }
[step.warm]
uses = "ssh-run"
needs = ["deploy"]
on = "{{ environment.targets }}"
with = { argv = ["warm"] }
[step.announce]
uses = "ssh-run"
needs = ["health"]
on = ["prod_1"]
with = { argv = ["announce"] }
"#;

const IMAGE: &str = "registry/app@sha256:99aa";
const RUN: &str = "0190b5a0-0000-7000-8000-00000000a001";
const LATER: &str = "0190b5a1-0000-7000-8000-00000000a002";

fn graph(manifest: &str) -> Graph {
    let (manifest, problems) = Manifest::examine("windlass.toml", manifest);
    assert!(!problems.has_errors(), "{problems:?}");
    let inputs = Inputs {
        run: RunFacts {
            tag: Some("v1".into()),
            ..RunFacts::default()
        },
        ..Inputs::default()
    };
    let (graph, problems) = Graph::examine(&Arc::new(manifest.expect("manifest")), &inputs);
    assert!(!problems.has_errors(), "{problems:?}");
    graph
}

fn nature(graph: &Graph) -> impl Fn(&StepKey) -> Nature {
    |step| {
        let node = graph.step(step.name.as_str()).expect("step");
        Nature {
            once: node.uses == "ssh-run",
            composes: node.uses == "compose-deploy",
        }
    }
}

/// A release of `run`; the later, the greater its number.
fn release(number: u32, run: &str, state: ReleaseState, is_current: bool) -> Release {
    Release {
        id: format!("{number}"),
        state,
        created: format!("2026-01-24T01:46:{number:02}Z"),
        run: run.into(),
        tag: "v1".into(),
        commit: "c0ffee".into(),
        who: "ci".into(),
        images: vec![("app".into(), IMAGE.into())],
        is_current,
        pipeline: "app".into(),
        environment: "prod".into(),
        compose_sha256: String::new(),
    }
}

fn current(number: u32, run: &str) -> Release {
    release(number, run, ReleaseState::Current, true)
}

fn staged(number: u32, run: &str) -> Release {
    release(number, run, ReleaseState::Staged, false)
}

fn good(number: u32, run: &str, is_current: bool) -> Release {
    release(number, run, ReleaseState::Good, is_current)
}

fn on(name: &str, target: &str) -> StepKey {
    StepKey::new(name, Some(TargetName::from(target)))
}

fn seen(places: [Result<Vec<Release>, CallError>; 2]) -> Vec<Seen> {
    let targets = ["prod_1", "prod_2"].into_iter();
    targets
        .zip(places)
        .map(|(target, releases)| Seen {
            step: on("deploy", target),
            target: target.into(),
            dir: "/srv/app".into(),
            releases,
        })
        .collect()
}

/// `STEP WORD`, a line an instance.
fn told(rebuilt: &Rebuilt<'_>) -> Vec<String> {
    let steps = rebuilt.steps().into_iter();
    steps
        .map(|(step, known)| match known {
            Known::Done(_) => format!("{step} done"),
            Known::ToDo(_) => format!("{step} to do"),
            Known::Open(_) => format!("{step} open"),
        })
        .collect()
}

fn first(graph: &Graph, seen: &[Seen]) -> Trace {
    traces(graph, seen).into_iter().next().expect("a run")
}

#[test]
fn a_release_shows_what_came_before_it_and_one_that_never_was_up_what_did_not_come_after() {
    let graph = graph(MANIFEST);
    let before = good(1, LATER, false);
    let seen = seen([
        Ok(vec![current(3, RUN), before.clone()]),
        Ok(vec![staged(4, RUN), good(1, LATER, true)]),
    ]);
    let rebuilt = Rebuilt::of(&graph, &seen, &first(&graph, &seen), &nature(&graph));
    assert_eq!(
        told(&rebuilt),
        [
            "build done",
            "push done",
            "deploy@prod_1 done",
            "deploy@prod_2 to do",
            "health@prod_1 to do",
            "health@prod_2 to do",
            "warm@prod_1 open",
            "warm@prod_2 to do",
            // It waits for all targets.
            "announce@prod_1 to do",
        ]
    );
    let mut rebuilt = rebuilt;
    rebuilt.decide(&on("warm", "prod_1"), Decision::Skip);
    assert_eq!(rebuilt.questions(), []);
    let earlier = rebuilt.into_earlier();
    let push = &earlier.ended[&StepKey::new("push", None)];
    assert_eq!(push.state, StepState::Reused);
    assert_eq!(push.outputs["ref"], IMAGE);
    let deploy = &earlier.ended[&on("deploy", "prod_1")].outputs;
    assert_eq!(deploy["release"], "3");
    assert_eq!(deploy["previous"], "1");
    let [inherited] = earlier.releases.as_slice() else {
        panic!("{:?}", earlier.releases);
    };
    assert_eq!(inherited.release, "3");
    assert_eq!(inherited.previous.as_deref(), Some("1"));
    assert!(earlier.ended.contains_key(&on("warm", "prod_1")));
}

#[test]
fn what_came_up_once_says_nothing_of_what_came_after() {
    let graph = graph(MANIFEST);
    let put_back = release(2, RUN, ReleaseState::Failed, false);
    let seen = seen([
        Ok(vec![current(3, RUN)]),
        Ok(vec![staged(4, RUN), put_back]),
    ]);
    let rebuilt = Rebuilt::of(&graph, &seen, &first(&graph, &seen), &nature(&graph));
    let open: Vec<String> = rebuilt
        .questions()
        .iter()
        .map(|(step, _)| step.to_string())
        .collect();
    assert_eq!(open, ["warm@prod_1", "warm@prod_2", "announce@prod_1"]);
}

#[test]
fn a_good_release_shows_that_the_run_had_ended_well() {
    let graph = graph(MANIFEST);
    let seen = seen([Ok(vec![good(3, RUN, true)]), Ok(vec![current(4, RUN)])]);
    let trace = first(&graph, &seen);
    assert!(!trace.is_whole);
    let rebuilt = Rebuilt::of(&graph, &seen, &trace, &nature(&graph));
    assert!(
        told(&rebuilt).iter().all(|line| line.ends_with(" done")),
        "{:?}",
        told(&rebuilt)
    );
    let earlier = rebuilt.into_earlier();
    assert!(earlier.is_whole(&graph));
    // The good one stays what it is, whatever happens.
    let left: Vec<&str> = earlier.releases.iter().map(|one| &*one.release).collect();
    assert_eq!(left, ["4"]);
}

#[test]
fn where_a_run_that_ended_well_left_nothing_nothing_had_changed() {
    let left = || seen([Ok(vec![current(3, RUN)]), Ok(vec![good(1, LATER, true)])]);
    let told_in = |manifest: &str, ended_well: bool| {
        let graph = graph(manifest);
        let seen = left();
        let mut trace = first(&graph, &seen);
        trace.run = RUN.parse().expect("id");
        trace.ended_well = ended_well;
        let rebuilt = Rebuilt::of(&graph, &seen, &trace, &nature(&graph));
        told(&rebuilt)[3].clone()
    };
    assert_eq!(told_in(MANIFEST, true), "deploy@prod_2 done");
    assert_eq!(told_in(MANIFEST, false), "deploy@prod_2 to do");
    // Or it was let fail.
    let tolerant = MANIFEST.replace(
        "uses = \"compose-deploy\"",
        "uses = \"compose-deploy\"\ncontinue_on_error = true",
    );
    assert_eq!(told_in(&tolerant, true), "deploy@prod_2 to do");
}

#[test]
fn a_run_that_is_good_wherever_it_left_something_is_whole() {
    let graph = graph(MANIFEST);
    let superseded = release(4, RUN, ReleaseState::Superseded, false);
    let seen = seen([Ok(vec![good(3, RUN, true)]), Ok(vec![superseded])]);
    assert!(first(&graph, &seen).is_whole);
}

#[test]
fn the_run_that_staged_last_comes_first_and_others_are_not_this_pipelines() {
    let graph = graph(MANIFEST);
    let mut other = staged(9, "0190b5a9-0000-7000-8000-00000000a009");
    other.environment = "staging".into();
    let seen = seen([
        Ok(vec![other, staged(5, LATER), good(3, RUN, true)]),
        Ok(vec![good(3, RUN, true)]),
    ]);
    let found = traces(&graph, &seen);
    let ids: Vec<String> = found.iter().map(|trace| trace.run.to_string()).collect();
    assert_eq!(ids, [LATER, RUN]);
    let named = |wanted: &str| called(&found, wanted).len();
    assert_eq!(named("0190b5a0"), 1);
    assert_eq!(named("0000a002"), 1);
    assert_eq!(named("0190b5"), 2);
    assert_eq!(named("a002"), 0);
    assert_eq!(named(""), 0);
}

#[test]
fn a_release_that_became_current_since_is_seen() {
    let run = RUN.parse().expect("id");
    let none = || CallError::unavailable("ssh.unreachable", "nobody is there");
    let failed = release(3, RUN, ReleaseState::Failed, false);
    let by = |here: Vec<Release>| {
        let seen = seen([Ok(here), Err(none())]);
        passed(&seen, run).map(|(_, release)| release.id.clone())
    };
    assert_eq!(
        by(vec![current(4, LATER), failed.clone()]),
        Some("4".into())
    );
    // A person went back.
    let superseded = release(3, RUN, ReleaseState::Superseded, false);
    let before = "0190b590-0000-7000-8000-00000000a000";
    let back = good(1, before, true);
    assert_eq!(by(vec![superseded, back.clone()]), Some("1".into()));
    // So did the run itself.
    assert_eq!(by(vec![failed, back.clone()]), None);
    assert_eq!(by(vec![staged(3, RUN), back]), None);
    assert_eq!(by(vec![current(3, RUN)]), None);
    assert_eq!(by(Vec::new()), None);
}

#[test]
fn a_missing_output_has_its_step_run_again_with_all_that_follows() {
    let needs_build = MANIFEST.replace(
        "url = \"http://localhost/\"",
        "url = \"http://localhost/{{ steps.build.size }}\"",
    );
    let needs_build = needs_build.replace(
        "needs = [\"deploy\"]\non = \"{{ environment.targets }}\"\nwith = { url",
        "needs = [\"deploy\", \"build\"]\non = \"{{ environment.targets }}\"\nwith = { url",
    );
    let graph = graph(&needs_build);
    let seen = seen([Ok(vec![current(3, RUN)]), Ok(vec![staged(4, RUN)])]);
    let rebuilt = Rebuilt::of(&graph, &seen, &first(&graph, &seen), &nature(&graph));
    let told = told(&rebuilt);
    assert_eq!(
        told[..4],
        [
            "build to do",
            "push to do",
            "deploy@prod_1 to do",
            "deploy@prod_2 to do"
        ]
    );
    let Known::ToDo(why) = rebuilt.steps()[0].1 else {
        panic!("{told:?}");
    };
    assert!(
        why.contains("size") && why.contains("health@prod_1"),
        "{why}"
    );
    // What was there before the first deploy is still known.
    assert_eq!(rebuilt.into_earlier().releases.len(), 1);
}

#[test]
fn what_must_not_happen_twice_is_asked_before_its_output_is_made_again() {
    let with_output = MANIFEST
        .replace(
            "[step.push]",
            "[step.number]\nuses = \"ssh-run\"\non = [\"prod_1\"]\nwith = { argv = [\"next\"] }\n[step.push]\nneeds = [\"number\"]",
        )
        .replace(
            "url = \"http://localhost/\"",
            "url = \"http://localhost/{{ steps.number.stdout_tail.prod_1 }}\"",
        );
    let graph = graph(&with_output);
    let seen = seen([Ok(vec![current(3, RUN)]), Ok(vec![staged(4, RUN)])]);
    let mut rebuilt = Rebuilt::of(&graph, &seen, &first(&graph, &seen), &nature(&graph));
    let number = on("number", "prod_1");
    let (step, why) = rebuilt.questions().swap_remove(0);
    assert_eq!(step, number);
    assert!(why.contains("it ran already"), "{why}");
    let mut redone = rebuilt.clone();
    rebuilt.decide(&number, Decision::Skip);
    let lacking = rebuilt.lacking();
    assert!(lacking.iter().all(|(_, step, _)| *step == number));
    assert!(!lacking.is_empty());
    redone.decide(&number, Decision::Redo);
    assert_eq!(redone.lacking(), []);
    assert!(told(&redone).contains(&"push to do".to_owned()));
}

#[test]
fn a_place_of_two_steps_and_one_that_does_not_answer_show_nothing() {
    let graph = graph(MANIFEST);
    let none = CallError::unavailable("ssh.unreachable", "nobody is there");
    let mut places = seen([Ok(vec![current(3, RUN)]), Err(none)]);
    let rebuilt = Rebuilt::of(&graph, &places, &first(&graph, &places), &nature(&graph));
    assert!(told(&rebuilt).contains(&"deploy@prod_2 open".to_owned()));
    assert!(told(&rebuilt).contains(&"warm@prod_2 open".to_owned()));
    let mut other = places[0].clone();
    other.step = on("warm", "prod_1");
    places.push(other);
    let rebuilt = Rebuilt::of(&graph, &places, &first(&graph, &places), &nature(&graph));
    assert_eq!(
        told(&rebuilt)[..3],
        ["build to do", "push to do", "deploy@prod_1 to do"]
    );
    assert_eq!(rebuilt.into_earlier().releases, []);
}

#[test]
fn records_that_moved_are_told_by_their_place() {
    let places = seen([Ok(vec![staged(3, RUN)]), Ok(Vec::new())]);
    assert_eq!(moved(&places[0], &[staged(3, RUN)]), None);
    let now = [current(3, RUN)];
    assert_eq!(moved(&places[0], &now), Some("prod_1:/srv/app".into()));
}
