//! What a call's arguments must look like: exact values, patterns, parts.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde_json::Value as Json;
use windlass_model::Text;
use windlass_model::grant::Pattern;

/// Compiled patterns are bounded: a case file is not to fill the memory.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// Matches a JSON value. In JSON (or TOML), a table with exactly one of the
/// keys `exact`, `glob`, `regex`, `contains`, `json`, `secret`, `absent` and
/// `any` is that matcher; any other table is matched key by key, and may have
/// more keys; lists match element by element; everything else is equal.
#[derive(Clone, Debug, Default)]
pub enum Matcher {
    #[default]
    Any,
    Equal(Json),
    /// The grammar of grants: `*` stops at slashes, `**` does not.
    Glob(Pattern),
    Regex(Regex),
    Contains(String),
    /// A text that is JSON, and matches.
    Json(Box<Matcher>),
    /// A text that holds this secret.
    Secret(String),
    Absent,
    Table(BTreeMap<String, Matcher>),
    /// As [`Self::Table`], but whatever else the table has is empty.
    Only(BTreeMap<String, Matcher>),
    List(Vec<Matcher>),
}

/// Something that is not as it was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// `headers.authorization`; empty for the whole.
    pub path: String,
    pub expected: String,
    pub got: String,
}

impl Matcher {
    /// Reads a matcher; the error says where and why.
    pub fn parse(value: &Json) -> Result<Self, String> {
        match value {
            Json::Object(table) => {
                if let Some((key, value)) = table.iter().next()
                    && table.len() == 1
                    && let Some(matcher) = Self::special(key, value)?
                {
                    return Ok(matcher);
                }
                table
                    .iter()
                    .map(|(key, value)| {
                        let matcher =
                            Self::parse(value).map_err(|error| format!("{key}: {error}"))?;
                        Ok((key.clone(), matcher))
                    })
                    .collect::<Result<_, String>>()
                    .map(Self::Table)
            }
            Json::Array(list) => list
                .iter()
                .map(Self::parse)
                .collect::<Result<_, _>>()
                .map(Self::List),
            plain => Ok(Self::Equal(plain.clone())),
        }
    }

