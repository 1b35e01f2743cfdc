//! `image-check`: runs an image until its HEALTHCHECK says healthy.
//! `docs/plugins/image-check.md` is its page.

use std::collections::BTreeMap;

use windlass_sdk::docker::{
    Container, ContainerInfo, Engine, Health, ImageInfo, RunSpec, Variable,
};
use windlass_sdk::{
    Cleanup, Duration, Error, ErrorKind, OutputSpec, Plugin, Text, clock, facts, format, info,
    output, progress,
};

/// Between SIGTERM and SIGKILL of a container that nobody needs any more.
const GRACE_MS: u32 = 1_000;
/// Between two looks, in milliseconds.
const LOOK_MIN: u64 = 200;
const LOOK_MAX: u64 = 1_000;
/// Lines of the container's log that an error repeats.
const LOG_LINES: usize = 20;
/// Characters of a probe's output that an error repeats.
const PROBE: usize = 2_000;

/// Runs an image until its HEALTHCHECK says healthy, and removes the container.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The image: an id, or a name that the engine has.
    image: Text,
    /// Environment of the container.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// The command and its arguments; the image's own when absent.
    #[serde(default)]
    command: Vec<Text>,
    /// How long it may take until it is healthy.
    #[serde(default = "seconds_60")]
    timeout: Duration,
    /// A network's name; the engine's default when absent.
    network: Option<String>,
    /// The target whose Docker engine runs it; the step's own target when
    /// absent, and this machine when the step has none.
    engine: Option<String>,
}

fn seconds_60() -> Duration {
    Duration::from_secs(60)
}

pub struct ImageCheck;

impl Plugin for ImageCheck {
    type Config = Config;
    const NAME: &'static str = "image-check";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Run an image until its HEALTHCHECK says healthy";

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("image", "The image, as it was given"),
            OutputSpec::number("healthy_after_ms", "Milliseconds from its start until then"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "docker.engine {{ engine or target }}",
            "docker.inspect *",
            "docker.run {{ image }}",
            "docker.network {{ network }}",
            "secret.send {{ env }} to container",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        let facts = facts();
        let engine = Engine::open(facts.engine(config.engine.as_deref()))?;
        let image = inspect(&engine, &config.image)?;
        let began = clock::now();
        let container = engine.run(&RunSpec {
            image: config.image.parts(),
            command: config.command.iter().map(Text::parts).collect(),
            entrypoint: None,
            env: config
                .env
                .iter()
                .map(|(name, value)| Variable {
                    name: name.clone(),
                    value: value.parts(),
                })
                .collect(),
            mounts: Vec::new(),
            network: config.network,
            user: None,
            workdir: None,
            privileged: false,
        })?;
        let container = Cleanup::new(container, GRACE_MS);
        let look = (image.health_interval_ms / 10).clamp(LOOK_MIN, LOOK_MAX);
        let elapsed = wait(&container, began, config.timeout, look)?;
        info!("healthy after {}", format::elapsed(elapsed));
        output::text("image", &config.image.parts())?;
        output::json("healthy_after_ms", &elapsed)
    }
}

/// The image, which must be there and have a HEALTHCHECK.
fn inspect(engine: &Engine, image: &Text) -> Result<ImageInfo, Error> {
    let info = engine.inspect_image(&image.parts())?.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "image-check.no-image",
            format!("the Docker engine has no image {image}"),
        )
        .with_hint("check the image that a docker-build step of this run gives as its output")
    })?;
    if info.has_healthcheck {
        return Ok(info);
    }
    Err(Error::invalid(
        "image-check.no-healthcheck",
        format!("the image {image} has no HEALTHCHECK"),
    )
    .with_hint(
        "add one to its Dockerfile, with a command that the image has: \
         HEALTHCHECK --interval=5s --timeout=3s --start-period=5s CMD [\"/app\", \"--check\"]",
    ))
}

