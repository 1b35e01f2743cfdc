//! `windlass plugin new`: a plugin that works, with a pipeline that uses it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::kit;
use crate::builtin;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Its name, or a path that ends in it: a-z, 0-9 and dashes
    name: PathBuf,
    /// What it is written in
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Takes the authors' crate from a directory or a git address instead of
    /// putting a copy beside the plugin
    #[arg(long, value_name = "PATH")]
    sdk: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
}

/// Files by name, with `@NAME@` and its like in them.
type Template = &'static [(&'static str, &'static str)];

const RUST: Template = &[
    ("Cargo.toml", include_str!("template/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("template/rust/lib.rs.in")),
    ("windlass.toml", include_str!("template/windlass.toml.in")),
    ("tests/title.toml", include_str!("template/cases.toml.in")),
    ("README.md", include_str!("template/rust/README.md.in")),
    (".gitignore", "/target/\n/.windlass/\n"),
];

const PYTHON: Template = &[
    (
        "pyproject.toml",
        include_str!("template/python/pyproject.toml.in"),
    ),
    ("plugin.py", include_str!("template/python/plugin.py.in")),
    ("heading.py", include_str!("template/python/heading.py.in")),
    (
        "test_heading.py",
        include_str!("template/python/test_heading.py.in"),
    ),
    ("windlass.toml", include_str!("template/windlass.toml.in")),
    ("tests/title.toml", include_str!("template/cases.toml.in")),
    ("README.md", include_str!("template/python/README.md.in")),
    (".gitignore", "/.windlass/\n__pycache__/\n"),
];

/// Names longer than this make file names that some systems refuse.
const MAX_NAME: usize = 64;

pub(super) fn new(args: &NewArgs, terminal: &Terminal) -> Exit {
    match write(args) {
        Ok(()) => {
            let place = args.name.display();
            terminal.say(&format!(
                "wrote {place}; next:\n  cd {place}\n  windlass plugin build\n  windlass plugin test\n  windlass plugin lock\n  windlass run"
            ));
            Exit::Succeeded
        }
        Err(refusal) => {
            terminal.error(&refusal.message, refusal.hint.as_deref());
            refusal.exit
        }
    }
}

struct Refusal {
    message: String,
    hint: Option<String>,
    exit: Exit,
}

impl Refusal {
    fn invalid(message: String, hint: &str) -> Self {
        Self {
            message,
            hint: Some(hint.to_owned()),
            exit: Exit::Invalid,
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self {
            message: format!("the plugin could not be written: {error}"),
            hint: None,
            exit: Exit::Engine,
        }
    }
}

fn write(args: &NewArgs) -> Result<(), Refusal> {
    let root = &args.name;
    let name = name(root)?;
    if args.lang == Language::Python && args.sdk.is_some() {
        return Err(Refusal::invalid(
            "--sdk names the Rust authors' crate".to_owned(),
            "leave it out: a Python plugin needs the interface only, and gets it",
        ));
    }
    if std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) || root.is_file() {
        return Err(Refusal::invalid(
            format!("{} is there already", root.display()),
            "choose another name, or remove it",
        ));
    }
    let (template, sdk) = match args.lang {
        Language::Rust => (RUST, dependency(args.sdk.as_deref())?),
        Language::Python => (PYTHON, String::new()),
    };
    let module = name.replace('-', "_");
    for (file, text) in template {
        let path = root.join(file);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let text = text
            .replace("@NAME@", &name)
            .replace("@MODULE@", &module)
            .replace("@TYPE@", &type_name(&name))
            .replace("@SDK@", &sdk);
        fs_err::write(path, text)?;
    }
    match args.lang {
        Language::Rust if args.sdk.is_none() => kit::write_sdk(&root.join(SDK_COPY))?,
        Language::Rust => {}
        Language::Python => kit::write_wit(&root.join("wit"))?,
    }
    Ok(())
}

/// Where the copy of the authors' crate goes.
const SDK_COPY: &str = "windlass-sdk";

/// The last part of the path, if it may be a plugin's name.
fn name(root: &Path) -> Result<String, Refusal> {
    let name = root
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= MAX_NAME
        && !name.ends_with('-')
        && !name.contains("--")
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !sound {
        return Err(Refusal::invalid(
            format!("`{name}` cannot be a plugin's name"),
            "use a-z, 0-9 and dashes, a letter first: `cdn-purge`",
        ));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(Refusal::invalid(
            format!("`{name}` means something else in Rust or Python"),
            "choose a name of two words: `cdn-purge`",
        ));
    }
    if builtin::names().contains(&name) {
        return Err(Refusal::invalid(
            format!("{name} is a built-in plugin"),
            "choose another name: a pipeline could not tell the two apart",
        ));
    }
    Ok(name)
}

/// Words that no crate and no module of the template may be called.
const RESERVED: &[&str] = &[
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "heading",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "plugin",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "schemars",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "windlass-sdk",
    "yield",
];

/// `cdn-purge` as a type: `CdnPurge`.
fn type_name(name: &str) -> String {
    name.split('-')
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
        .collect()
}

/// The line of `Cargo.toml` for the authors' crate.
fn dependency(sdk: Option<&str>) -> Result<String, Refusal> {
    let (key, place) = match sdk {
        None => ("path", SDK_COPY.to_owned()),
        Some(url) if url.contains("://") || url.ends_with(".git") => ("git", url.to_owned()),
        Some(path) => {
            let path = fs_err::canonicalize(path)
                .ok()
                .filter(|path| path.join("Cargo.toml").is_file())
                .ok_or_else(|| {
                    Refusal::invalid(
                        format!("there is no crate at {path}"),
                        "name the directory `plugins/sdk` of a copy of Windlass's repository, or \
                         the repository's git address",
                    )
                })?;
            ("path", path.display().to_string())
        }
    };
    let place = toml_edit::Value::from(place);
    Ok(format!(
        "windlass-sdk = {{ {key} = {} }}",
        place.to_string().trim()
    ))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]
mod tests {
    use std::path::Path;

    use super::{dependency, name, type_name};

    #[test]
    fn names_are_checked() {
        let of = |text: &str| name(Path::new(text)).map_err(|refusal| refusal.message);
        assert_eq!(of("work/cdn-purge").as_deref(), Ok("cdn-purge"));
        for bad in ["Cdn", "cdn_purge", "-x", "x-", "a--b", "1x", "..", "async"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert_eq!(
            of("http-probe").unwrap_err(),
            "http-probe is a built-in plugin"
        );
    }

    #[test]
    fn types_are_named_after_the_plugin() {
        assert_eq!(type_name("cdn-purge2"), "CdnPurge2");
    }

    #[test]
    fn the_crate_comes_from_where_it_was_said() {
        let of = |sdk| dependency(sdk).map_err(|refusal| refusal.message);
        assert_eq!(
            of(None).as_deref(),
            Ok("windlass-sdk = { path = \"windlass-sdk\" }")
        );
        assert_eq!(
            of(Some("https://example.com/windlass.git")).as_deref(),
            Ok("windlass-sdk = { git = \"https://example.com/windlass.git\" }")
        );
        assert_eq!(
            of(Some("/nowhere")).unwrap_err(),
            "there is no crate at /nowhere"
        );
    }
}
