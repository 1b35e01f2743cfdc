//! Problems of a manifest, each with its place, and how they are shown.

use std::fmt;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use serde_json::json;
use windlass_model::CallError;

/// Bytes of the manifest's text, from start to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}

/// A manifest's text, and the name it is shown under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            text: text.into(),
        })
    }

    /// Line and column, both counted from 1; the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        (line, before[start..].chars().count() + 1)
    }

    /// The text of a span; empty when it lies outside.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }
}

/// A place in a manifest, for messages of later stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub source: Arc<Source>,
    pub span: Span,
}

impl fmt::Display for Place {
    /// `windlass.toml:12:8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.source.position(self.span.start);
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A span with what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable and machine-readable: `manifest.unknown-key`.
    pub code: &'static str,
    /// A lower-case fragment.
    pub message: String,
    /// The first one is the place of the problem. None for what does not come
    /// from the manifest, such as an option of the command line.
    pub labels: Vec<Label>,
    /// What to do next.
    pub hint: Option<String>,
    source: Option<Arc<Source>>,
}

impl Diagnostic {
    /// A problem without a place.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: Vec::new(),
            hint: None,
            source: None,
        }
    }

    #[must_use]
    pub fn at(mut self, source: &Arc<Source>, span: Span, label: impl Into<String>) -> Self {
        self.source = Some(Arc::clone(source));
        self.labels.push(Label {
            span,
            text: label.into(),
        });
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a hint, if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Where the problem is, if it has a place.
    pub fn place(&self) -> Option<Place> {
        Some(Place {
            source: Arc::clone(self.source.as_ref()?),
            span: self.labels.first()?.span,
        })
    }

    /// With line, column, caret and hint, for people. `width` is that of the
    /// terminal, in columns. Ends with a newline.
    pub fn render(&self, color: bool, width: usize) -> String {
        let width = width.clamp(40, 400);
        // What stands before a message's and a help's lines.
        let message = wrap(&self.message, width - "  × ".len());
        let mut report = MietteDiagnostic::new(message)
            .with_code(self.code)
            .with_severity(match self.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            });
        if let Some(hint) = &self.hint {
            report = report.with_help(wrap(hint, width - "  help: ".len()));
        }
        for (index, label) in self.labels.iter().enumerate() {
            let text = (!label.text.is_empty()).then(|| label.text.clone());
            let range = label.span.start..label.span.end.max(label.span.start);
            report = report.and_label(if index == 0 {
                LabeledSpan::new_primary_with_span(text, range)
            } else {
                LabeledSpan::new_with_span(text, range)
            });
        }
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .with_links(false);
        let mut out = String::new();
        let rendered = match &self.source {
            Some(source) if !self.labels.is_empty() => {
                let report = miette::Report::new(report)
                    .with_source_code(NamedSource::new(&source.name, source.text.clone()));
                handler.render_report(&mut out, report.as_ref())
            }
            _ => handler.render_report(&mut out, &report),
        };
        if rendered.is_err() {
            out = format!("{self}\n");
        }
        out
    }

    pub fn to_json(&self) -> serde_json::Value {
        let labels: Vec<_> = self
            .labels
            .iter()
            .map(|label| {
                let (line, column) = self
                    .source
                    .as_ref()
                    .map_or((0, 0), |source| source.position(label.span.start));
                let (end_line, end_column) = self
                    .source
                    .as_ref()
                    .map_or((0, 0), |source| source.position(label.span.end));
                json!({
                    "line": line, "column": column,
                    "end_line": end_line, "end_column": end_column,
                    "text": label.text,
                })
            })
            .collect();
        json!({
            "severity": self.severity.name(),
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "file": self.source.as_ref().map(|source| &source.name),
            "labels": labels,
        })
    }
}

/// Breaks lines at spaces, but none that begins with two: that one is for the reader to
/// copy.
fn wrap(text: &str, width: usize) -> String {
    let options = textwrap::Options::new(width).break_words(false);
    let lines = text.split('\n').map(|line| {
        if line.starts_with("  ") {
            line.to_owned()
        } else {
            textwrap::fill(line, &options)
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Diagnostic {
    /// One line: `windlass.toml:12:8: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Diagnostic {}

impl From<Diagnostic> for CallError {
    fn from(diagnostic: Diagnostic) -> Self {
        let error = Self::invalid(diagnostic.code, diagnostic.to_string());
        match diagnostic.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Problems, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them is more than a warning.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// By place, without repetitions.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0
            .sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.span));
        self.0.dedup();
        self
    }

    /// All of them for people, with an empty line between two.
    pub fn render(&self, color: bool, width: usize) -> String {
        let rendered: Vec<String> = self
            .0
            .iter()
            .map(|diagnostic| diagnostic.render(color, width))
            .collect();
        rendered.join("\n")
    }

    /// An array.
    pub fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(Diagnostic::to_json).collect()
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self(diagnostics)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The known name that is closest to what was written, if one is close.
pub(crate) fn closest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// `did you mean "x"?`, or what there is.
pub(crate) fn suggestion<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(name) = closest(written, known.iter().copied()) {
        return Some(format!("did you mean `{name}`?"));
    }
    match known.as_slice() {
        [] => None,
        [only] => Some(format!("there is only `{only}`")),
        several if several.len() <= 16 => Some(format!("there are {}", listed(several))),
        _ => None,
    }
}

/// `a`, `b` and `c`
pub(crate) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [init @ .., last] => {
            let init: Vec<String> = init.iter().map(|name| format!("`{name}`")).collect();
            format!("{} and `{last}`", init.join(", "))
        }
    }
}
