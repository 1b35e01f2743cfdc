//! Paths and query strings of the engine's API.

/// A path with its query. Names and values are encoded; the path is trusted:
/// what goes into it was validated before.
#[derive(Clone, Debug)]
pub(super) struct Query {
    text: String,
    any: bool,
}

impl Query {
    pub(super) fn new(path: impl Into<String>) -> Self {
        Self {
            text: path.into(),
            any: false,
        }
    }

    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.text.push(if self.any { '&' } else { '?' });
        self.any = true;
        encode(&mut self.text, name);
        self.text.push('=');
        encode(&mut self.text, value.as_ref());
        self
    }

    /// Left out when there is no value.
    #[must_use]
    pub(super) fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub(super) fn flag(self, name: &str, value: bool) -> Self {
        if value { self.with(name, "1") } else { self }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// RFC 3986: everything but the unreserved characters.
fn encode(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            into.push('%');
            into.push(char::from(DIGITS[usize::from(byte >> 4)]));
            into.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_add_parameters() {
        let query = Query::new("/build")
            .with("t", "a:1&nocache=1")
            .flag("pull", false)
            .with("labels", "{\"ä\"}");
        assert_eq!(
            query.as_str(),
            "/build?t=a%3A1%26nocache%3D1&labels=%7B%22%C3%A4%22%7D"
        );
    }
}
