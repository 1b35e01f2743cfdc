//! Tells apart why a registry refuses, and says the remedy.
//!
//! Registries speak freely; what counts here are the texts that GHCR, Docker
//! Hub, ECR, GitLab, Harbor and the distribution registry answer, whether they
//! come from the registry itself or quoted by a Docker engine.

use windlass_model::{CallError, ErrorKind};

/// Cap on a registry's words within a message.
const MAX_QUOTE: usize = 400;

/// What was refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// Whether a login was sent along.
    pub(crate) logged_in: bool,
    pub(crate) push: bool,
}

const GHCR: &str = "ghcr.io";

impl Attempt<'_> {
    fn whose(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    fn verb(&self) -> &'static str {
        if self.push { "pushing to" } else { "reading" }
    }

    pub(crate) fn not_logged_in(&self) -> CallError {
        CallError::denied(
            "registry.not-logged-in",
            format!("{} {} needs a login", self.verb(), self.whose()),
        )
        .hint(format!(
            "give one in the manifest, [registry.\"{0}\"] with username and password, or run \
             `docker login {0}`",
            self.registry
        ))
    }

    pub(crate) fn bad_login(&self, words: &str) -> CallError {
        CallError::denied(
            "registry.bad-login",
            format!(
                "{} does not accept the login{}",
                self.registry,
                quoted(words)
            ),
        )
        .hint("check user name and password; a token may have expired or been revoked")
    }

    fn no_write_scope(&self, words: &str) -> CallError {
        let hint = if self.registry == GHCR {
            "in a GitHub workflow, give the job `permissions: packages: write`; elsewhere, use a \
             token with the scope write:packages"
        } else {
            "use a login or a token that may write to this repository"
        };
        CallError::denied(
            "registry.no-write-scope",
            format!(
                "the login may not push to {}{}",
                self.whose(),
                quoted(words)
            ),
        )
        .hint(hint)
    }

    /// From the words of a registry, or of an engine that quotes one; nothing
    /// when they say nothing that is known.
    pub(crate) fn explain_words(&self, words: &str) -> Option<CallError> {
        let text = words.to_ascii_lowercase();
        let has = |needle: &str| text.contains(needle);
        let any = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));

        if any(&[
            "must be lowercase",
            "name_invalid",
            "invalid repository name",
        ]) {
            return Some(
                CallError::invalid(
                    "registry.invalid-name",
                    format!(
                        "{} is no name that the registry takes{}",
                        self.whose(),
                        quoted(words)
                    ),
                )
                .hint("repository names are lower-case"),
            );
        }
        if any(&["saml", "single sign-on", "sso"])
            && any(&["enforcement", "authorize", "grant", "sso"])
        {
            return Some(
                CallError::denied(
                    "registry.organisation-forbids",
                    format!("the organisation of {} wants single sign-on{}", self.whose(), quoted(words)),
                )
                .hint("authorise the token for the organisation: GitHub, Settings, Developer settings, the token, \"Configure SSO\""),
            );
        }
        if any(&[
            "create_package",
            "not allowed to create",
            "package creation",
        ]) {
            return Some(
                CallError::denied(
                    "registry.organisation-forbids",
                    format!("the organisation of {} does not let this login create a package{}", self.whose(), quoted(words)),
                )
                .hint("give the job `permissions: packages: write`; if it has it, an owner allows it in the organisation's settings, \"Packages\", \"Package creation\", or creates the package once"),
            );
        }
        if any(&[
            "match expected scopes",
            "not allowed to write",
            "insufficient_scope",
            "insufficient scope",
            "does not have write",
            "no push access",
            "write:packages",
        ]) {
            return Some(if self.logged_in {
                self.no_write_scope(words)
            } else {
                self.not_logged_in()
            });
        }
        if has("permission_denied") && any(&["write_package", "package", "repository"]) {
            return Some(
                CallError::denied(
                    "registry.repository-not-linked",
                    format!("the package {} does not accept this repository{}", self.whose(), quoted(words)),
                )
                .hint("on the package's page: \"Package settings\", \"Manage Actions access\", add this repository with the role Write"),
            );
        }
        if any(&["toomanyrequests", "too many requests", "rate limit"]) {
            return Some(
                CallError::exhausted(
                    "registry.rate-limited",
                    format!("{} asks to slow down{}", self.registry, quoted(words)),
                )
                .hint("wait, or log in: limits are higher with a login")
                .retryable(),
            );
        }
        if any(&[
            "incorrect username or password",
            "cannot be authenticated",
            "invalid username",
            "bad credentials",
            "authentication failed",
            "denied: denied",
        ]) {
            return Some(if self.logged_in {
                self.bad_login(words)
            } else {
                self.not_logged_in()
            });
        }
        if any(&[
            "name_unknown",
            "name unknown",
            "project not found",
            "repository does not exist",
        ]) && self.push
        {
            return Some(
                CallError::not_found(
                    "registry.not-found",
                    format!("{} does not exist{}", self.whose(), quoted(words)),
                )
                .hint("this registry wants the repository to be created first"),
            );
        }
        // What a registry without a token server says to a wrong password.
        if self.push
            && self.logged_in
            && any(&["authentication required", "no basic auth credentials"])
        {
            return Some(self.bad_login(words));
        }
        if any(&[
            "no basic auth credentials",
            "authentication required",
            "unauthorized",
            "requested access to the resource is denied",
            "access denied",
            "denied:",
            "authorization failed",
            "forbidden",
        ]) {
            return Some(if !self.logged_in {
                self.not_logged_in()
            } else if self.push {
                self.no_write_scope(words)
            } else {
                CallError::denied(
                    "registry.denied",
                    format!("the login may not read {}{}", self.whose(), quoted(words)),
                )
                .hint("check the login, and the repository's name")
            });
        }
        if any(&[
            "manifest unknown",
            "manifest_unknown",
            "name_unknown",
            "not found: manifest",
        ]) {
            return Some(CallError::not_found(
                "registry.not-found",
                format!("{} has no such image{}", self.whose(), quoted(words)),
            ));
        }
        if any(&[
            "no such host",
            "connection refused",
            "i/o timeout",
            "tls handshake",
            "x509:",
            "server gave http response to https client",
            "network is unreachable",
            "no route to host",
            "connection reset",
            "server misbehaving",
            "client.timeout exceeded",
        ]) {
            return Some(self.unreachable(words.trim()));
        }
        if has("no space left on device") {
            return Some(
                CallError::exhausted(
                    "registry.disk-full",
                    format!("no room is left{}", quoted(words)),
                )
                .hint("make room on the disk of the engine or of the registry"),
            );
        }
        None
    }

    /// From an HTTP answer that is no success.
    pub(crate) fn explain_status(&self, status: u16, body: &[u8]) -> CallError {
        let words = words_of(body);
        if let Some(error) = self.explain_words(&words) {
            return error;
        }
        match status {
            401 if self.logged_in => self.bad_login(&words),
            401 => self.not_logged_in(),
            403 if !self.logged_in => self.not_logged_in(),
            403 if self.push => self.no_write_scope(&words),
            403 => CallError::denied(
                "registry.denied",
                format!("the login may not read {}{}", self.whose(), quoted(&words)),
            ),
            404 => CallError::not_found(
                "registry.not-found",
                format!("{} does not exist{}", self.whose(), quoted(&words)),
            )
            .hint("check the name; some registries want the repository to be created first"),
            405 if self.push => CallError::denied(
                "registry.read-only",
                format!("{} takes no pushes{}", self.registry, quoted(&words)),
            )
            .hint("push to the registry itself, not to a mirror of it"),
            429 => CallError::exhausted(
                "registry.rate-limited",
                format!("{} asks to slow down", self.registry),
            )
            .retryable(),
            500.. => CallError::unavailable(
                "registry.failed",
                format!("{} answered {status}{}", self.registry, quoted(&words)),
            )
            .retryable(),
            _ => CallError::new(
                ErrorKind::Unavailable,
                "registry.unexpected",
                format!("{} answered {status}{}", self.registry, quoted(&words)),
            )
            .hint("is this the address of a registry?"),
        }
    }

    /// No connection, or one that nothing understands.
    pub(crate) fn unreachable(&self, why: &str) -> CallError {
        CallError::unavailable(
            "registry.unreachable",
            format!("the registry {} cannot be reached: {}", self.registry, clip(why)),
        )
        .hint("check the registry's name and the network; one without TLS is used on loopback only, or when WINDLASS_INSECURE_REGISTRIES lists it")
        .retryable()
    }
}

