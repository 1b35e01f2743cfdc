//! What an answer must be.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use windlass_sdk::http::Response;
use windlass_sdk::{Error, Text, format};

/// Characters of a found value that a message shows.
const SHOWN: usize = 120;

/// One status or several.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(crate) enum Statuses {
    One(u16),
    Several(Vec<u16>),
}

impl Default for Statuses {
    fn default() -> Self {
        Self::One(200)
    }
}

impl Statuses {
    fn contains(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Several(several) => several.contains(&status),
        }
    }
}

/// The value of a JSON field.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(crate) enum Expected {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(Text),
}

/// Everything that an answer must be, as plain values.
pub(crate) struct Expectation {
    statuses: Statuses,
    contains: Option<String>,
    fields: Vec<(String, Json)>,
}

impl Expectation {
    /// # Errors
    ///
    /// When a text may not be read, because it is a secret.
    pub(crate) fn new(
        statuses: &Statuses,
        contains: Option<&Text>,
        fields: &BTreeMap<String, Expected>,
    ) -> Result<Self, Error> {
        let contains = contains.map(|text| text.read().map(|text| text.into_owned()));
        let mut known = Vec::new();
        for (path, expected) in fields {
            let value = match expected {
                Expected::Boolean(value) => Json::from(*value),
                Expected::Integer(value) => Json::from(*value),
                Expected::Number(value) => Json::from(*value),
                Expected::Text(text) => Json::from(text.read()?.into_owned()),
            };
            known.push((path.clone(), value));
        }
        Ok(Self {
            statuses: statuses.clone(),
            contains: contains.transpose()?,
            fields: known,
        })
    }

    /// What differs first, in words.
    pub(crate) fn check(&self, response: &Response) -> Result<(), String> {
        let status = response.status;
        if !self.statuses.contains(status) {
            return Err(status.to_string());
        }
        if let Some(text) = &self.contains
            && !String::from_utf8_lossy(&response.body).contains(text)
        {
            return Err(format!("{status}, but the body does not contain {text:?}"));
        }
        if self.fields.is_empty() {
            return Ok(());
        }
        let body: Json = serde_json::from_slice(&response.body)
            .map_err(|error| format!("{status}, but the body is no JSON: {error}"))?;
        for (path, expected) in &self.fields {
            match find(&body, path) {
                Some(found) if same(expected, found) => {}
                Some(found) => {
                    let found = format::head(&found.to_string(), SHOWN);
                    return Err(format!("{status}, but `{path}` is {found}, not {expected}"));
                }
                None => return Err(format!("{status}, but the body has no `{path}`")),
            }
        }
        Ok(())
    }
}

/// By JSON pointer (RFC 6901) when it begins with `/`, else by dotted path.
fn find<'a>(body: &'a Json, path: &str) -> Option<&'a Json> {
    if path.is_empty() || path.starts_with('/') {
        return body.pointer(path);
    }
    path.split('.').try_fold(body, |value, key| match value {
        Json::Object(entries) => entries.get(key),
        Json::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// A text also matches a number or a boolean that is written like it: outputs
/// of other steps are text.
fn same(expected: &Json, found: &Json) -> bool {
    match (expected, found) {
        (Json::String(text), Json::Number(_) | Json::Bool(_)) => {
            let written = found.to_string();
            *text == written
        }
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => expected == found,
    }
}

#[cfg(test)]
mod tests {
    use windlass_sdk::http::Response;

    use super::{Expectation, Statuses};

    fn check(expectation: &Expectation, status: u16, body: &str) -> Result<(), String> {
        expectation.check(&Response {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            truncated: false,
        })
    }

    fn expect(json: &str) -> Expectation {
        let fields = serde_json::from_str(json).unwrap();
        Expectation::new(&Statuses::default(), None, &fields).unwrap()
    }

    #[test]
    fn statuses() {
        let several = Statuses::Several(vec![200, 204]);
        let expectation = Expectation::new(&several, None, &Default::default()).unwrap();
        assert_eq!(check(&expectation, 204, ""), Ok(()));
        assert_eq!(check(&expectation, 503, ""), Err("503".into()));
    }

    #[test]
    fn body_text() {
        let text = "green".into();
        let expectation =
            Expectation::new(&Statuses::default(), Some(&text), &Default::default()).unwrap();
        assert_eq!(check(&expectation, 200, "all green"), Ok(()));
        assert!(
            check(&expectation, 200, "red")
                .unwrap_err()
                .contains("does not contain")
        );
    }

    #[test]
    fn json_fields() {
        let body = r#"{"build": {"version": "1.2", "n": 3}, "ok": true, "items": [{"a": 1}]}"#;
        for good in [
            r#"{"build.version": "1.2"}"#,
            r#"{"/build/version": "1.2", "ok": true}"#,
            r#"{"build.n": 3}"#,
            r#"{"build.n": "3", "ok": "true"}"#,
            r#"{"items.0.a": 1.0}"#,
        ] {
            assert_eq!(check(&expect(good), 200, body), Ok(()), "{good}");
        }
        for (bad, said) in [
            (
                r#"{"build.version": "1.3"}"#,
                r#"200, but `build.version` is "1.2", not "1.3""#,
            ),
            (
                r#"{"build.name": "x"}"#,
                "200, but the body has no `build.name`",
            ),
            (r#"{"ok": false}"#, "200, but `ok` is true, not false"),
        ] {
            assert_eq!(check(&expect(bad), 200, body), Err(said.into()));
        }
        assert!(
            check(&expect(r#"{"a": 1}"#), 200, "<html>")
                .unwrap_err()
                .contains("no JSON")
        );
    }
}
