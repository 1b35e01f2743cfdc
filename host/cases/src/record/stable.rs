//! Puts other names in place of those that only one run has, so that a recording says
//! what the run did and not which run it was.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value as Json, json};
use windlass_layers::scripted::Matcher;
use windlass_model::RunId;

/// In place of the run's id, where an answer has it.
const RUN: &str = "00000000-0000-7000-8000-000000000000";
/// What a container's id has in the short form that the docker command shows.
const SHORT_ID: usize = 12;

/// A pattern for scratch directories and other files with a random name.
fn temporary() -> Option<&'static Regex> {
    static FOUND: OnceLock<Option<Regex>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            Regex::new(r"(/tmp|/run/user/[0-9]+)/(wl|\.tmp|tmp\.)[A-Za-z0-9]{6,10}\b").ok()
        })
        .as_ref()
}

/// The time that a release's name begins with.
const RELEASE_TIME: &str = "20260124T014658Z-";

/// A pattern for it.
fn release_time() -> Option<&'static Regex> {
    static FOUND: OnceLock<Option<Regex>> = OnceLock::new();
    FOUND
        .get_or_init(|| Regex::new(r"\b20[0-9]{6}T[0-9]{6}Z-").ok())
        .as_ref()
}

/// Names that are replaced.
#[derive(Debug)]
pub(crate) struct Stable {
    run: String,
    short: String,
    /// Of containers: what it was called, what it is called now.
    names: Vec<(String, String)>,
}

impl Stable {
    pub(crate) fn new(run: RunId) -> Self {
        Self {
            run: run.to_string(),
            short: run.short(),
            names: Vec::new(),
        }
    }

    /// A container that a call made; also known by the beginning of its id.
    pub(crate) fn container(&mut self, id: &str) {
        let known = self.names.iter().any(|(name, _)| name == id);
        if known || id.len() < SHORT_ID || !id.is_ascii() {
            return;
        }
        let number = self.names.len() / 2 + 1;
        let beginning = format!("c{number:0width$}", width = SHORT_ID - 1);
        let whole = format!("{beginning:0<64}");
        self.names.push((id.to_owned(), whole));
        self.names.push((id[..SHORT_ID].to_owned(), beginning));
    }

    /// Containers and releases.
    fn names(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, now) in &self.names {
            if text.contains(name.as_str()) {
                text = text.replace(name.as_str(), now);
            }
        }
        match release_time() {
            Some(regex) => regex.replace_all(&text, RELEASE_TIME).into_owned(),
            None => text,
        }
    }

    /// A text that is answered or printed.
    pub(crate) fn text(&self, text: &str) -> String {
        let text = self.names(text).replace(&self.run, RUN);
        match temporary() {
            Some(regex) => regex.replace_all(&text, "/tmp/temporary").into_owned(),
            None => text,
        }
    }

    /// A value that is answered.
    pub(crate) fn json(&self, value: Json) -> Json {
        match value {
            Json::String(text) => self.text(&text).into(),
            Json::Array(list) => list.into_iter().map(|item| self.json(item)).collect(),
            Json::Object(table) => table
                .into_iter()
                .map(|(key, value)| (key, self.json(value)))
                .collect::<Map<_, _>>()
                .into(),
            plain => plain,
        }
    }

    /// A value that must come: matchers where the run's own names were.
    pub(crate) fn pattern(&self, value: Json) -> Json {
        match value {
            Json::String(text) => self.text_pattern(&text),
            Json::Array(list) => {
                // A text with a secret in it: what is beside it is compared as it is.
                list.into_iter().map(|item| self.pattern(item)).collect()
            }
            Json::Object(table) => {
                let literal = Json::Object(table);
                // A table that would be read as a matcher.
                if Matcher::is_special(&literal) && literal.get("secret").is_none() {
                    return json!({ "exact": literal });
                }
                let Json::Object(table) = literal else {
                    return Json::Null;
                };
                if let Some(digest) = table.get("sha256").filter(|_| table.contains_key("size")) {
                    return json!({ "sha256": digest });
                }
                table
                    .into_iter()
                    .map(|(key, value)| (key, self.pattern(value)))
                    .collect::<Map<_, _>>()
                    .into()
            }
            plain => plain,
        }
    }

    /// As [`Self::pattern`], for values that are not texts with JSON in them.
    pub(crate) fn pattern_plain(&self, value: Json) -> Json {
        match self.pattern(value.clone()) {
            Json::Object(table) if table.contains_key("json") && !value.is_object() => value,
            pattern => pattern,
        }
    }

    fn text_pattern(&self, text: &str) -> Json {
        let text = self.names(text);
        let random = temporary().is_some_and(|regex| regex.is_match(&text));
        let short = text
            .split(|char: char| !char.is_ascii_hexdigit())
            .any(|word| word == self.short);
        if !random && !short && !text.contains(&self.run) {
            return as_json(&text).unwrap_or(Json::String(text));
        }
        let digits = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        let mut pattern = regex::escape(&text);
        pattern = pattern.replace(&regex::escape(&self.run), digits);
        if short {
            pattern = pattern.replace(&self.short, "[0-9a-f]{8}");
        }
        if let Some(regex) = temporary() {
            pattern = regex.replace_all(&pattern, "(/[^/]+)+").into_owned();
        }
        json!({ "regex": format!("^{pattern}$") })
    }
}

