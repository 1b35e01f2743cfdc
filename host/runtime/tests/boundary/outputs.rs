//! What a guest gives: outputs that fit, and no secrets.

use serde_json::json;
use windlass_model::{CallError, ErrorKind, Reply};
use windlass_tests::require;

use crate::support::{Answer, SECRET, failure, redactor, run, run_with, script};

#[tokio::test]
async fn an_undeclared_output_is_the_plugins_fault() {
    require!(Guests);
    let (finished, _) = run("undeclared").await;
    let error = failure(&finished);
    assert_eq!(error.code, "plugin.undeclared-output");
    assert_eq!(
        error.message,
        "plugin guest set output surprise, which it does not declare"
    );
}

#[tokio::test]
async fn an_output_has_its_declared_type() {
    require!(Guests);
    let (finished, _) = run("wrong_type").await;
    let error = failure(&finished);
    assert_eq!(error.code, "plugin.output-type");
    assert_eq!(
        error.message,
        "plugin guest set output number to \"seven\", which is no number"
    );
}

#[tokio::test]
async fn an_output_has_a_name() {
    require!(Guests);
    let (finished, _) = run("output_name").await;
    assert_eq!(failure(&finished).code, "context.output");
}

#[tokio::test]
async fn a_secret_is_a_handle() {
    require!(Guests);
    let config = json!({ "mode": "echo", "text": { "$secret": "TOKEN" } });
    let (finished, _) = run_with(config, script([])).await;
    let seen = finished.outputs["text"].as_str().unwrap_or_default();
    let seen: serde_json::Value = serde_json::from_str(seen).expect("JSON");
    assert_eq!(seen["text"], json!({ "$value": 0 }));
}

#[tokio::test]
async fn a_secret_is_no_output() {
    require!(Guests);
    let config = json!({ "mode": "secret_output", "text": { "$secret": "TOKEN" } });
    let (finished, _) = run_with(config, script([])).await;
    let error = failure(&finished);
    assert_eq!(error.kind, ErrorKind::Denied);
    assert_eq!(error.message, "output text holds a secret");
    assert!(finished.outputs.is_empty());
}

#[tokio::test]
async fn only_named_secrets_exist() {
    require!(Guests);
    let (finished, _) = run("unknown_secret").await;
    let error = failure(&finished);
    assert_eq!(error.kind, ErrorKind::Denied);
    assert_eq!(error.code, "secret.not-named");
}

#[tokio::test]
async fn a_denied_call_is_remembered() {
    require!(Guests);
    let denied = CallError::denied("grant.missing", "no");
    let stack = script([("secret.reveal", Answer::Error(denied.clone()))]);
    let config = json!({ "mode": "secret_log", "text": { "$secret": "TOKEN" } });
    let (finished, seen) = run_with(config, stack).await;
    assert_eq!(finished.denied, Some(denied));
    assert_eq!(seen.log(), []);
}

/// A guest that may read a secret prints it in every form: what leaves the
/// engine's redactor holds none of them.
#[tokio::test]
async fn a_revealed_secret_is_masked_in_what_is_said() {
    require!(Guests);
    let redactor = redactor();
    let reveal = Answer::Reply(Reply::Text(SECRET.to_owned()));
    for mode in ["secret_log", "secret_forms"] {
        let stack = script([("secret.reveal", reveal.clone())]);
        let config = json!({ "mode": mode, "text": { "$secret": "TOKEN" } });
        let (finished, seen) = run_with(config, stack).await;
        assert_eq!(finished.result, Ok(()), "{mode}");
        let log = seen.log();
        assert!(log.len() >= 3, "{mode}: {log:?}");
        for line in log.iter().map(|(_, line)| line).chain(&seen.progress()) {
            let clean = redactor.clean(line);
            assert!(
                clean.contains("[secret:TOKEN]"),
                "{mode}: {line} -> {clean}"
            );
            assert!(!clean.contains(SECRET), "{mode}: {line} -> {clean}");
        }
        for value in finished.outputs.values() {
            let clean = redactor.clean_json(value.clone()).to_string();
            assert!(!clean.contains(SECRET), "{clean}");
        }
    }
}