/// `{"errors":[{"code","message","detail"}]}`, Docker Hub's `{"details"}`, or
/// the text itself. Never HTML.
fn words_of(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        return if text.starts_with('<') {
            String::new()
        } else {
            text.to_owned()
        };
    };
    let text = |value: &serde_json::Value, key: &str| {
        value
            .get(key)
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned)
    };
    if let Some(errors) = json.get("errors").and_then(serde_json::Value::as_array) {
        return errors
            .iter()
            .take(4)
            .map(|error| {
                let code = text(error, "code").unwrap_or_default();
                let message = text(error, "message").unwrap_or_default();
                let detail = text(error, "detail").unwrap_or_default();
                [code.to_ascii_lowercase(), message, detail]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
                    .join(": ")
            })
            .collect::<Vec<_>>()
            .join("; ");
    }
    text(&json, "details")
        .or_else(|| text(&json, "message"))
        .or_else(|| text(&json, "error_description"))
        .unwrap_or_default()
}

fn clip(text: &str) -> String {
    let mut clipped: String = text
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(MAX_QUOTE)
        .collect();
    if clipped.len() < text.len() && clipped.chars().count() == MAX_QUOTE {
        clipped.push('…');
    }
    clipped
}

fn quoted(words: &str) -> String {
    let words = words.trim();
    if words.is_empty() {
        String::new()
    } else {
        format!(" (it says: {})", clip(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(logged_in: bool) -> Attempt<'static> {
        Attempt {
            registry: GHCR,
            repository: "acme/observer",
            logged_in,
            push: true,
        }
    }

    /// What registries, and engines that quote them, are known to say.
    #[test]
    fn words_become_codes() {
        for (logged_in, words, code) in [
            (
                true,
                "denied: permission_denied: The token provided does not match expected scopes.",
                "registry.no-write-scope",
            ),
            (
                true,
                "denied: installation not allowed to Write organization package",
                "registry.no-write-scope",
            ),
            (
                true,
                "denied: permission_denied: write_package",
                "registry.repository-not-linked",
            ),
            (
                true,
                "denied: installation not allowed to Create organization package",
                "registry.organisation-forbids",
            ),
            (
                true,
                "denied: permission_denied: create_package",
                "registry.organisation-forbids",
            ),
            (
                true,
                "denied: Resource protected by organization SAML enforcement. You must grant your Personal Access token access to this organization.",
                "registry.organisation-forbids",
            ),
            (
                true,
                "unauthorized: unauthenticated: User cannot be authenticated with the token provided.",
                "registry.bad-login",
            ),
            (true, "denied: denied", "registry.bad-login"),
            (
                true,
                "unauthorized: authentication required",
                "registry.bad-login",
            ),
            (
                true,
                "unauthorized: unauthorized to access repository: acme/x, action: push",
                "registry.no-write-scope",
            ),
            (
                false,
                "unauthorized: authentication required",
                "registry.not-logged-in",
            ),
            (false, "no basic auth credentials", "registry.not-logged-in"),
            (
                false,
                "denied: requested access to the resource is denied",
                "registry.not-logged-in",
            ),
            (
                true,
                "denied: requested access to the resource is denied",
                "registry.no-write-scope",
            ),
            (
                true,
                "unauthorized: incorrect username or password",
                "registry.bad-login",
            ),
            (
                true,
                "unauthorized: access token has insufficient scopes; insufficient_scope: authorization failed",
                "registry.no-write-scope",
            ),
            (
                true,
                "name unknown: The repository with name 'x' does not exist in the registry with id '1'",
                "registry.not-found",
            ),
            (
                true,
                "Get \"https://nope.invalid/v2/\": dial tcp: lookup nope.invalid: no such host",
                "registry.unreachable",
            ),
            (
                true,
                "Get \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                "registry.unreachable",
            ),
            (
                true,
                "Get \"https://x/v2/\": x509: certificate signed by unknown authority",
                "registry.unreachable",
            ),
            (
                true,
                "invalid reference format: repository name must be lowercase",
                "registry.invalid-name",
            ),
            (
                false,
                "toomanyrequests: You have reached your pull rate limit.",
                "registry.rate-limited",
            ),
        ] {
            let error = attempt(logged_in).explain_words(words).expect(words);
            assert_eq!(error.code, code, "{words}");
            assert!(error.hint.is_some(), "{words} has a remedy");
        }
        assert!(
            attempt(true)
                .explain_words("something else broke")
                .is_none()
        );
    }

    #[test]
    fn hints_name_the_remedy() {
        let hint = |words: &str| {
            attempt(true)
                .explain_words(words)
                .and_then(|e| e.hint)
                .expect("hint")
        };
        assert!(
            hint("denied: installation not allowed to Write organization package")
                .contains("packages: write")
        );
        assert!(hint("denied: permission_denied: write_package").contains("Manage Actions access"));
        assert!(
            hint("denied: permission_denied: The token provided does not match expected scopes.")
                .contains("write:packages")
        );
    }

    #[test]
    fn bodies_are_read_and_clipped() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}"#;
        assert_eq!(
            attempt(true).explain_status(403, body).code,
            "registry.repository-not-linked"
        );
        assert_eq!(
            attempt(true).explain_status(403, b"<html>no</html>").code,
            "registry.no-write-scope"
        );
        let long = format!("{{\"message\":\"{}\\u001b[31m\"}}", "x".repeat(5000));
        let error = attempt(true).explain_status(503, long.as_bytes());
        assert!(error.message.len() < 600 && error.retryable);
        assert!(!error.message.contains('\u{1b}'));
    }
}
