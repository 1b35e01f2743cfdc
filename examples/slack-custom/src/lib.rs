//! `slack-custom`: tells a Slack channel how a run ended, in a team's own words.

mod template;

use windlass_sdk::http::Request;
use windlass_sdk::report::Report;
use windlass_sdk::{Error, Finding, Plugin, Text, format, info, plain};

/// For the one POST, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;
/// Characters of an answer that an error repeats.
const ANSWER: usize = 200;

/// What a manifest says in `with`.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The URL of an incoming webhook; it is a secret by itself.
    webhook: Text,
    /// The message, with `{pipeline}`, `{environment}`, `{tag}`, `{commit}`,
    /// `{branch}`, `{outcome}`, `{duration}`, `{failed}` and `{link}` in it.
    #[serde(default = "template")]
    text: String,
}

fn template() -> String {
    "*{pipeline}* {tag}: {outcome} after {duration}".to_owned()
}

pub struct SlackCustom;

impl Plugin for SlackCustom {
    type Config = Config;
    const NAME: &'static str = "slack-custom";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Tell a Slack channel how a run ended, in your own words";
    const HAS_PREFLIGHT: bool = true;

    fn requests() -> Vec<&'static str> {
        vec!["http.POST {{ webhook }}"]
    }

    /// A slip in the text is told before the run, not when it is over.
    fn preflight(config: Config) -> Result<Vec<Finding>, Error> {
        Ok(template::check(&config.text)
            .err()
            .map(Finding::from)
            .into_iter()
            .collect())
    }

    fn run(config: Config) -> Result<(), Error> {
        template::check(&config.text)?;
        let report = Report::load()?;
        let message = serde_json::json!({
            "text": template::fill(&config.text, &report),
            // A commit's message must not become a preview of a page.
            "unfurl_links": false,
        });
        // The plugin cannot read the URL: it passes the parts on.
        let request = Request::new("POST", &config.webhook.parts());
        request.header("content-type", &plain("application/json; charset=utf-8"));
        request.body(&plain(&message.to_string()));
        request.timeout_ms(TIMEOUT_MS);
        let response = request.send()?;
        if !(200..300).contains(&response.status) {
            let said = String::from_utf8_lossy(&response.body);
            return Err(Error::unavailable(
                "slack-custom.refused",
                format!(
                    "Slack answered {}: {}",
                    response.status,
                    format::head(said.trim(), ANSWER)
                ),
            )
            .with_hint("check that the secret holds the URL of an incoming webhook"));
        }
        info!(
            "told Slack that {} {}",
            report.subject(),
            report.outcome.as_str()
        );
        Ok(())
    }
}

windlass_sdk::plugin!(SlackCustom);
