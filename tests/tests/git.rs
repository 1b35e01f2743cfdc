//! What a run takes from git, and what it gives back: tags.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::process::Command;

use windlass_tests::scratch::Scratch;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Windlass, Workspace, process, require};

/// Says what it knows of git.
const FACTS: &str = r#"
[pipeline]
name = "facts"

[step.tell]
uses = "ssh-run"
on = ["local"]
with = { argv = ["echo", "tag=<{{ run.tag }}> commit=<{{ run.commit }}> branch=<{{ run.branch }}> dirty=<{{ run.dirty }}>"] }
"#;

const TAG: &str = r#"
[pipeline]
name = "tag"

[run]
tag = "v1"

[step.tag]
uses = "git-tag"
with = { message = "as deployed" }
"#;

fn windlass<const N: usize>(workspace: &Workspace, args: [&str; N]) -> Outcome {
    workspace.windlass(args).run().unwrap()
}

#[track_caller]
fn assert_ends(outcome: &Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome}");
    for text in says {
        assert!(outcome.says(text), "it does not say {text:?}: {outcome}");
    }
}

/// The tag that a run of [`FACTS`] told.
#[track_caller]
fn told(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let (_, rest) = outcome.stderr.split_once("tag=<").unwrap();
    rest.split_once('>').unwrap().0.to_owned()
}

#[test]
fn the_tag_comes_from_the_command_line_then_head_then_the_template() {
    require!(Git, Windlass);
    let template = "[run]\ntag = \"{{ now('%Y%m%d-%H%M%S', 'Asia/Seoul') }}\"\n[step.tell]";
    let workspace = Workspace::with_manifest(&FACTS.replace("[step.tell]", template)).unwrap();
    let run = || windlass(&workspace, ["run", "--verbose"]);
    let stamp = |zone: &str| {
        process::capture(Command::new("date").arg("+%Y%m%d-%H").env("TZ", zone)).unwrap()
    };

    // Around the full hour either of the two is right.
    let before = stamp("Asia/Seoul");
    let tag = told(&run());
    let after = stamp("Asia/Seoul");
    assert!(
        tag.starts_with(before.trim()) || tag.starts_with(after.trim()),
        "{tag}"
    );
    assert_eq!(tag.len(), "20260124-014658".len(), "{tag}");

    workspace.git(["tag", "v7"]).unwrap();
    assert_eq!(told(&run()), "v7");
    assert_eq!(
        told(&windlass(&workspace, ["run", "--verbose", "--tag", "mine"])),
        "mine"
    );
    // A tag that is not at HEAD says nothing of HEAD.
    workspace.write("more", "").unwrap();
    workspace.commit("Go on").unwrap();
    let later = told(&run());
    assert!(later.starts_with("20"), "{later}");
}

#[test]
fn a_run_knows_commit_and_branch() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(FACTS).unwrap();
    workspace
        .git(["switch", "--quiet", "--create", "feature/one"])
        .unwrap();
    let commit = workspace.git(["rev-parse", "HEAD"]).unwrap();
    let outcome = windlass(&workspace, ["run", "--verbose"]);
    let facts = format!("commit=<{commit}> branch=<feature/one> dirty=<false>");
    assert_ends(&outcome, 0, &[&facts]);

    workspace.git(["switch", "--quiet", "--detach"]).unwrap();
    let outcome = windlass(&workspace, ["run", "--verbose"]);
    assert_ends(&outcome, 0, &[&format!("commit=<{commit}> branch=<> ")]);
}

#[test]
fn a_run_leaves_the_tree_clean() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(FACTS).unwrap();
    for _ in 0..2 {
        assert_ends(&windlass(&workspace, ["run"]), 0, &[]);
        assert_eq!(workspace.git(["status", "--porcelain"]).unwrap(), "");
    }
}

#[test]
fn a_dirty_tree_is_refused_unless_allowed() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(FACTS).unwrap();
    let change = "# changed\n";
    workspace
        .edit("windlass.toml", |text| text + change)
        .unwrap();
    let refused = windlass(&workspace, ["run"]);
    assert_ends(&refused, 2, &["not committed", "--allow-dirty"]);
    assert!(!workspace.path().join(".windlass/journal.db").exists());
    let allowed = windlass(&workspace, ["run", "--verbose", "--allow-dirty"]);
    assert_ends(&allowed, 0, &["dirty=<true>"]);

    workspace
        .edit("windlass.toml", |text| {
            text.replace("[step.tell]", "[run]\nallow_dirty = true\n[step.tell]")
        })
        .unwrap();
    assert_ends(&windlass(&workspace, ["run"]), 0, &[]);

    // A file that nobody added is a change like any other.
    let workspace = Workspace::with_manifest(FACTS).unwrap();
    workspace.write("forgotten", "").unwrap();
    assert_ends(&windlass(&workspace, ["run"]), 2, &["not committed"]);
}

