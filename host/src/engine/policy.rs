//! What a step may do, from what its plugin requests and its manifest says.

use windlass_layers::Policy;
use windlass_manifest::graph::WrittenGrant;
use windlass_manifest::request::{self, Request};
use windlass_manifest::{Diagnostic, Diagnostics, Graph, Outputs, Resolved};
use windlass_model::grant::Grant;
use windlass_model::need::Need;
use windlass_model::{CallError, StepKey};

use serde_json::Value as Json;

use super::resume::records::Nature;
use crate::plugins::{Loaded, PluginSet};

/// A host, target, repository or path that comes from another step's output
/// needs a written grant, and so do a container's rights: these verbs name one.
const NEED_WRITTEN: &[&str] = &[
    "docker.engine",
    "docker.mount",
    "docker.network",
    "docker.privileged",
    "docker.push",
    "file.read",
    "git.push",
    "releases.deploy",
    "releases.read",
    "registry.push",
    "ssh.download",
    "ssh.exec",
    "ssh.upload",
    "target.apply",
    "target.inspect",
];

fn needs_written(verb: &str) -> bool {
    verb.starts_with("http.") || NEED_WRITTEN.contains(&verb)
}

/// The evaluated configuration as the plugin gets it: with the targets of the
/// run where its schema says `"x-windlass-default": "targets"` and the manifest
/// says nothing.
pub(super) fn complete(
    graph: &Graph,
    loaded: &Loaded,
    resolved: Result<Resolved, Diagnostic>,
) -> Result<Resolved, CallError> {
    let mut resolved = resolved.map_err(CallError::from)?;
    let schema = &loaded.plugin.description.config_schema;
    let properties = schema.get("properties").and_then(Json::as_object);
    if let (Some(properties), Some(config)) = (properties, resolved.value.as_object_mut()) {
        for (key, property) in properties {
            let default = property.get("x-windlass-default").and_then(Json::as_str);
            if default == Some("targets") && !config.contains_key(key) {
                let targets = graph.active.iter().map(|target| target.as_str().into());
                config.insert(key.clone(), Json::Array(targets.collect()));
            }
        }
    }
    Ok(resolved)
}

/// The policy of a step whose configuration is known.
pub fn policy_for(
    graph: &Graph,
    place: String,
    loaded: &Loaded,
    resolved: &Resolved,
    target: Option<&str>,
    written: &[WrittenGrant],
    operator: Option<Vec<Grant>>,
) -> Result<Policy, CallError> {
    let mut requested = Vec::new();
    let mut granted: Vec<Grant> = if loaded.locked {
        written
            .iter()
            .map(|written| written.grant.clone())
            .collect()
    } else {
        // Other bytes, no grants.
        Vec::new()
    };
    for template in &loaded.plugin.description.requests {
        let requests = expand(graph, template, resolved, target)?;
        for request in requests {
            if loaded.built_in && !(request.tainted && needs_written(&request.grant.verb)) {
                granted.push(request.grant.clone());
            }
            requested.push(request.grant);
        }
    }
    Ok(Policy {
        place,
        plugin: loaded.plugin.description.name.clone(),
        requested,
        granted,
        operator,
    })
}

fn expand(
    graph: &Graph,
    template: &str,
    resolved: &Resolved,
    target: Option<&str>,
) -> Result<Vec<Request>, CallError> {
    let mut known = resolved.value.clone();
    if let Some(known) = known.as_object_mut() {
        known.insert("run".to_owned(), serde_json::json!({ "tag": graph.tag }));
    }
    request::expand(template, &known, target, &resolved.tainted).map_err(|error| {
        CallError::invalid("plugin.request", error.to_string())
            .hint("this is the plugin's fault: its `describe` gives this template")
    })
}

/// The filled-in requests of one instance of a step. With `preview`, what is
/// not known yet is left out instead of being an error.
pub fn requests_of(
    graph: &Graph,
    plugins: &PluginSet,
    step: &StepKey,
    outputs: &Outputs,
    preview: bool,
) -> Result<Vec<Request>, CallError> {
    let Some(node) = graph.step(step.name.as_str()) else {
        return Ok(Vec::new());
    };
    let Some(loaded) = plugins.get(&node.uses) else {
        return Ok(Vec::new());
    };
    let scope = if preview {
        graph.preview_scope(step, outputs)
    } else {
        graph.scope(step, outputs)
    };
    let resolved = complete(graph, loaded, node.config(&scope))?;
    let target = step.target.as_ref().map(|target| target.as_str());
    let mut requests = Vec::new();
    for template in &loaded.plugin.description.requests {
        requests.extend(expand(graph, template, &resolved, target)?);
    }
    Ok(requests)
}

