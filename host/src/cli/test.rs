//! `windlass test`

mod record;
mod update;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use windlass_cases::{
    Case, CaseError, FaultKind, Format, Options, Report, Subject, Tested, discover, read, run_all,
};
use windlass_runtime::Runtime;

use super::terminal::Terminal;
use super::{StateArgs, session};
use crate::exit::Exit;
use crate::testing;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// A case file, or a directory: cases are TOML files in directories named
    /// `tests` that name a `plugin` or a `pipeline`
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Runs only cases whose name has this text; several: any of them
    #[arg(long, short = 'k', value_name = "TEXT")]
    filter: Vec<String>,
    /// Lists the cases and runs none
    #[arg(long)]
    list: bool,
    /// Seeds what guests see as random, in cases that say no seed themselves
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Runs each case once more for every call with these faults: all, error,
    /// timeout, cancel, cut, kill
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = fault)]
    faults: Vec<Vec<FaultKind>>,
    /// Cases at once; as many as there are processors when absent
    #[arg(long, short = 'j', value_name = "NUMBER")]
    jobs: Option<usize>,
    /// Writes a JSON line for each case, and one for the whole, to stdout
    #[arg(long)]
    json: bool,
    /// Writes a JUnit XML report
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Shows only cases that fail, and the last line
    #[arg(long, short)]
    quiet: bool,
    /// Makes a case of a past run, or of one of its steps, and runs no others
    #[arg(long, value_name = "RUN[/STEP[@TARGET]]",
          conflicts_with_all = ["filter", "list", "faults", "json", "junit"])]
    record: Option<String>,
    /// The file that the recorded case is written to; stdout when absent
    #[arg(long, value_name = "FILE", requires = "record")]
    out: Option<PathBuf>,
    /// Shows what failing cases would have to say to pass, asks for each of them, and
    /// writes it
    #[arg(long, conflicts_with_all = ["record", "list", "faults", "json", "junit"])]
    update: bool,
    /// Answers yes for every case that --update shows
    #[arg(long, short = 'y', requires = "update")]
    yes: bool,
    #[command(flatten)]
    state: StateArgs,
}

fn fault(text: &str) -> Result<Vec<FaultKind>, String> {
    if text == "all" {
        return Ok(FaultKind::ALL.to_vec());
    }
    FaultKind::ALL
        .into_iter()
        .find(|kind| kind.name() == text)
        .map(|kind| vec![kind])
        .ok_or_else(|| "it is none of all, error, timeout, cancel, cut, kill".to_owned())
}

pub(crate) async fn test(args: TestArgs, terminal: &Terminal) -> Exit {
    match start(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn start(args: TestArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    if let Some(wanted) = &args.record {
        return record::record(wanted, args.out.as_deref(), &args.state, terminal).await;
    }
    let cases = collect(&args, terminal)?;
    if args.list {
        for case in &cases {
            terminal.out(&format!("{}\n", case.name));
        }
        return Ok(Exit::Succeeded);
    }
    let runtime = session::runtime(terminal)?;
    let tested = load(&runtime, &cases, terminal).await?;
    let options = Options {
        seed: args.seed.unwrap_or_else(new_seed),
        jobs: args.jobs.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get)
        }),
        faults: args.faults.concat(),
    };
    let format = Format {
        theme: terminal.people,
        width: terminal.width(),
        quiet: args.quiet,
    };
    let quiet_terminal = *terminal;
    let (json, junit) = (args.json, args.junit.clone());
    // Threads of their own run the cases; this one only listens to them.
    let report = tokio::task::block_in_place(|| {
        let mut report = Report::new(format, cases.len());
        let begun = Instant::now();
        let mut failing = Vec::new();
        run_all(&cases, &tested, &options, |done| {
            let case = &cases[done.index];
            if !done.verdict.passed() {
                failing.push((done.index, done.verdict.seed));
            }
            if json {
                quiet_terminal.out(&format!(
                    "{}\n",
                    windlass_cases::case_json(case, &done.verdict)
                ));
            }
            let text = report.case(done.index, case, done.verdict);
            if !text.is_empty() {
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        });
        let (text, summary) = report.finish(&cases, begun.elapsed());
        let _ = std::io::stderr().write_all(text.as_bytes());
        if json {
            quiet_terminal.out(&format!("{}\n", summary.json()));
        }
        failing.sort_unstable();
        let junit = junit.map(|path| (path, report.junit(&cases)));
        (summary, junit, failing)
    });
    let (summary, junit, failing) = report;
    if let Some((path, xml)) = junit
        && let Err(error) = fs_err::write(&path, xml)
    {
        terminal.error(&format!("the report could not be written: {error}"), None);
        return Err(Exit::Engine);
    }
    if args.update && !failing.is_empty() {
        let failing: Vec<(&Case, u64)> = failing
            .iter()
            .map(|(index, seed)| (&cases[*index], *seed))
            .collect();
        return tokio::task::block_in_place(|| {
            update::update(&failing, &tested, args.yes, terminal)
        });
    }
    Ok(if summary.failed == 0 {
        Exit::Succeeded
    } else {
        Exit::StepFailed
    })
}

/// Every case at the path that the filter lets through; all bad files at once.
fn collect(args: &TestArgs, terminal: &Terminal) -> Result<Vec<Case>, Exit> {
    let refuse = |error: &CaseError| {
        terminal.error(&error.to_string(), None);
        Exit::Invalid
    };
    let files = discover(&args.path).map_err(|error| refuse(&error))?;
    let mut cases = Vec::new();
    let mut bad = None;
    for file in &files {
        match read(file) {
            Ok(more) => cases.extend(more),
            Err(error) => bad = Some(refuse(&error)),
        }
    }
    if let Some(exit) = bad {
        return Err(exit);
    }
    let found = cases.len();
    if !args.filter.is_empty() {
        cases.retain(|case| args.filter.iter().any(|text| case.name.contains(text)));
    }
    if cases.is_empty() {
        let message = if found == 0 {
            format!("there are no test cases in {}", args.path.display())
        } else {
            format!("none of {found} cases has {}", args.filter.join(" or "))
        };
        terminal.error(
            &message,
            Some("cases are TOML files in directories named `tests`; see docs/testing.md"),
        );
        return Err(Exit::Invalid);
    }
    Ok(cases)
}

/// Each plugin and each pipeline once.
async fn load(
    runtime: &Runtime,
    cases: &[Case],
    terminal: &Terminal,
) -> Result<BTreeMap<Subject, Tested>, Exit> {
    let mut loaded: BTreeMap<Subject, Tested> = BTreeMap::new();
    let mut bad = None;
    for case in cases {
        if loaded.contains_key(&case.subject) {
            continue;
        }
        let tested = match &case.subject {
            Subject::Plugin(uses, base) => testing::plugin(runtime, uses, base)
                .await
                .map(|plugin| Tested::Plugin(Box::new(plugin))),
            Subject::Pipeline(path) => testing::pipeline(runtime, path)
                .await
                .map(|pipeline| Tested::Pipeline(Arc::new(pipeline))),
        };
        match tested {
            Ok(tested) => {
                loaded.insert(case.subject.clone(), tested);
            }
            Err(reason) => {
                terminal.error(
                    &format!("{}:{}: {}", case.path, case.line, reason.message),
                    reason.hint.as_deref(),
                );
                bad = Some(Exit::Invalid);
            }
        }
    }
    match bad {
        Some(exit) => Err(exit),
        None => Ok(loaded),
    }
}

/// Another one each time: what depends on chance is to be found.
fn new_seed() -> u64 {
    let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
    (high ^ low) % 1_000_000_000
}
