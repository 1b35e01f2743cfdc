//! Text with `{{ … }}` in it: found, checked for the names it uses, evaluated.
//!
//! Only expressions exist, no statements: a text is split here, and each
//! expression is compiled by minijinja on its own. So a value that is one whole
//! expression keeps its type, `{%` and `{#` are plain text, and a loop cannot be
//! written.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use jiff::Timestamp;
use minijinja::Value as Jinja;
use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Source, Span};
use crate::jinja::{format_time, from_jinja, jinja_message, map_to_jinja, strict};

/// The key of the object that stands for a secret in evaluated configuration.
/// No key of a manifest begins with `$`, so nothing else looks like it.
pub const SECRET_KEY: &str = "$secret";
/// The key of the object that stands for what is not known before its step ran.
pub const UNKNOWN_KEY: &str = "$unknown";

/// Longer expressions are refused: `a.a.a…` and `1+1+1…` nest with each
/// operator, and the stack is what they would exhaust.
pub(crate) const MAX_EXPRESSION: usize = 2048;
/// Bytes that a text may grow to: stops doubling by concatenation.
pub(crate) const MAX_TEXT: usize = 1 << 20;
/// The names that expressions begin with.
pub const ROOTS: &[&str] = &["vars", "environment", "target", "run", "steps"];
const FUNCTIONS: &[&str] = &["now", "range", "dict"];

/// A name that an expression uses: `steps.build.image`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub root: String,
    /// What follows, without the root.
    pub path: Vec<String>,
    pub span: Span,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)?;
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// What stands between `{{` and `}}`.
#[derive(Clone, Debug)]
pub struct Expression {
    pub source: Arc<Source>,
    pub span: Span,
    text: String,
    references: Vec<Reference>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    Expression(Expression),
}

/// A text with expressions, or without.
#[derive(Clone, Debug)]
pub struct Template {
    pub source: Arc<Source>,
    /// Of the string in the manifest.
    pub span: Span,
    text: String,
    parts: Vec<Part>,
}

/// A configuration as written: a tree with templates at its leaves.
#[derive(Clone, Debug)]
pub struct With {
    pub source: Arc<Source>,
    pub span: Span,
    pub node: WithNode,
}

#[derive(Clone, Debug)]
pub enum WithNode {
    /// A number, a boolean, or a date as text.
    Scalar(Value),
    Text(Template),
    /// `{ secret = "NAME" }`
    Secret(String),
    List(Vec<With>),
    /// What could not be read; it has been reported.
    Broken,
    /// With the place of each key.
    Table(IndexMap<String, (Span, With)>),
}

/// The values that expressions see. What all steps see is shared.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub vars: Arc<Map<String, Value>>,
    /// None when none was chosen.
    pub environment: Option<Arc<Map<String, Value>>>,
    pub run: Arc<Map<String, Value>>,
    /// None for a step without `on`.
    pub target: Option<Map<String, Value>>,
    /// Outputs by step.
    pub steps: Map<String, Value>,
    /// What `now` answers.
    pub now: Timestamp,
    /// Outputs that are not there are unknown, rather than an error: before
    /// their steps ran.
    pub preview: bool,
}

/// An evaluated configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// Secrets are `{"$secret": NAME}`, what is not known `{"$unknown": WHAT}`.
    pub value: Value,
    /// The keys whose values came, at least in part, from other steps' outputs.
    pub tainted: BTreeSet<String>,
}

