//! `docker-build`: builds an image from a directory of the project.
//! `docs/plugins/docker-build.md` is its page.

mod ignore;
mod platform;

use std::collections::BTreeMap;

use windlass_sdk::blobs::{self, ArchiveOptions, Blob};
use windlass_sdk::docker::{BuildSecret, BuildSpec, Engine, Pair};
use windlass_sdk::{
    Error, ErrorKind, OutputSpec, Plugin, Text, debug, facts, format, git, info, output, target,
    warn,
};

/// Bytes of a `.dockerignore` that are read.
const MAX_IGNORE: u32 = 1 << 20;

/// Builds an image from a directory of the project.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory whose files the Dockerfile may copy, relative to the
    /// project's root.
    #[serde(default = "root")]
    context: String,
    /// The Dockerfile, relative to the project's root and within the context.
    #[serde(default = "dockerfile")]
    dockerfile: String,
    /// Names for the image: `repository:tag`.
    #[serde(default)]
    tags: Vec<String>,
    /// Build arguments. They stay readable in the image's history: secrets go
    /// into `secrets`.
    #[serde(default)]
    args: BTreeMap<String, String>,
    /// Labels. `org.opencontainers.image.source` and `.revision` are set from
    /// git unless they are given here.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The stage of the Dockerfile to stop at.
    stage: Option<String>,
    /// What to build for: `linux/amd64`; what the engine runs on when absent.
    platform: Option<String>,
    /// Build secrets by id, for `RUN --mount=type=secret,id=ID`.
    #[serde(default)]
    secrets: BTreeMap<String, Text>,
    /// Builds every layer anew.
    #[serde(default)]
    no_cache: bool,
    /// Looks for newer base images even when the engine has some.
    #[serde(default)]
    pull: bool,
    /// Targets that are going to run the image: a build which one of them
    /// cannot run is refused. The environment's targets when absent.
    #[serde(default)]
    #[schemars(extend("x-windlass-default" = "targets"))]
    for_targets: Vec<String>,
    /// The target whose Docker engine builds; the step's own target when
    /// absent, and this machine when the step has none.
    engine: Option<String>,
}

fn root() -> String {
    ".".to_owned()
}

fn dockerfile() -> String {
    "Dockerfile".to_owned()
}

pub struct DockerBuild;

impl Plugin for DockerBuild {
    type Config = Config;
    const NAME: &'static str = "docker-build";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Build an image from a directory of the project";

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("image", "The id of the image: `sha256:…`"),
            OutputSpec::text("platform", "What it runs on: `linux/amd64`"),
            OutputSpec::number("size", "Its size in bytes"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "docker.engine {{ engine or target }}",
            "docker.build {{ tags or ['*'] }}",
            "docker.inspect *",
            "file.read {{ (context or '.') | trim('/') }}/**",
            "file.read {{ dockerfile or 'Dockerfile' }}.dockerignore",
            "git.read HEAD",
            "target.inspect {{ for_targets }}",
            "secret.send {{ secrets }} to build",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        let context = config.context.trim_matches('/');
        let dockerfile = within(context, &config.dockerfile)?;
        let machines = architectures(&config.for_targets)?;
        // Known already: then nothing is built in vain.
        if let Some(platform) = &config.platform {
            platform::check(platform::architecture(platform)?, &machines)?;
        }

        let facts = facts();
        let engine = Engine::open(facts.engine(config.engine.as_deref()))?;
        let archive = pack(context, &config.dockerfile, dockerfile)?;
        info!("the build context has {}", format::bytes(archive.size()));

        let secrets: Vec<_> = config
            .secrets
            .iter()
            .map(|(id, text)| (id.clone(), text.to_value()))
            .collect();
        let built = engine
            .build(&BuildSpec {
                context: &archive,
                dockerfile: dockerfile.to_owned(),
                tags: config.tags,
                args: pairs(config.args),
                labels: pairs(labels(config.labels)?),
                stage: config.stage,
                platform: config.platform,
                secrets: secrets
                    .iter()
                    .map(|(id, value)| BuildSecret {
                        id: id.clone(),
                        value,
                    })
                    .collect(),
                no_cache: config.no_cache,
                pull: config.pull,
            })?
            .finish("the build")?;
        let image = [windlass_sdk::Part::Value(built.value("image")?)];
        output::text("image", &image)?;

        let info = engine.inspect_image(&image)?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "docker-build.no-image",
                "the engine built the image, and then did not have it",
            )
        })?;
        let platform = format!("{}/{}", info.os, info.architecture);
        output::string("platform", &platform)?;
        output::json("size", &info.size)?;
        info!(
            "built {} for {platform}, {}",
            info.id,
            format::bytes(info.size)
        );
        platform::check(&info.architecture, &machines)
    }
}

