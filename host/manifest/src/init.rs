//! The manifest that `windlass init` writes.

use std::fmt::Write as _;

/// What was found in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name of the directory, or of the repository.
    pub project: String,
    /// Path of a Dockerfile.
    pub dockerfile: Option<String>,
    /// Path of a compose file.
    pub compose: Option<String>,
    /// Of git, as a web address: `https://github.com/acme/app`.
    pub origin: Option<String>,
}

/// As image repositories and pipelines are named.
fn image_name(project: &str) -> String {
    let mut name: String = project
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(60)
        .collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    match name.trim_matches('-') {
        "" => "app".to_owned(),
        name => name.to_owned(),
    }
}

/// `acme` of `https://github.com/acme/app`.
fn owner(origin: &str) -> Option<String> {
    let (_, rest) = origin.split_once("://")?;
    let owner = rest.split('/').nth(1)?;
    let name = image_name(owner);
    (!owner.is_empty()).then_some(name)
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// The text of a commented manifest; it parses.
pub fn manifest(facts: &Facts) -> String {
    let name = image_name(&facts.project);
    let origin = facts.origin.as_deref();
    let owner = origin.and_then(owner).unwrap_or_else(|| "acme".to_owned());
    let dockerfile = facts.dockerfile.as_deref().unwrap_or("Dockerfile");
    let mut text = format!(
        r#"# What this pipeline does, step by step. `windlass check` reads it, `windlass plan`
# says what it would do, `windlass run` does it.

[pipeline]
name = "{name}"

[vars]
image = "ghcr.io/{owner}/{name}"
host = {{ env = "DEPLOY_HOST", default = "deploy@server.example" }} # user@host, from CI's settings

[run]
# Used unless a git tag, CI or --tag gives one.
tag = "{{{{ now('%Y%m%d-%H%M%S', 'UTC') }}}}"

# The secret GHCR_TOKEN is the environment variable of that name.
[registry."ghcr.io"]
username = "{owner}"
password = {{ secret = "GHCR_TOKEN" }}
"#
    );
    let deploys = facts.compose.is_some();
    if deploys {
        let _ = write!(
            text,
            r#"
[target.server]
ssh = "{{{{ vars.host }}}}"
# Your own agent and keys; in CI: key = {{ secret = "SSH_KEY" }}
known_hosts = "deploy/known_hosts" # `windlass trust server` writes it

[environment.production]
targets = ["server"]
dir = "/srv/{name}"
"#
        );
    }
    if facts.dockerfile.is_none() {
        text.push_str("\n# There is no Dockerfile yet: write one, or say where it is.");
    }
    let _ = write!(
        text,
        r#"
[step.build]
uses = "docker-build"
with = {{ context = ".", dockerfile = {}, tags = ["{{{{ vars.image }}}}:{{{{ run.tag }}}}"] }}

[step.verify] # runs the image until its HEALTHCHECK says healthy
uses = "image-check"
with = {{ image = "{{{{ steps.build.image }}}}" }}

[step.push]
uses = "docker-push"
needs = ["verify"]
with = {{ image = "{{{{ steps.build.image }}}}", tags = ["{{{{ vars.image }}}}:{{{{ run.tag }}}}", "{{{{ vars.image }}}}:latest"] }}
"#,
        quoted(dockerfile)
    );
    if let Some(compose) = &facts.compose {
        let _ = write!(
            text,
            r#"
[step.deploy] # stages, validates on the server, pulls, ups, switches
uses = "compose-deploy"
on = "{{{{ environment.targets }}}}"
# Replace `app` by the service of the compose file that runs this image.
with = {{ file = {}, services = {{ app = "{{{{ steps.push.ref }}}}" }}, dir = "{{{{ environment.dir }}}}" }}

# [step.health] # asked from the server itself: nothing but SSH need be open
# uses = "http-probe"
# needs = ["deploy"]
# on = "{{{{ environment.targets }}}}"
# with = {{ url = "http://localhost:8000/health", attempts = 12, every = "5s" }}

[rollback]
on = "failure" # puts back every target that this run changed
"#,
            quoted(compose)
        );
    } else {
        text.push_str(
            r#"
# With a compose file for the server, add [target.server], [environment.production] and a
# step that uses "compose-deploy": docs/manifest.md has them all.
"#,
        );
    }
    text.push_str(
        r#"
# [notify.slack]
# uses = "slack-notify"
# events = ["succeeded", "failed"]
# with = { webhook = { secret = "SLACK_WEBHOOK" } }
"#,
    );
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Graph, Inputs, Manifest};

    #[test]
    fn it_parses_and_builds_whatever_was_found() {
        let odd = "we\"ird [dir]\\{{ x }}";
        for project in ["observer", "My App!", "", "---", odd] {
            for dockerfile in [None, Some("app/Dockerfile"), Some("we\"ird\\Dockerfile")] {
                for compose in [None, Some("docker-compose.yml")] {
                    for origin in [None, Some("https://github.com/Acme-Inc/app"), Some("x")] {
                        let facts = Facts {
                            project: project.into(),
                            dockerfile: dockerfile.map(Into::into),
                            compose: compose.map(Into::into),
                            origin: origin.map(Into::into),
                        };
                        let text = manifest(&facts);
                        let manifest = Manifest::parse("windlass.toml", &text)
                            .unwrap_or_else(|found| panic!("{}\n{text}", found.render(false, 100)));
                        assert!(manifest.warnings.is_empty());
                        let graph = Graph::build(&Arc::new(manifest), &Inputs::default());
                        assert!(graph.is_ok(), "{graph:?}\n{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_it_looks_like() {
        insta::assert_snapshot!(manifest(&Facts {
            project: "observer".into(),
            dockerfile: Some("Dockerfile".into()),
            compose: Some("docker-compose.server.yml".into()),
            origin: Some("https://github.com/acme/observer".into()),
        }));
    }

    #[test]
    fn commented_steps_are_right_too() {
        let facts = Facts {
            project: "observer".into(),
            compose: Some("compose.yml".into()),
            ..Facts::default()
        };
        // Take the signs away where a line is TOML.
        let text: String = manifest(&facts)
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[') || rest.contains(" = ") && !rest.contains(": ") =>
                {
                    rest
                }
                _ => line,
            })
            .fold(String::new(), |text, line| text + line + "\n");
        let manifest = Manifest::parse("windlass.toml", &text);
        let manifest = manifest.unwrap_or_else(|found| panic!("{}", found.render(false, 100)));
        assert!(manifest.steps.contains_key("health"));
        assert!(manifest.notify.contains_key("slack"));
    }
}
