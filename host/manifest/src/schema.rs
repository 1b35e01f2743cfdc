//! Checks a step's configuration against its plugin's JSON Schema: the part of
//! JSON Schema that `schemars` writes, with a place in the manifest for each
//! problem.

use indexmap::IndexMap;
use serde_json::Value;

use crate::catalog::OutputKind;
use crate::diagnostic::{Span, closest, listed};
use crate::expression::kind_of;

/// Schemas come from plugins: one may refer to itself.
const MAX_DEPTH: usize = 64;

/// Marks a schema where `{ secret = "NAME" }` may stand.
const SECRET_MARK: &str = "x-windlass-secret";

/// What is known of a value before the run.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Known(Value),
    /// Its type is known.
    Typed(OutputKind),
    Any,
    Secret,
    List(Vec<(Span, Shape)>),
    Table(IndexMap<String, (Span, Span, Shape)>),
}

impl Shape {
    fn kind(&self) -> &'static str {
        match self {
            Self::Known(value) => kind_of(value),
            Self::Typed(OutputKind::Text) => "a string",
            Self::Typed(OutputKind::Number) => "a number",
            Self::Typed(OutputKind::Boolean) => "a boolean",
            Self::Typed(OutputKind::Json) | Self::Any => "a value",
            Self::Secret => "a secret",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// Whether it could be of a JSON Schema type.
    fn may_be(&self, kind: &str) -> bool {
        match self {
            Self::Any | Self::Typed(OutputKind::Json) => true,
            Self::Typed(OutputKind::Text) | Self::Secret => kind == "string",
            Self::Typed(OutputKind::Number) => matches!(kind, "number" | "integer"),
            Self::Typed(OutputKind::Boolean) => kind == "boolean",
            Self::List(_) => kind == "array",
            Self::Table(_) => kind == "object",
            Self::Known(value) => match value {
                Value::Null => kind == "null",
                Value::Bool(_) => kind == "boolean",
                Value::Number(number) => {
                    kind == "number" || (kind == "integer" && !number.is_f64())
                }
                Value::String(_) => kind == "string",
                Value::Array(_) => kind == "array",
                Value::Object(_) => kind == "object",
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: &'static str,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) label: &'static str,
    pub(crate) hint: Option<String>,
}

/// `what` names the plugin; `span` is the place of the whole configuration.
pub(crate) fn check(schema: &Value, shape: &Shape, span: Span, what: &str) -> Vec<Problem> {
    let mut checker = Checker {
        root: schema,
        what,
        problems: Vec::new(),
    };
    checker.check(schema, shape, span, "", 0);
    checker.problems
}

struct Checker<'a> {
    root: &'a Value,
    what: &'a str,
    problems: Vec<Problem>,
}

/// For messages: `a list`, of a JSON Schema type.
fn type_name(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "a boolean",
        "array" => "a list",
        "object" => "a table",
        _ => "nothing",
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn alternatives(kinds: &[&str]) -> String {
    let names: Vec<&str> = kinds
        .iter()
        .filter(|kind| **kind != "null")
        .map(|kind| type_name(kind))
        .collect();
    names.join(" or ")
}

impl<'a> Checker<'a> {
    fn name(&self, path: &str) -> String {
        if path.is_empty() {
            format!("the configuration of {}", self.what)
        } else {
            format!("`{path}` of {}", self.what)
        }
    }

    fn report(
        &mut self,
        code: &'static str,
        span: Span,
        message: String,
        label: &'static str,
        hint: Option<String>,
    ) {
        self.problems.push(Problem {
            code,
            span,
            message,
            label,
            hint,
        });
    }

    /// Follows `$ref`; None when it leads nowhere.
    fn target(&self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    fn takes_secret(&self, schema: &'a Value, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        if schema.get(SECRET_MARK) == Some(&Value::Bool(true)) {
            return true;
        }
        if let Some(target) = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.target(reference))
            && self.takes_secret(target, depth + 1)
        {
            return true;
        }
        ["anyOf", "oneOf", "allOf"]
            .iter()
            .filter_map(|key| schema.get(*key)?.as_array())
            .flatten()
            .any(|schema| self.takes_secret(schema, depth + 1))
    }

    fn check(&mut self, schema: &'a Value, shape: &Shape, span: Span, path: &str, depth: usize) {
        if depth > MAX_DEPTH || matches!(schema, Value::Bool(true)) {
            return;
        }
        if let Shape::Secret = shape {
            if !self.takes_secret(schema, 0) {
                let name = self.name(path);
                self.report(
                    "manifest.secret-here",
                    span,
                    format!("{name} does not take a secret"),
                    "this secret",
                    Some("the plugin would have to read it; give it where secrets are taken, such as env or headers".into()),
                );
            }
            return;
        }
        if matches!(schema, Value::Bool(false)) {
            let name = self.name(path);
            self.report(
                "manifest.unknown-key",
                span,
                format!("{name} is not known"),
                "this value",
                None,
            );
            return;
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str)
            && let Some(target) = self.target(reference)
        {
            self.check(target, shape, span, path, depth + 1);
        }
        for schema in schema
            .get("allOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.check(schema, shape, span, path, depth + 1);
        }
        if !self.check_type(schema, shape, span, path) {
            return;
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(key).and_then(Value::as_array) {
                self.check_any(options, shape, span, path, depth);
            }
        }
        self.check_values(schema, shape, span, path);
        self.check_bounds(schema, shape, span, path);
        match shape {
            Shape::List(items) => {
                self.check_items(schema, items, span, path, depth);
            }
            Shape::Known(Value::Array(items)) => {
                let items: Vec<(Span, Shape)> = items
                    .iter()
                    .map(|item| (span, Shape::Known(item.clone())))
                    .collect();
                self.check_items(schema, &items, span, path, depth);
            }
            Shape::Table(entries) => self.check_entries(schema, entries, span, path, depth),
            Shape::Known(Value::Object(entries)) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| (key.clone(), (span, span, Shape::Known(value.clone()))))
                    .collect();
                self.check_entries(schema, &entries, span, path, depth);
            }
            _ => {}
        }
    }

    /// False when the type is wrong: nothing else is worth saying then.
    fn check_type(&mut self, schema: &Value, shape: &Shape, span: Span, path: &str) -> bool {
        let kinds = types(schema);
        if kinds.is_empty() || kinds.iter().any(|kind| shape.may_be(kind)) {
            return true;
        }
        let name = self.name(path);
        let numeric = kinds
            .iter()
            .any(|kind| matches!(*kind, "integer" | "number"));
        let hint = match shape {
            Shape::Known(Value::String(text)) if numeric && text.trim().parse::<f64>().is_ok() => {
                Some("write it without quotes, or as {{ vars.NAME | int }}".to_owned())
            }
            Shape::Known(Value::String(text)) if kinds.contains(&"array") => {
                Some(format!("write [{text:?}]"))
            }
            Shape::Known(Value::Number(_) | Value::Bool(_)) if kinds.contains(&"string") => {
                Some("put it in quotes".to_owned())
            }
            _ => None,
        };
        self.report(
            "manifest.wrong-type",
            span,
            format!(
                "{name} must be {}, not {}",
                alternatives(&kinds),
                shape.kind()
            ),
            "this value",
            hint,
        );
        false
    }

    fn check_any(
        &mut self,
        options: &'a [Value],
        shape: &Shape,
        span: Span,
        path: &str,
        depth: usize,
    ) {
        let mut best: Option<Vec<Problem>> = None;
        for option in options {
            let mut checker = Checker {
                root: self.root,
                what: self.what,
                problems: Vec::new(),
            };
            checker.check(option, shape, span, path, depth + 1);
            if checker.problems.is_empty() {
                return;
            }
            // An alternative of another type says nothing about this value.
            let fits = option.get("const").is_none()
                && (types(option).is_empty()
                    || types(option).iter().any(|kind| shape.may_be(kind)));
            if fits
                && best
                    .as_ref()
                    .is_none_or(|best| checker.problems.len() < best.len())
            {
                best = Some(checker.problems);
            }
        }
        let mut values: Vec<&str> = Vec::new();
        for option in options {
            values.extend(option.get("const").and_then(Value::as_str));
            let several = option.get("enum").and_then(Value::as_array);
            values.extend(several.into_iter().flatten().filter_map(Value::as_str));
        }
        if let (Shape::Known(Value::String(text)), false) = (shape, values.is_empty()) {
            return self.one_of(&values, text, span, path);
        }
        if let Some(problems) = best {
            return self.problems.extend(problems);
        }
        let mut kinds: Vec<&str> = options.iter().flat_map(types).collect();
        if !values.is_empty() {
            kinds.push("string");
        }
        kinds.sort_unstable();
        kinds.dedup();
        let name = self.name(path);
        let message = match alternatives(&kinds).as_str() {
            "" => format!("{name} does not fit"),
            kinds => format!("{name} must be {kinds}, not {}", shape.kind()),
        };
        self.report("manifest.wrong-type", span, message, "this value", None);
    }

    fn one_of(&mut self, values: &[&str], text: &str, span: Span, path: &str) {
        let name = self.name(path);
        self.report(
            "manifest.unknown-value",
            span,
            format!("{name} cannot be {text:?}"),
            "this value",
            closest(text, values.iter().copied())
                .map(|value| format!("did you mean {value:?}?"))
                .or_else(|| Some(format!("there are {}", listed(values)))),
        );
    }

    fn check_values(&mut self, schema: &Value, shape: &Shape, span: Span, path: &str) {
        let Shape::Known(value) = shape else {
            return;
        };
        let name = self.name(path);
        if let Some(values) = schema.get("enum").and_then(Value::as_array)
            && !values.contains(value)
        {
            let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
            self.one_of(&texts, &text, span, path);
        }
        if let Some(only) = schema.get("const")
            && only != value
        {
            self.report(
                "manifest.unknown-value",
                span,
                format!("{name} must be {only}"),
                "this value",
                None,
            );
        }
    }

    fn check_bounds(&mut self, schema: &Value, shape: &Shape, span: Span, path: &str) {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let (number, least, most, unit) = match shape {
            Shape::Known(Value::Number(number)) => {
                (number.as_f64(), bound("minimum"), bound("maximum"), "")
            }
            Shape::Known(Value::String(text)) => (
                Some(text.chars().count() as f64),
                bound("minLength"),
                bound("maxLength"),
                " characters",
            ),
            Shape::List(items) => (
                Some(items.len() as f64),
                bound("minItems"),
                bound("maxItems"),
                " elements",
            ),
            _ => return,
        };
        let Some(number) = number else {
            return;
        };
        let name = self.name(path);
        if let Some(least) = least.filter(|least| number < *least) {
            self.report(
                "manifest.out-of-range",
                span,
                format!("{name} must be at least {least}{unit}"),
                "this value",
                None,
            );
        }
        if let Some(most) = most.filter(|most| number > *most) {
            self.report(
                "manifest.out-of-range",
                span,
                format!("{name} must be at most {most}{unit}"),
                "this value",
                None,
            );
        }
    }

    fn check_items(
        &mut self,
        schema: &'a Value,
        items: &[(Span, Shape)],
        _span: Span,
        path: &str,
        depth: usize,
    ) {
        let first = schema.get("prefixItems").and_then(Value::as_array);
        for (index, (span, item)) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let schema = first
                .and_then(|first| first.get(index))
                .or_else(|| schema.get("items"));
            if let Some(schema) = schema {
                self.check(schema, item, *span, &path, depth + 1);
            }
        }
    }