/// The Dockerfile's path within the context.
fn within<'a>(context: &str, dockerfile: &'a str) -> Result<&'a str, Error> {
    let dockerfile = dockerfile.trim_start_matches("./");
    let context = context.trim_start_matches("./");
    let inner = match context {
        "" | "." => Some(dockerfile),
        _ => dockerfile
            .strip_prefix(context)
            .and_then(|rest| rest.strip_prefix('/')),
    };
    let safe = |path: &&str| !path.is_empty() && path.split('/').all(|part| part != "..");
    inner.filter(safe).ok_or_else(|| {
        Error::invalid(
            "docker-build.dockerfile-outside",
            format!("the dockerfile {dockerfile:?} is not within the context {context:?}"),
        )
        .with_hint(
            "both paths begin at the project's root; choose a context that has the Dockerfile in \
             it, and leave the rest out with a .dockerignore",
        )
    })
}

/// The build context as a tar archive, without what the ignore file names.
fn pack(context: &str, named: &str, dockerfile: &str) -> Result<Blob, Error> {
    let root = if context.is_empty() { "." } else { context };
    let own = format!("{named}.dockerignore");
    let mut keep = vec![dockerfile.to_owned()];
    let ignore = if let Some(text) = read(&own)? {
        debug!("using {own}");
        keep.push(format!("{dockerfile}.dockerignore"));
        let mut patterns = ignore::patterns(&text);
        // An engine that builds without BuildKit would apply this one as well.
        patterns.push(".dockerignore".to_owned());
        patterns
    } else {
        read(&format!("{root}/.dockerignore"))?
            .map(|text| ignore::patterns(&text))
            .unwrap_or_default()
    };
    blobs::archive(root, &ArchiveOptions { ignore, keep })
}

/// The text of a file that need not be there.
fn read(path: &str) -> Result<Option<String>, Error> {
    match blobs::open(path) {
        Ok(blob) => {
            if blob.size() > u64::from(MAX_IGNORE) {
                return Err(Error::invalid(
                    "docker-build.ignore-too-large",
                    format!("{path} is larger than {}", format::bytes(MAX_IGNORE.into())),
                ));
            }
            let bytes = blob.read(0, MAX_IGNORE)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The labels, with where the image comes from unless that was given.
fn labels(mut labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    const SOURCE: &str = "org.opencontainers.image.source";
    const REVISION: &str = "org.opencontainers.image.revision";
    if labels.contains_key(SOURCE) && labels.contains_key(REVISION) {
        return Ok(labels);
    }
    match git::inspect() {
        Ok(facts) => {
            labels.entry(REVISION.to_owned()).or_insert(facts.commit);
            if let Some(origin) = facts.origin {
                labels.entry(SOURCE.to_owned()).or_insert(origin);
            }
        }
        Err(error) if error.is_final() => return Err(error),
        Err(error) => debug!("no labels from git: {}", error.message),
    }
    Ok(labels)
}

/// The targets with their architectures. One that is away does not keep the
/// image from the others.
fn architectures(targets: &[String]) -> Result<Vec<(String, String)>, Error> {
    let mut machines = Vec::new();
    for name in targets {
        match target::inspect(name) {
            Ok(facts) => machines.push((name.clone(), facts.architecture)),
            Err(error) if matches!(error.kind, ErrorKind::Timeout | ErrorKind::Unavailable) => {
                warn!(
                    "whether {name} can run the image is not known: {}",
                    error.message
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(machines)
}

fn pairs(map: BTreeMap<String, String>) -> Vec<Pair> {
    map.into_iter()
        .map(|(name, value)| Pair { name, value })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn dockerfiles_within_the_context() {
        for (context, dockerfile, inner) in [
            (".", "Dockerfile", "Dockerfile"),
            (".", "./app/Dockerfile", "app/Dockerfile"),
            ("app", "app/Dockerfile", "Dockerfile"),
            ("./app", "app/deploy/Dockerfile", "deploy/Dockerfile"),
        ] {
            assert_eq!(within(context, dockerfile).unwrap(), inner);
        }
    }

    #[test]
    fn dockerfiles_outside_are_refused() {
        for (context, dockerfile) in [
            ("app", "Dockerfile"),
            ("app", "application/Dockerfile"),
            (".", "../Dockerfile"),
            ("app", "app/../Dockerfile"),
            ("app", "app/"),
        ] {
            let error = within(context, dockerfile).unwrap_err();
            assert_eq!(error.code, "docker-build.dockerfile-outside");
        }
    }
}

windlass_sdk::plugin!(DockerBuild);
