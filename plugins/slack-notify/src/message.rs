//! The message: blocks of Slack's Block Kit, with a text for notifications
//! (<https://docs.slack.dev/reference/block-kit/blocks>).

use serde_json::{Value as Json, json};
use windlass_sdk::report::{Outcome, Report, State, Step};
use windlass_sdk::{Error, format};

/// Slack's limits, in characters.
const HEADER: usize = 150;
const SECTION: usize = 3_000;
/// Blocks of one message.
const BLOCKS: usize = 50;
/// Characters of one step's error.
const ERROR: usize = 2_000;
/// Failed steps whose errors are shown.
const ERRORS: usize = 5;

/// Somebody whom the manifest wants to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention(String);

impl Mention {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let id = text.len() >= 3
            && text
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        let markup = match text {
            "here" | "channel" | "everyone" => format!("<!{text}>"),
            _ if id && text.starts_with(['U', 'W']) => format!("<@{text}>"),
            _ if id && text.starts_with('S') => format!("<!subteam^{text}>"),
            _ => {
                return Err(Error::invalid(
                    "slack-notify.mention",
                    format!("`mention` is {text:?}, which Slack cannot mention"),
                )
                .with_hint(
                    "use here, channel, everyone, or an id: a member's profile has \"Copy member ID\"",
                ));
            }
        };
        Ok(Self(markup))
    }
}

/// The whole message.
pub(crate) fn build(report: &Report, title: Option<&str>, mention: Option<&Mention>) -> Json {
    let subject = title.map_or_else(|| report.subject(), str::to_owned);
    let headline = format!(
        "{} {subject} {}",
        sign(report.outcome),
        report.outcome.as_str()
    );
    let mut blocks = vec![json!({
        "type": "header",
        "text": {"type": "plain_text", "text": shorten(&headline, HEADER), "emoji": true},
    })];
    if let Some(Mention(markup)) = mention.filter(|_| report.outcome.is_failure()) {
        blocks.push(section(markup));
    }
    for step in report.failures().take(ERRORS) {
        let error = step.error.as_deref().unwrap_or("no reason was given");
        blocks.push(section(&failure(&step.title(), error)));
    }
    if let Some(reason) = report.reason() {
        let what = reason.step.as_deref().unwrap_or("The run");
        blocks.push(section(&failure(what, &reason.message)));
    }
    let more = report.failures().count().saturating_sub(ERRORS);
    if more > 0 {
        blocks.push(section(&format!("and {more} more failed")));
    }
    if let Some(rollback) = report.rollback.as_ref().filter(|it| !it.targets.is_empty()) {
        let lines: Vec<String> = rollback
            .targets
            .iter()
            .map(|target| format!("• {}", escape(&target.line())))
            .collect();
        blocks.extend(sections("*Rolled back*", &lines));
    }
    let lines: Vec<String> = report.steps.iter().map(step_line).collect();
    if !lines.is_empty() {
        blocks.extend(sections("*Steps*", &lines));
    }
    if let Some(link) = report.http_link() {
        blocks.push(section(&format!("<{}|Open the CI job>", link_escape(link))));
    }
    // Room for the last block, which says which run it was.
    blocks.truncate(BLOCKS - 1);
    blocks.push(json!({"type": "context", "elements": [mrkdwn(&footer(report))]}));

    let mut fallback = escape(&headline);
    if let Some(step) = report.failures().next() {
        fallback.push_str(&format!(": {}", escape(&step.title())));
    }
    json!({"text": fallback, "blocks": blocks})
}

fn failure(what: &str, error: &str) -> String {
    // A fence within the fence would end it.
    let error = error.trim().replace("```", "'''");
    let title = format::head(what, HEADER);
    format!(
        "*{}* failed\n```{}```",
        escape(&title),
        shorten(&error, ERROR)
    )
}

fn step_line(step: &Step) -> String {
    let sign = match step.state {
        State::Succeeded => ":white_check_mark:",
        State::Failed => ":x:",
        State::Skipped => ":fast_forward:",
        State::Cancelled => ":no_entry_sign:",
        State::Tolerated => ":warning:",
        State::Reused => ":recycle:",
        State::Other => ":grey_question:",
    };
    let title = escape(&step.title());
    match step.state {
        State::Succeeded | State::Failed => {
            format!("{sign} {title} · {}", format::elapsed(step.duration_ms))
        }
        state => format!("{sign} {title} · {}", state.as_str()),
    }
}

fn footer(report: &Report) -> String {
    let mut parts = vec![format!("took {}", format::elapsed(report.duration_ms))];
    for (name, value) in [
        ("tag", report.tag.as_str()),
        ("commit", report.short_commit()),
        ("branch", report.branch.as_str()),
        ("release", report.release.as_deref().unwrap_or_default()),
        ("run", report.run.as_str()),
    ] {
        if !value.is_empty() {
            parts.push(format!("{name} {}", escape(value)));
        }
    }
    format::head(&parts.join(" · "), SECTION)
}

/// Lines under a title, in as many sections as their length needs.
fn sections(title: &str, lines: &[String]) -> Vec<Json> {
    let mut blocks = Vec::new();
    let mut text = title.to_owned();
    for line in lines {
        let line = format::head(line, SECTION / 2);
        if text.chars().count() + line.chars().count() + 1 > SECTION {
            blocks.push(section(&text));
            text = line;
        } else {
            text.push('\n');
            text.push_str(&line);
        }
    }
    blocks.push(section(&text));
    blocks
}

