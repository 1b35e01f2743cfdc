//! The JSON Schema of the manifest, for editors. The reader is stricter: it
//! knows names, expressions and plugins.

use serde_json::{Value, json};

fn table(description: &str, properties: &Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn named(description: &str, each: &Value) -> Value {
    json!({
        "type": "object",
        "description": description,
        "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
        "additionalProperties": each,
    })
}

/// JSON Schema, draft 2020-12.
pub fn manifest_schema() -> Value {
    let duration = json!({"$ref": "#/$defs/duration"});
    let text = json!({"$ref": "#/$defs/text"});
    let plain = json!({"$ref": "#/$defs/plain"});
    let setting = json!({"$ref": "#/$defs/setting"});
    let with = json!({
        "type": "object",
        "description": "The plugin's configuration: `windlass plugin inspect` shows what there is. Values may be expressions, and { secret = \"NAME\" } where the plugin takes a secret.",
    });
    let uses = json!({
        "type": "string",
        "description": "A plugin: the name of a built-in one or of a [plugin.NAME], or the path of a component.",
    });
    let grant = json!({
        "type": "array",
        "items": {"type": "string"},
        "description": "What the step may do beyond what its plugin asks for: CAPABILITY.VERB PATTERN [to SINK].",
    });
    let names = json!({"type": "array", "items": {"type": "string"}});

    let run = table(
        "How a run goes.",
        &json!({
            "tag": {"type": "string", "description": "The tag, unless git, CI or --tag gives one."},
            "allow_dirty": {"type": "boolean", "default": false, "description": "Run with uncommitted changes."},
            "max_parallel": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 8, "description": "Step instances at once."},
            "timeout": duration,
            "lease_ttl": duration,
            "lease_wait": duration,
            "keep_releases": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5, "description": "Good releases that stay on each target."},
        }),
        &[],
    );
    let registry = table(
        "The login to a registry.",
        &json!({
            "host": plain,
            "username": text,
            "password": {"oneOf": [{"$ref": "#/$defs/secret"}, {"type": "string"}]},
        }),
        &["username", "password"],
    );
    let file = table("A file.", &json!({"file": plain}), &["file"]);
    let mut target = table(
        "A machine.",
        &json!({
            "ssh": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/env"}], "description": "user@host or user@host:port"},
            "local": {"type": "boolean", "description": "This machine."},
            "key": {"oneOf": [{"const": "agent"}, {"$ref": "#/$defs/secret"}, file], "description": "The private key; as OpenSSH finds it when absent."},
            "known_hosts": {"oneOf": [
                {"type": "string"},
                {"$ref": "#/$defs/env"},
                {"$ref": "#/$defs/secret"},
                file,
                table("Lines of a known_hosts file.", &json!({"text": text}), &["text"]),
            ], "description": "A file, or text; the user's own when absent."},
            "ssh_config": plain,
            "connect_timeout": duration,
            "sudo": {"type": "boolean", "default": false, "description": "Docker and files through `sudo -n`."},
            "docker_socket": plain,
        }),
        &[],
    );
    if let Some(target) = target.as_object_mut() {
        let either = json!([{"required": ["ssh"]}, {"required": ["local"]}]);
        target.insert("oneOf".to_owned(), either);
    }
    let environment = json!({
        "type": "object",
        "description": "Targets, variables and values; everything not listed here is environment.NAME.",
        "properties": {
            "targets": names,
            "vars": {"type": "object", "additionalProperties": setting},
            "confirm": {"type": "boolean", "default": false, "description": "Ask before a run."},
            "lease_target": {"type": "string", "description": "The one target whose lease stands for all; each has its own when absent."},
        },
        "additionalProperties": setting,
    });
    let step = table(
        "A step.",
        &json!({
            "uses": uses,
            "with": with,
            "needs": {"type": "array", "items": {"type": "string"}, "description": "Steps that come before; those whose outputs are used do so anyway."},
            "on": {"oneOf": [{"type": "string"}, names], "description": "Targets: the step runs once on each."},
            "when": {"type": ["string", "boolean"], "description": "An expression: the step runs when it is true."},
            "timeout": duration,
            "retry": {"oneOf": [
                {"type": "integer", "minimum": 1, "maximum": 100},
                table("", &json!({
                    "attempts": {"type": "integer", "minimum": 1, "maximum": 100},
                    "delay": duration,
                    "backoff": {"type": "number", "minimum": 1, "maximum": 10},
                }), &[]),
            ]},
            "grant": grant,
            "continue_on_error": {"type": "boolean", "default": false, "description": "Its failure does not fail the run."},
            "cleanup": {"type": "boolean", "default": false, "description": "Runs when all other steps have ended, also after a failure or a cancel."},
        }),
        &["uses"],
    );
    let notify = table(
        "A notification; its failure never fails a run.",
        &json!({
            "uses": uses,
            "events": {"type": "array", "items": {"enum": ["succeeded", "failed", "cancelled"]}, "default": ["succeeded", "failed"]},
            "with": with,
            "grant": grant,
            "timeout": duration,
        }),
        &["uses"],
    );
    let plugin = table(
        "A component of one's own.",
        &json!({"path": {"type": "string"}}),
        &["path"],
    );
    let secret_source = json!({"oneOf": [
        table("An environment variable.", &json!({"env": {"type": "string"}}), &["env"]),
        table("A file.", &json!({"file": {"type": "string"}}), &["file"]),
        table("What a program prints.", &json!({"command": names}), &["command"]),
    ]});

    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "windlass.toml",
        "type": "object",
        "properties": {
            "pipeline": table("", &json!({"name": {"type": "string"}}), &["name"]),
            "vars": {"type": "object", "additionalProperties": setting, "description": "vars.NAME"},
            "run": run,
            "registry": {"type": "object", "additionalProperties": registry, "description": "Logins by host: [registry.\"ghcr.io\"]"},
            "target": named("Machines by name.", &target),
            "environment": named("Environments by name.", &environment),
            "step": named("Steps by name.", &step),
            "plugin": {"type": "object", "additionalProperties": plugin, "description": "Components by name."},
            "rollback": table("", &json!({"on": {"enum": ["failure", "never"], "default": "never"}}), &[]),
            "notify": named("Notifications by name.", &notify),
            "secrets": {"type": "object", "additionalProperties": secret_source, "description": "Where secrets come from, unless from the environment variable of their name."},
        },
        "required": ["pipeline", "step"],
        "additionalProperties": false,
        "$defs": {
            "duration": {
                "description": "As in \"5s\", \"1m30s\", \"500ms\", or a number of seconds.",
                "oneOf": [
                    {"type": "string", "pattern": "^\\s*([0-9]+(d|h|m|s|ms)\\s*)+$"},
                    {"type": "integer", "minimum": 1},
                ],
            },
            "secret": table("A secret, by name.", &json!({"secret": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}}), &["secret"]),
            "env": table("A setting from the environment.", &json!({"env": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}, "default": {}}), &["env"]),
            "text": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/env"}, {"$ref": "#/$defs/secret"}]},
            "plain": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/env"}]},
            "setting": {"anyOf": [
                {"type": ["string", "number", "boolean", "array"]},
                {"$ref": "#/$defs/env"},
                {"type": "object"},
            ]},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference leads somewhere, and every section of the reader's is
    /// there.
    #[test]
    fn it_is_whole() {
        fn walk(root: &Value, value: &Value) {
            match value {
                Value::Object(entries) => {
                    if let Some(Value::String(reference)) = entries.get("$ref") {
                        assert!(root.pointer(&reference[1..]).is_some(), "{reference}");
                    }
                    entries.values().for_each(|value| walk(root, value));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(root, value)),
                _ => {}
            }
        }
        let schema = manifest_schema();
        walk(&schema, &schema);
        for section in crate::parse::SECTIONS {
            assert!(schema["properties"].get(section).is_some(), "{section}");
        }
    }
}
