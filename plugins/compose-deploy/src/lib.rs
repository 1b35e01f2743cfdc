//! `compose-deploy`: deploys a compose project to a target as a release.
//! `docs/plugins/compose-deploy.md` is its page.

mod project;

use std::collections::BTreeMap;

use windlass_sdk::blobs::{self, Blob};
use windlass_sdk::docker::Engine;
use windlass_sdk::releases::{self, ActivateSpec, Image, StageSpec, Variable};
use windlass_sdk::{
    Duration, Error, Finding, OutputSpec, Plugin, Text, facts, format, info, output, plain, target,
};

/// Bytes of the compose file in which its `name` is looked for.
const HEAD: u32 = 64 * 1_024;

/// Deploys a compose project to the step's target as a release.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The compose file, relative to the project's root.
    file: String,
    /// The image of each service that this deploy sets, over what the compose
    /// file says: `repository@sha256:…`.
    #[serde(default)]
    services: BTreeMap<String, Text>,
    /// The directory on the target, absolute.
    dir: String,
    /// The compose project. When absent, as compose chooses it: the file's
    /// `name`, else the last part of `dir`. A stack of this name is adopted.
    project: Option<String>,
    /// Variables of the compose file itself, written as `.env`.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// Files of variables for containers (`env_file`), by file name.
    #[serde(default)]
    env_files: BTreeMap<String, BTreeMap<String, Text>>,
    /// Directories to create, absolute or relative to `dir`.
    #[serde(default)]
    directories: Vec<String>,
    /// How long `compose up` may take.
    #[serde(default = "minutes_5")]
    timeout: Duration,
    /// Removes containers of services that the compose file no longer has.
    #[serde(default)]
    remove_orphans: bool,
    /// The value of IMAGE_TAG for compose files that use it; the run's tag
    /// when absent.
    image_tag: Option<Text>,
}

fn minutes_5() -> Duration {
    Duration::from_secs(300)
}

pub struct ComposeDeploy;

impl Plugin for ComposeDeploy {
    type Config = Config;
    const NAME: &'static str = "compose-deploy";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Deploy a compose project to a target as a release";
    const HAS_PREFLIGHT: bool = true;

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("release", "The release that runs on the target now"),
            OutputSpec::boolean("changed", "False when the target ran it already"),
            OutputSpec::text(
                "previous",
                "The release before it; empty when there was none",
            ),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "target.inspect {{ target }}",
            "file.read {{ file }}",
            "releases.deploy {{ target }}:{{ dir }}",
            "docker.engine {{ target }}",
            "docker.pull {{ services }}",
            "secret.send {{ env }} to release:{{ target }}",
            "secret.send {{ env_files }} to release:{{ target }}",
            "secret.send {{ image_tag }} to release:{{ target }}",
        ]
    }

    fn preflight(config: Config) -> Result<Vec<Finding>, Error> {
        let facts = facts();
        let target = step_target(facts.target.as_deref())?;
        let mut findings = Vec::new();
        match check(&config).and_then(|()| blobs::open(&config.file)) {
            Ok(blob) => {
                if let Err(error) = project(&config, &blob) {
                    findings.push(error.into());
                }
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => findings.push(error.into()),
        }
        let machine = target::inspect(target)?;
        if !machine.docker_problem.is_empty() {
            findings.push(
                Finding::problem(format!("docker on {target}: {}", machine.docker_problem))
                    .with_hint("put the user into the `docker` group, set up rootless Docker, or let the target use `sudo`"),
            );
        } else if machine.compose.is_empty() {
            findings.push(
                Finding::problem(format!("{target} has no docker compose"))
                    .with_hint("install the package `docker-compose-plugin` there"),
            );
        }
        Ok(findings)
    }

    fn run(config: Config) -> Result<(), Error> {
        check(&config)?;
        let facts = facts();
        let target = step_target(facts.target.as_deref())?;
        let compose = blobs::open(&config.file)?;
        let tag = (!facts.tag.is_empty()).then(|| plain(&facts.tag));
        let staged = releases::stage(&StageSpec {
            target: target.to_owned(),
            dir: config.dir.clone(),
            project: project(&config, &compose)?,
            compose: &compose,
            images: config
                .services
                .iter()
                .map(|(service, reference)| Image {
                    service: service.clone(),
                    reference: reference.parts(),
                })
                .collect(),
            env: variables(&config.env),
            files: config
                .env_files
                .iter()
                .map(|(file, content)| (file.clone(), variables(content)))
                .collect(),
            directories: config.directories,
            image_tag: config.image_tag.as_ref().map(Text::parts).or(tag),
        })?;

        if staged.changed {
            // Images that only the compose file names are compose's to pull.
            let mut missing = staged.missing_images;
            missing.retain(|image| {
                config
                    .services
                    .values()
                    .any(|reference| reference.as_plain() == Some(image))
            });
            pull(target, &missing)?;
            info!("activating release {} on {target}", staged.id);
            releases::activate(&ActivateSpec {
                target: target.to_owned(),
                dir: config.dir,
                id: staged.id.clone(),
                timeout_ms: config.timeout.millis(),
                remove_orphans: config.remove_orphans,
            })?
            .finish(&format!("compose up on {target}"))?;
        } else {
            info!(
                "nothing changed: {target} runs release {} already",
                staged.id
            );
        }
        output::string("release", &staged.id)?;
        output::json("changed", &staged.changed)?;
        output::string("previous", staged.previous.as_deref().unwrap_or_default())
    }
}