/// The names of the secrets in an evaluated value, in order, each once.
pub fn secrets_in(value: &Value) -> Vec<String> {
    fn walk(value: &Value, names: &mut Vec<String>) {
        match value {
            Value::Object(entries) => {
                if let Some(name) = secret_name(value) {
                    if !names.iter().any(|known| known == name) {
                        names.push(name.to_owned());
                    }
                } else {
                    entries.values().for_each(|value| walk(value, names));
                }
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    walk(value, &mut names);
    names
}

/// The name in `{"$secret": NAME}`.
pub fn secret_name(value: &Value) -> Option<&str> {
    reserved(value, SECRET_KEY)
}

/// What is not known, of `{"$unknown": WHAT}`.
pub fn unknown_name(value: &Value) -> Option<&str> {
    reserved(value, UNKNOWN_KEY)
}

fn reserved<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let entries = value.as_object()?;
    if entries.len() != 1 {
        return None;
    }
    entries.get(key)?.as_str()
}

pub(crate) fn unknown(what: &str) -> Value {
    Value::Object(Map::from_iter([(UNKNOWN_KEY.to_owned(), what.into())]))
}

/// Where a string's content begins in the manifest, when it stands there
/// without escapes.
fn content_start(source: &Source, span: Span, text: &str) -> Option<usize> {
    let raw = source.slice(span);
    let skip = if raw.starts_with("\"\"\"") || raw.starts_with("'''") {
        let newline = &raw[3..];
        if newline.starts_with("\r\n") {
            5
        } else if newline.starts_with('\n') {
            4
        } else {
            3
        }
    } else {
        1
    };
    raw.get(skip..)?
        .starts_with(text)
        .then_some(span.start + skip)
}

/// One piece of a text: literal, or an expression with the range of its inside.
pub(crate) enum Piece<'a> {
    Literal(&'a str),
    Expression(&'a str, std::ops::Range<usize>),
}

/// Splits at `{{` and `}}`, minding strings and braces within. An error is the
/// offset of a `{{` that is not closed.
pub(crate) fn split(text: &str) -> Result<Vec<Piece<'_>>, usize> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("{{") {
        let open = at + found;
        if open > at {
            pieces.push(Piece::Literal(&text[at..open]));
        }
        let start = open + 2;
        let mut quote: Option<u8> = None;
        let mut depth = 0_usize;
        let bytes = text.as_bytes();
        let mut index = start;
        let close = loop {
            let Some(&byte) = bytes.get(index) else {
                return Err(open);
            };
            match (quote, byte) {
                (Some(_), b'\\') => index += 1,
                (Some(mark), byte) if byte == mark => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'{') => depth += 1,
                (None, b'}') if depth > 0 => depth -= 1,
                (None, b'}') if bytes.get(index + 1) == Some(&b'}') => break index,
                _ => {}
            }
            index += 1;
        };
        pieces.push(Piece::Expression(&text[start..close], start..close));
        at = close + 2;
    }
    if at < text.len() {
        pieces.push(Piece::Literal(&text[at..]));
    }
    Ok(pieces)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where a dotted name stands in an expression.
fn find_name(text: &str, name: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    text.match_indices(name).map(|(at, _)| at).find(|&at| {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + name.len()).copied();
        !before.is_some_and(|byte| is_word(byte) || byte == b'.') && !after.is_some_and(is_word)
    })
}

impl Expression {
    /// `start`: where the text begins in the manifest, if it stands there as it
    /// is; otherwise messages point at `span`.
    fn parse(
        source: &Arc<Source>,
        span: Span,
        start: Option<usize>,
        text: &str,
    ) -> Result<Self, Diagnostic> {
        let own = start.map_or(span, |start| {
            let lead = text.len() - text.trim_start().len();
            Span::new(start + lead, start + text.trim_end().len().max(lead))
        });
        if text.len() > MAX_EXPRESSION {
            let message = format!("the expression is longer than {MAX_EXPRESSION} bytes");
            return Err(Diagnostic::new("manifest.expression", message)
                .at(source, own, "here")
                .hint("make it shorter with variables"));
        }
        if text.trim().is_empty() {
            return Err(
                Diagnostic::new("manifest.expression", "the expression is empty")
                    .at(source, own, "here")
                    .hint("to write {{ itself, write {{ '{{' }}"),
            );
        }
        let compiled = strict().compile_expression(text).map_err(|error| {
            Diagnostic::new(
                "manifest.expression",
                format!("invalid expression: {}", jinja_message(&error)),
            )
            .at(source, own, "here")
            .hint("docs/manifest.md has the syntax; to write {{ itself, write {{ '{{' }}")
        })?;
        let mut names: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        names.sort();
        let references = names
            .iter()
            .map(|name| {
                let mut words = name.split('.').map(str::to_owned);
                let place = start.zip(find_name(text, name)).map_or(own, |(start, at)| {
                    Span::new(start + at, start + at + name.len())
                });
                Reference {
                    root: words.next().unwrap_or_default(),
                    path: words.collect(),
                    span: place,
                }
            })
            .filter(|reference| {
                !(reference.path.is_empty() && FUNCTIONS.contains(&reference.root.as_str()))
            })
            .collect();
        Ok(Self {
            source: Arc::clone(source),
            span: own,
            text: text.to_owned(),
            references,
        })
    }

