//! Messages to Slack and Discord, as their servers would get them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use windlass_tests::recorder::Reply;
use windlass_tests::windlass::Outcome;
use windlass_tests::{HttpRecorder, Workspace, require};

/// What makes a webhook's URL a secret.
const TOKEN: &str = "T00000000/B00000000/webhook-token-of-this-test";

const MANIFEST: &str = r#"
[pipeline]
name = "app"

[vars]
script = { env = "SCRIPT", default = "true" }

[run]
tag = "20260124-014658"

[environment.prod]
targets = ["local"]

[step.first]
uses = "ssh-run"
on = ["local"]
with = { argv = ["true"] }

[step.work]
uses = "ssh-run"
needs = ["first"]
on = ["local"]
with = { argv = ["sh", "-c", "{{ vars.script }}"] }

[step.after]
uses = "ssh-run"
needs = ["work"]
on = ["local"]
with = { argv = ["true"] }

[notify.slack]
uses = "slack-notify"
EVENTS
with = { webhook = { secret = "SLACK_WEBHOOK" } }

[notify.discord]
uses = "discord-notify"
EVENTS
with = { webhook = { secret = "DISCORD_WEBHOOK" } }
"#;

/// A project with both services to be told.
struct Told {
    slack: HttpRecorder,
    discord: HttpRecorder,
    workspace: Workspace,
}

impl Told {
    fn new(manifest: &str) -> Self {
        let slack = HttpRecorder::start().unwrap();
        // As Discord answers when it is not asked to wait.
        let discord = HttpRecorder::answering(|_| Reply::new(204, "")).unwrap();
        let manifest = manifest.replace("EVENTS\n", "");
        let mut workspace = Workspace::with_manifest(&manifest).unwrap();
        workspace.set_env("SLACK_WEBHOOK", slack.url(&format!("/services/{TOKEN}")));
        let discord_path = format!("/api/webhooks/1234567890/{TOKEN}");
        workspace.set_env("DISCORD_WEBHOOK", discord.url(&discord_path));
        Self {
            slack,
            discord,
            workspace,
        }
    }

    fn run(&self) -> Outcome {
        let outcome = self.workspace.windlass(["run", "--verbose"]).run().unwrap();
        self.assert_no_token(&outcome);
        outcome
    }

    /// Neither what a person sees nor what is kept has the webhook.
    fn assert_no_token(&self, outcome: &Outcome) {
        let logs = self.workspace.windlass(["logs", "last"]).run().unwrap();
        let show = self.workspace.windlass(["show", "last"]).run().unwrap();
        let journal = texts(&self.workspace.path().join(".windlass"));
        for text in [
            &outcome.to_string(),
            &logs.to_string(),
            &show.to_string(),
            &journal,
        ] {
            assert!(!text.contains("webhook-token-of-this-test"), "{text}");
        }
    }

    /// The one message to each, valid by the services' documents.
    #[track_caller]
    fn messages(&self) -> (Value, Value) {
        let mut messages = Vec::new();
        for (server, path) in [
            (&self.slack, format!("/services/{TOKEN}")),
            (&self.discord, format!("/api/webhooks/1234567890/{TOKEN}")),
        ] {
            let received = server.requests();
            assert_eq!(received.len(), 1, "{received:?}");
            let message = &received[0];
            assert_eq!((message.method.as_str(), &message.path), ("POST", &path));
            let kind = message.header("content-type").unwrap_or_default();
            assert!(kind.starts_with("application/json"), "{kind}");
            messages.push(message.json());
        }
        let discord = messages.pop().unwrap();
        let slack = messages.pop().unwrap();
        assert_slack(&slack);
        assert_discord(&discord);
        (slack, discord)
    }
}

fn texts(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&texts(&path));
        } else {
            text.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
    text
}

#[track_caller]
fn assert_within(text: &Value, most: usize) {
    let text = text.as_str().unwrap();
    let length = text.chars().count();
    assert!((1..=most).contains(&length), "{length} characters: {text}");
}

#[track_caller]
fn assert_keys(object: &Value, known: &[&str]) {
    for key in object.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "unknown key {key}: {object}");
    }
}

/// <https://docs.slack.dev/reference/block-kit/blocks>: a text for notifications, at
/// most 50 blocks, of the kinds and lengths that are documented.
#[track_caller]
fn assert_slack(message: &Value) {
    assert_keys(message, &["text", "blocks"]);
    assert_within(&message["text"], 4_000);
    let blocks = message["blocks"].as_array().unwrap();
    assert!((1..=50).contains(&blocks.len()));
    for block in blocks {
        match block["type"].as_str().unwrap() {
            "header" => {
                assert_keys(block, &["type", "text"]);
                assert_eq!(block["text"]["type"], "plain_text");
                assert_within(&block["text"]["text"], 150);
            }
            "section" => {
                assert_keys(block, &["type", "text"]);
                assert_keys(&block["text"], &["type", "text", "verbatim"]);
                assert_eq!(block["text"]["type"], "mrkdwn");
                assert_within(&block["text"]["text"], 3_000);
            }
            "context" => {
                let elements = block["elements"].as_array().unwrap();
                assert!((1..=10).contains(&elements.len()));
            }
            other => panic!("{other} is no block that was meant: {block}"),
        }
    }
}

