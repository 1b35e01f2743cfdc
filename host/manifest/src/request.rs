//! A plugin's request templates, filled in with a step's configuration: what
//! the step may ask for, as narrow as what it was told.

use std::collections::BTreeSet;

use windlass_model::grant::Grant;

/// One filled-in request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub grant: Grant,
    /// Something in it came from another step's output.
    pub tainted: bool,
}

/// The template is wrong: the plugin's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {template:?}: {message}")]
pub struct RequestError {
    pub template: String,
    pub message: String,
}

/// Fills in a template.
pub fn expand(
    template: &str,
    _config: &serde_json::Value,
    _target: Option<&str>,
    _tainted: &BTreeSet<String>,
) -> Result<Vec<Request>, RequestError> {
    Err(RequestError {
        template: template.to_owned(),
        message: "not there yet".to_owned(),
    })
}