/// What can be told without asking anybody.
fn check(config: &Config) -> Result<(), Error> {
    if !config.dir.starts_with('/') {
        return Err(Error::invalid(
            "compose-deploy.dir",
            format!("`dir` is {:?}, which is no absolute path", config.dir),
        )
        .with_hint("write it from the root of the target: dir = \"/srv/app\""));
    }
    for file in config.env_files.keys() {
        if file.is_empty() || file.contains('/') || file == ".env" || file == ".." || file == "." {
            return Err(Error::invalid(
                "compose-deploy.env-file",
                format!("`env_files` has {file:?}, which is no file name beside the compose file"),
            )
            .with_hint("use a plain name such as \"app.env\"; `.env` comes from `env`"));
        }
    }
    Ok(())
}

fn step_target(target: Option<&str>) -> Result<&str, Error> {
    target.ok_or_else(|| {
        Error::invalid(
            "compose-deploy.no-target",
            "the step has no target to deploy to",
        )
        .with_hint("add `on = \"{{ environment.targets }}\"`, or on = [\"NAME\"]")
    })
}

/// The compose project, as compose itself would choose it.
fn project(config: &Config, compose: &Blob) -> Result<String, Error> {
    if let Some(name) = &config.project {
        return project::check(name);
    }
    let head = compose.read(0, HEAD)?;
    if let Some(name) = project::of_file(&String::from_utf8_lossy(&head)) {
        return project::check(&name);
    }
    project::check(&project::of_directory(&config.dir))
}

fn variables(map: &BTreeMap<String, Text>) -> Vec<Variable<'_>> {
    map.iter()
        .map(|(name, value)| Variable {
            name: name.clone(),
            value: value.parts(),
        })
        .collect()
}

/// Pulls with this run's logins; the target keeps none.
fn pull(target: &str, images: &[String]) -> Result<(), Error> {
    if images.is_empty() {
        return Ok(());
    }
    info!(
        "pulling {} on {target}",
        format::count(images.len(), "image")
    );
    let engine = Engine::open((target != "local").then_some(target))?;
    // All are started before the first is waited for.
    let jobs: Vec<_> = images
        .iter()
        .map(|image| Ok((image, engine.pull(&plain(image))?)))
        .collect::<Result<_, Error>>()?;
    for (image, job) in jobs {
        job.finish(&format!("the pull of {image}"))
            .map_err(|error| error.context(format!("pulling {image} on {target}")))?;
    }
    Ok(())
}

windlass_sdk::plugin!(ComposeDeploy);
