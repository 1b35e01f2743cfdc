//! The guides say what the code does.

mod support;

use std::sync::Arc;

use support::inputs;
use windlass_manifest::{Graph, Inputs, Manifest};
use windlass_model::grant::{Grant, VERBS};

const MANIFEST: &str = include_str!("../../../docs/manifest.md");
const GRANTS: &str = include_str!("../../../docs/grants.md");

/// The blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let blocks: Vec<&str> = text
        .split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!blocks.is_empty());
    blocks
}

#[test]
fn examples_are_right() {
    for block in [blocks(MANIFEST, "toml"), blocks(GRANTS, "toml")].concat() {
        let mut text = block.to_owned();
        if !text.contains("[pipeline]") {
            text += "\n[pipeline]\nname = \"x\"\n";
        }
        if !text.contains("[step.") {
            text += "\n[step.x]\nuses = \"git-tag\"\n";
        }
        if !text.contains("[vars]") {
            text += "\n[vars]\nhost = \"h\"\n";
        }
        let inputs = Inputs {
            env: [("DEPLOY_HOST".to_owned(), "h".to_owned())].into(),
            ..inputs()
        };
        let built = Manifest::parse("example", &text)
            .and_then(|manifest| Graph::build(&Arc::new(manifest), &inputs));
        if let Err(found) = built {
            panic!("{}", found.render(false, 100));
        }
    }
}

#[test]
fn every_verb_is_listed() {
    for (verb, pattern) in VERBS {
        let row = format!("| `{verb}` | {pattern} |");
        assert!(GRANTS.contains(&row), "docs/grants.md has no row {row}");
    }
}

#[test]
fn every_key_is_listed() {
    // From the schema, so that a key added to the reader and the schema has to
    // be written up, too.
    let schema = windlass_manifest::json_schema::manifest_schema();
    for section in ["run", "target", "environment", "step", "notify"] {
        let table = &schema["properties"][section];
        let table = match table.get("properties") {
            Some(_) => table,
            None => &table["additionalProperties"],
        };
        let keys = table["properties"].as_object().expect("properties");
        for key in keys.keys() {
            assert!(
                MANIFEST.contains(&format!("`{key}`")),
                "docs/manifest.md does not have {section}.{key}"
            );
        }
    }
}

#[test]
fn grants_in_the_tables_parse() {
    for line in GRANTS.lines().filter(|line| line.starts_with("| `")) {
        let text = line.split('`').nth(1).unwrap_or_default();
        if text.contains(' ') && !text.contains("{{") {
            assert!(Grant::parse(text).is_ok(), "{text}");
        }
    }
}