    /// A condition: `run.branch == 'main'`, in `{{ }}` or without.
    pub fn condition(source: &Arc<Source>, span: Span, text: &str) -> Result<Self, Diagnostic> {
        let start = content_start(source, span, text);
        match split(text).as_deref() {
            Ok([Piece::Expression(inner, range)]) => {
                Self::parse(source, span, start.map(|start| start + range.start), inner)
            }
            Ok([] | [Piece::Literal(_)]) => Self::parse(source, span, start, text),
            _ => Err(
                Diagnostic::new("manifest.expression", "a condition is one expression")
                    .at(source, span, "here")
                    .hint("write it without {{ }}: when = \"run.branch == 'main'\""),
            ),
        }
    }

    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether everything but outputs has a value.
    pub(crate) fn ready(&self, scope: &Scope) -> bool {
        self.references.iter().all(|reference| {
            let map = match reference.root.as_str() {
                "vars" => Some(&*scope.vars),
                "environment" => scope.environment.as_deref(),
                "run" => Some(&*scope.run),
                "target" => scope.target.as_ref(),
                "steps" => return reference.path.len() > 1,
                _ => None,
            };
            let name = reference.path.first();
            map.zip(name)
                .is_some_and(|(map, name)| map.contains_key(name))
        })
    }

    /// The step and the output, when it is nothing but `steps.NAME.OUTPUT`.
    pub(crate) fn output(&self) -> Option<(&str, &str)> {
        let [reference] = self.references.as_slice() else {
            return None;
        };
        let [step, output] = reference.path.as_slice() else {
            return None;
        };
        (reference.root == "steps" && self.text.trim() == reference.to_string())
            .then_some((step, output))
    }

    /// The value; `{"$unknown": WHAT}` when it touches something unknown.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, Diagnostic> {
        for reference in &self.references {
            if let Some(what) = self.look_up(reference, scope)? {
                return Ok(unknown(&what));
            }
        }
        let mut context: Vec<(&str, Jinja)> = Vec::new();
        let uses = |root: &str| {
            self.references
                .iter()
                .any(|reference| reference.root == root)
        };
        let maps = [
            ("vars", Some(&*scope.vars)),
            ("environment", scope.environment.as_deref()),
            ("run", Some(&*scope.run)),
            ("target", scope.target.as_ref()),
            ("steps", Some(&scope.steps)),
        ];
        for (root, map) in maps {
            if let Some(map) = map.filter(|_| uses(root)) {
                context.push((root, map_to_jinja(map)));
            }
        }
        let now = scope.now;
        context.push((
            "now",
            Jinja::from_function(move |format: String, zone: Option<String>| {
                format_time(now, &format, zone.as_deref())
            }),
        ));
        let value = strict()
            .compile_expression(&self.text)
            .and_then(|compiled| compiled.eval(Jinja::from_pairs(context)))
            .map_err(|error| self.failed(&jinja_message(&error)))?;
        from_jinja(&value).map_err(|message| self.failed(&message))
    }

    fn failed(&self, message: &str) -> Diagnostic {
        Diagnostic::new(
            "manifest.expression",
            format!("cannot evaluate the expression: {message}"),
        )
        .at(&self.source, self.span, "here")
    }

    /// What is unknown about a name, if something is; an error when an output
    /// is not there.
    fn look_up(&self, reference: &Reference, scope: &Scope) -> Result<Option<String>, Diagnostic> {
        if reference.root != "steps" {
            return Ok(None);
        }
        let [step, output, rest @ ..] = reference.path.as_slice() else {
            return Ok(None);
        };
        let short = || format!("steps.{step}.{output}");
        let Some(value) = scope
            .steps
            .get(step)
            .and_then(|outputs| outputs.get(output))
        else {
            if scope.preview {
                return Ok(Some(short()));
            }
            return Err(Diagnostic::new(
                "manifest.missing-output",
                format!("step {step} gave no output `{output}`"),
            )
            .at(&self.source, reference.span, "used here")
            .hint(format!(
                "run without --only and --from, or look why {step} did not give it: windlass logs"
            )));
        };
        if contains_unknown(value) {
            // A known part of a partly known value is known.
            let mut part = value;
            for name in rest {
                match part.get(name) {
                    Some(inner) => part = inner,
                    None => break,
                }
            }
            if contains_unknown(part) {
                return Ok(Some(short()));
            }
        }
        Ok(None)
    }
}

