//! `discord-notify`: tells a Discord channel how a run ended.
//! `docs/plugins/discord-notify.md` is its page.

mod answer;
mod message;

use windlass_sdk::http::Request;
use windlass_sdk::report::Report;
use windlass_sdk::{Error, Part, Plugin, Text, clock, info, warn};

use crate::answer::Answer;
use crate::message::Mention;

/// For one POST, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;
/// POSTs in all, when Discord asks to wait.
const TRIES: u32 = 3;

/// Tells a Discord channel how a run ended.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The URL of a webhook; it is a secret by itself.
    webhook: Text,
    /// Heads the message instead of `PIPELINE to ENVIRONMENT`.
    title: Option<String>,
    /// Whom to mention when the run failed: `here`, `everyone`, `role:ID` or
    /// `user:ID`.
    mention: Option<String>,
    /// The name under which the message appears; the webhook's own when absent.
    username: Option<String>,
}

pub struct DiscordNotify;

impl Plugin for DiscordNotify {
    type Config = Config;
    const NAME: &'static str = "discord-notify";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Tell a Discord channel how a run ended";

    fn requests() -> Vec<&'static str> {
        vec!["http.POST {{ webhook }}"]
    }

    fn run(config: Config) -> Result<(), Error> {
        let mention = config.mention.as_deref().map(Mention::parse).transpose()?;
        let report = Report::load()?;
        let mut message = message::build(&report, config.title.as_deref(), mention.as_ref());
        if let Some(username) = config.username {
            message["username"] = username.into();
        }
        let body = serde_json::to_string(&message)?;
        for attempt in 1.. {
            let request = Request::new("POST", &config.webhook.parts());
            request.header("content-type", &[Part::Text("application/json".to_owned())]);
            request.body(&[Part::Text(body.clone())]);
            request.timeout_ms(TIMEOUT_MS);
            match answer::read(&request.send()?) {
                Answer::Accepted => break,
                Answer::Wait(millis) if attempt < TRIES => {
                    warn!("Discord asks to wait {millis} ms");
                    clock::sleep(millis)?;
                }
                Answer::Wait(_) => return Err(answer::too_many()),
                Answer::Refused(error) => return Err(error),
            }
        }
        info!(
            "told Discord that {} {}",
            report.subject(),
            report.outcome.as_str()
        );
        Ok(())
    }
}

windlass_sdk::plugin!(DiscordNotify);
