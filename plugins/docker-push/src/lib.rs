//! `docker-push`: tags an image and pushes it to one registry or several.
//! `docs/plugins/docker-push.md` is its page.

mod reference;

use std::collections::BTreeSet;

use windlass_sdk::docker::Engine;
use windlass_sdk::{
    Error, ErrorKind, Finding, OutputSpec, Part, Plugin, Text, facts, info, output, plain, registry,
};

use crate::reference::Reference;

/// Tags an image and pushes it.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The image: an id, or a name that the engine has.
    image: Text,
    /// What to push: `repository:tag`, of one registry or of several.
    #[schemars(length(min = 1))]
    tags: Vec<String>,
    /// The target whose Docker engine has the image; the step's own target
    /// when absent, and this machine when the step has none.
    engine: Option<String>,
}

pub struct DockerPush;

impl Plugin for DockerPush {
    type Config = Config;
    const NAME: &'static str = "docker-push";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Tag an image and push it";
    const HAS_PREFLIGHT: bool = true;

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("ref", "The first as `repository@sha256:…`"),
            OutputSpec::text("digest", "Its digest: `sha256:…`"),
            OutputSpec::json("refs", "Each repository once, as `repository@sha256:…`"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "docker.engine {{ engine or target }}",
            "docker.tag {{ tags }}",
            "docker.push {{ tags }}",
            "registry.push {{ tags | repository }}",
        ]
    }

    fn preflight(config: Config) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let mut repositories = BTreeSet::new();
        for tag in &config.tags {
            match tag.parse::<Reference>() {
                Ok(reference) => {
                    repositories.insert(reference.repository);
                }
                Err(error) => findings.push(Error::from(error).into()),
            }
        }
        for repository in repositories {
            match registry::may_push(&repository) {
                Ok(()) => {}
                Err(error) if error.is_final() => return Err(error),
                Err(error) => findings.push(Finding::from(error.context(&repository))),
            }
        }
        Ok(findings)
    }

    fn run(config: Config) -> Result<(), Error> {
        let references = parse(&config.tags)?;
        let facts = facts();
        let engine = Engine::open(facts.engine(config.engine.as_deref()))?;
        for tag in &config.tags {
            engine.tag(&config.image.parts(), &plain(tag))?;
        }
        // One after the other: those of one repository share their layers.
        let mut pushed = Vec::new();
        for (reference, tag) in references.iter().zip(&config.tags) {
            info!("pushing {tag}");
            let exit = engine
                .push(&plain(tag))?
                .finish(&format!("the push of {tag}"))?;
            pushed.push((reference, exit));
        }
        let Some((_, first)) = pushed.first() else {
            return Err(no_tags());
        };
        output::text("ref", &[Part::Value(first.value("ref")?)])?;
        output::text("digest", &[Part::Value(first.value("digest")?)])?;
        // Last, since a preview ends where a value has to be read.
        let mut refs = Vec::new();
        let mut seen = BTreeSet::new();
        for (reference, exit) in &pushed {
            if seen.insert(&reference.repository) {
                refs.push(exit.value("ref")?.text()?);
            }
        }
        output::json("refs", &refs)
    }
}

/// All tags, or what is wrong with the first bad one.
fn parse(tags: &[String]) -> Result<Vec<Reference>, Error> {
    if tags.is_empty() {
        return Err(no_tags());
    }
    tags.iter()
        .map(|tag| tag.parse().map_err(Error::from))
        .collect()
}

fn no_tags() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "docker-push.no-tags",
        "`tags` is empty: there is nothing to push",
    )
    .with_hint("name at least one: tags = [\"ghcr.io/acme/app:1.0\"]")
}

windlass_sdk::plugin!(DockerPush);
