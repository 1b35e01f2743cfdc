//! From `context.config()` to the plugin's own type.
//!
//! A string that is a secret, or not known yet, arrives as `{"$value": N}`.
//! [`Text`](crate::Text) keeps the handle. Where the plugin's type wants a
//! plain string, number, list or table, the value is read: the host denies
//! that for a secret, and stops a preview there when it is unknown.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde_json::Value as Json;

use crate::text::HANDLE;
use crate::{Error, context, duration};

/// The configuration of this step.
pub(crate) fn load<T: DeserializeOwned>() -> Result<T, Error> {
    parse(&context::config(), &|index| {
        context::config_value(index)?.text()
    })
}

/// Reads the text behind the handle of this index.
type Read<'a> = &'a dyn Fn(u32) -> Result<String, Error>;

fn parse<T: DeserializeOwned>(json: &str, read: Read<'_>) -> Result<T, Error> {
    let value = serde_json::from_str(json)?;
    T::deserialize(Node { value, read }).map_err(|failure| {
        let ConfigError { path, mut error } = failure;
        error.message = format!("with{path}: {}", error.message);
        error
    })
}

/// An error and the place in the configuration, as `.tags[1]`.
#[derive(Debug)]
struct ConfigError {
    path: String,
    error: Error,
}

impl ConfigError {
    fn at(mut self, place: &str) -> Self {
        self.path.insert_str(0, place);
        self
    }
}

impl From<Error> for ConfigError {
    fn from(error: Error) -> Self {
        Self {
            path: String::new(),
            error,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error.message)
    }
}

impl std::error::Error for ConfigError {}

impl serde::de::Error for ConfigError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::invalid("config.invalid", message.to_string()).into()
    }
}

struct Node<'a> {
    value: Json,
    read: Read<'a>,
}

impl Node<'_> {
    fn handle(&self) -> Option<u32> {
        let object = self.value.as_object()?;
        if object.len() != 1 {
            return None;
        }
        u32::try_from(object.get(HANDLE)?.as_u64()?).ok()
    }

    /// The string behind a handle, where a string is wanted.
    fn resolve_text(mut self) -> Result<Self, ConfigError> {
        if let Some(index) = self.handle() {
            self.value = Json::String((self.read)(index)?);
        }
        Ok(self)
    }

    /// The value behind a handle, where anything but a string is wanted: a
    /// number or a list that another step gave is written as JSON.
    fn resolve(mut self) -> Result<Self, ConfigError> {
        if let Some(index) = self.handle() {
            let text = (self.read)(index)?;
            self.value = serde_json::from_str(&text).unwrap_or(Json::String(text));
        }
        Ok(self)
    }
}

macro_rules! resolved {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
            self.resolve()?.deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = ConfigError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        let read = self.read;
        match self.value {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(value),
            Json::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Json::String(text) => visitor.visit_string(text),
            Json::Array(items) => visitor.visit_seq(Items {
                items: items.into_iter().enumerate(),
                read,
            }),
            Json::Object(entries) => visitor.visit_map(Entries {
                entries: entries.into_iter(),
                value: None,
                read,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        match self.value {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        if name == duration::NAME {
            return visitor.visit_newtype_struct(self.resolve()?);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.resolve_text()?.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        self.resolve_text()?.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        let Node { value, read } = self.resolve_text()?;
        match value {
            Json::String(text) => visitor.visit_enum(text.into_deserializer()),
            Json::Object(entries) => MapAccessDeserializer::new(Entries {
                entries: entries.into_iter(),
                value: None,
                read,
            })
            .deserialize_enum(name, variants, visitor),
            other => Err(ConfigError::custom(format!(
                "invalid value {other}, expected one of {}",
                variants.join(", ")
            ))),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.resolve()?.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.resolve()?.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.resolve()?.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfigError> {
        self.resolve()?.deserialize_any(visitor)
    }

    resolved! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64 deserialize_char deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfigError> {
        visitor.visit_unit()
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::vec::IntoIter<Json>>,
    read: Read<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ConfigError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConfigError> {
        let Some((index, value)) = self.items.next() else {
            return Ok(None);
        };
        let read = self.read;
        seed.deserialize(Node { value, read })
            .map(Some)
            .map_err(|error| error.at(&format!("[{index}]")))
    }
}

struct Entries<'a> {
    entries: serde_json::map::IntoIter,
    value: Option<(String, Json)>,
    read: Read<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ConfigError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConfigError> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        let name: serde::de::value::StringDeserializer<ConfigError> =
            key.clone().into_deserializer();
        self.value = Some((key, value));
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ConfigError> {
        let Some((key, value)) = self.value.take() else {
            return Err(ConfigError::custom("a value without a key"));
        };
        let read = self.read;
        seed.deserialize(Node { value, read })
            .map_err(|error| error.at(&format!(".{key}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::parse;
    use crate::{Duration, Error, ErrorKind, Text};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        #[serde(default)]
        count: u32,
        #[serde(default)]
        tags: Vec<String>,
        #[serde(default)]
        args: BTreeMap<String, String>,
        mode: Option<Mode>,
        every: Option<Duration>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Here,
        Target,
    }

    fn values(index: u32) -> Result<String, Error> {
        match index {
            0 => Ok("hello".into()),
            1 => Ok("7".into()),
            2 => Ok("[\"a\", \"b\"]".into()),
            _ => Err(Error::new(
                ErrorKind::Denied,
                "secret.reveal",
                "secret:TOKEN may not be read",
            )),
        }
    }

    #[test]
    fn handles_become_what_the_field_wants() {
        let config: Config = parse(
            r#"{"name": {"$value": 1}, "count": {"$value": 1}, "tags": {"$value": 2},
                "args": {"k": {"$value": 0}}, "mode": "target", "every": {"$value": 1}}"#,
            &values,
        )
        .unwrap();
        assert_eq!(config.name, "7");
        assert_eq!(config.count, 7);
        assert_eq!(config.tags, ["a", "b"]);
        assert_eq!(config.args["k"], "hello");
        assert_eq!(config.mode, Some(Mode::Target));
        assert_eq!(config.every, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_secret_in_a_plain_field_is_denied_with_its_place() {
        let json = r#"{"name": "x", "args": {"k": {"$value": 9}}}"#;
        let error = parse::<Config>(json, &values).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
        assert_eq!(error.message, "with.args.k: secret:TOKEN may not be read");
    }

    #[test]
    fn places_and_expectations_are_named() {
        let of = |json| parse::<Config>(json, &values).unwrap_err().message;
        assert_eq!(
            of(r#"{"name": "x", "tags": ["a", 3]}"#),
            "with.tags[1]: invalid type: integer `3`, expected a string"
        );
        assert_eq!(of("{}"), "with: missing field `name`");
        assert!(of(r#"{"name": "x", "nmae": 1}"#).contains("unknown field `nmae`"));
        assert!(of(r#"{"name": "x", "mode": "moon"}"#).contains("unknown variant `moon`"));
    }

    #[test]
    fn text_takes_plain_strings() {
        let config: BTreeMap<String, Text> = parse(r#"{"a": "b"}"#, &values).unwrap();
        assert_eq!(config["a"].as_plain(), Some("b"));
    }
}
