//! Finds cases and runs them, as many at once as there are processors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bench::{self, Actual, Tested};
use crate::case::{Case, CaseError, Subject};
use crate::format::{FaultKind, RawFault};
use crate::reader::is_case;
use crate::verdict::{Problem, judge, judge_fault};

/// Directories below this are not looked into: links may go round in circles.
const MAX_DEPTH: usize = 32;
/// Calls of a case at which faults are tried: one that makes more repeats
/// itself.
const MAX_FAULT_CALLS: usize = 200;

/// How cases are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of cases that say none.
    pub seed: u64,
    /// Cases at once.
    pub jobs: usize,
    /// Runs each case once more for every call with each of these.
    pub faults: Vec<FaultKind>,
}

/// How a case ended.
#[derive(Debug)]
pub struct Verdict {
    pub seed: u64,
    pub took: Duration,
    pub problems: Vec<Problem>,
    /// Faults that leave a mess.
    pub faults: Vec<Failing>,
    /// Faults that were tried.
    pub tried: usize,
    pub actual: Actual,
}

/// A fault and what was wrong after it.
#[derive(Debug)]
pub struct Failing {
    pub fault: RawFault,
    /// The name of the call.
    pub call: String,
    pub problems: Vec<Problem>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.problems.is_empty() && self.faults.is_empty()
    }
}

/// A case that has ended, by its index.
#[derive(Debug)]
pub struct Done {
    pub index: usize,
    pub verdict: Verdict,
}

/// Case files at a path: the file itself, or those in directories named
/// `tests` beneath it, sorted.
pub fn discover(path: &Path) -> Result<Vec<PathBuf>, CaseError> {
    let fail = |message: String| CaseError {
        path: path.display().to_string(),
        line: None,
        message,
    };
    let meta = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if meta.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let inside = path
        .canonicalize()
        .map_err(|error| fail(error.to_string()))?
        .components()
        .any(|part| part.as_os_str() == "tests");
    walk(path, inside, 0, &mut found).map_err(|error| fail(error.to_string()))?;
    found.sort();
    Ok(found)
}

fn walk(
    directory: &Path,
    inside: bool,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&path, inside || name == "tests", depth + 1, found)?;
        } else if inside
            && kind.is_file()
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
            && name != "Cargo.toml"
            && std::fs::read_to_string(&path).is_ok_and(|text| is_case(&text))
        {
            found.push(path);
        }
    }
    Ok(())
}

/// Runs them all; `done` hears of each as it ends, on this thread.
pub fn run_all(
    cases: &[Case],
    tested: &BTreeMap<Subject, Tested>,
    options: &Options,
    mut done: impl FnMut(Done),
) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, cases.len().max(1)) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let Some(tested) = tested.get(&case.subject) else {
                        continue;
                    };
                    let verdict = one(case, tested, options);
                    if sender.send(Done { index, verdict }).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for ended in receiver {
            done(ended);
        }
    });
}

fn one(case: &Case, tested: &Tested, options: &Options) -> Verdict {
    let begun = Instant::now();
    let seed = case.seed.unwrap_or(options.seed);
    let actual = bench::run(case, tested, seed, &case.faults, false);
    let problems = judge(case, &actual);
    let mut faults = Vec::new();
    let mut tried = 0;
    if problems.is_empty() && case.faults.is_empty() {
        for (index, asked) in actual.transcript.iter().take(MAX_FAULT_CALLS).enumerate() {
            for kind in &options.faults {
                let fault = RawFault {
                    call: index + 1,
                    kind: *kind,
                };
                tried += 1;
                let after = bench::run(case, tested, seed, &[fault], true);
                let problems = judge_fault(case, &after);
                if !problems.is_empty() {
                    faults.push(Failing {
                        fault,
                        call: asked.name.clone(),
                        problems,
                    });
                }
            }
        }
    }
    Verdict {
        seed,
        took: begun.elapsed(),
        problems,
        faults,
        tried,
        actual,
    }
}
