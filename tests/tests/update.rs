//! `windlass test --update`: what is accepted, what is not, and that nothing else of the
//! file changes.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use windlass_tests::windlass::Outcome;
use windlass_tests::{Workspace, require};

const CASE: &str = r#"# Why this case is here.
plugin = "http-probe"   # built in
config = { url = "http://localhost:8000/health", every = "5s", attempts = 5 }

expect = [
  # The old version answers first.
  { call = "http.GET", with = { url = "http://localhost:9999/health" }, times = 2, reply = 503 }, # twice
  { call = "http.GET", reply = 200 },
  { call = "http.POST", reply = 200 }, # long gone
]

[assert]
outputs = { attempts = 2, status = 200 } # how many
slept = "3s"
"#;

fn with_case(text: &str) -> Workspace {
    let workspace = Workspace::empty().unwrap();
    workspace.write("tests/case.toml", text).unwrap();
    workspace
}

fn test(workspace: &Workspace, args: &[&str]) -> Outcome {
    workspace
        .windlass([&["test"], args].concat())
        .run()
        .unwrap()
}

#[test]
fn what_differs_is_accepted_and_nothing_else_changes() {
    require!(Windlass);
    let workspace = with_case(CASE);
    // Nobody can be asked: it shows, and writes nothing.
    let shown = test(&workspace, &["--update"]);
    assert_eq!(shown.code, Some(1), "{shown}");
    for line in [
        "-outputs = { attempts = 2, status = 200 } # how many",
        "+outputs = { attempts = 3, status = 200 } # how many",
        "-  { call = \"http.POST\", reply = 200 }, # long gone",
        "+slept = \"10s\"",
        "then pass --yes",
    ] {
        assert!(shown.says(line), "{line}\n{shown}");
    }
    assert_eq!(workspace.read("tests/case.toml").unwrap(), CASE);

    let written = test(&workspace, &["--update", "--yes"]);
    assert_eq!(written.code, Some(0), "{written}");
    let text = workspace.read("tests/case.toml").unwrap();
    let expected = CASE
        .replace("localhost:9999", "localhost:8000")
        .replace("attempts = 2,", "attempts = 3,")
        .replace("\"3s\"", "\"10s\"")
        .replace("  { call = \"http.POST\", reply = 200 }, # long gone\n", "");
    assert_eq!(text, expected);
    let passed = test(&workspace, &[]);
    assert_eq!(passed.code, Some(0), "{passed}");
    // There is nothing more to accept.
    let again = test(&workspace, &["--update"]);
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(workspace.read("tests/case.toml").unwrap(), text);
}

#[test]
fn calls_are_added_where_they_come_in_tables_of_their_own() {
    require!(Windlass);
    let workspace = with_case(
        r#"plugin = "http-probe"
arguments = "all"
config = { url = "http://localhost:8000/health", every = "5s", attempts = 2 }

# The first.
[[expect]]
call = "http.GET"
with.url = "http://localhost:8000/health"
reply = 503

[assert]
slept = "5s"
"#,
    );
    let written = test(&workspace, &["--update", "--yes"]);
    let text = workspace.read("tests/case.toml").unwrap();
    assert_eq!(written.code, Some(0), "{written}\n{text}");
    // All arguments are named now, and one more call came: as often as it is made.
    assert!(text.contains("# The first.\n[[expect]]\n"), "{text}");
    assert!(text.contains("with.max_body = 65536\n"), "{text}");
    assert!(text.contains("times = 2\n"), "{text}");
    assert!(text.contains("http-probe.no-success"), "{text}");
}

#[test]
fn one_case_of_several_changes_and_its_neighbours_do_not() {
    require!(Windlass);
    let workspace = with_case(
        r#"plugin = "http-probe"
config = { url = "http://localhost/" }

[[expect]]
call = "http.GET"
reply = 200

[assert]
outputs = { attempts = 1 }

[[case]]
name = "as the head says"

[[case]]
name = "another address"
config = { attempts = 2, every = "1s", status = [204] }
assert = { outputs = { status = 200 } }
# After all of them.
"#,
    );
    let written = test(&workspace, &["--update", "--yes"]);
    let text = workspace.read("tests/case.toml").unwrap();
    let passed = test(&workspace, &[]);
    assert_eq!(passed.code, Some(0), "{written}\n{text}\n{passed}");
    let head = text.split("[[case]]").next().unwrap();
    assert!(
        head.contains("call = \"http.GET\"\nreply = 200\n"),
        "{text}"
    );
    assert!(text.contains("[[case.expect]]"), "{text}");
    assert!(text.contains("# After all of them."), "{text}");
}

#[test]
fn what_must_not_be_is_never_accepted() {
    require!(Windlass);
    let denied = "plugin = \"http-probe\"\nconfig = { url = \"http://localhost/\" }\ngrants = []\n";
    let workspace = with_case(denied);
    let outcome = test(&workspace, &["--update", "--yes"]);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.says("stays wrong: a call was denied"), "{outcome}");
    assert!(
        !workspace
            .read("tests/case.toml")
            .unwrap()
            .contains("denied")
    );
    for args in [&["--yes"][..], &["--update", "--json"]] {
        assert_eq!(test(&workspace, args).code, Some(2), "{args:?}");
    }
}