/// A text that is a JSON object, as the matcher for one.
fn as_json(text: &str) -> Option<Json> {
    let inner = text.trim_start().starts_with('{').then_some(text)?;
    let value: Json = serde_json::from_str(inner).ok()?;
    fn has_null(value: &Json) -> bool {
        match value {
            Json::Null => true,
            Json::Array(list) => list.iter().any(has_null),
            Json::Object(table) => table.values().any(has_null),
            _ => false,
        }
    }
    // Closed matchers take nothing for null, but not null for something else.
    let plain = value.is_object() && !has_null(&value) && !Matcher::is_special(&value);
    plain.then(|| json!({ "json": escape(value) }))
}

/// Tables that would be read as matchers, as what they are.
fn escape(value: Json) -> Json {
    match value {
        Json::Object(table) => {
            let literal = Json::Object(table);
            if Matcher::is_special(&literal) {
                return json!({ "exact": literal });
            }
            match literal {
                Json::Object(table) => table
                    .into_iter()
                    .map(|(key, value)| (key, escape(value)))
                    .collect::<Map<_, _>>()
                    .into(),
                other => other,
            }
        }
        Json::Array(list) => list.into_iter().map(escape).collect(),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable() -> Stable {
        Stable::new(
            "01890a5d-ac96-774b-bcce-b302099a8057"
                .parse()
                .expect("an id"),
        )
    }

    #[test]
    fn what_only_one_run_has_is_replaced() {
        let mut stable = stable();
        let id = "4f".repeat(32);
        stable.container(&id);
        assert_eq!(
            stable.text(&format!(
                "{id} {} 01890a5d-ac96-774b-bcce-b302099a8057",
                &id[..12]
            )),
            format!("c00000000001{} c00000000001 {RUN}", "0".repeat(52))
        );
        assert_eq!(stable.text("in /tmp/wlAb12Cd/x"), "in /tmp/temporary/x");
        assert_eq!(
            stable.text("is 20261123T193022Z-v1-df0a0e6a"),
            "is 20260124T014658Z-v1-df0a0e6a"
        );
    }

    #[test]
    fn arguments_become_matchers() {
        let stable = stable();
        let got = json!({
            "labels": {"run": "01890a5d-ac96-774b-bcce-b302099a8057 a.b"},
            "any": "x",
            "body": "{\"text\":\"hi\",\"deep\":{\"any\":1}}",
            "blob": {"sha256": "aa", "size": 3},
            "only": {"json": "x"},
            "url": ["https://x/", {"secret": "TOKEN"}],
        });
        let pattern = stable.pattern(got.clone());
        assert_eq!(pattern["blob"], json!({"sha256": "aa"}));
        assert_eq!(pattern["only"], json!({"exact": {"json": "x"}}));
        assert_eq!(pattern["url"], got["url"]);
        assert_eq!(
            pattern["body"]["json"]["deep"],
            json!({"exact": {"any": 1}})
        );
        let matcher = Matcher::parse(&pattern).expect("a matcher").closed();
        assert!(matcher.matches(&got), "{pattern}");
        let mut other = got;
        other["labels"]["run"] = "99890a5d-ac96-774b-bcce-b302099a8057 a.b".into();
        assert!(matcher.matches(&other), "{pattern}");
        other["labels"]["run"] = "99890a5d-ac96-774b-bcce-b302099a8057 axb".into();
        assert!(!matcher.matches(&other), "{pattern}");
    }
}
