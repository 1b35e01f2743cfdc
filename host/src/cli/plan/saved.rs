//! A plan in a file, and whether the world is still as it was when it was
//! made.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::super::session::Session;
use crate::engine::preview::{Previewed, PreviewedStep};

/// Changes when an older plan could be misread.
const FORMAT: u32 = 1;
/// Nobody reviews a larger one.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    format: u32,
    windlass: String,
    pipeline: String,
    environment: String,
    /// A run of the plan uses it again, so that what depends on the time stays.
    pub(crate) tag: String,
    commit: String,
    /// Of the manifest's text.
    manifest: String,
    /// Digests, by `uses`.
    plugins: Vec<(String, String)>,
    steps: Vec<PreviewedStep>,
    /// Step, call, answer.
    reads: Vec<(String, Json, Json)>,
}

/// What differs from the saved plan: where, then, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) place: String,
    pub(crate) then: String,
    pub(crate) now: String,
}

impl Plan {
    pub(crate) fn of(session: &Session, previewed: &Previewed) -> Self {
        use sha2::Digest as _;
        let graph = &session.graph;
        let text = &session.project.manifest.source.text;
        let git = session.project.git.clone().unwrap_or_default();
        let mut plugins: Vec<(String, String)> = graph
            .steps
            .iter()
            .filter_map(|step| {
                let loaded = session.plugins.get(&step.uses)?;
                Some((step.uses.clone(), loaded.plugin.digest.to_string()))
            })
            .collect();
        plugins.sort();
        plugins.dedup();
        Self {
            format: FORMAT,
            windlass: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: graph.pipeline.clone(),
            environment: graph
                .environment
                .as_ref()
                .map(|environment| environment.name.clone())
                .unwrap_or_default(),
            tag: graph.tag.clone(),
            commit: git.commit,
            manifest: hex::encode(sha2::Sha256::digest(text.as_bytes())),
            plugins,
            steps: previewed.steps.clone(),
            reads: previewed
                .reads
                .iter()
                .map(|read| {
                    let reply = match &read.reply {
                        Ok(reply) => serde_json::to_value(reply),
                        // Its words may hold times and addresses.
                        Err(error) => Ok(serde_json::json!({ "error": error.code })),
                    };
                    (
                        read.step.to_string(),
                        serde_json::to_value(&read.call).unwrap_or_default(),
                        reply.unwrap_or_default(),
                    )
                })
                .collect(),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if meta.len() > MAX_BYTES {
            return Err("it is larger than 64 MiB".to_owned());
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let plan: Self = serde_json::from_str(&text)
            .map_err(|error| format!("it is no plan of windlass: {error}"))?;
        if plan.format != FORMAT {
            return Err(format!(
                "it has format {}, this windlass reads {FORMAT}",
                plan.format
            ));
        }
        Ok(plan)
    }

    /// Everything that moved since: empty when a run does what the plan says.
    pub(crate) fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut text = |place: &str, then: &str, now: &str| {
            if then != now {
                found.push(Difference {
                    place: place.to_owned(),
                    then: then.to_owned(),
                    now: now.to_owned(),
                });
            }
        };
        text("pipeline", &self.pipeline, &now.pipeline);
        text("environment", &self.environment, &now.environment);
        text("tag", &self.tag, &now.tag);
        text("commit", &self.commit, &now.commit);
        text("manifest", &self.manifest, &now.manifest);
        for (uses, digest) in &self.plugins {
            let other = now.plugins.iter().find(|(name, _)| name == uses);
            text(
                &format!("plugin {uses}"),
                digest,
                other.map_or("not used", |(_, digest)| digest),
            );
        }
        for (index, (step, call, reply)) in self.reads.iter().enumerate() {
            match now.reads.get(index) {
                Some((_, other, answer)) if other == call => {
                    compare(
                        &format!("{step}: {}", name(call)),
                        reply,
                        answer,
                        &mut found,
                    );
                }
                other => found.push(Difference {
                    place: format!("{step}: call {}", index + 1),
                    then: call.to_string(),
                    now: other.map_or("no such call".to_owned(), |(_, call, _)| call.to_string()),
                }),
            }
        }
        if found.is_empty() {
            let steps = |plan: &Self| serde_json::to_value(&plan.steps).unwrap_or_default();
            compare("steps", &steps(self), &steps(now), &mut found);
        }
        found
    }
}

fn name(call: &Json) -> String {
    let word = |key: &str| call.get(key).and_then(Json::as_str).unwrap_or_default();
    match word("op") {
        "" => word("capability").to_owned(),
        op => format!("{}.{op}", word("capability")),
    }
}

/// Each leaf that differs, with its path.
fn compare(place: &str, then: &Json, now: &Json, found: &mut Vec<Difference>) {
    match (then, now) {
        (Json::Object(then), Json::Object(now)) => {
            for (key, value) in then {
                let other = now.get(key).unwrap_or(&Json::Null);
                compare(&format!("{place}.{key}"), value, other, found);
            }
            for (key, value) in now.iter().filter(|(key, _)| !then.contains_key(*key)) {
                compare(&format!("{place}.{key}"), &Json::Null, value, found);
            }
        }
        (Json::Array(then), Json::Array(now)) if then.len() == now.len() => {
            for (index, (then, now)) in then.iter().zip(now).enumerate() {
                compare(&format!("{place}[{index}]"), then, now, found);
            }
        }
        (then, now) if then == now => {}
        (then, now) => found.push(Difference {
            place: place.to_owned(),
            then: then.to_string(),
            now: now.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaf_that_moved_is_named() {
        let then =
            serde_json::json!({"reply": "releases", "value": [{"id": "a", "state": "good"}]});
        let now = serde_json::json!({"reply": "releases", "value": [{"id": "b", "state": "good"}]});
        let mut found = Vec::new();
        compare("deploy@prod: releases.list", &then, &now, &mut found);
        assert_eq!(
            found,
            [Difference {
                place: "deploy@prod: releases.list.value[0].id".into(),
                then: "\"a\"".into(),
                now: "\"b\"".into(),
            }]
        );
    }
}
