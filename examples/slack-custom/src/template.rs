//! The message: text with names in braces.

use windlass_sdk::report::Report;
use windlass_sdk::{Error, format};

const NAMES: &[&str] = &[
    "pipeline",
    "environment",
    "tag",
    "commit",
    "branch",
    "outcome",
    "duration",
    "failed",
    "link",
];

/// Whether every name in braces is one that there is.
pub(crate) fn check(template: &str) -> Result<(), Error> {
    let unknown = names(template).find(|name| !NAMES.contains(name));
    unknown.map_or(Ok(()), |name| {
        Err(Error::invalid(
            "slack-custom.text",
            format!("with.text: there is no {{{name}}}"),
        )
        .with_hint(format!("use one of {}", NAMES.join(", "))))
    })
}

/// What stands in braces, first to last.
fn names(template: &str) -> impl Iterator<Item = &str> {
    template
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
}

pub(crate) fn fill(template: &str, report: &Report) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        // The template is the team's own; what it is filled with is not.
        out.push_str(&escape(&value(name, report)));
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn value(name: &str, report: &Report) -> String {
    match name {
        "pipeline" => report.pipeline.clone(),
        "environment" => report.environment.clone(),
        "tag" => report.tag.clone(),
        "commit" => report.short_commit().to_owned(),
        "branch" => report.branch.clone(),
        "outcome" => report.outcome.as_str().to_owned(),
        "duration" => format::elapsed(report.duration_ms),
        "failed" => report
            .failures()
            .map(|step| step.title())
            .collect::<Vec<_>>()
            .join(", "),
        "link" => report.http_link().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// Slack's three control characters; so nothing that a run says can mention
/// people (<https://docs.slack.dev/messaging/formatting-message-text>).
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{check, escape, names};

    #[test]
    fn names_stand_in_braces() {
        let found: Vec<&str> = names("{tag} of {pipeline} {").collect();
        assert_eq!(found, ["tag", "pipeline"]);
        assert!(check("{tag}").is_ok());
        let error = check("{tga}").expect_err("a slip");
        assert_eq!(error.message, "with.text: there is no {tga}");
    }

    #[test]
    fn nobody_is_mentioned_by_accident() {
        assert_eq!(escape("<!channel>"), "&lt;!channel&gt;");
    }
}