/// Every text here is bounded by whoever makes it; this is the last guard.
fn section(text: &str) -> Json {
    json!({"type": "section", "text": mrkdwn(&format::head(text, SECTION))})
}

/// `verbatim`: names of channels and people in plain text stay plain text.
fn mrkdwn(text: &str) -> Json {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

/// The three characters that Slack's markup is made of; without them nothing
/// in the text can mention anybody or be a link.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Escaped text of at most `max` characters, not cut within an escape.
fn shorten(text: &str, max: usize) -> String {
    let mut escaped = String::new();
    let mut length = 0;
    for char in text.chars() {
        let next = match char {
            '&' | '<' | '>' => escape(&char.to_string()),
            char => char.to_string(),
        };
        length += next.chars().count();
        if length >= max {
            escaped.push('…');
            break;
        }
        escaped.push_str(&next);
    }
    escaped
}

/// Within `<URL|text>`.
fn link_escape(url: &str) -> String {
    url.replace('&', "&amp;")
        .replace('<', "%3C")
        .replace('>', "%3E")
        .replace('|', "%7C")
}

fn sign(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "✅",
        Outcome::Failed => "❌",
        Outcome::RolledBack => "↩️",
        Outcome::Cancelled => "🚫",
    }
}

#[cfg(test)]
mod tests {
    use windlass_sdk::report::Report;

    use super::{Mention, build};

    fn report(outcome: &str, error: &str, steps: usize) -> Report {
        let mut json = serde_json::json!({
            "run": "0190", "pipeline": "observer", "environment": "prod", "tag": "t1",
            "commit": "0123456789abcdef", "branch": "main", "outcome": outcome,
            "duration_ms": 65_000, "link": "https://ci.example.com/1?a=1&b=2|x",
            "rollback": {"targets": [{"target": "prod_1", "release": "t0", "outcome": "restored"}]},
            "steps": [],
        });
        let list = json["steps"].as_array_mut().unwrap();
        for index in 0..steps {
            let state = if index == 0 && outcome != "succeeded" {
                "failed"
            } else {
                "succeeded"
            };
            list.push(serde_json::json!({
                "name": format!("step_{index}"), "target": "prod_1", "state": state,
                "duration_ms": 1_500, "error": (state == "failed").then_some(error),
            }));
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_failure_says_what_why_and_how_long() {
        let message = build(&report("failed", "no route to host", 2), None, None);
        assert_eq!(
            message["text"],
            "❌ observer to prod failed: step_0 on prod_1"
        );
        let blocks = message["blocks"].as_array().unwrap();
        assert_eq!(blocks[0]["text"]["text"], "❌ observer to prod failed");
        assert_eq!(
            blocks[1]["text"]["text"],
            "*step_0 on prod_1* failed\n```no route to host```"
        );
        assert_eq!(
            blocks[2]["text"]["text"],
            "*Rolled back*\n• prod_1: t0 restored"
        );
        assert_eq!(
            blocks[3]["text"]["text"],
            "*Steps*\n:x: step_0 on prod_1 · 1.5 s\n:white_check_mark: step_1 on prod_1 · 1.5 s"
        );
        assert_eq!(
            blocks[4]["text"]["text"],
            "<https://ci.example.com/1?a=1&amp;b=2%7Cx|Open the CI job>"
        );
        assert_eq!(
            blocks[5]["elements"][0]["text"],
            "took 1 m 05 s · tag t1 · commit 0123456789 · branch main · run 0190"
        );
    }

    #[test]
    fn nobody_is_mentioned_by_accident() {
        let hostile = "<!channel> <@U1> ``` <https://evil|ok> & @here";
        let message = build(&report("failed", hostile, 1), Some("<!here>"), None);
        let text = message.to_string();
        assert!(!text.contains("<!") && !text.contains("<@") && !text.contains("<https://evil"));
        let section = message["blocks"][1]["text"].as_object().unwrap();
        assert_eq!(section["verbatim"], true);
        assert_eq!(
            section["text"],
            "*step_0 on prod_1* failed\n```&lt;!channel&gt; &lt;@U1&gt; ''' &lt;https://evil|ok&gt; &amp; @here```"
        );
    }

    #[test]
    fn mentions_are_for_failures() {
        let mention = Mention::parse("here").unwrap();
        let failed = build(&report("failed", "x", 1), None, Some(&mention)).to_string();
        assert!(failed.contains("<!here>"));
        let fine = build(&report("succeeded", "x", 1), None, Some(&mention)).to_string();
        assert!(!fine.contains("<!here>"));
        assert_eq!(Mention::parse("U012AB").unwrap().0, "<@U012AB>");
        assert_eq!(Mention::parse("S012AB").unwrap().0, "<!subteam^S012AB>");
        for bad in ["@here", "bob", "U1>", "<!here>", ""] {
            assert!(Mention::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slacks_limits_hold() {
        let message = build(&report("failed", &"<".repeat(50_000), 2_000), None, None);
        let blocks = message["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        for block in blocks {
            if let Some(text) = block["text"]["text"].as_str() {
                assert!(text.chars().count() <= 3_000);
            }
        }
        assert!(
            blocks[1]["text"]["text"]
                .as_str()
                .unwrap()
                .ends_with("&lt;…```")
        );
        assert_eq!(blocks.last().unwrap()["type"], "context");
    }
}