/// <https://docs.discord.com/developers/resources/message#embed-object>, with its limits.
#[track_caller]
fn assert_discord(message: &Value) {
    assert_keys(message, &["content", "embeds", "allowed_mentions"]);
    let embeds = message["embeds"].as_array().unwrap();
    assert_eq!(embeds.len(), 1);
    let embed = &embeds[0];
    let keys = [
        "title",
        "description",
        "url",
        "timestamp",
        "color",
        "footer",
        "fields",
    ];
    assert_keys(embed, &keys);
    assert_within(&embed["title"], 256);
    assert_within(&embed["description"], 4_096);
    assert_within(&embed["footer"]["text"], 2_048);
    assert!(embed["color"].as_u64().unwrap() <= 0xff_ff_ff);
    let fields = embed["fields"].as_array().unwrap();
    assert!(fields.len() <= 25);
    let mut total = 0;
    for field in fields {
        assert_within(&field["name"], 256);
        assert_within(&field["value"], 1_024);
        for key in ["name", "value"] {
            total += field[key].as_str().unwrap().chars().count();
        }
    }
    for text in [
        &embed["title"],
        &embed["description"],
        &embed["footer"]["text"],
    ] {
        total += text.as_str().unwrap().chars().count();
    }
    assert!(total <= 6_000, "{total} characters in all");
    // Without it every @everyone in a text would be one.
    assert!(message["allowed_mentions"]["parse"].is_array());
}

#[test]
fn a_success_is_told() {
    require!(Git, Windlass);
    let told = Told::new(MANIFEST);
    let outcome = told.run();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let (slack, discord) = told.messages();
    assert_eq!(slack["text"], "✅ app to prod succeeded");
    assert_eq!(discord["embeds"][0]["title"], "✅ app to prod succeeded");
    for text in [slack.to_string(), discord.to_string()] {
        for part in ["first on local", "work on local", "20260124-014658", "main"] {
            assert!(text.contains(part), "no {part:?}: {text}");
        }
    }
    assert_eq!(discord["allowed_mentions"]["parse"], serde_json::json!([]));
}

#[test]
fn a_failure_says_what_and_why_and_links_to_the_job() {
    require!(Git, Windlass);
    let mut told = Told::new(MANIFEST);
    for (name, value) in [
        ("SCRIPT", "echo 'no space left on /srv' >&2; exit 9"),
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_REPOSITORY", "acme/app"),
        ("GITHUB_RUN_ID", "42"),
    ] {
        told.workspace.set_env(name, value);
    }
    let outcome = told.run();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let (slack, discord) = told.messages();
    assert_eq!(slack["text"], "❌ app to prod failed: work on local");
    let embed = &discord["embeds"][0];
    assert_eq!(embed["url"], "https://github.com/acme/app/actions/runs/42");
    assert_eq!(embed["fields"][0]["name"], "work on local failed");
    for text in [slack.to_string(), discord.to_string()] {
        for part in [
            "exited with 9",
            "no space left on /srv",
            "after on local · skipped",
            "https://github.com/acme/app/actions/runs/42",
        ] {
            assert!(text.contains(part), "no {part:?}: {text}");
        }
    }
}

#[test]
fn nobody_is_mentioned_by_a_branch_or_an_error() {
    require!(Git, Windlass);
    let mut told = Told::new(MANIFEST);
    told.workspace
        .git([
            "switch",
            "--quiet",
            "--create",
            "<!channel>-@everyone-<@U012AB3CD>",
        ])
        .unwrap();
    let script = r#"printf '%s\n' '<!here> @here <@&123456> ``` *bold* <https://evil.example|fine> & @everyone' >&2; exit 1"#;
    told.workspace.set_env("SCRIPT", script);
    let outcome = told.run();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let (slack, discord) = told.messages();
    let text = slack.to_string();
    for markup in ["<!", "<@", "<http"] {
        assert!(!text.contains(markup), "{markup} in {text}");
    }
    assert!(text.contains("&lt;!here&gt;"), "{text}");
    assert_eq!(discord["content"], Value::Null);
    assert_eq!(
        discord["allowed_mentions"],
        serde_json::json!({ "parse": [] })
    );
    // Three fences: the two of the block, none in it.
    let value = discord["embeds"][0]["fields"][0]["value"].as_str().unwrap();
    assert_eq!(value.matches("```").count(), 2, "{value}");
}