    fn check_entries(
        &mut self,
        schema: &'a Value,
        entries: &IndexMap<String, (Span, Span, Shape)>,
        span: Span,
        path: &str,
        depth: usize,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        let join = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        for (key, (key_span, value_span, shape)) in entries {
            let path = join(key);
            if let Some(schema) = properties.and_then(|known| known.get(key)) {
                self.check(schema, shape, *value_span, &path, depth + 1);
            } else if others == Some(&Value::Bool(false)) {
                let known: Vec<&str> = properties
                    .into_iter()
                    .flat_map(|known| known.keys().map(String::as_str))
                    .collect();
                let hint = closest(key, known.iter().copied())
                    .map(|name| format!("did you mean `{name}`?"))
                    .or_else(|| {
                        (!known.is_empty()).then(|| format!("there are {}", listed(&known)))
                    });
                let what = self.what.to_owned();
                self.report(
                    "manifest.unknown-key",
                    *key_span,
                    format!("{what} has no setting `{path}`"),
                    "not known here",
                    hint,
                );
            } else if let Some(schema) = others {
                self.check(schema, shape, *value_span, &path, depth + 1);
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if !entries.contains_key(key) {
                let path = join(key);
                let about = properties
                    .and_then(|known| known.get(key))
                    .and_then(|schema| schema.get("description"))
                    .and_then(Value::as_str)
                    .and_then(|text| text.lines().next())
                    .map(|line| format!("`{path}`: {line}"));
                let what = self.what.to_owned();
                self.report(
                    "manifest.missing-key",
                    span,
                    format!("{what} needs the setting `{path}`"),
                    "missing here",
                    about,
                );
            }
        }
    }
}
