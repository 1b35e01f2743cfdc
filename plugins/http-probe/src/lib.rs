//! `http-probe`: asks an HTTP endpoint until it answers as expected.
//! `docs/plugins/http-probe.md` is its page.

mod attempts;
mod expect;

use std::collections::BTreeMap;

use windlass_sdk::http::{Request, Response};
use windlass_sdk::{
    Duration, Error, ErrorKind, OutputSpec, Plugin, Text, clock, facts, info, output, progress,
};

use crate::attempts::Attempts;
use crate::expect::{Expectation, Expected, Statuses};

/// Waits until an HTTP endpoint answers as expected.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to GET. On a step with a target it is asked from there, so that
    /// `localhost` is the target; see `from`.
    url: Text,
    /// How often to try.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 1000))]
    attempts: u32,
    /// The time between two attempts.
    #[serde(default = "seconds_5")]
    every: Duration,
    /// How long one attempt may take.
    #[serde(default = "seconds_5")]
    timeout: Duration,
    /// From where to ask: the step's `target` (this machine when it has none),
    /// or `here`.
    #[serde(default)]
    from: From,
    /// The status, or a list of statuses, that count as success.
    #[serde(default)]
    status: Statuses,
    /// Text that the body must contain.
    body_contains: Option<Text>,
    /// Fields that a JSON body must have, by dotted path (`build.version`,
    /// `items.0`) or by JSON pointer (`/build/version`).
    #[serde(default)]
    json: BTreeMap<String, Expected>,
    /// Headers of the request.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
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
enum From {
    #[default]
    Target,
    Here,
}

fn attempts() -> u32 {
    12
}

fn seconds_5() -> Duration {
    Duration::from_secs(5)
}

pub struct HttpProbe;

impl Plugin for HttpProbe {
    type Config = Config;
    const NAME: &'static str = "http-probe";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Wait until an HTTP endpoint answers as expected";

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::number("status", "The status of the answer that was accepted"),
            OutputSpec::number("attempts", "The number of attempts that it took"),
            OutputSpec::number("elapsed_ms", "Milliseconds until then"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "http.GET {{ url }}",
            "http.via {{ target if from != 'here' }}",
            "secret.send {{ headers }} to http:{{ url }}",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        if config.attempts == 0 {
            return Err(Error::invalid("http-probe.attempts", "`attempts` is 0"));
        }
        let expectation =
            Expectation::new(&config.status, config.body_contains.as_ref(), &config.json)?;
        let facts = facts();
        let via = match config.from {
            From::Target => facts.remote_target(),
            From::Here => None,
        };

        let mut attempts = Attempts::new(clock::now());
        for number in 1..=config.attempts {
            let begun = clock::now();
            let result = ask(&config, via).map(|response| {
                let found = expectation.check(&response);
                attempts.body(&response);
                (response.status, found)
            });
            let said = match result {
                Ok((status, Ok(()))) => {
                    info!("attempt {number}/{}: {status}", config.attempts);
                    output::json("status", &status)?;
                    output::json("attempts", &number)?;
                    return output::json("elapsed_ms", &attempts.elapsed(clock::now()));
                }
                Ok((_, Err(difference))) => difference,
                // No later attempt can go better.
                Err(error) if error.is_final() || error.kind == ErrorKind::Invalid => {
                    return Err(error);
                }
                Err(error) => error.message,
            };
            attempts.push(begun, said.clone());
            if number == config.attempts {
                info!("attempt {number}/{}: {said}", config.attempts);
            } else {
                info!(
                    "attempt {number}/{}: {said}, next in {}",
                    config.attempts, config.every
                );
                progress::report(&said, u64::from(number), u64::from(config.attempts));
                clock::sleep(config.every.millis())?;
            }
        }
        Err(attempts.error(&config.url.to_string(), via))
    }
}

fn ask(config: &Config, via: Option<&str>) -> Result<Response, Error> {
    let request = Request::new("GET", &config.url.parts());
    for (name, value) in &config.headers {
        request.header(name, &value.parts());
    }
    request.timeout_ms(config.timeout.millis_u32());
    if let Some(target) = via {
        request.via(target);
    }
    request.send()
}

windlass_sdk::plugin!(HttpProbe);
