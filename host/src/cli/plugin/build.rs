//! `windlass plugin build`: drives the tools of a plugin's language, and says
//! what is missing and how to get it.

mod python;
mod rust;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::{load, short, size};
use crate::cli::session::runtime;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The plugin's directory
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Where the component goes; NAME.wasm in the directory when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A component that a language's tools made.
#[derive(Debug)]
struct Built {
    /// As the plugin's own project names it.
    name: String,
    component: PathBuf,
    /// The directory that it is in, if nobody else removes it.
    _scratch: Option<tempfile::TempDir>,
}

/// Why there is no component.
#[derive(Debug)]
struct Trouble {
    message: String,
    hint: Option<String>,
}

impl Trouble {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self {
            message: error.to_string(),
            hint: None,
        }
    }
}

pub(super) async fn build(args: BuildArgs, terminal: &Terminal) -> Exit {
    let out = match make(&args) {
        Ok(out) => out,
        Err(trouble) => {
            terminal.error(&trouble.message, trouble.hint.as_deref());
            return Exit::Invalid;
        }
    };
    let runtime = match runtime(terminal) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    // Compiled here once, it is in the cache for the first run.
    let found = match load(&runtime, &out.display().to_string(), terminal).await {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let description = &found.plugin.description;
    let mut said = format!(
        "built {}: {} {}, {}, sha256:{}",
        out.display(),
        description.name,
        description.version,
        size(found.size),
        short(&found.plugin.digest),
    );
    for request in &description.requests {
        said.push_str(&format!("\n  asks for {request}"));
    }
    terminal.say(&windlass_report::clean(&said));
    Exit::Succeeded
}

/// Builds, and gives the component's path.
fn make(args: &BuildArgs) -> Result<PathBuf, Trouble> {
    let root = &args.directory;
    let built = if root.join("Cargo.toml").is_file() {
        rust::component(root)?
    } else if root.join("pyproject.toml").is_file() {
        python::component(root)?
    } else {
        return Err(Trouble::new(
            format!(
                "{} has neither a Cargo.toml nor a pyproject.toml",
                root.display()
            ),
            "name a plugin's directory, or start one with `windlass plugin new`",
        ));
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| root.join(format!("{}.wasm", built.name.replace('-', "_"))));
    place(&built.component, &out)?;
    Ok(out)
}

/// By a rename: a run that reads the file now sees the whole of one or the other.
fn place(component: &Path, out: &Path) -> Result<(), Trouble> {
    let bytes = fs_err::read(component)?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")))?;
    file.write_all(&bytes)?;
    set_readable(file.as_file())?;
    file.persist(out)
        .map_err(|error| Trouble::from(error.error))?;
    Ok(())
}

/// A temporary file is its owner's alone; a component is for everybody.
fn set_readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// A tool that may not be there.
fn tool(name: &str, command: &mut Command, hint: &str) -> Result<std::process::Output, Trouble> {
    command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Trouble::new(format!("{name} is not installed"), hint),
            _ => Trouble::new(format!("{name} could not be started: {error}"), hint),
        })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]
mod tests {
    use std::process::Command;

    use super::{BuildArgs, make, tool};

    #[test]
    fn a_directory_without_a_plugin_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let args = BuildArgs {
            directory: directory.path().to_owned(),
            out: None,
        };
        let trouble = make(&args).unwrap_err();
        assert!(trouble.message.contains("neither a Cargo.toml nor"));
        assert!(trouble.hint.unwrap().contains("windlass plugin new"));
    }

    #[test]
    fn a_missing_tool_is_named_with_the_way_to_get_it() {
        let trouble = tool("zzz", &mut Command::new("/nowhere/zzz"), "install it").unwrap_err();
        assert_eq!(trouble.message, "zzz is not installed");
        assert_eq!(trouble.hint.as_deref(), Some("install it"));
    }
}
