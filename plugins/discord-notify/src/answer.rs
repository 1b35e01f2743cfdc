//! What Discord's webhooks answer
//! (<https://docs.discord.com/developers/topics/opcodes-and-status-codes>).

use serde_json::Value as Json;
use windlass_sdk::http::Response;
use windlass_sdk::{Error, ErrorKind, format};

/// Milliseconds to wait when the answer does not say.
const WAIT: u64 = 2_000;
/// Milliseconds that a notification waits at most: the run is over by then.
const WAIT_MAX: u64 = 30_000;

/// An answer, and what follows from it.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    /// Try again after these milliseconds.
    Wait(u64),
    Refused(Error),
}

pub(crate) fn read(response: &Response) -> Answer {
    let body: Json = serde_json::from_slice(&response.body).unwrap_or_default();
    let said = match body["message"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&response.body).trim().to_owned(),
    };
    let said = format::head(&said, 200);
    let status = response.status;
    let (kind, code, hint) = match status {
        200..=299 => return Answer::Accepted,
        429 => return Answer::Wait(retry_after(response, &body)),
        400 => (
            ErrorKind::Internal,
            "discord-notify.bad-message",
            "Discord did not understand the message: please report this with the run's log",
        ),
        401 | 403 => (
            ErrorKind::Invalid,
            "discord-notify.forbidden",
            "the URL is incomplete: copy it anew from the channel's \"Integrations\" page into the secret",
        ),
        404 => (
            ErrorKind::NotFound,
            "discord-notify.no-webhook",
            "the webhook was deleted: make a new one and put its URL into the secret",
        ),
        500.. => (
            ErrorKind::Unavailable,
            "discord-notify.unavailable",
            "Discord itself has a problem: https://discordstatus.com",
        ),
        _ => (
            ErrorKind::Unavailable,
            "discord-notify.refused",
            "check that the secret holds the URL of a webhook",
        ),
    };
    let answer = if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    };
    let error =
        Error::new(kind, code, format!("Discord answered {status}{answer}")).with_hint(hint);
    Answer::Refused(if status >= 500 {
        error.retryable()
    } else {
        error
    })
}

pub(crate) fn too_many() -> Error {
    Error::unavailable(
        "discord-notify.rate-limited",
        "Discord answered 429: too many messages to this webhook",
    )
    .with_hint("30 messages a minute are allowed; tell fewer `events`, or use another webhook")
    .retryable()
}

/// The body's `retry_after` counts seconds with a fraction, the header whole ones.
fn retry_after(response: &Response, body: &Json) -> u64 {
    let header = || {
        response
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
            .and_then(|(_, value)| value.trim().parse::<f64>().ok())
    };
    let seconds = body["retry_after"].as_f64().or_else(header);
    seconds
        // A cast saturates, and what is not a number becomes 0.
        .map_or(WAIT, |seconds| (seconds * 1_000.0).ceil() as u64)
        .clamp(100, WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use windlass_sdk::http::Response;

    use super::{Answer, read};

    fn answer(status: u16, body: &str, headers: &[(&str, &str)]) -> Answer {
        read(&Response {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            body: body.into(),
            truncated: false,
        })
    }

    #[test]
    fn each_refusal_has_its_remedy() {
        assert!(matches!(answer(204, "", &[]), Answer::Accepted));
        for (status, body, code, message) in [
            (
                400,
                r#"{"message": "Cannot send an empty message"}"#,
                "bad-message",
                "Discord answered 400: Cannot send an empty message",
            ),
            (
                401,
                r#"{"message": "Invalid Webhook Token", "code": 50027}"#,
                "forbidden",
                "Discord answered 401: Invalid Webhook Token",
            ),
            (
                404,
                r#"{"message": "Unknown Webhook", "code": 10015}"#,
                "no-webhook",
                "Discord answered 404: Unknown Webhook",
            ),
            (502, "", "unavailable", "Discord answered 502"),
            (302, "<html>", "refused", "Discord answered 302: <html>"),
        ] {
            let Answer::Refused(error) = answer(status, body, &[]) else {
                panic!("{status} is not refused");
            };
            assert_eq!(error.code, format!("discord-notify.{code}"));
            assert_eq!(error.message, message);
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn waiting_is_bounded() {
        assert!(matches!(
            answer(429, r#"{"retry_after": 0.64}"#, &[]),
            Answer::Wait(640)
        ));
        assert!(matches!(
            answer(429, "", &[("Retry-After", "7")]),
            Answer::Wait(7_000)
        ));
        assert!(matches!(
            answer(429, r#"{"retry_after": 1e300}"#, &[]),
            Answer::Wait(30_000)
        ));
        assert!(matches!(answer(429, "", &[]), Answer::Wait(2_000)));
    }
}
