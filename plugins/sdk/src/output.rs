//! Outputs of the step: what `steps.NAME.OUTPUT` of the manifest reads.

use serde::Serialize;

use crate::{Error, OutputSpec, OutputType, Part, context, plain};

/// Text made of parts: a value that only an effect gave goes through unread.
///
/// # Errors
///
/// `denied` when a part is a secret; `invalid` when `describe` has no such
/// output.
pub fn text(name: &str, parts: &[Part<'_>]) -> Result<(), Error> {
    context::output(name, parts)
}

/// Text that the plugin knows.
///
/// # Errors
///
/// As for [`text`].
pub fn string(name: &str, text: &str) -> Result<(), Error> {
    context::output(name, &plain(text))
}

/// Anything else: a number, a boolean, a list.
///
/// # Errors
///
/// As for [`text`]; `invalid` when the value has no JSON form.
pub fn json(name: &str, value: &impl Serialize) -> Result<(), Error> {
    context::output_json(name, &serde_json::to_string(value)?)
}

impl OutputSpec {
    #[must_use]
    pub fn text(name: &str, summary: &str) -> Self {
        Self::of(OutputType::Text, name, summary)
    }

    #[must_use]
    pub fn number(name: &str, summary: &str) -> Self {
        Self::of(OutputType::Number, name, summary)
    }

    #[must_use]
    pub fn boolean(name: &str, summary: &str) -> Self {
        Self::of(OutputType::Boolean, name, summary)
    }

    #[must_use]
    pub fn json(name: &str, summary: &str) -> Self {
        Self::of(OutputType::Json, name, summary)
    }

    fn of(kind: OutputType, name: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            summary: summary.to_owned(),
        }
    }
}
