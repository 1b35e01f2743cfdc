//! The message: one embed
//! (<https://docs.discord.com/developers/resources/message#embed-object>).

use serde_json::{Value as Json, json};
use windlass_sdk::report::{Outcome, Report, State, Step};
use windlass_sdk::{Error, format};

/// Discord's limits, in characters; an embed may have 6000 in all.
const TITLE: usize = 256;
const DESCRIPTION: usize = 4_096;
const FIELD_NAME: usize = 256;
const FIELD: usize = 1_024;
const TOTAL: usize = 6_000;
/// Fields of one embed.
const FIELDS: usize = 25;
/// Failed steps whose errors are shown.
const ERRORS: usize = 3;
/// The steps' list leaves room for errors, roll-back, footer and title.
const STEPS: usize = 1_200;
const FOOTER: usize = 500;

/// Somebody whom the manifest wants to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mention {
    Here,
    Everyone,
    Role(String),
    User(String),
}

impl Mention {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        match text.split_once(':') {
            None if text == "here" => Ok(Self::Here),
            None if text == "everyone" => Ok(Self::Everyone),
            Some(("role", role)) if id(role) => Ok(Self::Role(role.to_owned())),
            Some(("user", user)) if id(user) => Ok(Self::User(user.to_owned())),
            _ => Err(Error::invalid(
                "discord-notify.mention",
                format!("`mention` is {text:?}, which Discord cannot mention"),
            )
            .with_hint("use here, everyone, role:ID or user:ID; developer mode has \"Copy ID\"")),
        }
    }

    fn content(&self) -> String {
        match self {
            Self::Here => "@here".to_owned(),
            Self::Everyone => "@everyone".to_owned(),
            Self::Role(id) => format!("<@&{id}>"),
            Self::User(id) => format!("<@{id}>"),
        }
    }

    /// Names exactly what may be mentioned, whatever the text contains.
    fn allowed(&self) -> Json {
        match self {
            Self::Here | Self::Everyone => json!({"parse": ["everyone"]}),
            Self::Role(id) => json!({"parse": [], "roles": [id]}),
            Self::User(id) => json!({"parse": [], "users": [id]}),
        }
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
    let headline = format::head(&escape(&headline), TITLE);
    let footer = format::head(&footer(report), FOOTER);
    let description = steps(&report.steps);
    let mut room = TOTAL - length(&headline) - length(&footer) - length(&description);

    let mut fields = Vec::new();
    let mut add = |name: String, value: String| {
        let name = format::head(&name, FIELD_NAME);
        let value = format::head(&value, FIELD);
        let needs = length(&name) + length(&value);
        if needs <= room && fields.len() < FIELDS {
            room -= needs;
            fields.push(json!({"name": name, "value": value}));
        }
    };
    for step in report.failures().take(ERRORS) {
        let error = step.error.as_deref().unwrap_or("no reason was given");
        add(format!("{} failed", escape(&step.title())), fenced(error));
    }
    if let Some(reason) = report.reason() {
        let what = reason.step.as_deref().unwrap_or("The run");
        add(format!("{} failed", escape(what)), fenced(&reason.message));
    }
    let more = report.failures().count().saturating_sub(ERRORS);
    if more > 0 {
        add("more".to_owned(), format!("{more} more failed"));
    }
    if let Some(rollback) = report.rollback.as_ref().filter(|it| !it.targets.is_empty()) {
        let lines: Vec<String> = rollback
            .targets
            .iter()
            .map(|target| escape(&target.line()))
            .collect();
        add("rolled back".to_owned(), lines.join("\n"));
    }

    let mut embed = json!({
        "title": headline,
        "description": description,
        "color": colour(report.outcome),
        "fields": fields,
        "footer": {"text": footer},
    });
    if !report.started.is_empty() {
        embed["timestamp"] = report.started.clone().into();
    }
    if let Some(link) = report.http_link() {
        embed["url"] = link.into();
    }
    let mut message = json!({"embeds": [embed], "allowed_mentions": {"parse": []}});
    if let Some(mention) = mention.filter(|_| report.outcome.is_failure()) {
        message["content"] = mention.content().into();
        message["allowed_mentions"] = mention.allowed();
    }
    message
}