    fn special(key: &str, value: &Json) -> Result<Option<Self>, String> {
        let text = || {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("`{key}` takes a text, not {value}"))
        };
        let yes = || match value {
            Json::Bool(true) => Ok(()),
            _ => Err(format!("`{key}` takes only true")),
        };
        Ok(Some(match key {
            "exact" => Self::Equal(value.clone()),
            "glob" => Self::Glob(Pattern::parse(&text()?)),
            "regex" => Self::Regex(
                regex::RegexBuilder::new(&text()?)
                    .size_limit(MAX_REGEX_BYTES)
                    .build()
                    .map_err(|error| format!("`regex`: {error}"))?,
            ),
            "contains" => Self::Contains(text()?),
            "json" => Self::Json(Box::new(Self::parse(value)?)),
            "secret" => Self::Secret(text()?),
            "absent" => {
                yes()?;
                Self::Absent
            }
            "any" => {
                yes()?;
                Self::Any
            }
            _ => return Ok(None),
        }))
    }

    /// Whether `value`, read as a matcher, would be one of the special tables.
    pub fn is_special(value: &Json) -> bool {
        let Json::Object(table) = value else {
            return false;
        };
        let mut keys = table.keys();
        matches!(
            (keys.next().map(String::as_str), keys.next()),
            (
                Some(
                    "exact" | "glob" | "regex" | "contains" | "json" | "secret" | "absent" | "any"
                ),
                None
            )
        )
    }

    /// The same, with tables that have no more than they say. What is known by its
    /// digest stays as it is: the rest only shows what is in it.
    #[must_use]
    pub fn closed(self) -> Self {
        let all = |table: BTreeMap<String, Self>| {
            let closed = |(key, matcher): (String, Self)| (key, matcher.closed());
            table.into_iter().map(closed).collect()
        };
        match self {
            Self::Table(table) if !table.contains_key("sha256") => Self::Only(all(table)),
            Self::List(list) => Self::List(list.into_iter().map(Self::closed).collect()),
            Self::Json(matcher) => Self::Json(Box::new(matcher.closed())),
            other => other,
        }
    }

    /// Everything in `got` that is not as expected; empty when it matches.
    pub fn mismatches(&self, got: Option<&Json>) -> Vec<Mismatch> {
        let mut found = Vec::new();
        self.compare("", got, &mut found);
        found
    }

    pub fn matches(&self, got: &Json) -> bool {
        self.mismatches(Some(got)).is_empty()
    }

    fn compare(&self, path: &str, got: Option<&Json>, found: &mut Vec<Mismatch>) {
        let fits = match (self, got) {
            (Self::Any, _) | (Self::Absent, None) => true,
            (Self::Table(table), Some(Json::Object(object))) => {
                for (key, matcher) in table {
                    matcher.compare(&join(path, key), object.get(key), found);
                }
                return;
            }
            (Self::Only(table), Some(Json::Object(object))) => {
                for (key, matcher) in table {
                    matcher.compare(&join(path, key), object.get(key), found);
                }
                let more = object
                    .iter()
                    .filter(|(key, value)| !table.contains_key(key.as_str()) && !is_empty(value));
                found.extend(more.map(|(key, value)| Mismatch {
                    path: join(path, key),
                    expected: "nothing".to_owned(),
                    got: show(value),
                }));
                return;
            }
            (Self::List(list), Some(Json::Array(array)))
                if list.len() == array.len() && as_text_segments(array).is_none() =>
            {
                for (index, (matcher, item)) in list.iter().zip(array).enumerate() {
                    matcher.compare(&join(path, &index.to_string()), Some(item), found);
                }
                return;
            }
            (Self::Json(matcher), Some(got)) => match as_text(got)
                .as_deref()
                .and_then(|text| serde_json::from_str::<Json>(text).ok())
            {
                Some(json) => {
                    matcher.compare(path, Some(&json), found);
                    return;
                }
                None => false,
            },
            (_, None) => false,
            (Self::Equal(expected), Some(got)) => equal(expected, got),
            (Self::List(list), Some(got)) => {
                // A text with a secret in it is a list of its pieces.
                let plain = list.iter().map(Self::as_plain).collect::<Option<Vec<_>>>();
                plain.is_some_and(|plain| Json::Array(plain) == *got)
            }
            (Self::Glob(pattern), Some(got)) => {
                as_text(got).is_some_and(|text| pattern.matches(&text))
            }
            (Self::Regex(regex), Some(got)) => {
                as_text(got).is_some_and(|text| regex.is_match(&text))
            }
            (Self::Contains(part), Some(got)) => match got {
                Json::Array(list) if as_text_segments(list).is_none() => {
                    list.iter().any(|item| item.as_str() == Some(part))
                }
                got => as_text(got).is_some_and(|text| text.contains(part.as_str())),
            },
            (Self::Secret(name), Some(got)) => serde_json::from_value::<Text>(got.clone())
                .is_ok_and(|text| text.secrets().any(|secret| secret == name)),
            (Self::Absent | Self::Table(_) | Self::Only(_), Some(_)) => false,
        };
        if !fits {
            found.push(Mismatch {
                path: path.to_owned(),
                expected: self.to_string(),
                got: got.map_or_else(|| "nothing".to_owned(), show),
            });
        }
    }

    fn as_plain(&self) -> Option<Json> {
        match self {
            Self::Equal(value) => Some(value.clone()),
            Self::Secret(name) => Some(serde_json::json!({ "secret": name })),
            _ => None,
        }
    }
}

/// What an argument is that was not given.
pub fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Bool(true) => false,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(table) => table.is_empty(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Equal, a text with secrets also as people read it, numbers by their value.
fn equal(expected: &Json, got: &Json) -> bool {
    expected == got
        || match (expected, got) {
            (Json::String(text), Json::Array(_)) => {
                as_text(got).is_some_and(|shown| shown == *text)
            }
            (Json::Number(one), Json::Number(other)) => one.as_f64() == other.as_f64(),
            _ => false,
        }
}

fn as_text_segments(list: &[Json]) -> Option<Text> {
    let special = list
        .iter()
        .any(|item| item.get("secret").is_some() || item.get("unknown").is_some());
    if !special {
        return None;
    }
    serde_json::from_value(Json::Array(list.to_vec())).ok()
}

/// The value as text, a text with secrets as `Bearer secret:TOKEN`.
fn as_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        Json::Array(list) => as_text_segments(list).map(|text| text.to_string()),
        _ => None,
    }
}

