//! Tests as data: a TOML file holds a manifest, what is around it, and what
//! `windlass` does with it.
//!
//! | key | |
//! |---|---|
//! | `about` | what the case shows |
//! | `manifest` | `windlass.toml` |
//! | `command` | the arguments; `["run", "--quiet"]` when absent |
//! | `guests` | components of `tests/guests/`, put beside the manifest as `NAME.wasm` |
//! | `lock` | whether `windlass plugin lock` is run before; yes when there are guests |
//! | `files`, `bytes`, `links` | by name: text, hexadecimal bytes, link targets |
//! | `git` | whether all of it is committed to a repository |
//! | `later` | files that are written after lock and commit; `"guest:NAME"` is a component |
//! | `env` | variables; `BESIDE` in a value is the directory beside the project's |
//! | `exit`, `stderr`, `stdout` | what is expected; no `stdout` means none |
//!
//! What differs from run to run is replaced: `T` for durations, `RUN` for the run's id,
//! `PROJECT` for the directory, `DIGEST` for a guest's. `WINDLASS_UPDATE=1` writes what
//! was seen into the files instead of comparing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use toml_edit::{DocumentMut, Item, TableLike};
use windlass_tests::windlass::Outcome;
use windlass_tests::{Workspace, guests, tools};

/// Runs every case of a directory of `tests/`, and tells of all that differ.
pub(crate) fn run_all(directory: &str) {
    let directory = tools::project_root().join("tests").join(directory);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", directory.display());
    let only = std::env::var("WINDLASS_CASE").ok();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                    if only.as_ref().is_some_and(|only| *only != name) {
                        continue;
                    }
                    if let Err(difference) = run(path) {
                        failures.lock().unwrap().insert(name, difference);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let told: String = failures
        .iter()
        .map(|(name, difference)| format!("=== {name}\n{difference}\n"))
        .collect();
    assert!(
        failures.is_empty(),
        "{told}{} of {} cases differ; look at each, then WINDLASS_UPDATE=1 takes what was seen",
        failures.len(),
        files.len()
    );
}

fn run(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let mut case: DocumentMut = text
        .parse()
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
    check_keys(path, &case);
    let (outcome, workspace) = play(&case);
    let clean = |text: &str| normal(text, &workspace, &guests_of(&case));
    let seen = Seen {
        exit: outcome.code.map(i64::from),
        stderr: clean(&outcome.stderr),
        stdout: clean(&outcome.stdout),
    };
    let expected = Seen {
        exit: case.get("exit").and_then(Item::as_integer),
        stderr: text_of(&case, "stderr"),
        stdout: text_of(&case, "stdout"),
    };
    if seen == expected {
        return Ok(());
    }
    if std::env::var_os("WINDLASS_UPDATE").is_some() {
        seen.write(&mut case);
        fs::write(path, case.to_string()).unwrap();
        return Ok(());
    }
    Err(format!("--- expected\n{expected}\n--- got\n{seen}"))
}

#[derive(PartialEq)]
struct Seen {
    exit: Option<i64>,
    stderr: String,
    stdout: String,
}

impl Seen {
    fn write(&self, case: &mut DocumentMut) {
        for key in ["exit", "stderr", "stdout"] {
            case.remove(key);
        }
        case["exit"] = toml_edit::value(self.exit.unwrap_or(-1));
        for (key, text) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            if text.is_empty() {
                continue;
            }
            // Literal, so that carets stand where they are.
            let literal = format!("{key} = '''\n{text}'''\n");
            let parsed: DocumentMut = literal.parse().unwrap();
            case[key] = parsed[key].clone();
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit {:?}\n{}", self.exit, self.stderr)?;
        if !self.stdout.is_empty() {
            writeln!(f, "--- on stdout\n{}", self.stdout)?;
        }
        Ok(())
    }
}

fn check_keys(path: &Path, case: &DocumentMut) {
    const KEYS: [&str; 13] = [
        "about", "manifest", "command", "guests", "lock", "files", "bytes", "links", "git",
        "later", "env", "exit", "stderr",
    ];
    for (key, _) in case.iter() {
        assert!(
            KEYS.contains(&key) || key == "stdout",
            "{}: unknown key {key}",
            path.display()
        );
    }
    assert!(case.contains_key("about"), "{}: no `about`", path.display());
}

fn text_of(case: &DocumentMut, key: &str) -> String {
    case.get(key)
        .and_then(Item::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn list_of(case: &DocumentMut, key: &str) -> Option<Vec<String>> {
    let list = case.get(key)?.as_array()?;
    Some(
        list.iter()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect(),
    )
}

fn table_of(case: &DocumentMut, key: &str) -> Vec<(String, String)> {
    case.get(key)
        .and_then(Item::as_table_like)
        .into_iter()
        .flat_map(TableLike::iter)
        .map(|(name, value)| (name.to_owned(), value.as_str().unwrap().to_owned()))
        .collect()
}

fn guests_of(case: &DocumentMut) -> Vec<String> {
    list_of(case, "guests").unwrap_or_default()
}

/// Sets the project up, and types the command.
fn play(case: &DocumentMut) -> (Outcome, Workspace) {
    let workspace = Workspace::empty().unwrap();
    if !flag(case, "git", false) {
        fs::remove_dir_all(workspace.path().join(".git")).unwrap();
    }
    let manifest = text_of(case, "manifest");
    if !manifest.is_empty() {
        workspace.write("windlass.toml", manifest).unwrap();
    }
    for name in guests_of(case) {
        put(
            &workspace,
            &format!("{name}.wasm"),
            &format!("guest:{name}"),
        );
    }
    for (name, text) in table_of(case, "files") {
        put(&workspace, &name, &text);
    }
    for (name, digits) in table_of(case, "bytes") {
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        workspace.write(name, bytes).unwrap();
    }
    for (name, target) in table_of(case, "links") {
        symlink(target, workspace.path().join(name)).unwrap();
    }
    if flag(case, "lock", !guests_of(case).is_empty()) {
        let locked = workspace.windlass(["plugin", "lock"]).run().unwrap();
        assert_eq!(locked.code, Some(0), "{locked}");
    }
    if flag(case, "git", false) {
        workspace.commit("Begin").unwrap();
    }
    for (name, text) in table_of(case, "later") {
        put(&workspace, &name, &text);
    }
    let command = list_of(case, "command");
    let command = command.unwrap_or_else(|| vec!["run".into(), "--quiet".into()]);
    let mut windlass = workspace.windlass(command);
    let beside = workspace.path().parent().unwrap().display().to_string();
    for (name, value) in table_of(case, "env") {
        windlass = windlass.env(name, value.replace("BESIDE", &beside));
    }
    (windlass.run().unwrap(), workspace)
}

fn flag(case: &DocumentMut, key: &str, default: bool) -> bool {
    case.get(key).and_then(Item::as_bool).unwrap_or(default)
}

fn put(workspace: &Workspace, name: &str, text: &str) {
    match text.strip_prefix("guest:") {
        Some(guest) => workspace
            .write(name, guests::guest(guest).unwrap())
            .unwrap(),
        None => workspace.write(name, text).unwrap(),
    }
}

/// Without what differs from run to run.
fn normal(text: &str, workspace: &Workspace, guests: &[String]) -> String {
    let project = workspace.path().display().to_string();
    let mut text = text.replace(&project, "PROJECT");
    text = text.replace(
        &workspace.path().parent().unwrap().display().to_string(),
        "BESIDE",
    );
    text = text.replace(&tools::project_root().display().to_string(), "WINDLASS");
    for name in guests::NAMES {
        if guests.iter().any(|used| used == name) || text.contains("its digest is") {
            let digest = digest(&guests::guest(name).unwrap());
            text = text.replace(&digest, "DIGEST");
            text = text.replace(&digest[..12], "DIGEST");
        }
    }
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = column(line);
        let line = after(
            &line,
            &["failed in ", "succeeded in ", "cancelled in "],
            duration,
            "T",
        );
        let line = after(
            &line,
            &[" failed  ", " succeeded  ", " attempts  ", "! guest  "],
            duration,
            "T",
        );
        let line = places(&line);
        let line = after(
            &line,
            &["windlass show ", "windlass logs ", "· run "],
            run_id,
            "RUN",
        );
        lines.push(line.trim_end().to_owned());
    }
    // How much of a flood is shown is not what a case is about.
    let mut out = String::new();
    let mut again = 0;
    for (index, line) in lines.iter().enumerate() {
        again = match index.checked_sub(1) {
            Some(before) if lines[before] == *line => again + 1,
            _ => 0,
        };
        match again {
            0..3 => out.push_str(line),
            3 => out.push_str("(and so on)"),
            _ => continue,
        }
        out.push('\n');
    }
    out
}

/// `guest.rs:517:24` as `guest.rs:N`: the sources of guests change.
fn places(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(".rs:") {
        let (before, behind) = rest.split_at(at + 4);
        out.push_str(before);
        rest = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() < behind.len() {
            out.push('N');
            if let Some(column) = rest.strip_prefix(':') {
                let after = column.trim_start_matches(|c: char| c.is_ascii_digit());
                if after.len() < column.len() {
                    rest = after;
                }
            }
        }
    }
    out + rest
}

/// The time at the left of a plain line.
fn column(line: &str) -> String {
    match line.char_indices().nth(10) {
        Some((at, _)) if line[..at].ends_with("  ") => {
            let time = line[..at].trim();
            if !time.is_empty() && duration(time) == Some(time.len()) {
                return format!("       T  {}", &line[at..]);
            }
            line.to_owned()
        }
        _ => line.to_owned(),
    }
}

/// Replaces what `length` finds behind each of the `heads`.
fn after(
    line: &str,
    heads: &[&str],
    length: impl Fn(&str) -> Option<usize>,
    replacement: &str,
) -> String {
    let mut line = line.to_owned();
    for head in heads {
        if let Some(at) = line.find(head).map(|at| at + head.len())
            && let Some(length) = length(&line[at..])
        {
            line.replace_range(at..at + length, replacement);
        }
    }
    line
}

/// `12.3 s`, `800 ms`, `2 min 3 s`
fn duration(text: &str) -> Option<usize> {
    let mut end = 0;
    loop {
        let rest = &text[end..];
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let unit = ["ms", "s", "min", "h"].into_iter().find(|unit| {
            rest[digits..].strip_prefix(' ').is_some_and(|rest| {
                rest.strip_prefix(unit)
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
            })
        });
        match unit {
            Some(unit) if digits > 0 => end += digits + 1 + unit.len(),
            _ => break,
        }
        match text[end..].strip_prefix(' ') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => end += 1,
            _ => return Some(end),
        }
    }
    (end > 0).then_some(text[..end].trim_end().len())
}

fn run_id(text: &str) -> Option<usize> {
    let digits = text.len()
        - text
            .trim_start_matches(|c: char| c.is_ascii_hexdigit())
            .len();
    (digits == 8).then_some(digits)
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
