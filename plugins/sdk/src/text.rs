//! [`Text`]: a string of the configuration that the plugin passes on and need
//! not be able to read.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::{Error, Part, Value, context};

/// The key of the object that stands for a value in `context.config()`.
pub(crate) const HANDLE: &str = "$value";

/// A string which may be a secret, or, in a preview, not known yet. It is
/// passed on as [`parts`](Text::parts); only the host sees the bytes.
///
/// In the JSON Schema it is a string with `"x-windlass-secret": true`: the
/// manifest may say `{ secret = "NAME" }` there, and nowhere else.
#[derive(Clone, Debug)]
pub struct Text(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Plain(String),
    Handle(Rc<Value>),
}

impl Text {
    /// As an argument of a call. Parts are joined by the host, so others can
    /// be added before and after.
    #[must_use]
    pub fn parts(&self) -> Vec<Part<'_>> {
        vec![self.part()]
    }

    /// One part, to be joined with others.
    #[must_use]
    pub fn part(&self) -> Part<'_> {
        match &self.0 {
            Kind::Plain(text) => Part::Text(text.clone()),
            Kind::Handle(value) => Part::Value(value),
        }
    }

    /// The text itself.
    ///
    /// # Errors
    ///
    /// `denied` for a secret, unless `secret.reveal NAME` is granted. In a
    /// preview the host stops the guest here when the value is not known.
    pub fn read(&self) -> Result<Cow<'_, str>, Error> {
        match &self.0 {
            Kind::Plain(text) => Ok(Cow::Borrowed(text)),
            Kind::Handle(value) => value.text().map(Cow::Owned),
        }
    }

    /// The text, where it is plain and known without asking.
    #[must_use]
    pub fn as_plain(&self) -> Option<&str> {
        match &self.0 {
            Kind::Plain(text) => Some(text),
            Kind::Handle(_) => None,
        }
    }

    /// Whether its bytes are a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        match &self.0 {
            Kind::Plain(_) => false,
            Kind::Handle(value) => value.is_secret(),
        }
    }

    /// The handle, made when the text is plain: for calls that take a value.
    #[must_use]
    pub fn to_value(&self) -> Rc<Value> {
        match &self.0 {
            Kind::Plain(text) => Rc::new(Value::from_text(text)),
            Kind::Handle(value) => Rc::clone(value),
        }
    }
}

/// For messages: the text, `secret:NAME`, or `(known after STEP)`.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Plain(text) => f.write_str(text),
            Kind::Handle(value) => f.write_str(&value.label()),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Kind::Plain(text.to_owned()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Kind::Plain(text))
    }
}

/// A plain string as an argument of a call that takes parts.
#[must_use]
pub fn plain(text: &str) -> Vec<Part<'static>> {
    vec![Part::Text(text.to_owned())]
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::from(text))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Text, E> {
        Ok(Text::from(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        use serde::de::Error as _;
        match map.next_entry::<String, u32>() {
            Ok(Some((key, index))) if key == HANDLE => context::config_value(index)
                .map(|value| Text(Kind::Handle(Rc::new(value))))
                .map_err(|error| A::Error::custom(error.message)),
            _ => Err(A::Error::custom("invalid type: a table, expected a string")),
        }
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-windlass-secret": true })
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn plain_strings_stay_readable() {
        let text: Text = serde_json::from_str("\"a b\"").unwrap();
        assert_eq!(text.as_plain(), Some("a b"));
        assert_eq!(text.to_string(), "a b");
        assert!(!text.is_secret());
    }

    #[test]
    fn other_tables_are_refused() {
        let error = serde_json::from_str::<Text>(r#"{"secret": "X"}"#).unwrap_err();
        assert!(error.to_string().contains("expected a string"), "{error}");
    }
}
