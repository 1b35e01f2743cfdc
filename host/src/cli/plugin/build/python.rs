//! A plugin in Python: componentize-py, which puts an interpreter and the
//! plugin's modules into one component.

use std::path::Path;
use std::process::Command;

use super::{Built, Trouble, tool};

/// The version that is tested.
const INSTALL: &str = "run `pip install componentize-py==0.25.0`";

/// Makes the component.
pub(super) fn component(root: &Path) -> Result<Built, Trouble> {
    let project = Project::read(root)?;
    if !root.join("wit").is_dir() {
        return Err(Trouble::new(
            format!("{} has no directory wit with the interface", root.display()),
            "write it with `windlass plugin wit`",
        ));
    }
    let scratch = tempfile::tempdir()?;
    let component = scratch.path().join("plugin.wasm");
    let mut command = Command::new("componentize-py");
    command
        .args(["--quiet", "--wit-path", "wit", "--world", "plugin"])
        .args(["componentize", &project.module, "--output"])
        .arg(&component)
        .current_dir(root);
    let output = tool("componentize-py", &mut command, INSTALL)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let out = String::from_utf8_lossy(&output.stdout);
        return Err(Trouble::new(
            format!(
                "componentize-py could not build the plugin in {}:\n{}",
                root.display(),
                windlass_report::clean(format!("{out}{said}").trim())
            ),
            "mend what it says above",
        ));
    }
    Ok(Built {
        name: project.name,
        component,
        _scratch: Some(scratch),
    })
}

/// What `pyproject.toml` says.
#[derive(Debug, PartialEq, Eq)]
struct Project {
    name: String,
    module: String,
}

impl Project {
    fn read(root: &Path) -> Result<Self, Trouble> {
        let path = root.join("pyproject.toml");
        Self::parse(&fs_err::read_to_string(&path)?)
            .map_err(|(reason, hint)| Trouble::new(format!("{} {reason}", path.display()), hint))
    }

    fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let document: toml_edit::DocumentMut = text
            .parse()
            .map_err(|error| (format!("is no TOML: {error}"), "mend it"))?;
        let text = |keys: [&str; 2]| {
            keys.iter()
                .try_fold(document.as_item(), |item, key| item.get(key))
                .and_then(toml_edit::Item::as_str)
                .map(str::to_owned)
        };
        let name = text(["project", "name"]).ok_or_else(|| {
            (
                "does not name the plugin".to_owned(),
                "say `[project] name = \"…\"`",
            )
        })?;
        let module = document
            .get("tool")
            .and_then(|tool| tool.get("windlass"))
            .and_then(|tool| tool.get("module"))
            .and_then(toml_edit::Item::as_str)
            .ok_or_else(|| {
                (
                    "does not name the plugin's module".to_owned(),
                    "say `[tool.windlass] module = \"plugin\"` for a plugin in plugin.py",
                )
            })?;
        // Both end up in an argument list and in a file's name.
        let sound = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && word
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if !sound(&name) || !sound(module) {
            return Err((
                "has a name or a module that is no name".to_owned(),
                "use letters, digits and dashes",
            ));
        }
        Ok(Self {
            name,
            module: module.to_owned(),
        })
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]
mod tests {
    use super::Project;

    #[test]
    fn what_is_missing_is_named() {
        let of = |text: &str| Project::parse(text).map_err(|(reason, _)| reason);
        assert_eq!(
            of("[project]\nname = \"a-b\"\n[tool.windlass]\nmodule = \"plugin\"\n"),
            Ok(Project {
                name: "a-b".to_owned(),
                module: "plugin".to_owned()
            })
        );
        assert_eq!(of("").unwrap_err(), "does not name the plugin");
        assert_eq!(
            of("[project]\nname = \"a\"\n").unwrap_err(),
            "does not name the plugin's module"
        );
        assert!(of("[project]\nname = \"../a\"\n[tool.windlass]\nmodule = \"m\"\n").is_err());
    }
}