#[test]
fn a_long_error_is_shortened() {
    require!(Git, Windlass);
    let mut told = Told::new(MANIFEST);
    told.workspace.set_env(
        "SCRIPT",
        "for i in $(seq 400); do echo \"<line $i> $(seq -s ' ' 40)\" >&2; done; exit 1",
    );
    let outcome = told.run();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    told.messages();
}

#[test]
fn a_run_that_fails_before_its_first_step_is_told_with_the_reason() {
    require!(Git, Windlass);
    let port = windlass_tests::registry::free_port([127, 0, 0, 1].into()).unwrap();
    let manifest = MANIFEST
        .replace("[\"local\"]", "[\"box\"]")
        .replace(
            "[environment.prod]",
            &format!(
                "[target.box]\nssh = \"deploy@127.0.0.1:{port}\"\nknown_hosts = {{ text = \"\" }}\nconnect_timeout = \"5s\"\n[environment.prod]"
            ),
        );
    let told = Told::new(&manifest);
    let outcome = told.run();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let (slack, discord) = told.messages();
    for text in [slack.to_string(), discord.to_string()] {
        assert!(text.contains("cannot be reached"), "{text}");
    }
}

#[test]
fn only_the_events_that_are_wanted_are_told() {
    require!(Git, Windlass);
    let failed = MANIFEST.replace("EVENTS", "events = [\"failed\"]");
    let told = Told::new(&failed);
    assert_eq!(told.run().code, Some(0));
    assert_eq!(told.slack.requests(), []);
    assert_eq!(told.discord.requests(), []);
}

#[test]
fn a_cancel_is_told_when_it_is_wanted() {
    require!(Git, Windlass);
    for wanted in [true, false] {
        let events = if wanted {
            MANIFEST.replace("EVENTS", "events = [\"cancelled\"]")
        } else {
            MANIFEST.to_owned()
        };
        let mut told = Told::new(&events);
        told.workspace
            .set_env("SCRIPT", "echo it is under way; sleep 60");
        let mut running = told
            .workspace
            .windlass(["run", "--verbose"])
            .spawn()
            .unwrap();
        assert!(running.wait_for("it is under way", Duration::from_secs(20)));
        running.signal("TERM");
        let outcome = running.wait().unwrap();
        assert_eq!(outcome.code, Some(130), "{outcome}");
        assert!(outcome.took < Duration::from_secs(20), "{outcome}");
        if wanted {
            let (slack, discord) = told.messages();
            assert_eq!(slack["text"], "🚫 app to prod cancelled");
            assert_eq!(discord["embeds"][0]["title"], "🚫 app to prod cancelled");
        } else {
            assert_eq!(told.slack.requests(), []);
        }
    }
}

#[test]
fn a_failing_notification_never_fails_a_run() {
    require!(Git, Windlass);
    for (slack, says) in [
        (
            Reply::new(404, "no_service"),
            "the webhook or its channel is gone",
        ),
        (Reply::new(403, "invalid_token"), "403"),
        (Reply::new(400, "invalid_blocks"), "400"),
        (Reply::new(500, "server error <!channel>"), "500"),
        (Reply::hang_up(), ""),
    ] {
        let mut told = Told::new(MANIFEST);
        told.slack = HttpRecorder::script([slack]).unwrap();
        let url = told.slack.url(&format!("/services/{TOKEN}"));
        told.workspace.set_env("SLACK_WEBHOOK", url);
        let outcome = told.run();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.says("slack"), "{outcome}");
        let _ = says;
        // The other one is told all the same.
        assert_eq!(told.discord.requests().len(), 1);
    }
    // Nobody listens, and no URL at all.
    for webhook in [
        format!("http://127.0.0.1:1/services/{TOKEN}"),
        format!("webhook without a scheme {TOKEN}"),
    ] {
        let mut told = Told::new(MANIFEST);
        told.workspace.set_env("SLACK_WEBHOOK", webhook);
        let outcome = told.run();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.says("slack"), "{outcome}");
        assert_eq!(told.discord.requests().len(), 1);
    }
}

#[test]
fn a_service_that_asks_to_wait_is_waited_for() {
    require!(Git, Windlass);
    let mut told = Told::new(MANIFEST);
    let wait = Reply::new(429, "").header("retry-after", "1");
    told.slack = HttpRecorder::script([wait, Reply::new(200, "ok")]).unwrap();
    let url = told.slack.url(&format!("/services/{TOKEN}"));
    told.workspace.set_env("SLACK_WEBHOOK", url);
    let outcome = told.run();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let received = told.slack.requests();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].body, received[1].body);
    assert!(outcome.took > Duration::from_secs(1), "{outcome}");
}
