//! What Slack's webhooks answer
//! (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>).

use windlass_sdk::http::Response;
use windlass_sdk::{Error, ErrorKind, format};

/// Seconds to wait when the answer does not say.
const WAIT: u64 = 2;
/// Seconds that a notification waits at most: the run is over by then.
const WAIT_MAX: u64 = 30;

/// An answer, and what follows from it.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    /// Try again after these seconds.
    Wait(u64),
    Refused(Error),
}

pub(crate) fn read(response: &Response) -> Answer {
    let body = String::from_utf8_lossy(&response.body);
    let said = format::head(body.trim(), 200);
    let status = response.status;
    let (kind, code, hint) = match status {
        200..=299 => return Answer::Accepted,
        429 => return Answer::Wait(retry_after(response)),
        400 => (
            ErrorKind::Internal,
            "slack-notify.bad-message",
            "Slack did not understand the message: please report this with the run's log",
        ),
        403 if said == "invalid_token" => (
            ErrorKind::Invalid,
            "slack-notify.forbidden",
            "the URL is incomplete or was revoked: copy it anew from the app's \"Incoming Webhooks\" page into the secret",
        ),
        403 => (
            ErrorKind::Denied,
            "slack-notify.forbidden",
            "an administrator of the workspace restricts posting to this channel: allow the app, or make a webhook for another channel",
        ),
        404 => (
            ErrorKind::NotFound,
            "slack-notify.no-webhook",
            "the webhook was removed or its channel deleted: make a new one and put its URL into the secret",
        ),
        410 => (
            ErrorKind::NotFound,
            "slack-notify.archived",
            "the channel is archived: bring it back, or make a webhook for another channel",
        ),
        500.. => (
            ErrorKind::Unavailable,
            "slack-notify.unavailable",
            "Slack itself has a problem: https://slack-status.com",
        ),
        _ => (
            ErrorKind::Unavailable,
            "slack-notify.refused",
            "check that the secret holds the URL of an incoming webhook",
        ),
    };
    let answer = if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    };
    let error = Error::new(kind, code, format!("Slack answered {status}{answer}")).with_hint(hint);
    Answer::Refused(if status >= 500 {
        error.retryable()
    } else {
        error
    })
}

pub(crate) fn too_many() -> Error {
    Error::unavailable(
        "slack-notify.rate-limited",
        "Slack answered 429: too many messages to this webhook",
    )
    .with_hint("one message a second is allowed; tell fewer `events`, or use another webhook")
    .retryable()
}

fn retry_after(response: &Response) -> u64 {
    response
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(WAIT)
        .clamp(1, WAIT_MAX)
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
        assert!(matches!(answer(200, "ok", &[]), Answer::Accepted));
        for (status, body, code) in [
            (400, "invalid_payload", "bad-message"),
            (403, "invalid_token", "forbidden"),
            (403, "action_prohibited", "forbidden"),
            (404, "no_service", "no-webhook"),
            (410, "channel_is_archived", "archived"),
            (503, "", "unavailable"),
            (302, "", "refused"),
        ] {
            let Answer::Refused(error) = answer(status, body, &[]) else {
                panic!("{status} is not refused");
            };
            assert_eq!(error.code, format!("slack-notify.{code}"));
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn waiting_is_bounded() {
        assert!(matches!(
            answer(429, "", &[("Retry-After", "7")]),
            Answer::Wait(7)
        ));
        assert!(matches!(
            answer(429, "", &[("Retry-After", "9999")]),
            Answer::Wait(30)
        ));
        assert!(matches!(answer(429, "", &[]), Answer::Wait(2)));
    }
}
