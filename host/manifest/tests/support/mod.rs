//! A catalog like that of the built-in plugins, and inputs that never change.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use windlass_manifest::graph::RunFacts;
use windlass_manifest::{Catalog, Diagnostics, Graph, Inputs, Manifest, OutputKind, PluginInfo};

pub(crate) fn catalog() -> Catalog {
    let text = json!({"type": "string", "x-windlass-secret": true});
    let build = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {
                "context": {"type": "string", "description": "Directory of the project."},
                "dockerfile": {"type": ["string", "null"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "args": {"type": "object", "additionalProperties": {"type": "string"}},
                "secrets": {"type": "object", "additionalProperties": text},
                "pull": {"oneOf": [
                    {"const": "always", "description": "Each time."},
                    {"const": "never"}
                ]},
                "jobs": {"type": "integer", "format": "uint8", "minimum": 1, "maximum": 255},
                "cache": {"anyOf": [{"$ref": "#/$defs/Cache"}, {"type": "null"}]}
            },
            "required": ["context"],
            "additionalProperties": false,
            "$defs": {"Cache": {
                "type": "object",
                "properties": {"mode": {"type": "string", "enum": ["min", "max"]}},
                "required": ["mode"],
                "additionalProperties": false
            }}
        }),
        outputs: vec![
            ("image".into(), OutputKind::Text),
            ("size".into(), OutputKind::Number),
        ],
        requests: vec!["docker.build {{ tags }}".into()],
    };
    let push = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {
                "image": text,
                "tags": {"type": "array", "items": {"type": "string"}}
            },
            "required": ["image", "tags"],
            "additionalProperties": false
        }),
        outputs: vec![("ref".into(), OutputKind::Text)],
        requests: vec!["docker.push {{ tags }}".into()],
    };
    let deploy = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {
                "file": {"type": "string"},
                "services": {"type": "object", "additionalProperties": text},
                "dir": {"type": "string"},
                "env": {"type": "object", "additionalProperties": text}
            },
            "required": ["file", "dir"],
            "additionalProperties": false
        }),
        outputs: vec![("release".into(), OutputKind::Text)],
        requests: Vec::new(),
    };
    let check = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {"image": text},
            "required": ["image"],
            "additionalProperties": false
        }),
        ..PluginInfo::default()
    };
    let probe = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {
                "url": {"type": "string"},
                "attempts": {"type": "integer", "minimum": 1},
                "every": {"type": ["string", "integer"]}
            },
            "required": ["url"],
            "additionalProperties": false
        }),
        ..PluginInfo::default()
    };
    let slack = PluginInfo {
        config_schema: json!({
            "type": "object",
            "properties": {"webhook": text, "channel": {"type": "string"}},
            "required": ["webhook"],
            "additionalProperties": false
        }),
        ..PluginInfo::default()
    };
    let plugins: BTreeMap<String, PluginInfo> = [
        ("docker-build", build),
        ("docker-push", push),
        ("compose-deploy", deploy),
        ("image-check", check),
        ("http-probe", probe),
        ("slack-notify", slack),
    ]
    .into_iter()
    .map(|(name, info)| (name.to_owned(), info))
    .collect();
    Catalog {
        built_in: plugins
            .keys()
            .cloned()
            .chain(["git-tag".to_owned()])
            .collect(),
        plugins,
    }
}

/// 24 January 2026, 01:46:58 in Seoul.
pub(crate) fn inputs() -> Inputs {
    Inputs {
        run: RunFacts {
            id: "0197a4c2-0000-7000-8000-000000000001".into(),
            commit: "0123456789abcdef".into(),
            branch: "main".into(),
            now: "2026-01-23T16:46:58Z".parse().expect("time"),
            ..RunFacts::default()
        },
        ..Inputs::default()
    }
}

pub(crate) fn graph(text: &str, inputs: &Inputs) -> Result<Graph, Diagnostics> {
    Graph::build(&Arc::new(Manifest::parse("windlass.toml", text)?), inputs)
}

/// What `windlass check` says.
pub(crate) fn problems(text: &str, inputs: &Inputs) -> String {
    let (manifest, mut found) = Manifest::examine("windlass.toml", text);
    if let Some(manifest) = manifest {
        let (graph, more) = Graph::examine(&Arc::new(manifest), inputs);
        found.extend(more);
        found.extend(graph.check(&catalog()));
    }
    found.sorted().render(false, 100)
}
