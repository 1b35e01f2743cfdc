//! `windlass test --update`: shows what failing cases would have to say, and writes it
//! when a person agrees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use similar::TextDiff;
use windlass_cases::{Case, Subject, Tested, propose};
use windlass_report::{Tone, clean};

use super::super::terminal::Terminal;
use crate::exit::Exit;

/// Lines around each difference.
const CONTEXT: usize = 3;
const ANSWERS: &[&str] = &["yes", "no", "all", "quit"];

/// A file with what it will be.
struct File {
    before: String,
    now: String,
}

/// Failing cases with their seeds, in the order of their files.
pub(super) fn update(
    failing: &[(&Case, u64)],
    tested: &BTreeMap<Subject, Tested>,
    yes: bool,
    terminal: &Terminal,
) -> Result<Exit, Exit> {
    let mut files: BTreeMap<PathBuf, File> = BTreeMap::new();
    let mut all = yes;
    let (mut accepted, mut open) = (0, 0);
    for (case, seed) in failing {
        let path = PathBuf::from(&case.path);
        if !files.contains_key(&path) {
            let text = fs_err::read_to_string(&path).map_err(|error| failed(&error, terminal))?;
            let before = text.clone();
            files.insert(path.clone(), File { before, now: text });
        }
        let (Some(file), Some(tested)) = (files.get_mut(&path), tested.get(&case.subject)) else {
            continue;
        };
        let proposal = propose(&path, &file.now, &case.name, tested, *seed).map_err(|error| {
            terminal.error(
                &format!("a case that was changed cannot be read: {error}"),
                Some("nothing was written; this is a bug of Windlass: please report it"),
            );
            Exit::Engine
        })?;
        terminal.say("");
        if proposal.text == file.now {
            terminal.say(&format!("{}: nothing of it can be accepted", case.name));
            tell_left(&proposal.left, terminal);
            open += 1;
            continue;
        }
        show(&path, &file.now, &proposal.text, terminal);
        tell_left(&proposal.left, terminal);
        let answer = if all {
            "yes"
        } else {
            terminal.choose(&format!("Accept this for {}?", case.name), ANSWERS)
        };
        match answer {
            "yes" | "all" => {
                all |= answer == "all";
                file.now = proposal.text;
                accepted += 1;
                open += usize::from(!proposal.left.is_empty());
            }
            "no" => open += 1,
            _ => {
                open += 1;
                break;
            }
        }
    }
    for (path, file) in &files {
        if file.now != file.before {
            write(path, &file.now).map_err(|error| failed(&error, terminal))?;
        }
    }
    if accepted == 0 && !yes && !terminal.asks() {
        terminal.error(
            "nothing was written: nobody can be asked here",
            Some("look at the differences, then pass --yes"),
        );
        return Ok(Exit::StepFailed);
    }
    terminal.say(&format!(
        "\naccepted {accepted} of {} cases that failed",
        failing.len()
    ));
    Ok(if accepted == failing.len() && open == 0 {
        Exit::Succeeded
    } else {
        Exit::StepFailed
    })
}

fn failed(error: &std::io::Error, terminal: &Terminal) -> Exit {
    terminal.error(&error.to_string(), Some("nothing else was changed"));
    Exit::Engine
}

/// At once or not at all: a case is somebody's work.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file()
        .set_permissions(fs_err::metadata(path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn tell_left(left: &[windlass_cases::Problem], terminal: &Terminal) {
    for problem in left {
        let got = problem
            .got
            .as_deref()
            .map(|got| format!(": {got}"))
            .unwrap_or_default();
        terminal.say(&clean(&format!("stays wrong: {}{got}", problem.what)));
    }
}

fn show(path: &Path, before: &str, now: &str, terminal: &Terminal) {
    let name = path.display().to_string();
    let difference = TextDiff::from_lines(before, now)
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&name, &name)
        .to_string();
    for line in difference.lines() {
        let line = clean(line);
        let painted = match line.chars().next() {
            Some('+') => terminal.people.paint(Tone::Good, &line).to_string(),
            Some('-') => terminal.people.paint(Tone::Bad, &line).to_string(),
            Some('@') => terminal.people.paint(Tone::Faint, &line).to_string(),
            _ => line.to_string(),
        };
        terminal.say(&painted);
    }
}