fn contains_unknown(value: &Value) -> bool {
    match value {
        Value::Object(entries) => {
            unknown_name(value).is_some() || entries.values().any(contains_unknown)
        }
        Value::Array(items) => items.iter().any(contains_unknown),
        _ => false,
    }
}

impl Template {
    pub fn parse(source: &Arc<Source>, span: Span, text: &str) -> Result<Self, Diagnostic> {
        let start = content_start(source, span, text);
        let pieces = split(text).map_err(|open| {
            let place = start.map_or(span, |start| Span::new(start + open, start + open + 2));
            Diagnostic::new("manifest.expression", "the expression has no end")
                .at(source, place, "opened here")
                .hint("close it with }}; to write {{ itself, write {{ '{{' }}")
        })?;
        let parts = pieces
            .into_iter()
            .map(|piece| {
                Ok(match piece {
                    Piece::Literal(literal) => Part::Literal(literal.to_owned()),
                    Piece::Expression(inner, range) => Part::Expression(Expression::parse(
                        source,
                        span,
                        start.map(|start| start + range.start),
                        inner,
                    )?),
                })
            })
            .collect::<Result<_, Diagnostic>>()?;
        Ok(Self {
            source: Arc::clone(source),
            span,
            text: text.to_owned(),
            parts,
        })
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, when there is no expression in it.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The expression, when there is nothing else.
    pub fn whole(&self) -> Option<&Expression> {
        match self.parts.as_slice() {
            [Part::Expression(expression)] => Some(expression),
            _ => None,
        }
    }

    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(expression),
            Part::Literal(_) => None,
        })
    }

    /// One whole expression keeps its type; anything else is text, and unknown
    /// as a whole when a part of it is.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, Diagnostic> {
        if let Some(expression) = self.whole() {
            return expression.evaluate(scope);
        }
        self.render(scope, str::to_owned)
    }

    /// Always text, or unknown. `escape` is applied to what expressions give.
    pub fn render(
        &self,
        scope: &Scope,
        escape: impl Fn(&str) -> String,
    ) -> Result<Value, Diagnostic> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Expression(expression) => {
                    let value = expression.evaluate(scope)?;
                    if unknown_name(&value).is_some() {
                        return Ok(value);
                    }
                    let text = scalar_text(&value).ok_or_else(|| {
                        Diagnostic::new(
                            "manifest.expression",
                            format!("{} cannot stand within a text", kind_of(&value)),
                        )
                        .at(&self.source, expression.span, "this one")
                        .hint("pick a part of it, or use a filter: `| join(', ')`, `| tojson`")
                    })?;
                    out.push_str(&escape(&text));
                }
            }
            if out.len() > MAX_TEXT {
                return Err(Diagnostic::new(
                    "manifest.expression",
                    format!("the text grows past {MAX_TEXT} bytes"),
                )
                .at(&self.source, self.span, "this one"));
            }
        }
        Ok(Value::String(out))
    }
}

