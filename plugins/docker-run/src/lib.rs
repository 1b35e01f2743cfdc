//! `docker-run`: a command in a container, on this machine or on a target.
//! `docs/plugins/docker-run.md` is its page.

use std::collections::BTreeMap;

use windlass_sdk::docker::{self, Engine, RunSpec, Variable};
use windlass_sdk::{Cleanup, Error, ErrorKind, OutputSpec, Plugin, Text, facts, info, output};

/// Between SIGTERM and SIGKILL when the step is left early.
const GRACE_MS: u32 = 5_000;

/// Runs a command in a container, waits for it and removes it.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The image: a name, a name with a digest, or an id.
    image: Text,
    /// The command and its arguments; the image's own when absent.
    #[serde(default)]
    command: Vec<Text>,
    /// Replaces the image's entrypoint.
    entrypoint: Option<Vec<String>>,
    /// Environment of the command. Whoever may inspect containers can read it.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// Volumes, and directories of the host.
    #[serde(default)]
    mounts: Vec<Mount>,
    /// A network's name; the engine's default when absent.
    network: Option<String>,
    /// User, or user and group, as `1000:1000`.
    user: Option<String>,
    /// The directory to work in.
    workdir: Option<String>,
    /// All rights of the host's root. A grant of its own.
    #[serde(default)]
    privileged: bool,
    /// When to pull the image.
    #[serde(default)]
    pull: Pull,
    /// The target whose Docker engine runs it; the step's own target when
    /// absent, and this machine when the step has none.
    engine: Option<String>,
    /// The exit code that counts as success.
    #[serde(default)]
    expect_exit: i32,
}

/// One mount.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mount {
    /// A named volume, or an absolute path of the host.
    source: String,
    /// Absolute path in the container.
    target: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
enum Pull {
    /// When the engine does not have it.
    #[default]
    Missing,
    Always,
    Never,
}

pub struct DockerRun;

impl Plugin for DockerRun {
    type Config = Config;
    const NAME: &'static str = "docker-run";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Run a command in a container, on this machine or on a target";

    fn outputs() -> Vec<OutputSpec> {
        vec![OutputSpec::number(
            "exit_code",
            "The exit code of the command",
        )]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "docker.engine {{ engine or target }}",
            "docker.inspect *",
            "docker.pull {{ image if pull != 'never' }}",
            "docker.run {{ image }}",
            "docker.mount {{ (mounts or []) | map(attribute='source') | list }}",
            "docker.network {{ network }}",
            "docker.privileged {{ image if privileged }}",
            "secret.send {{ env }} to container",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        refuse_secret_arguments(&config.command)?;
        let facts = facts();
        let engine = Engine::open(facts.engine(config.engine.as_deref()))?;
        provide(&engine, &config)?;

        let container = engine.run(&RunSpec {
            image: config.image.parts(),
            command: config.command.iter().map(Text::parts).collect(),
            entrypoint: config.entrypoint,
            env: config
                .env
                .iter()
                .map(|(name, value)| Variable {
                    name: name.clone(),
                    value: value.parts(),
                })
                .collect(),
            mounts: config
                .mounts
                .into_iter()
                .map(|mount| docker::Mount {
                    source: mount.source,
                    target: mount.target,
                    read_only: mount.read_only,
                })
                .collect(),
            network: config.network,
            user: config.user,
            workdir: config.workdir,
            privileged: config.privileged,
        })?;
        let container = Cleanup::new(container, GRACE_MS);
        let exit = container.wait()?.wait()?;
        output::json("exit_code", &exit.code)?;
        if exit.code == config.expect_exit {
            return Ok(());
        }
        let mut error = exit.error(
            "docker-run.exit",
            &format!("the command in {}", config.image),
        );
        if container.inspect().is_ok_and(|info| info.oom_killed) {
            error = error.with_hint("it was killed for want of memory");
        } else if config.expect_exit != 0 {
            error = error.with_hint(format!("`expect_exit` is {}", config.expect_exit));
        }
        Err(error)
    }
}

/// The image is there afterwards, unless it may not be pulled.
fn provide(engine: &Engine, config: &Config) -> Result<(), Error> {
    let pull = match config.pull {
        Pull::Always => true,
        Pull::Never => false,
        Pull::Missing => engine.inspect_image(&config.image.parts())?.is_none(),
    };
    if pull {
        info!("pulling {}", config.image);
        engine
            .pull(&config.image.parts())?
            .finish(&format!("the pull of {}", config.image))?;
    }
    Ok(())
}

/// Arguments show in the process list and in `docker inspect`.
fn refuse_secret_arguments(command: &[Text]) -> Result<(), Error> {
    match command.iter().find(|argument| argument.is_secret()) {
        Some(secret) => Err(Error::new(
            ErrorKind::Invalid,
            "docker-run.secret-in-command",
            format!("{secret} may not be an argument of the command: everybody on the machine could read it"),
        )
        .with_hint("pass it with `env`")),
        None => Ok(()),
    }
}

windlass_sdk::plugin!(DockerRun);
