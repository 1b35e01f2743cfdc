//! The documentation says what the program says: each built-in plugin's page against
//! its `describe`.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value as Json;
use windlass_tests::{Windlass, require, tools};

fn page(name: &str) -> PathBuf {
    tools::project_root().join(format!("docs/plugins/{name}.md"))
}

/// What the program says of a plugin.
fn inspected(args: &[&str]) -> Json {
    let home = tempfile::tempdir().unwrap();
    let outcome = Windlass::new(home.path(), args)
        .env("HOME", home.path())
        .run()
        .unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn names() -> Vec<String> {
    let plugins = inspected(&["plugins", "--json"]);
    let names = plugins.as_array().unwrap().iter();
    names
        .map(|plugin| plugin["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The first cell of each row of the table under a heading: what stands in backticks,
/// `\|` being a bar.
fn first_cells(page: &str, heading: &str) -> Vec<String> {
    let Some((_, section)) = page.split_once(&format!("\n## {heading}\n")) else {
        return Vec::new();
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| Some(line.split_once("` |")?.0.replace("\\|", "|")))
        .collect()
}

fn set<I: IntoIterator<Item = String>>(items: I) -> BTreeSet<String> {
    items.into_iter().collect()
}

#[test]
fn each_plugins_page_agrees_with_its_describe() {
    require!(Windlass);
    let mut wrong = Vec::new();
    for name in names() {
        let Ok(text) = fs::read_to_string(page(&name)) else {
            wrong.push(format!("there is no page of {name}"));
            continue;
        };
        let said = inspected(&["plugin", "inspect", &name, "--json"]);
        let keys = said["config_schema"]["properties"].as_object().unwrap();
        let outputs = said["outputs"].as_array().unwrap();
        let requests = said["requests"].as_array().unwrap();
        let text_of = |value: &Json| value.as_str().unwrap().to_owned();
        for (heading, is) in [
            ("Configuration", set(keys.keys().cloned())),
            (
                "Outputs",
                set(outputs.iter().map(|output| text_of(&output["name"]))),
            ),
            ("Requests", set(requests.iter().map(text_of))),
        ] {
            let told = set(first_cells(&text, heading));
            for missing in is.difference(&told) {
                wrong.push(format!("{name}, {heading}: `{missing}` is missing"));
            }
            for extra in told.difference(&is) {
                wrong.push(format!("{name}, {heading}: there is no `{extra}`"));
            }
        }
        for required in said["config_schema"]["required"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let row = format!("| `{}` |", text_of(required));
            let line = text
                .lines()
                .find(|line| line.starts_with(&row))
                .unwrap_or_default();
            if !line.contains("| required |") {
                wrong.push(format!("{name}: `{}` is required", text_of(required)));
            }
        }
        for output in outputs {
            let row = format!(
                "| `{}` | {} |",
                text_of(&output["name"]),
                text_of(&output["type"])
            );
            if !text.contains(&row) {
                wrong.push(format!("{name}: an output is told as no `{row}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_no_page_without_a_plugin() {
    require!(Windlass);
    let names = names();
    for entry in fs::read_dir(page("x").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            name == "README" || names.contains(&name),
            "{}",
            path.display()
        );
    }
}

/// A promise without its test is none.
#[test]
fn each_promise_names_a_test_that_is_there() {
    let root = tools::project_root();
    let page = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let rows = page.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| promise ") && !line.starts_with("|---")
    });
    let mut wrong = Vec::new();
    let mut named = 0;
    for row in rows {
        let mut of_row = 0;
        // What stands in backticks.
        for name in row.split('`').skip(1).step_by(2) {
            let Some((file, test)) = name.split_once("::") else {
                continue;
            };
            of_row += 1;
            let source = fs::read_to_string(root.join(file)).unwrap_or_default();
            // Its attribute, and perhaps another, stand right above it.
            let is_test = source
                .split(&format!("fn {test}("))
                .next()
                .is_some_and(|before| {
                    before.len() < source.len()
                        && before.lines().rev().take(4).any(|line| {
                            line.trim() == "#[test]" || line.trim().starts_with("#[tokio::test")
                        })
                });
            if !is_test {
                wrong.push(name.to_owned());
            }
        }
        if of_row == 0 {
            wrong.push(row.to_owned());
        }
        named += of_row;
    }
    assert!(wrong.is_empty(), "no such tests: {wrong:#?}");
    assert!(named > 20, "the page was not read");
}