impl With {
    /// Every expression in it, in the order of the manifest.
    pub fn expressions(&self) -> Vec<&Expression> {
        fn walk<'a>(with: &'a With, found: &mut Vec<&'a Expression>) {
            match &with.node {
                WithNode::Scalar(_) | WithNode::Secret(_) | WithNode::Broken => {}
                WithNode::Text(template) => found.extend(template.expressions()),
                WithNode::List(items) => items.iter().for_each(|item| walk(item, found)),
                WithNode::Table(entries) => {
                    entries.values().for_each(|(_, item)| walk(item, found));
                }
            }
        }
        let mut found = Vec::new();
        walk(self, &mut found);
        found
    }

    /// The secrets in it, with their places.
    pub fn secrets(&self) -> Vec<(Span, &str)> {
        fn walk<'a>(with: &'a With, found: &mut Vec<(Span, &'a str)>) {
            match &with.node {
                WithNode::Scalar(_) | WithNode::Text(_) | WithNode::Broken => {}
                WithNode::Secret(name) => found.push((with.span, name)),
                WithNode::List(items) => items.iter().for_each(|item| walk(item, found)),
                WithNode::Table(entries) => {
                    entries.values().for_each(|(_, item)| walk(item, found));
                }
            }
        }
        let mut found = Vec::new();
        walk(self, &mut found);
        found
    }

    /// The keys of the table whose values use other steps' outputs.
    pub fn tainted(&self) -> BTreeSet<String> {
        let WithNode::Table(entries) = &self.node else {
            return BTreeSet::new();
        };
        entries
            .iter()
            .filter(|(_, (_, value))| {
                value
                    .expressions()
                    .iter()
                    .flat_map(|expression| expression.references())
                    .any(|reference| reference.root == "steps")
            })
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// The value of a configuration, with its tainted keys.
pub fn resolve(with: &With, scope: &Scope) -> Result<Resolved, Diagnostic> {
    Ok(Resolved {
        value: evaluate(with, scope)?,
        tainted: with.tainted(),
    })
}

/// The value of a configuration.
pub fn evaluate(with: &With, scope: &Scope) -> Result<Value, Diagnostic> {
    Ok(match &with.node {
        WithNode::Scalar(value) => value.clone(),
        WithNode::Broken => Value::Null,
        WithNode::Secret(name) => Value::Object(Map::from_iter([(
            SECRET_KEY.to_owned(),
            name.as_str().into(),
        )])),
        WithNode::Text(template) => template.evaluate(scope)?,
        WithNode::List(items) => Value::Array(
            items
                .iter()
                .map(|item| evaluate(item, scope))
                .collect::<Result<_, _>>()?,
        ),
        WithNode::Table(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, (_, item))| Ok((key.clone(), evaluate(item, scope)?)))
                .collect::<Result<_, Diagnostic>>()?,
        ),
    })
}

