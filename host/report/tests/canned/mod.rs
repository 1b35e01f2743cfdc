//! A run that was not: for tests and for looking at reporters.

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use windlass_model::backend::LogStream;
use windlass_model::event::{
    Envelope, Event, Level, Outcome, RunFinished, RunStarted, Severity, StepNode, StepState,
};
use windlass_model::{CallError, RunId, StepKey, StepName, TargetName};

pub(crate) fn digest(seed: &str) -> String {
    seed.repeat(64 / seed.len())
}

pub(crate) fn step(name: &str) -> StepKey {
    StepKey::new(name, None)
}

pub(crate) fn at(name: &str, target: &str) -> StepKey {
    StepKey::new(name, Some(TargetName::from(target)))
}

fn node(name: &str, uses: &str, needs: &[&str], targets: &[&str]) -> StepNode {
    StepNode {
        name: StepName::from(name),
        uses: uses.into(),
        needs: needs.iter().map(|need| StepName::from(*need)).collect(),
        targets: targets
            .iter()
            .map(|target| TargetName::from(*target))
            .collect(),
    }
}

pub(crate) fn steps() -> Vec<StepNode> {
    let both = ["prod_1", "prod_2"];
    vec![
        node("build", "docker-build", &[], &[]),
        node("lint", "docker-run", &[], &[]),
        node("verify", "image-check", &["build"], &[]),
        node("push", "docker-push", &["build", "verify"], &[]),
        node("deploy", "compose-deploy", &["lint", "push"], &both),
        node("health", "http-probe", &["deploy"], &both),
        node("tag", "git-tag", &["health"], &[]),
    ]
}

pub(crate) fn started() -> Event {
    Event::RunStarted(Box::new(RunStarted {
        run: RunId(uuid::Uuid::from_u128(
            0x0190_8a11_c0de_7000_8000_1a2b_3c4d_5e6f,
        )),
        windlass: "0.1.0".into(),
        pipeline: "observer".into(),
        environment: "prod".into(),
        tag: "20260124-014658".into(),
        commit: "c0ffee1234567890c0ffee1234567890c0ffee12".into(),
        branch: "main".into(),
        dirty: false,
        steps: steps(),
        targets: vec![TargetName::from("prod_1"), TargetName::from("prod_2")],
        link: Some("https://ci.example.com/acme/observer/42".into()),
        who: "ann@laptop".into(),
    }))
}

pub(crate) fn finished_step(
    step: StepKey,
    state: StepState,
    duration_ms: u64,
    outputs: &[(&str, Value)],
) -> Event {
    let outputs: IndexMap<String, Value> = outputs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Event::StepFinished {
        step,
        state,
        duration_ms,
        outputs,
        error: None,
        reason: None,
    }
}

fn skipped(step: StepKey, reason: &str) -> Event {
    Event::StepFinished {
        step,
        state: StepState::Skipped,
        duration_ms: 0,
        outputs: IndexMap::new(),
        error: None,
        reason: Some(reason.into()),
    }
}

fn failed(step: StepKey, duration_ms: u64, error: CallError) -> Event {
    Event::StepFinished {
        step,
        state: StepState::Failed,
        duration_ms,
        outputs: IndexMap::new(),
        error: Some(error),
        reason: None,
    }
}

pub(crate) fn log(step: &StepKey, text: &str) -> Event {
    Event::StepLog {
        step: step.clone(),
        level: Level::Info,
        stream: Some(LogStream::Stdout),
        text: text.into(),
    }
}

pub(crate) fn start(step: &StepKey) -> Event {
    Event::StepStarted {
        step: step.clone(),
        attempt: 1,
    }
}

/// Numbers them, at milliseconds since the start.
pub(crate) fn envelopes(mut events: Vec<(u64, Event)>) -> Vec<Envelope> {
    // Steps that run at the same time take turns.
    events.sort_by_key(|(ms, _)| *ms);
    let begin = 1_769_219_218_000_i64;
    events
        .into_iter()
        .enumerate()
        .map(|(index, (ms, event))| Envelope {
            number: index as u64 + 1,
            at: Timestamp::from_millisecond(begin + i64::try_from(ms).expect("small"))
                .expect("time"),
            event,
        })
        .collect()
}

/// Build to push, as every canned run begins.
fn beginning() -> Vec<(u64, Event)> {
    let (build, lint, verify, push) = (step("build"), step("lint"), step("verify"), step("push"));
    vec![
        (0, started()),
        (
            120,
            Event::Finding {
                step: push.clone(),
                severity: Severity::Warning,
                message: "the token for ghcr.io expires in 3 days".into(),
                hint: Some("renew GHCR_TOKEN".into()),
            },
        ),
        (200, start(&build)),
        (200, start(&lint)),
        (300, log(&lint, "checking 14 files")),
        (400, log(&build, "#1 [internal] load build definition")),
        (900, log(&build, "#5 [2/3] COPY observer /")),
        (1400, log(&lint, "14 files are fine")),
        (1500, finished_step(lint, StepState::Succeeded, 1300, &[])),
        (3900, log(&build, "#6 exporting to image")),
        (
            4400,
            finished_step(
                build,
                StepState::Succeeded,
                4200,
                &[("image", json!(format!("sha256:{}", digest("ab12cd34"))))],
            ),
        ),
        (4400, start(&verify)),
        (
            4500,
            Event::StepProgress {
                step: verify.clone(),
                message: "waiting for healthy".into(),
                done: 1,
                total: 3,
            },
        ),
        (6500, finished_step(verify, StepState::Succeeded, 2100, &[])),
        (6500, start(&push)),
        (
            7000,
            Event::StepRetried {
                step: push.clone(),
                attempt: 1,
                error: CallError::unavailable(
                    "registry.down",
                    "ghcr.io answered 503 to the upload",
                ),
                delay_ms: 500,
            },
        ),
        (
            7500,
            Event::StepStarted {
                step: push.clone(),
                attempt: 2,
            },
        ),
        (
            8300,
            finished_step(
                push,
                StepState::Succeeded,
                1800,
                &[
                    (
                        "ref",
                        json!(format!("ghcr.io/acme/observer@sha256:{}", digest("99aa"))),
                    ),
                    ("digest", json!(format!("sha256:{}", digest("99aa")))),
                ],
            ),
        ),
    ]
}

