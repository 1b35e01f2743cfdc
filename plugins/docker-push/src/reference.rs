//! Image references, by the grammar of the distribution project
//! (`distribution/reference`).

use std::fmt;
use std::str::FromStr;

use windlass_sdk::Error;

/// `repository:tag`, with the registry's host where one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `ghcr.io/acme/app`
    pub(crate) repository: String,
    pub(crate) tag: String,
}

/// Why a text is no reference that can be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidReference {
    text: String,
    problem: &'static str,
    hint: String,
}

impl fmt::Display for InvalidReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.text, self.problem)
    }
}

impl From<InvalidReference> for Error {
    fn from(invalid: InvalidReference) -> Self {
        Self::invalid("docker-push.invalid-tag", invalid.to_string()).with_hint(invalid.hint)
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem, hint: &str| InvalidReference {
            text: text.to_owned(),
            problem,
            hint: hint.to_owned(),
        };
        if text.contains('@') {
            return Err(invalid(
                "has a digest: that is what a push gives, not what it takes",
                "write repository:tag",
            ));
        }
        // A colon before the last slash belongs to the registry's port.
        let name_start = text.rfind('/').map_or(0, |slash| slash + 1);
        let Some(colon) = text[name_start..].find(':').map(|at| name_start + at) else {
            return Err(invalid("has no tag", "write repository:tag"));
        };
        let (repository, tag) = (&text[..colon], &text[colon + 1..]);
        let path = match repository.split_once('/') {
            Some((host, path)) if is_host(host) => path,
            _ => repository,
        };
        if path.chars().any(char::is_uppercase) {
            return Err(invalid(
                "has upper-case letters in the repository's name",
                &format!(
                    "registries take lower case only: {}{}:{tag}",
                    &repository[..repository.len() - path.len()],
                    path.to_lowercase()
                ),
            ));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(invalid(
                "is no repository and tag",
                "a name is made of a-z, 0-9 and single separators . _ __ - between them",
            ));
        }
        if !is_tag(tag) {
            return Err(invalid(
                "has an invalid tag",
                "a tag is up to 128 of A-Z a-z 0-9 _ . - and begins with none of . -",
            ));
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// As Docker tells a registry's host from the first part of a name; but for
/// upper case, which Docker takes for a host and people mean as a name.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

/// `[a-z0-9]+ ( ( . | _ | __ | -+ ) [a-z0-9]+ )*`
fn is_component(part: &str) -> bool {
    let mut separator = String::new();
    let mut started = false;
    for char in part.chars() {
        match char {
            'a'..='z' | '0'..='9' => {
                let dashes = separator.bytes().all(|byte| byte == b'-');
                if !dashes && !matches!(separator.as_str(), "." | "_" | "__") {
                    return false;
                }
                separator.clear();
                started = true;
            }
            '.' | '_' | '-' if started => separator.push(char),
            _ => return false,
        }
    }
    started && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::Reference;

    #[test]
    fn hosts_ports_and_paths() {
        for (text, repository, tag) in [
            ("app:1", "app", "1"),
            ("ghcr.io/acme/app:latest", "ghcr.io/acme/app", "latest"),
            ("localhost:5000/a:v1.2", "localhost:5000/a", "v1.2"),
            ("[::1]:5000/a:v1", "[::1]:5000/a", "v1"),
            ("My.Host/a__b/c-d.e:_x", "My.Host/a__b/c-d.e", "_x"),
            ("acme/a--b:1", "acme/a--b", "1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((&*reference.repository, &*reference.tag), (repository, tag));
        }
    }

    #[test]
    fn each_fault_is_told_apart() {
        for (text, problem) in [
            ("app", "no tag"),
            ("localhost:5000/app", "no tag"),
            ("ghcr.io/Acme/app:1", "upper-case"),
            ("Acme/app:1", "upper-case"),
            ("ghcr.io/acme/app@sha256:00", "digest"),
            ("ghcr.io/a..b:1", "no repository"),
            ("ghcr.io//b:1", "no repository"),
            ("-a/b:1", "no repository"),
            (":1", "no repository"),
            ("app:", "invalid tag"),
            ("app:.x", "invalid tag"),
            ("app:a b", "invalid tag"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.problem.contains(problem), "{error}");
        }
        let error = "ghcr.io/Acme/App:1".parse::<Reference>().unwrap_err();
        assert!(error.hint.ends_with("ghcr.io/acme/app:1"));
    }
}