#[test]
fn a_shallow_clone_and_no_repository_serve() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(FACTS).unwrap();
    workspace.write("second", "").unwrap();
    let commit = workspace.commit("A second commit").unwrap();
    workspace.git(["tag", "v2"]).unwrap();
    workspace
        .git(["push", "--quiet", "origin", "main", "v2"])
        .unwrap();

    let files = Scratch::new().unwrap();
    let clone = files.join("clone");
    let origin = format!("file://{}", workspace.origin().display());
    process::capture(
        Command::new("git")
            .args(["clone", "--quiet", "--depth=1", "--branch=v2", &origin])
            .arg(&clone)
            .envs(workspace.env()),
    )
    .unwrap();
    let run = |dir: &std::path::Path| {
        Windlass::new(dir, ["run", "--verbose"])
            .envs(workspace.env())
            .run()
            .unwrap()
    };
    let outcome = run(&clone);
    assert_ends(&outcome, 0, &[&format!("tag=<v2> commit=<{commit}>")]);

    let bare = files.dir("no-repository").unwrap();
    files.write("no-repository/windlass.toml", FACTS).unwrap();
    let outcome = run(&bare);
    assert_ends(&outcome, 0, &["commit=<> branch=<>"]);
}

#[test]
fn git_tag_creates_and_pushes() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(TAG).unwrap();
    let commit = workspace.git(["rev-parse", "HEAD"]).unwrap();
    let outcome = windlass(&workspace, ["run"]);
    assert_ends(&outcome, 0, &[]);
    let far = |what: &str| {
        process::capture(
            Command::new("git")
                .arg("--git-dir")
                .arg(workspace.origin())
                .args(["for-each-ref", "--format", what, "refs/tags"]),
        )
        .unwrap()
    };
    let pushed = "%(refname:short) %(*objectname) %(subject)";
    assert_eq!(far(pushed), format!("v1 {commit} as deployed\n"));

    // Once more: it is there already.
    assert_ends(&windlass(&workspace, ["run"]), 0, &[]);
    assert_eq!(far(pushed), format!("v1 {commit} as deployed\n"));
}

#[test]
fn git_tag_refuses_a_tag_of_another_commit() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(TAG).unwrap();
    let first = workspace.git(["rev-parse", "HEAD"]).unwrap();
    workspace.git(["tag", "v1"]).unwrap();
    workspace.write("more", "").unwrap();
    let second = workspace.commit("Go on").unwrap();
    let refused = windlass(&workspace, ["run"]);
    assert_ends(
        &refused,
        1,
        &["v1", &first[..7], &second[..7], "another tag"],
    );
    assert_eq!(
        workspace.git(["ls-remote", "--tags", "origin"]).unwrap(),
        ""
    );

    // The same when only the remote has it.
    workspace.git(["push", "--quiet", "origin", "v1"]).unwrap();
    workspace.git(["tag", "--delete", "v1"]).unwrap();
    let refused = windlass(&workspace, ["run"]);
    assert_ends(&refused, 1, &["v1", &first[..7]]);
    assert_eq!(workspace.git(["tag"]).unwrap(), "", "nothing half-done");
}

#[test]
fn git_tag_says_what_is_wrong_with_a_tag_or_a_remote() {
    require!(Git, Windlass);
    let workspace = Workspace::with_manifest(TAG).unwrap();
    for tag in ["-d", "a b", "a..b", "x.lock"] {
        let argument = format!("--tag={tag}");
        let refused = windlass(&workspace, ["run", &argument]);
        assert!(
            refused.code == Some(1) || refused.code == Some(2),
            "{refused}"
        );
        assert_eq!(workspace.git(["tag"]).unwrap(), "");
    }
    workspace
        .git(["remote", "set-url", "origin", "ext::sh -c 'touch owned'"])
        .unwrap();
    let refused = windlass(&workspace, ["run"]);
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(!workspace.path().join("owned").exists());
}
