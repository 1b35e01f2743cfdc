//! `windlass plugin inspect`

use clap::Args;
use serde_json::{Value as Json, json};
use windlass_runtime::Plugin;

use super::difference::Difference;
use super::{Found, kind, load, size};
use crate::cli::session::runtime;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A component's path, or a built-in plugin's name
    plugin: String,
    /// Shows what changed since this one: what it may newly do above all
    #[arg(long, value_name = "PLUGIN")]
    against: Option<String>,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn inspect(args: InspectArgs, terminal: &Terminal) -> Exit {
    match show(args, terminal).await {
        Ok(()) => Exit::Succeeded,
        Err(exit) => exit,
    }
}

async fn show(args: InspectArgs, terminal: &Terminal) -> Result<(), Exit> {
    let runtime = runtime(terminal)?;
    let found = load(&runtime, &args.plugin, terminal).await?;
    let difference = match &args.against {
        Some(other) => {
            let before = load(&runtime, other, terminal).await?;
            Some(Difference::between(&before, &found))
        }
        None => None,
    };
    if args.json {
        let mut value = describe(&found.plugin, &found.origin);
        value["size"] = found.size.into();
        if let Some(difference) = &difference {
            value["against"] = difference.to_json();
        }
        terminal.json(&value);
        return Ok(());
    }
    let text = difference.map_or_else(|| page(&found), |difference| difference.to_text());
    // A component's own words must not move the cursor.
    terminal.out(&windlass_report::clean(&text));
    Ok(())
}

pub(super) fn describe(plugin: &Plugin, origin: &str) -> Json {
    let description = &plugin.description;
    json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "origin": origin,
        "digest": plugin.digest,
        "interface": interface(plugin),
        "imports": plugin.imports,
        "requests": description.requests,
        "outputs": description
            .outputs
            .iter()
            .map(|output| json!({
                "name": output.name,
                "type": kind(output.kind),
                "summary": output.summary,
            }))
            .collect::<Vec<_>>(),
        "has_preflight": description.has_preflight,
        "has_rollback": description.has_rollback,
        "config_schema": description.config_schema,
    })
}

/// The version of `windlass:plugin` that it was built for.
pub(super) fn interface(plugin: &Plugin) -> &str {
    plugin
        .imports
        .iter()
        .find_map(|import| import.strip_prefix("windlass:plugin/")?.split_once('@'))
        .map_or("none", |(_, version)| version)
}

/// The interfaces of `windlass:plugin` that it uses.
pub(super) fn interfaces(plugin: &Plugin) -> Vec<&str> {
    plugin
        .imports
        .iter()
        .filter_map(|import| import.strip_prefix("windlass:plugin/"))
        .filter_map(|import| import.split_once('@').map(|(name, _)| name))
        .collect()
}

fn page(found: &Found) -> String {
    let plugin = &found.plugin;
    let description = &plugin.description;
    let mut out = format!(
        "{} {}\n{}\n\n",
        description.name, description.version, description.summary
    );
    out.push_str(&format!(
        "from       {}, {}\n",
        found.origin,
        size(found.size)
    ));
    out.push_str(&format!("digest     sha256:{}\n", plugin.digest));
    out.push_str(&format!(
        "interface  windlass:plugin {}\n",
        interface(plugin)
    ));
    out.push_str(&format!("imports    {}\n", interfaces(plugin).join(", ")));
    let mut also = Vec::new();
    if description.has_preflight {
        also.push("preflight");
    }
    if description.has_rollback {
        also.push("rollback");
    }
    if !also.is_empty() {
        out.push_str(&format!("also has   {}\n", also.join(", ")));
    }
    out.push_str("\nrequests\n");
    if description.requests.is_empty() {
        out.push_str("  none\n");
    }
    for request in &description.requests {
        out.push_str(&format!("  {request}\n"));
    }
    out.push_str("\nconfiguration\n");
    for setting in settings(&description.config_schema) {
        let need = if setting.required { ", required" } else { "" };
        out.push_str(&format!(
            "  {} ({}{need})  {}\n",
            setting.name, setting.kind, setting.words
        ));
    }
    if !description.outputs.is_empty() {
        out.push_str("\noutputs\n");
        for output in &description.outputs {
            out.push_str(&format!(
                "  {} ({})  {}\n",
                output.name,
                kind(output.kind),
                output.summary
            ));
        }
    }
    out
}

/// A key of the configuration, as its schema has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    /// In the words of the guide: `text`, `text or secret`, `duration`, …
    pub(super) kind: String,
    pub(super) required: bool,
    pub(super) default: Option<String>,
    pub(super) words: String,
}

/// The keys at the top of a configuration's schema.
pub(super) fn settings(schema: &Json) -> Vec<Setting> {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, property)| Setting {
            name: name.clone(),
            kind: kind_of(property),
            required: required.contains(&name.as_str()),
            default: property
                .get("default")
                .filter(|value| !value.is_null())
                .map(Json::to_string),
            words: property["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " "),
        })
        .collect()
}

fn kind_of(property: &Json) -> String {
    if property["x-windlass-secret"] == true {
        return "text or secret".to_owned();
    }
    if let Some(kind) = property["x-windlass-type"].as_str() {
        return kind.to_owned();
    }
    let word = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "array" => "list".to_owned(),
        "object" => "table".to_owned(),
        other => other.to_owned(),
    };
    match &property["type"] {
        Json::String(one) => word(one),
        Json::Array(list) => list
            .iter()
            .filter_map(Json::as_str)
            .filter(|one| *one != "null")
            .map(word)
            .collect::<Vec<_>>()
            .join(" or "),
        _ => {
            // An optional of something with a schema of its own.
            let choices: Vec<String> = ["anyOf", "oneOf"]
                .into_iter()
                .filter_map(|key| property[key].as_array())
                .flatten()
                .filter(|choice| choice["type"] != "null")
                .map(kind_of)
                .collect();
            if choices.is_empty() {
                "any".to_owned()
            } else {
                choices.join(" or ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::settings;

    #[test]
    fn settings_are_in_the_words_of_the_guide() {
        let schema = json!({
            "required": ["url"],
            "properties": {
                "url": {"type": "string", "x-windlass-secret": true, "description": "Where\nto."},
                "every": {"type": ["string", "integer"], "x-windlass-type": "duration", "default": "5s"},
                "names": {"type": ["array", "null"], "default": null},
                "via": {"anyOf": [{"type": "string", "x-windlass-secret": true}, {"type": "null"}]},
            }
        });
        let found: Vec<String> = settings(&schema)
            .into_iter()
            .map(|setting| {
                format!(
                    "{} {} {} {:?} {}",
                    setting.name, setting.kind, setting.required, setting.default, setting.words
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "url text or secret true None Where to.",
                "every duration false Some(\"\\\"5s\\\"\") ",
                "names list false None ",
                "via text or secret false None ",
            ]
        );
    }
}
