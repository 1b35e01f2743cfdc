//! Text that may hold secrets by name, or what is not known yet.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One piece of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Segment {
    Plain(String),
    /// The bytes are put in by the live layer only.
    Secret {
        secret: String,
    },
    /// What only an effect could give; the text says which.
    Unknown {
        unknown: String,
    },
}

/// What a guest composed of `part`s. Serialised as a plain string when nothing
/// in it is special, else as an array of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Repr", into = "Repr")]
pub struct Text(Vec<Segment>);

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Repr {
    Plain(String),
    Segments(Vec<Segment>),
}

impl From<Repr> for Text {
    fn from(repr: Repr) -> Self {
        match repr {
            Repr::Plain(text) => text.into(),
            Repr::Segments(segments) => segments.into_iter().collect(),
        }
    }
}

impl From<Text> for Repr {
    fn from(text: Text) -> Self {
        match text.as_plain() {
            Some(plain) => Self::Plain(plain.to_owned()),
            None => Self::Segments(text.0),
        }
    }
}

impl Text {
    pub fn secret(name: impl Into<String>) -> Self {
        Self(vec![Segment::Secret {
            secret: name.into(),
        }])
    }

    pub fn unknown(what: impl Into<String>) -> Self {
        Self(vec![Segment::Unknown {
            unknown: what.into(),
        }])
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Adjacent plain pieces become one, empty ones none.
    pub fn push(&mut self, segment: Segment) {
        match (self.0.last_mut(), segment) {
            (_, Segment::Plain(new)) if new.is_empty() => {}
            (Some(Segment::Plain(last)), Segment::Plain(new)) => last.push_str(&new),
            (_, segment) => self.0.push(segment),
        }
    }

    pub fn append(&mut self, other: Self) {
        for segment in other.0 {
            self.push(segment);
        }
    }

    /// The text itself, when nothing in it is a secret or unknown.
    pub fn as_plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Segment::Plain(text)] => Some(text),
            _ => None,
        }
    }

    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Secret { secret } => Some(secret.as_str()),
            _ => None,
        })
    }

    pub fn is_known(&self) -> bool {
        !self
            .0
            .iter()
            .any(|segment| matches!(segment, Segment::Unknown { .. }))
    }
}

impl FromIterator<Segment> for Text {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        let mut text = Self::default();
        for segment in segments {
            text.push(segment);
        }
        text
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        std::iter::once(Segment::Plain(text)).collect()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Text {
    /// For people and for grants: a secret as `secret:NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.0 {
            match segment {
                Segment::Plain(text) => f.write_str(text)?,
                Segment::Secret { secret } => write!(f, "secret:{secret}")?,
                Segment::Unknown { unknown } => write!(f, "({unknown})")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_pieces_join() {
        let text: Text = [
            Segment::Plain("a".into()),
            Segment::Plain(String::new()),
            Segment::Plain("b".into()),
        ]
        .into_iter()
        .collect();
        assert_eq!(text.as_plain(), Some("ab"));
        assert_eq!(serde_json::to_string(&text).expect("json"), "\"ab\"");
    }

    #[test]
    fn secrets_stay_names() {
        let mut text = Text::from("Bearer ");
        text.append(Text::secret("TOKEN"));
        assert_eq!(text.as_plain(), None);
        assert_eq!(text.to_string(), "Bearer secret:TOKEN");
        let json = serde_json::to_string(&text).expect("json");
        assert_eq!(json, r#"["Bearer ",{"secret":"TOKEN"}]"#);
        let back: Text = serde_json::from_str(&json).expect("text");
        assert_eq!(back, text);
    }
}