fn show(value: &Json) -> String {
    match value {
        Json::Array(list) if as_text_segments(list).is_some() => {
            format!("{:?}", as_text(value).unwrap_or_default())
        }
        other => other.to_string(),
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Equal(value) => write!(f, "{value}"),
            Self::Glob(pattern) => write!(f, "text like {:?}", pattern.to_string()),
            Self::Regex(regex) => write!(f, "text that matches /{regex}/"),
            Self::Contains(part) => write!(f, "something with {part:?} in it"),
            Self::Json(matcher) => write!(f, "JSON text: {matcher}"),
            Self::Secret(name) => write!(f, "text with secret:{name} in it"),
            Self::Absent => f.write_str("nothing"),
            Self::Table(table) | Self::Only(table) => {
                f.write_str("{")?;
                for (index, (key, matcher)) in table.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {matcher}")?;
                }
                f.write_str("}")
            }
            Self::List(list) => {
                f.write_str("[")?;
                for (index, matcher) in list.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{matcher}")?;
                }
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(matcher: Json, got: Json) -> bool {
        Matcher::parse(&matcher).expect("a matcher").matches(&got)
    }

    #[test]
    fn each_kind() {
        let token = json!(["Bearer ", {"secret": "TOKEN"}]);
        for (matcher, got, fits) in [
            (json!("a"), json!("a"), true),
            (json!("a"), json!("b"), false),
            (json!(1), json!(1), true),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), true),
            (json!({"exact": {"a": 1}}), json!({"a": 1, "b": 2}), false),
            (json!([1, 2]), json!([1, 2]), true),
            (json!([1]), json!([1, 2]), false),
            (json!({"glob": "a/*"}), json!("a/b"), true),
            (json!({"glob": "a/*"}), json!("a/b/c"), false),
            (json!({"regex": "^a.c$"}), json!("abc"), true),
            (json!({"contains": "b"}), json!("abc"), true),
            (json!({"contains": "b"}), json!(["a", "b"]), true),
            (
                json!({"json": {"a": [1]}}),
                json!("{\"a\":[1],\"b\":2}"),
                true,
            ),
            (json!({"json": {"a": 2}}), json!("{\"a\":[1]}"), false),
            (json!({"json": {"a": 2}}), json!("no json"), false),
            (json!({"secret": "TOKEN"}), token.clone(), true),
            (json!({"secret": "OTHER"}), token.clone(), false),
            (json!({"secret": "TOKEN"}), json!("Bearer x"), false),
            (json!("Bearer secret:TOKEN"), token.clone(), true),
            (json!(["Bearer ", {"secret": "TOKEN"}]), token.clone(), true),
            (json!(["Basic ", {"secret": "TOKEN"}]), token, false),
            (json!({"a": {"absent": true}}), json!({}), true),
            (json!({"a": {"absent": true}}), json!({"a": 1}), false),
            (json!({"a": {"any": true}}), json!({}), true),
        ] {
            assert_eq!(
                matches(matcher.clone(), got.clone()),
                fits,
                "{matcher} {got}"
            );
        }
    }

    #[test]
    fn mismatches_say_where() {
        let matcher = Matcher::parse(&json!({"a": {"b": 1}, "c": [{"glob": "x*"}]})).expect("one");
        let found = matcher.mismatches(Some(&json!({"a": {"b": 2}, "c": ["y"]})));
        let paths: Vec<&str> = found
            .iter()
            .map(|mismatch| mismatch.path.as_str())
            .collect();
        assert_eq!(paths, ["a.b", "c.0"]);
        assert_eq!(found[0].expected, "1");
        assert_eq!(found[0].got, "2");
    }

    #[test]
    fn closed_tables_have_no_more() {
        let closed = |matcher: Json| Matcher::parse(&matcher).expect("a matcher").closed();
        let got = json!({"a": {"b": 1, "no": false}, "c": [], "blob": {"sha256": "x", "size": 3}});
        let blob = json!({"sha256": "x"});
        for (matcher, fits) in [
            (json!({"a": {"b": 1}, "blob": blob}), true),
            (json!({"a": {"any": true}, "blob": blob}), true),
            (json!({"a": {}, "blob": blob}), false),
            (json!({"a": {"b": 1}}), false),
            (json!({"a": {"b": 1}, "blob": {"sha256": "y"}}), false),
        ] {
            assert_eq!(closed(matcher.clone()).matches(&got), fits, "{matcher}");
        }
        let found = closed(json!({"blob": blob})).mismatches(Some(&got));
        assert_eq!((found.len(), found[0].path.as_str()), (1, "a"));
    }

    #[test]
    fn bad_matchers_are_refused() {
        assert!(Matcher::parse(&json!({"regex": "("})).is_err());
        assert!(Matcher::parse(&json!({"absent": false})).is_err());
        assert!(Matcher::parse(&json!({"a": {"glob": 1}})).is_err());
    }
}