/// Milliseconds until the container was healthy.
fn wait(container: &Container, began: u64, timeout: Duration, look: u64) -> Result<u64, Error> {
    let mut seen = 0;
    loop {
        let info = container.inspect()?;
        let elapsed = clock::now().saturating_sub(began);
        if info.probes.len() != seen {
            seen = info.probes.len();
            if let Some(probe) = info.probes.last() {
                let said = format::head(probe.output.trim(), 200);
                info!("the HEALTHCHECK exited with {} {said}", probe.exit_code);
            }
        }
        let ended = !matches!(info.state.as_str(), "created" | "running" | "restarting");
        if ended {
            return Err(exited(&info, &log(container)));
        }
        match info.health {
            Health::Healthy => return Ok(elapsed),
            Health::Unhealthy => return Err(unhealthy(&info, &log(container))),
            Health::Starting | Health::None => {}
        }
        if elapsed >= timeout.millis() {
            return Err(late(&info, timeout, &log(container)));
        }
        progress::report("waiting for healthy", elapsed, timeout.millis());
        clock::sleep(look.min(timeout.millis() - elapsed))?;
    }
}

/// The container's log, or why there is none: the error at hand matters more.
fn log(container: &Container) -> String {
    container.logs().unwrap_or_else(|error| error.message)
}

fn exited(info: &ContainerInfo, log: &str) -> Error {
    let mut message = format!(
        "the container exited with {} before it was healthy",
        info.exit_code
    );
    if !info.error.is_empty() {
        message.push_str(&format!(": {}", info.error));
    }
    let error = Error::unavailable("image-check.exited", message + &excerpt(log));
    if info.oom_killed {
        error.with_hint("it was killed for want of memory")
    } else if !info.error.is_empty() {
        error.with_hint("when the engine is well, `windlass resume` checks the image again")
    } else {
        error.with_hint(
            "look at its log above; `env` and `command` of the step set what it needs to start",
        )
    }
}

fn unhealthy(info: &ContainerInfo, log: &str) -> Error {
    Error::unavailable(
        "image-check.unhealthy",
        format!("the container is unhealthy{}{}", probe(info), excerpt(log)),
    )
    .with_hint("the HEALTHCHECK's own output, when it prints some, says what it missed")
}

fn late(info: &ContainerInfo, timeout: Duration, log: &str) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "image-check.timeout",
        format!(
            "the container was not healthy within {timeout}{}{}",
            probe(info),
            excerpt(log)
        ),
    )
    .with_hint("raise `timeout`, or shorten --interval and --start-period of the HEALTHCHECK")
}

/// The last probe that failed, in its own words.
fn probe(info: &ContainerInfo) -> String {
    let Some(probe) = info.probes.iter().rev().find(|probe| probe.exit_code != 0) else {
        return String::from("; no probe has failed yet");
    };
    let output = probe.output.trim();
    if output.is_empty() {
        return format!(
            "; its HEALTHCHECK exited with {} and printed nothing",
            probe.exit_code
        );
    }
    format!(
        "; its HEALTHCHECK exited with {}:\n{}",
        probe.exit_code,
        format::indent(&format::head(output, PROBE))
    )
}

fn excerpt(log: &str) -> String {
    let last = format::last_lines(log, LOG_LINES);
    if last.is_empty() {
        return String::from("\nthe container logged nothing");
    }
    format!("\nthe container's log:\n{}", format::indent(&last))
}

#[cfg(test)]
mod tests {
    use windlass_sdk::Duration;
    use windlass_sdk::docker::{ContainerInfo, Health, Probe};

    use super::{exited, late, unhealthy};

    fn container(exit_code: i32, probes: &[(i32, &str)]) -> ContainerInfo {
        ContainerInfo {
            id: "id".into(),
            state: "running".into(),
            exit_code,
            oom_killed: false,
            health: Health::Starting,
            probes: probes
                .iter()
                .map(|(exit_code, output)| Probe {
                    exit_code: *exit_code,
                    output: (*output).into(),
                })
                .collect(),
            error: String::new(),
        }
    }

    #[test]
    fn the_failing_probe_speaks() {
        let info = container(0, &[(1, "connection refused\n"), (0, "fine")]);
        assert_eq!(
            unhealthy(&info, "").message,
            "the container is unhealthy; its HEALTHCHECK exited with 1:\n  connection refused\n\
             the container logged nothing"
        );
    }

    #[test]
    fn a_container_that_exits_shows_its_log() {
        assert_eq!(
            exited(&container(3, &[]), "a\nno config\n").message,
            "the container exited with 3 before it was healthy\nthe container's log:\n  a\n  no config"
        );
    }

    #[test]
    fn a_deadline_says_what_was_seen() {
        let error = late(&container(0, &[]), Duration::from_secs(60), "x");
        assert!(
            error
                .message
                .starts_with("the container was not healthy within 1m; no probe")
        );
    }
}

windlass_sdk::plugin!(ImageCheck);
