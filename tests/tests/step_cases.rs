//! `windlass test`: the cases of the built-in plugins and of the examples, and
//! what the runner itself says of cases that fail.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::path::{Path, PathBuf};

use windlass_tests::Workspace;
use windlass_tests::require;
use windlass_tests::windlass::{Outcome, Windlass};

const FAILING: &str = include_str!("../step-cases/failing.case");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn in_root(args: &[&str]) -> Outcome {
    Windlass::new(&root(), args).run().unwrap()
}

/// A directory with one case file in it.
fn with_case(text: &str) -> Workspace {
    let workspace = Workspace::empty().unwrap();
    workspace.write("step/tests/case.toml", text).unwrap();
    workspace
}

fn test(workspace: &Workspace, args: &[&str]) -> Outcome {
    let mut all = vec!["test", "step"];
    all.extend(args);
    workspace.windlass(all).run().unwrap()
}

/// Without the times, which differ from run to run.
fn timeless(text: &str) -> String {
    text.lines()
        .map(|line| {
            let line = match (line.find('['), line.find("s]")) {
                (Some(from), Some(to)) if from < to => {
                    format!("{}[TIME]{}", &line[..from], &line[to + 2..])
                }
                _ => line.to_owned(),
            };
            match line
                .find(" failed in ")
                .or_else(|| line.find(" faults in "))
            {
                Some(at) => format!("{} in TIME", &line[..at + 7]),
                None => line,
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_case_of_the_plugins_passes() {
    require!(Windlass);
    let outcome = in_root(&["test", "plugins", "--quiet"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    // A case file that is not found is not a case that passes.
    let listed = in_root(&["test", "plugins", "--list"]).stdout;
    for plugin in std::fs::read_dir(root().join("docs/plugins")).unwrap() {
        let name = plugin.unwrap().file_name().into_string().unwrap();
        let name = name.trim_end_matches(".md");
        if name != "README" {
            assert!(listed.contains(&format!("{name}/")), "{name} has no cases");
        }
    }
}

#[test]
fn every_documented_failure_has_a_case() {
    let mut missing = Vec::new();
    for page in std::fs::read_dir(root().join("docs/plugins")).unwrap() {
        let page = page.unwrap().path();
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "README" {
            continue;
        }
        let cases: String = std::fs::read_dir(root().join("plugins").join(&name).join("tests"))
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        let text = std::fs::read_to_string(&page).unwrap();
        let failures = text.split("## Failures").nth(1).unwrap();
        let failures = failures.split("\n## ").next().unwrap();
        for line in failures.lines().filter(|line| line.starts_with("| `")) {
            let code = line.split('`').nth(1).unwrap();
            if !cases.contains(code) {
                missing.push(format!("{name}: {code}"));
            }
        }
        if !cases.contains("denied = [") {
            missing.push(format!("{name}: denial"));
        }
    }
    assert!(missing.is_empty(), "no case for {missing:#?}");
}

#[test]
fn every_case_of_the_examples_passes() {
    require!(Windlass);
    let outcome = in_root(&["test", "examples/observer", "--quiet"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

#[test]
fn no_fault_leaves_a_container_behind() {
    require!(Windlass);
    let args = [
        "test",
        "plugins",
        "--faults",
        "all",
        "-k",
        "image-check",
        "-k",
        "docker-run",
    ];
    let outcome = in_root(&args);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" faults in "), "{}", outcome.stderr);
}

#[test]
fn a_lost_activation_is_told_of() {
    require!(Windlass);
    let args = [
        "test",
        "plugins",
        "--faults",
        "cut",
        "-k",
        "stages, pulls, activates",
    ];
    let outcome = in_root(&args);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let wanted = "release r2 on prod_1 of call 4 was left activating";
    assert!(outcome.stderr.contains(wanted), "{}", outcome.stderr);
}

#[test]
fn failures_are_shown_in_full() {
    require!(Windlass);
    let workspace = with_case(FAILING);
    let outcome = test(&workspace, &["--seed", "7", "-j", "1"]);
    assert_eq!(outcome.code, Some(1));
    let got = timeless(&outcome.stderr);
    let stored = root().join("tests/step-cases/failing.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&stored, format!("{got}\n")).unwrap();
    }
    let expected = std::fs::read_to_string(&stored).unwrap();
    assert_eq!(
        got,
        expected.trim_end_matches('\n'),
        "UPDATE_SNAPSHOTS=1 accepts it"
    );
}

#[test]
fn reports_for_machines() {
    require!(Windlass);
    let workspace = with_case(FAILING);
    let outcome = test(
        &workspace,
        &["--json", "--junit", "report.xml", "--seed", "7"],
    );
    let lines: Vec<serde_json::Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["passed"], 0);
    assert_eq!(summary["failed"], 6);
    assert_eq!(lines.len(), 7);
    assert!(
        lines
            .iter()
            .any(|line| line["problems"][1]["expected"] == "only granted calls")
    );
    let xml = workspace.read("report.xml").unwrap();
    assert!(xml.contains("tests=\"6\" failures=\"6\""), "{xml}");
    assert!(
        xml.contains("classname=\"step/case\" name=\"other url\""),
        "{xml}"
    );
}

#[test]
fn bad_cases_are_refused_with_their_place() {
    require!(Windlass);
    for (text, message) in [
        (
            "plugin = \"http-probe\"\nconfg = {}\n",
            "case.toml:2: unknown field `confg`",
        ),
        (
            "plugin = \"nope\"\n",
            "there is no built-in plugin \"nope\"",
        ),
        ("plugin = \"./nope.wasm\"\n", "cannot be read from"),
        (
            "plugin = \"a\"\npipeline = \"b\"\n",
            "it names a `plugin` and a `pipeline`",
        ),
        (
            "plugin = \"http-probe\"\n\n[[expect]]\ncall = \"docker.pusj\"\n",
            "case.toml:3: there is no call \"docker.pusj\"; there are docker.info",
        ),
        (
            "plugin = \"http-probe\"\n[[expect]]\ncall = \"http.GET\"\nreply = { statsu = 1 }\n",
            "case.toml:2: `reply`: there is no \"statsu\" in it",
        ),
        (
            "plugin = \"http-probe\"\nconfig = { url = { secret = \"X\" } }\n",
            "there is no X under [secrets]",
        ),
        (
            "plugin = \"http-probe\"\n[[expect]]\ncall = \"http.GET\"\nwith = { url = { regex = \"(\" } }\n",
            "`with`: url: `regex`",
        ),
        (
            "plugin = \"http-probe\"\n[[expect]]\ncall = \"http.GET\"\ntimes = \"3..1\"\n",
            "`times` is \"3..1\"",
        ),
        (
            "pipeline = \"x.toml\"\nconfig = {}\n",
            "`config` is the manifest's to say",
        ),
    ] {
        let outcome = test(&with_case(text), &[]);
        assert_eq!(outcome.code, Some(2), "{text}\n{}", outcome.stderr);
        assert!(
            outcome.stderr.contains(message),
            "{text}\n{}",
            outcome.stderr
        );
    }
    let workspace = Workspace::empty().unwrap();
    let outcome = workspace.windlass(["test"]).run().unwrap();
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.says("there are no test cases in ."),
        "{}",
        outcome.stderr
    );
}

#[test]
fn an_hour_takes_no_time() {
    require!(Windlass);
    let workspace = with_case(
        r#"
        plugin = "http-probe"
        timeout = "3h"
        config = { url = "http://localhost/", attempts = 720, every = "5s" }
        expect = [{ call = "http.GET", times = 720, reply = 503 }]
        assert = { error = { code = "http-probe.no-success" }, slept = "59m55s" }
        "#,
    );
    let outcome = test(&workspace, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}