/// The text of a string, a number or a boolean.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// For messages: `a list`.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "an absent value",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The value of `value = …` in a manifest.
    fn template(raw: &str) -> Result<Template, Diagnostic> {
        let text = format!("value = {raw}");
        let table = toml::de::DeTable::parse(&text).expect("toml");
        let value = table.get_ref()["value"].get_ref();
        let source = Source::new("windlass.toml", text.as_str());
        let span = Span::new(8, 8 + raw.len());
        Template::parse(&source, span, value.as_str().expect("a string"))
    }

    fn scope() -> Scope {
        let json = json!({"n": 3, "big": 18_446_744_073_709_551_615_u64, "f": 1.5, "b": true,
            "list": ["a", 1], "table": {"k": null}, "text": "x y"});
        Scope {
            vars: Arc::new(json.as_object().cloned().unwrap_or_default()),
            now: "2026-01-23T16:46:58Z".parse().expect("time"),
            ..Scope::default()
        }
    }

    fn value(raw: &str) -> Value {
        let value = template(raw).and_then(|template| template.evaluate(&scope()));
        value.unwrap_or_else(|error| panic!("{raw}: {error}"))
    }

    #[test]
    fn a_whole_expression_keeps_its_type() {
        for name in ["n", "big", "f", "b", "list", "table", "text"] {
            assert_eq!(
                value(&format!("\"{{{{ vars.{name} }}}}\"")),
                scope().vars[name],
                "{name}"
            );
        }
        assert_eq!(value("\" {{ vars.n }}\""), " 3");
        assert_eq!(value("\"{{ vars.n }}{{ vars.b }}\""), "3true");
        assert_eq!(value("\"{{ vars.n + 1 }}\""), 4);
        assert_eq!(
            value("\"{{ vars.list | map('upper') | list }}\""),
            json!(["A", "1"])
        );
        assert_eq!(
            value("\"{{ {'a': {'b': vars.n}} }}\""),
            json!({"a": {"b": 3}})
        );
    }

    #[test]
    fn braces_and_quotes_do_not_end_an_expression() {
        assert_eq!(value("\"{{ '{{' }}.Names{{ '}}' }}\""), "{{.Names}}");
        assert_eq!(value(r#"'{{ "a}}\"b" }}'"#), "a}}\"b");
        assert_eq!(value("\"{% if x %}{# y #}\""), "{% if x %}{# y #}");
        assert_eq!(value("\"}} }\""), "}} }");
        assert!(template("\"{{ 'a }}\"").is_err());
    }

    #[test]
    fn times_have_zones() {
        assert_eq!(
            value("\"{{ now('%Y%m%d-%H%M%S', 'Asia/Seoul') }}\""),
            "20260124-014658"
        );
        assert_eq!(value("\"{{ now('%H') }}\""), "16");
    }

    #[test]
    fn places_are_exact_where_the_text_is_as_it_stands() {
        let at = |raw: &str| {
            let template = template(raw).expect(raw);
            let expression = template.expressions().next().expect("an expression");
            let reference = &expression.references()[0];
            (
                expression.source.slice(expression.span).to_owned(),
                expression.source.slice(reference.span).to_owned(),
            )
        };
        let exact = ("1 + vars.n".to_owned(), "vars.n".to_owned());
        assert_eq!(at("\"x{{ 1 + vars.n }}\""), exact);
        assert_eq!(at("'''\nx{{ 1 + vars.n }}'''"), exact);
        // With escapes, the whole string.
        let raw = "\"\\t{{ 1 + vars.n }}\"";
        assert_eq!(at(raw), (raw.to_owned(), raw.to_owned()));
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let of = |text: &str| {
            let template = template(&format!("\"\"\"{{{{ {text} }}}}\"\"\"")).expect(text);
            let expression = template.whole().expect("whole");
            expression
                .references()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("steps.a.b.c"), ["steps.a.b.c"]);
        assert_eq!(of("steps.a.b['x']"), ["steps.a.b"]);
        assert_eq!(
            of("vars.a if run.dirty else steps.b.c | default(vars.d)"),
            ["run.dirty", "steps.b.c", "vars.a", "vars.d"]
        );
        assert_eq!(
            of("[vars.a, {'k': vars.b}] | map(attribute=vars.c)"),
            ["vars.a", "vars.b", "vars.c"]
        );
        assert_eq!(of("vars['a']"), ["vars"]);
        assert_eq!(of("now(vars.f)"), ["vars.f"]);
        // A name's part does not hide the name.
        assert_eq!(of("vars.a ~ vars.a.b"), ["vars.a", "vars.a.b"]);
        assert_eq!(of("'vars.a'"), Vec::<String>::new());
    }

    #[test]
    fn what_touches_the_unknown_is_unknown() {
        let scope = Scope {
            preview: true,
            ..scope()
        };
        for raw in [
            "\"{{ steps.a.b }}\"",
            "\"x{{ steps.a.b }}\"",
            "\"{{ 'x' if steps.a.b else 'y' }}\"",
            "\"{{ steps.a.b | default('z') }}\"",
        ] {
            let value = template(raw).and_then(|template| template.evaluate(&scope));
            assert_eq!(value, Ok(json!({"$unknown": "steps.a.b"})), "{raw}");
        }
    }

    #[test]
    fn conditions_come_with_braces_or_without() {
        let of = |text: &str| {
            let source = Source::new("x", format!("\"{text}\""));
            let span = Span::new(0, text.len() + 2);
            Expression::condition(&source, span, text)
                .and_then(|condition| condition.evaluate(&scope()))
        };
        assert_eq!(of("vars.n == 3"), Ok(true.into()));
        assert_eq!(of("{{ vars.n == 3 }}"), Ok(true.into()));
        assert_eq!(of("false"), Ok(false.into()));
        assert!(of("{{ vars.n }} == 3").is_err());
        assert!(of("").is_err());
    }
}