pub(crate) fn good() -> Vec<Envelope> {
    let mut events = beginning();
    let mut now = 8300;
    for target in ["prod_1", "prod_2"] {
        let (deploy, health) = (at("deploy", target), at("health", target));
        events.extend([
            (now, start(&deploy)),
            (
                now + 400,
                log(&deploy, "Container observer-observer-1  Started"),
            ),
            (
                now + 2300,
                finished_step(
                    deploy,
                    StepState::Succeeded,
                    2300,
                    &[
                        ("release", json!("20260124-014658")),
                        ("changed", json!(true)),
                    ],
                ),
            ),
            (now + 2300, start(&health)),
            (
                now + 2500,
                finished_step(health, StepState::Succeeded, 200, &[("status", json!(200))]),
            ),
        ]);
        now += 100;
    }
    let tag = step("tag");
    events.extend([
        (now + 2600, start(&tag)),
        (
            now + 2700,
            Event::StepFinished {
                step: tag,
                state: StepState::Tolerated,
                duration_ms: 100,
                outputs: IndexMap::new(),
                error: Some(CallError::denied(
                    "git.push",
                    "origin refuses the tag 20260124-014658",
                )),
                reason: None,
            },
        ),
        (
            now + 2900,
            Event::NotificationFinished {
                name: StepName::from("slack"),
                error: None,
                duration_ms: 180,
            },
        ),
        (
            now + 2900,
            Event::RunFinished(Box::new(RunFinished {
                outcome: Outcome::Succeeded,
                error: None,
                failed_step: None,
                releases: vec![
                    (TargetName::from("prod_1"), "20260124-014658".into()),
                    (TargetName::from("prod_2"), "20260124-014658".into()),
                ],
                duration_ms: now + 2900,
                exit_code: 0,
            })),
        ),
    ]);
    envelopes(events)
}

pub(crate) fn refused() -> CallError {
    CallError::invalid(
        "compose.invalid",
        "compose config on prod_2 refuses docker-compose.server.yml: yaml: line 7: mapping values \
         are not allowed in this context",
    )
    .hint("quote the value in line 7, or check that the file is the one you meant")
}

pub(crate) fn bad() -> Vec<Envelope> {
    let mut events = beginning();
    let (first, second) = (at("deploy", "prod_1"), at("deploy", "prod_2"));
    events.extend([
        (8300, start(&first)),
        (8300, start(&second)),
        (8700, log(&first, "Container observer-observer-1  Started")),
        (8800, log(&second, "staging 20260124-014658")),
        (8900, log(&second, "::error title=forged::pwned")),
        (
            8910,
            log(&second, "\u{1b}[31m##[set-env name=PATH]/evil\u{1b}[0m"),
        ),
        (
            8920,
            log(
                &second,
                "10 %\r50 %\r100 %\r\nyaml: line 7: mapping values are not allowed in this context",
            ),
        ),
        (9100, failed(second.clone(), 800, refused())),
        (
            10_600,
            finished_step(
                first,
                StepState::Succeeded,
                2300,
                &[("release", json!("20260124-014658"))],
            ),
        ),
        (
            10_600,
            skipped(at("health", "prod_1"), "deploy@prod_2 failed"),
        ),
        (
            10_600,
            skipped(at("health", "prod_2"), "deploy@prod_2 failed"),
        ),
        (10_600, skipped(step("tag"), "deploy@prod_2 failed")),
        (
            10_700,
            Event::RollbackStarted {
                targets: vec![TargetName::from("prod_1")],
                reason: "deploy@prod_2 failed".into(),
            },
        ),
        (
            12_200,
            Event::RollbackFinished {
                target: TargetName::from("prod_1"),
                release: Some("20260123-181500".into()),
                error: None,
                duration_ms: 1500,
            },
        ),
        (
            12_300,
            Event::NotificationFinished {
                name: StepName::from("slack"),
                error: Some(
                    CallError::not_found("http.404", "hooks.slack.com answered 404: no_service")
                        .hint("make a new webhook and store it as SLACK_WEBHOOK"),
                ),
                duration_ms: 90,
            },
        ),
        (
            12_300,
            Event::RunFinished(Box::new(RunFinished {
                outcome: Outcome::Failed,
                error: Some(refused()),
                failed_step: Some(second),
                releases: vec![(TargetName::from("prod_1"), "20260123-181500".into())],
                duration_ms: 12_300,
                exit_code: 1,
            })),
        ),
    ]);
    envelopes(events)
}
