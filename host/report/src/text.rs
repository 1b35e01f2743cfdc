//! Durations, outputs and labels as people read them.

use serde_json::Value;
use windlass_model::StepKey;

use crate::clean::clean_line;

/// Hexadecimal digits of a digest that are shown.
const DIGEST_DIGITS: usize = 12;

/// Characters of a commit that are shown.
const COMMIT_DIGITS: usize = 7;

/// `350 ms`, `4.2 s`, `1 m 03 s`, `2 h 05 m`. Never rounded up: a step that
/// took 59.99 s did not take a minute.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Since the run began, for the edge of a log: always in seconds below a
/// minute.
pub(crate) fn offset(ms: u64) -> String {
    if ms < 60_000 {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    } else {
        duration(ms)
    }
}

/// Digests cut to twelve digits.
pub fn shorten(text: &str) -> String {
    const PREFIX: &str = "sha256:";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PREFIX) {
        let (before, digest) = rest.split_at(at + PREFIX.len());
        out.push_str(before);
        let digits = digest
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digest.len());
        let shown = if digits == 64 { DIGEST_DIGITS } else { digits };
        out.push_str(&digest[..shown]);
        rest = &digest[digits..];
    }
    out.push_str(rest);
    out
}

/// Whether an output says nothing: showing its name alone would look torn.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// An output on one line.
pub fn output(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    shorten(&clean_line(&text))
}

/// A commit as people know it.
pub fn commit(commit: &str) -> &str {
    commit.get(..COMMIT_DIGITS).unwrap_or(commit)
}

/// `deploy@prod_1`, clean.
pub(crate) fn label(step: &StepKey) -> String {
    clean_line(&step.to_string()).into_owned()
}

/// `1 step`, `2 steps`
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (4250, "4.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1 m 00 s"),
            (63_400, "1 m 03 s"),
            (3_599_999, "59 m 59 s"),
            (3_720_000, "1 h 02 m"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn digests_are_cut() {
        let digest = "ab12".repeat(16);
        assert_eq!(
            shorten(&format!("a/b@sha256:{digest}, sha256:{digest}x sha256:12")),
            "a/b@sha256:ab12ab12ab12, sha256:ab12ab12ab12x sha256:12"
        );
        assert_eq!(output(&serde_json::json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(output(&serde_json::json!("a\n\u{1b}[1mb")), "a b");
    }
}