/// What a step's plugin may do that no record shows, by what it asks for.
pub fn nature_of(graph: &Graph, plugins: &PluginSet, step: &StepKey) -> Nature {
    let node = graph.step(step.name.as_str());
    let Some(loaded) = node.and_then(|node| plugins.get(&node.uses)) else {
        return Nature::default();
    };
    let description = &loaded.plugin.description;
    let is = |name: &str| loaded.built_in && description.name == name;
    let verbs = description.requests.iter();
    let mut verbs = verbs.map(|request| request.split_whitespace().next().unwrap_or_default());
    Nature {
        // Its container is there for the check alone, and goes with it.
        once: verbs.any(may_not_happen_twice) && !is("image-check"),
        composes: is("compose-deploy"),
    }
}

/// Whether a verb allows calls of the class `once`.
fn may_not_happen_twice(verb: &str) -> bool {
    match verb {
        "docker.run" | "ssh.exec" => true,
        "http.via" => false,
        _ if verb.contains('{') => true,
        _ => verb.strip_prefix("http.").is_some_and(|method| {
            // As in the call's class; a template may become any method.
            !matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
        }),
    }
}

/// Requests that nothing grants, as problems with the line that would. Needs
/// neither secrets nor connections.
pub fn uncovered(graph: &Graph, plugins: &PluginSet) -> Diagnostics {
    let mut problems = Diagnostics::default();
    for node in &graph.steps {
        let Some(loaded) = plugins.get(&node.uses) else {
            continue;
        };
        for step in node.instances() {
            let Ok(requests) = requests_of(graph, plugins, &step, &Outputs::default(), true) else {
                continue;
            };
            for request in requests {
                let itself =
                    loaded.built_in && !(request.tainted && needs_written(&request.grant.verb));
                if itself || covered(&request, &node.grants) {
                    continue;
                }
                // What an output will be is not known yet; what it may be is
                // for the manifest's author to say.
                let line = if request.tainted {
                    format!("{} PATTERN", request.grant.verb)
                } else {
                    request.grant.to_string()
                };
                let problem = Diagnostic::new(
                    "grant.missing",
                    format!("step {step} is not granted `{}`", request.grant),
                )
                .at(
                    &graph.manifest.source,
                    node.place.span,
                    format!("plugin {} asks for it", node.uses),
                )
                .hint(format!(
                    "to allow it, add under [step.{}]{}:\n  grant = [{line:?}]",
                    step.name,
                    if request.tainted {
                        ", with what may come out of the other step as the pattern"
                    } else {
                        ""
                    }
                ));
                if !problems.iter().any(|known| *known == problem) {
                    problems.push(problem);
                }
            }
        }
    }
    problems
}

/// Whether a written grant has the request: as text, or as one subject. Of what
/// comes from an output only the verb can be compared before the run; the guard
/// compares the rest.
fn covered(request: &Request, written: &[WrittenGrant]) -> bool {
    let Request { grant, tainted } = request;
    let need = grant.pattern.is_literal().then(|| Need {
        verb: grant.verb.clone(),
        subject: grant.pattern.to_subject(),
        sink: grant.sink.as_ref().map(|sink| sink.to_subject()),
    });
    written.iter().any(|written| {
        let given = &written.grant;
        let same = given.verb == grant.verb && given.sink.is_some() == grant.sink.is_some();
        let everything = same && given.pattern.to_string() == "**";
        (*tainted && same)
            || given == grant
            || everything
            || need.as_ref().is_some_and(|need| given.allows(need))
    })
}

#[cfg(test)]
mod tests {
    use windlass_model::grant::is_verb;

    use super::may_not_happen_twice;

    /// As the classes of the calls that they allow.
    #[test]
    fn verbs_of_what_must_not_happen_twice() {
        for verb in ["ssh.exec", "docker.run", "http.POST", "http.PATCH"] {
            assert!(is_verb(verb) && may_not_happen_twice(verb), "{verb}");
        }
        for verb in [
            "http.GET",
            "http.PUT",
            "http.via",
            "docker.push",
            "target.apply",
        ] {
            assert!(is_verb(verb) && !may_not_happen_twice(verb), "{verb}");
        }
        assert!(may_not_happen_twice("http.{{"), "it may become any");
    }
}
