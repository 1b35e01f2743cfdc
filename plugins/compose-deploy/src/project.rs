//! The name of a compose project, by compose's own rules (compose-go,
//! `loader.NormalizeProjectName`): an existing stack is found by it.

use windlass_sdk::Error;

/// The top-level `name` of a compose file, when it is a plain scalar.
pub(crate) fn of_file(text: &str) -> Option<String> {
    let value = text
        .trim_start_matches('\u{feff}')
        .lines()
        .find_map(|line| line.strip_prefix("name:"))?
        .trim();
    let name = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        '#' => return None,
        _ => value.split(" #").next()?.trim_end(),
    };
    // One with variables is compose's to work out: the directory's name would
    // be wrong, so the name goes on as it is, and `check` refuses it.
    Some(name.to_owned())
}

/// What compose makes of a directory's name.
pub(crate) fn of_directory(dir: &str) -> String {
    dir.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_lowercase()
        .chars()
        .filter(|char| matches!(char, 'a'..='z' | '0'..='9' | '_' | '-'))
        .skip_while(|char| matches!(char, '_' | '-'))
        .collect()
}

/// A name that compose accepts.
pub(crate) fn check(name: &str) -> Result<String, Error> {
    let mut chars = name.chars();
    let first = chars
        .next()
        .is_some_and(|char| matches!(char, 'a'..='z' | '0'..='9'));
    if first && chars.all(|char| matches!(char, 'a'..='z' | '0'..='9' | '_' | '-')) {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(
        "compose-deploy.project",
        format!("{name:?} is no name for a compose project"),
    )
    .with_hint(
        "set `project`: lower-case letters, digits, - and _, beginning with a letter or a digit",
    ))
}

#[cfg(test)]
mod tests {
    use super::{check, of_directory, of_file};

    #[test]
    fn the_files_own_name_comes_first() {
        for (text, name) in [
            ("name: app\nservices: {}", Some("app")),
            ("# x\nname: \"my-app\" # y\n", Some("my-app")),
            ("services:\n  name: no\nname: 'a' ", Some("a")),
            ("name: app # c", Some("app")),
            ("services:\n  a:\n    name: x", None),
            ("name:\n", None),
        ] {
            assert_eq!(of_file(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn directories_become_names_as_compose_makes_them() {
        for (dir, name) in [
            ("/srv/observer", "observer"),
            ("/srv/My App.v2/", "myappv2"),
            ("/srv/_x", "x"),
            ("/", ""),
        ] {
            assert_eq!(of_directory(dir), name);
        }
    }

    #[test]
    fn names_that_compose_refuses() {
        for bad in ["", "App", "-a", "_a", "a b", "${X}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("0-a_b").is_ok());
    }
}
