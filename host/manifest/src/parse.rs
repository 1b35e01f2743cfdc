//! From text to a manifest.

use crate::diagnostic::{Diagnostic, Diagnostics, Source, Span};
use crate::manifest::Manifest;

pub(crate) fn parse(name: &str, text: &str) -> Result<Manifest, Diagnostics> {
    let source = Source::new(name, text);
    Err(Diagnostic::new("manifest.internal", "not there yet")
        .at(&source, Span::default(), "")
        .into())
}