/// A line a step, as many as fit.
fn steps(steps: &[Step]) -> String {
    let mut text = String::new();
    for (index, step) in steps.iter().enumerate() {
        let line = format::head(&step_line(step), DESCRIPTION / 8);
        if length(&text) + length(&line) > STEPS {
            text.push_str(&format!("… and {} more", steps.len() - index));
            break;
        }
        text.push_str(&line);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

fn step_line(step: &Step) -> String {
    let sign = match step.state {
        State::Succeeded => "✅",
        State::Failed => "❌",
        State::Skipped => "⏩",
        State::Cancelled => "🚫",
        State::Tolerated => "⚠️",
        State::Reused => "♻️",
        State::Other => "❔",
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
            parts.push(format!("{name} {value}"));
        }
    }
    parts.join(" · ")
}

/// A code block; a fence within it would end it.
fn fenced(text: &str) -> String {
    const FENCES: usize = 8;
    let text = text.trim().replace("```", "'''");
    format!("```\n{}\n```", format::head(&text, FIELD - FENCES))
}

/// Takes its meaning from every character of Discord's Markdown.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if matches!(
            char,
            '\\' | '*' | '_' | '~' | '`' | '|' | '>' | '<' | '[' | ']' | '@' | '#'
        ) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn colour(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Succeeded => 0x2e_a0_43,
        Outcome::Failed | Outcome::RolledBack => 0xd7_3a_49,
        Outcome::Cancelled => 0x6a_73_7d,
    }
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
    use serde_json::{Value as Json, json};
    use windlass_sdk::report::Report;

    use super::{Mention, build};

    fn report(outcome: &str, error: &str, steps: usize, failed: usize) -> Report {
        let steps: Vec<Json> = (0..steps)
            .map(|index| {
                let state = if index < failed {
                    "failed"
                } else {
                    "succeeded"
                };
                json!({
                    "name": format!("step_{index}"), "target": null, "state": state,
                    "duration_ms": 1_500, "error": (index < failed).then_some(error),
                })
            })
            .collect();
        serde_json::from_value(json!({
            "run": "0190", "pipeline": "observer", "environment": "prod", "tag": "t1",
            "commit": "0123456789abcdef", "branch": "main", "outcome": outcome,
            "started": "2026-01-24T01:46:58Z", "duration_ms": 65_000,
            "link": "https://ci.example.com/1", "steps": steps,
            "rollback": {"targets": [{"target": "prod_1", "release": "t0", "outcome": "restored"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_failure_says_what_why_and_how_long() {
        let message = build(&report("rolled-back", "no route to host", 2, 1), None, None);
        let embed = &message["embeds"][0];
        assert_eq!(embed["title"], "↩️ observer to prod failed and rolled back");
        assert_eq!(embed["url"], "https://ci.example.com/1");
        assert_eq!(
            embed["description"],
            "❌ step\\_0 · 1.5 s\n✅ step\\_1 · 1.5 s"
        );
        assert_eq!(
            embed["fields"],
            json!([
                {"name": "step\\_0 failed", "value": "```\nno route to host\n```"},
                {"name": "rolled back", "value": "prod\\_1: t0 restored"},
            ])
        );
        assert_eq!(
            embed["footer"]["text"],
            "took 1 m 05 s · tag t1 · commit 0123456789 · branch main · run 0190"
        );
        assert_eq!(message["allowed_mentions"], json!({"parse": []}));
        assert!(message.get("content").is_none());
    }

    #[test]
    fn mentions_are_named_one_by_one() {
        let failed = report("failed", "@everyone <@1>", 1, 1);
        for (mention, content, allowed) in [
            ("here", "@here", json!({"parse": ["everyone"]})),
            ("role:12", "<@&12>", json!({"parse": [], "roles": ["12"]})),
            ("user:7", "<@7>", json!({"parse": [], "users": ["7"]})),
        ] {
            let mention = Mention::parse(mention).unwrap();
            let message = build(&failed, None, Some(&mention));
            assert_eq!(message["content"], content);
            assert_eq!(message["allowed_mentions"], allowed);
        }
        let fine = build(&report("succeeded", "", 1, 0), None, Some(&Mention::Here));
        assert!(fine.get("content").is_none());
        for bad in ["@here", "role:", "role:x", "12", "user:1>"] {
            assert!(Mention::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn discords_limits_hold() {
        let message = build(
            &report("failed", &"`".repeat(50_000), 2_000, 40),
            Some(&"*".repeat(9_000)),
            None,
        );
        let embed = &message["embeds"][0];
        let count = |value: &Json| value.as_str().unwrap().chars().count();
        let mut total =
            count(&embed["title"]) + count(&embed["description"]) + count(&embed["footer"]["text"]);
        assert!(count(&embed["title"]) <= 256 && count(&embed["description"]) <= 4_096);
        let fields = embed["fields"].as_array().unwrap();
        assert!(fields.len() >= 4 && fields.len() <= 25);
        for field in fields {
            assert!(count(&field["name"]) <= 256 && count(&field["value"]) <= 1_024);
            assert!(
                field["value"].as_str().unwrap().ends_with("```") || count(&field["value"]) < 100
            );
            total += count(&field["name"]) + count(&field["value"]);
        }
        assert!(total <= 6_000, "{total}");
    }
}
