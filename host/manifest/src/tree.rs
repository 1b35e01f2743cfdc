//! TOML as a tree in which every key and value knows its place. Serde's own
//! spans are lost inside flattened structs and enums, so the manifest is read
//! from this by hand.

use indexmap::IndexMap;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Source, Span};

/// Larger manifests are refused: reading is linear, but every message keeps
/// the text.
const MAX_BYTES: usize = 1 << 20;

pub(crate) type Entries = IndexMap<String, (Span, Item)>;

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) span: Span,
    pub(crate) raw: Raw,
}

#[derive(Clone, Debug)]
pub(crate) enum Raw {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Item>),
    Table(Entries),
}

impl Item {
    /// For messages: `an integer`.
    pub(crate) fn kind(&self) -> &'static str {
        match self.raw {
            Raw::String(_) => "a string",
            Raw::Integer(_) => "an integer",
            Raw::Float(_) => "a number",
            Raw::Boolean(_) => "a boolean",
            Raw::Datetime(_) => "a date or time",
            Raw::Array(_) => "a list",
            Raw::Table(_) => "a table",
        }
    }
}

/// The tree, in the order of the text, and what is no TOML. Without a tree the
/// text is too broken to go on.
pub(crate) fn read(source: &std::sync::Arc<Source>) -> (Option<Entries>, Vec<Diagnostic>) {
    if source.text.len() > MAX_BYTES {
        let error = Diagnostic::new(
            "manifest.size",
            format!("{} is larger than {MAX_BYTES} bytes", source.name),
        );
        return (None, vec![error]);
    }
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    let mut usable = true;
    let mut found: Vec<Diagnostic> = errors
        .iter()
        .map(|error| {
            let message = error.message();
            // The tree is whole in spite of this one; anything else would make
            // false errors follow.
            usable &= message.contains("duplicate key");
            let span = error.span().map_or(Span::default(), Span::from);
            let line = message.lines().next().unwrap_or(message);
            match source.slice(span) {
                key if line == "duplicate key" && !key.is_empty() => Diagnostic::new(
                    "manifest.duplicate-key",
                    format!("`{key}` is there twice"),
                )
                .at(source, span, "the second one"),
                _ => Diagnostic::new("manifest.syntax", line).at(source, span, "here"),
            }
        })
        .collect();
    if !usable {
        return (None, found);
    }
    let entries = entries(source, table.get_ref(), &mut found);
    (Some(entries), found)
}

fn entries(
    source: &std::sync::Arc<Source>,
    table: &DeTable<'_>,
    found: &mut Vec<Diagnostic>,
) -> Entries {
    let mut entries: Vec<(String, (Span, Item))> = table
        .iter()
        .map(|(key, value)| {
            let span = Span::from(key.span());
            (
                key.get_ref().to_string(),
                (span, item(source, value, span, found)),
            )
        })
        .collect();
    entries.sort_by_key(|(_, (span, _))| *span);
    entries.into_iter().collect()
}

fn item(
    source: &std::sync::Arc<Source>,
    value: &toml::Spanned<DeValue<'_>>,
    key: Span,
    found: &mut Vec<Diagnostic>,
) -> Item {
    let mut span = Span::from(value.span());
    if span.start >= span.end {
        span = key;
    }
    let raw = match value.get_ref() {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Raw::Integer(integer),
            Err(_) => {
                found.push(
                    Diagnostic::new("manifest.wrong-type", "the integer is too large")
                        .at(source, span, "here")
                        .hint("write it as a string"),
                );
                Raw::Integer(0)
            }
        },
        DeValue::Float(float) => match float.as_str().parse::<f64>() {
            Ok(float) if float.is_finite() => Raw::Float(float),
            _ => {
                found.push(
                    Diagnostic::new("manifest.wrong-type", "the number is not finite")
                        .at(source, span, "here"),
                );
                Raw::Float(0.0)
            }
        },
        DeValue::Boolean(flag) => Raw::Boolean(*flag),
        DeValue::Datetime(datetime) => Raw::Datetime(datetime.to_string()),
        DeValue::Array(items) => Raw::Array(
            items
                .iter()
                .map(|value| item(source, value, key, found))
                .collect(),
        ),
        DeValue::Table(table) => Raw::Table(entries(source, table, found)),
    };
    Item { span, raw }
}
