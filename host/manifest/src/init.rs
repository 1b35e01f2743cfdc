//! The manifest that `windlass init` writes.

/// What was found in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The name of the directory, or of the repository.
    pub project: String,
    /// Path of a Dockerfile.
    pub dockerfile: Option<String>,
    /// Path of a compose file.
    pub compose: Option<String>,
    /// Of git, as a web address: `https://github.com/acme/app`.
    pub origin: Option<String>,
}

/// The text of a commented manifest; it parses.
pub fn manifest(_facts: &Facts) -> String {
    String::new()
}
