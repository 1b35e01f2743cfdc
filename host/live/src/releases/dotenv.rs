//! `.env` files that every compose reads back as what was meant.

use windlass_model::CallError;
use zeroize::Zeroizing;

use crate::ssh::shell::check_variable_name;

/// Lines `NAME=value`. Values that are not plain words stand in single quotes,
/// where nothing is interpolated.
pub(super) fn write(
    file: &str,
    variables: &[(String, Zeroizing<String>)],
) -> Result<Zeroizing<String>, CallError> {
    let mut text = Zeroizing::new(String::new());
    for (name, value) in variables {
        check_variable_name(name)?;
        text.push_str(name);
        text.push('=');
        text.push_str(&quoted(file, name, value)?);
        text.push('\n');
    }
    Ok(text)
}

fn quoted(file: &str, name: &str, value: &str) -> Result<Zeroizing<String>, CallError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if value.chars().all(plain) {
        return Ok(Zeroizing::new(value.to_owned()));
    }
    // Compose's versions disagree about a backslash before these.
    if value.contains('\0')
        || value.contains("\\\\")
        || value.contains("\\'")
        || value.ends_with('\\')
    {
        return Err(CallError::invalid(
            "releases.env-value",
            format!("the value of {name} in {file} cannot be written so that every compose reads it back"),
        )
        .hint("avoid `\\\\`, `\\'`, a backslash at the end, and NUL; base64 is a way out"));
    }
    let mut out = Zeroizing::new(String::with_capacity(value.len() + 2));
    out.push('\'');
    for (index, part) in value.split('\'').enumerate() {
        if index > 0 {
            out.push_str("\\'");
        }
        out.push_str(part);
    }
    out.push('\'');
    Ok(out)
}

/// Names in compose's warnings of variables that are not set.
pub(super) fn blank_variables(said: &str) -> Vec<String> {
    let mut names: Vec<String> = said
        .lines()
        .filter_map(|line| line.split_once(" variable is not set"))
        .filter_map(|(before, _)| before.split(' ').next_back())
        .map(|name| name.trim_matches(['\\', '"', '\'']).to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_when_they_must_be() {
        let quote = |value| quoted(".env", "A", value).map(|text| text.to_string());
        assert_eq!(quote("a/b:1").expect("plain"), "a/b:1");
        assert_eq!(quote("a b").expect("spaced"), "'a b'");
        assert_eq!(quote("it's $5").expect("quote"), "'it\\'s $5'");
        assert_eq!(
            quote("a\\").expect_err("refused").code,
            "releases.env-value"
        );
    }

    #[test]
    fn both_composes_name_blank_variables() {
        let v2 = r#"time="2026-01-01T00:00:00Z" level=warning msg="The \"FOO\" variable is not set. Defaulting to a blank string.""#;
        let v1 = "WARNING: The BAR variable is not set. Defaulting to a blank string.";
        assert_eq!(
            blank_variables(&format!("{v2}\n{v1}\n{v1}")),
            ["BAR", "FOO"]
        );
    }
}
