//! Image references: the grammar of the `distribution/reference` package,
//! checked before anything is asked of an engine or a registry.

use windlass_model::{CallError, Text};

/// Docker Hub, as references name it.
pub(crate) const HUB: &str = "docker.io";

/// The grammar's own limit on a name.
const MAX_NAME: usize = 255;

/// `registry/repository[:tag][@digest]`, with Docker's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// As the user wrote it, without tag and digest: `acme/app`.
    pub(crate) name: String,
    /// `docker.io`, `ghcr.io`, `localhost:5000`
    pub(crate) registry: String,
    /// Within the registry: `library/alpine`.
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    /// `sha256:…`
    pub(crate) digest: Option<String>,
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, CallError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if digest.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid(text, "its digest is none"));
        }
        // A colon after the last slash begins the tag; one before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid(text, "its tag is none"));
        }
        let (registry, repository) = split_name(name);
        if name.len() > MAX_NAME {
            return Err(invalid(text, "its name is too long"));
        }
        if !is_registry(&registry) {
            return Err(invalid(text, "its registry is no host name"));
        }
        if repository
            .chars()
            .any(|character| character.is_ascii_uppercase())
        {
            return Err(CallError::invalid(
                "registry.invalid-name",
                format!("the repository name {name} is not lower-case"),
            )
            .hint(format!(
                "registries take lower-case names only: {}",
                name.to_ascii_lowercase()
            )));
        }
        if !repository.split('/').all(is_component) {
            return Err(invalid(text, "its repository name is none"));
        }
        Ok(Self {
            name: name.to_owned(),
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// What a manifest is asked by.
    pub(crate) fn selector(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest")
    }
}

fn invalid(text: &str, why: &str) -> CallError {
    CallError::invalid(
        "registry.invalid-name",
        format!("{text:?} is no image reference: {why}"),
    )
    .hint("write it as registry.example/repository:tag")
}

fn split_name(name: &str) -> (String, String) {
    if let Some((first, rest)) = name.split_once('/')
        && (first.contains(['.', ':']) || first == "localhost")
    {
        let registry = if matches!(first, "index.docker.io" | "registry-1.docker.io") {
            HUB
        } else {
            first
        };
        if registry == HUB && !rest.contains('/') {
            return (HUB.into(), format!("library/{rest}"));
        }
        return (registry.into(), rest.into());
    }
    if name.contains('/') {
        (HUB.into(), name.into())
    } else {
        (HUB.into(), format!("library/{name}"))
    }
}

fn is_registry(text: &str) -> bool {
    let host = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            return address.parse::<std::net::Ipv6Addr>().is_ok()
                && (port.is_empty()
                    || port
                        .strip_prefix(':')
                        .is_some_and(|port| port.parse::<u16>().is_ok()));
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            Some(_) => return false,
            None => text,
        },
    };
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| alphanumeric(*byte));
    if !ends(bytes.first()) || !ends(bytes.last()) {
        return false;
    }
    text.split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// `sha256:` and 64 hexadecimal digits: what an image's id is, too.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The plain text of an image: a name, or the id of an image on the engine.
/// Secrets do not belong in names that registries, logs and engines keep.
pub(crate) fn plain(text: &Text) -> Result<&str, CallError> {
    let plain = text.as_plain().ok_or_else(|| {
        CallError::invalid(
            "registry.invalid-name",
            format!("the image {text} is not plain text"),
        )
        .hint("an image's name cannot hold a secret")
    })?;
    if plain.is_empty() || plain.starts_with('-') {
        return Err(invalid(plain, "it begins with what no name begins with"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, String) {
        let reference = Reference::parse(text).expect(text);
        let selector = reference.selector().to_owned();
        (reference.registry, reference.repository, selector)
    }

    #[test]
    fn defaults_are_dockers() {
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parsed("alpine"), own(HUB, "library/alpine", "latest"));
        assert_eq!(parsed("acme/app:1"), own(HUB, "acme/app", "1"));
        assert_eq!(
            parsed("docker.io/alpine:3"),
            own(HUB, "library/alpine", "3")
        );
        assert_eq!(
            parsed("localhost:5000/a/b:v1.0_x"),
            own("localhost:5000", "a/b", "v1.0_x")
        );
        assert_eq!(
            parsed("127.0.0.1:5000/a"),
            own("127.0.0.1:5000", "a", "latest")
        );
        assert_eq!(parsed("[::1]:5000/a"), own("[::1]:5000", "a", "latest"));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            parsed(&format!("ghcr.io/acme/app:1@{digest}")),
            own("ghcr.io", "acme/app", &digest)
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "-x",
            "a b",
            "a:-x",
            "ghcr.io/",
            "ghcr.io/a//b",
            "ghcr.io/a/../b",
            "a@sha256:12",
            "ghcr.io/a?x=1",
            "a:1/../x",
            "-evil.io/a",
            "a\n",
        ] {
            assert_eq!(
                Reference::parse(text).expect_err(text).code,
                "registry.invalid-name",
                "{text}"
            );
        }
        let error = Reference::parse("ghcr.io/Acme/App:1").expect_err("upper case");
        assert!(
            error.hint.expect("hint").contains("ghcr.io/acme/app"),
            "the remedy names the lower-case form"
        );
        assert!(plain(&Text::secret("X")).is_err());
        assert!(plain(&Text::from("--privileged")).is_err());
    }
}
