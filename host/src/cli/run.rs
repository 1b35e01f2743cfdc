//! `windlass run`

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use tokio_util::sync::CancellationToken;
use windlass_journal::{Journal, Origin};
use windlass_manifest::Outputs;
use windlass_model::event::Envelope;
use windlass_report::{
    Annotations, Json, Live as LiveReporter, Options, Plain, Reporter, Reporters, Summary,
    Verbosity,
};

use super::opened::Opened;
use super::plan::saved::Plan;
use super::session::{self, Backends, Session};
use super::terminal::{Terminal, terminal_size};
use super::{ProjectArgs, StateArgs, WaitArgs};
use crate::engine;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    state: StateArgs,
    /// Runs these steps and no others; their inputs come from the last good run
    #[arg(
        long,
        value_name = "STEP",
        value_delimiter = ',',
        conflicts_with = "from"
    )]
    only: Vec<String>,
    /// Runs this step and those after it
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    /// Does what a saved plan says, or refuses because the world moved since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "from"])]
    plan: Option<PathBuf>,
    /// Deploys a working tree with changes that are in no commit
    #[arg(long)]
    allow_dirty: bool,
    /// Answers yes for an environment that asks
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// How a run is shown.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Writes events as JSON lines to stdout
    #[arg(long)]
    json: bool,
    /// Shows failures, and how it ended
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Shows every line that steps print
    #[arg(long, short)]
    verbose: bool,
    /// Writes a Markdown summary; $GITHUB_STEP_SUMMARY gets one anyway
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

/// Keeps a run's summary for the Markdown files.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Summary>>);

impl Reporter for Collect {
    fn event(&mut self, envelope: &Envelope) -> std::io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .event(envelope);
        Ok(())
    }
}

/// The reporters of a run, and what writes the Markdown afterwards.
pub(crate) struct Shown {
    pub(crate) reporters: Reporters,
    summary: Arc<Mutex<Summary>>,
    files: Vec<PathBuf>,
}

impl Shown {
    pub(crate) fn new(args: &ShowArgs, terminal: &Terminal, ci: &crate::ci::Ci) -> Self {
        let options = Options {
            theme: terminal.people,
            verbosity: match (args.quiet, args.verbose) {
                (true, _) => Verbosity::Quiet,
                (_, true) => Verbosity::Verbose,
                _ => Verbosity::Normal,
            },
            width: terminal.width(),
            summary: true,
        };
        let mut reporters = Reporters::new();
        if args.json {
            reporters.add("--json", Json::new(std::io::stdout()));
        }
        let live = terminal.err_is_terminal
            && options.verbosity == Verbosity::Normal
            && !ci.github
            && std::env::var("TERM").is_ok_and(|term| term != "dumb");
        if live {
            let size = || {
                let (columns, rows) = terminal_size().unwrap_or((80, 24));
                windlass_report::Size {
                    columns: columns.into(),
                    rows: rows.into(),
                }
            };
            reporters.add(
                "terminal",
                LiveReporter::new(std::io::stderr(), options, size),
            );
        } else {
            reporters.add("terminal", Plain::new(std::io::stderr(), options));
        }
        if ci.github {
            // Workflow commands are read from stdout as from stderr; JSON has
            // stdout for itself.
            let out: Box<dyn Write + Send> = if args.json {
                Box::new(std::io::stderr())
            } else {
                Box::new(std::io::stdout())
            };
            reporters.add("annotations", Annotations::new(out, false));
        }
        let collect = Collect::default();
        let summary = Arc::clone(&collect.0);
        reporters.add("summary", collect);
        let files = args.summary.iter().chain(&ci.summary).cloned().collect();
        Self {
            reporters,
            summary,
            files,
        }
    }

    /// Writes the Markdown summaries. One that cannot be written is told of,
    /// and changes nothing.
    pub(crate) fn write(files: &[PathBuf], summary: &Mutex<Summary>, terminal: &Terminal) {
        if files.is_empty() {
            return;
        }
        let markdown = summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .render_markdown();
        let mut done: Vec<&PathBuf> = Vec::new();
        for file in files {
            if done.contains(&file) {
                continue;
            }
            done.push(file);
            // GitHub's file may hold what earlier steps of the job wrote.
            let written = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(file)
                .and_then(|mut out| out.write_all(markdown.as_bytes()));
            if let Err(error) = written {
                terminal.error(
                    &format!(
                        "the summary could not be written to {}: {error}",
                        file.display()
                    ),
                    None,
                );
            }
        }
    }

    pub(crate) fn parts(self) -> (Reporters, Arc<Mutex<Summary>>, Vec<PathBuf>) {
        (self.reporters, self.summary, self.files)
    }
}

pub(crate) async fn run(args: RunArgs, terminal: &Terminal) -> Exit {
    match start(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn start(args: RunArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let mut options = args.project.options();
    options.only.clone_from(&args.only);
    options.from.clone_from(&args.from);
    let plan = read_plan(&args, &mut options, terminal)?;
    let mut session = session::open(terminal, &options).await?;
    session.wait(args.wait);
    session
        .project
        .refuse_dirty(&session.graph, args.allow_dirty)
        .map_err(|error| terminal.project_error(&error))?;
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    confirm(&session, args.yes, terminal)?;
    let opened = Opened::open(&session, &args.state, terminal).await?;
    let reused = reused(&session, &opened.journal, terminal)?;
    let cancel = opened.watch(&session, terminal);
    if let Some(plan) = plan {
        compare_plan(&plan, &session, &opened.backends, cancel.clone(), terminal).await?;
    }
    let shown = Shown::new(&args.show, terminal, &session.project.ci);
    let (reporters, summary, files) = shown.parts();
    let inputs = session.kept_inputs(&options, &opened.backends);
    let begun = opened.journal.begin(session.run, &inputs).await;
    begun.map_err(|error| {
        terminal.error(&error.to_string(), error.hint().as_deref());
        Exit::Engine
    })?;
    let mut input = session.input(&opened.backends, reporters, cancel);
    input.journal = Some(opened.journal.clone());
    input.reused = reused;
    let result = engine::run(input).await;
    if args.show.verbose {
        tell_round_trips(&session, &opened.backends, terminal);
    }
    opened.close(terminal).await;
    Shown::write(&files, &summary, terminal);
    Ok(result.exit)
}

/// What a slow line costs: each is one wait for the far side.
fn tell_round_trips(session: &Session, backends: &Backends, terminal: &Terminal) {
    for target in &session.graph.active {
        let trips = backends.live.connections().round_trips(target);
        if trips > 0 {
            terminal.say(&format!("{target}: {trips} round trips"));
        }
    }
}

/// The saved plan; its tag becomes the run's, so that what is made of the time
/// stays as it was.
fn read_plan(
    args: &RunArgs,
    options: &mut crate::project::Options,
    terminal: &Terminal,
) -> Result<Option<Plan>, Exit> {
    let Some(path) = &args.plan else {
        return Ok(None);
    };
    let plan = Plan::read(path).map_err(|reason| {
        terminal.error(
            &format!("the plan {} cannot be used: {reason}", path.display()),
            Some("`windlass plan --out FILE` makes one"),
        );
        Exit::Invalid
    })?;
    options.tag.get_or_insert_with(|| plan.tag.clone());
    Ok(Some(plan))
}

/// Makes the plan again and refuses when anything differs.
async fn compare_plan(
    plan: &Plan,
    session: &Session,
    backends: &Backends,
    cancel: CancellationToken,
    terminal: &Terminal,
) -> Result<(), Exit> {
    /// The rest is counted.
    const SHOWN: usize = 10;
    let input = session.input(backends, Reporters::new(), cancel);
    let previewed = engine::preview::preview(input).await;
    if let Some(error) = &previewed.failure {
        return Err(terminal.call_error(error));
    }
    let differences = plan.differences(&Plan::of(session, &previewed));
    if differences.is_empty() {
        return Ok(());
    }
    terminal.error(
        "the world is not as it was when the plan was made",
        Some("look at the differences, then make the plan again with `windlass plan --out FILE`"),
    );
    for difference in differences.iter().take(SHOWN) {
        terminal.say(&windlass_report::clean(&format!(
            "  {}\n    then {}\n    now  {}",
            difference.place, difference.then, difference.now
        )));
    }
    if differences.len() > SHOWN {
        terminal.say(&format!("  and {} more", differences.len() - SHOWN));
    }
    Err(Exit::NeedsPerson)
}

pub(crate) fn confirm(session: &Session, yes: bool, terminal: &Terminal) -> Result<(), Exit> {
    let Some(environment) = &session.graph.environment else {
        return Ok(());
    };
    if !environment.confirm || yes {
        return Ok(());
    }
    if !terminal.asks() {
        terminal.error(
            &format!(
                "environment {} asks before it is deployed to",
                environment.name
            ),
            Some("pass --yes, or run it on a terminal"),
        );
        return Err(Exit::NeedsPerson);
    }
    let question = format!(
        "Deploy {} {} to {}?",
        session.graph.pipeline, session.graph.tag, environment.name
    );
    if terminal.confirm(&question) {
        Ok(())
    } else {
        terminal.say("nothing was done");
        Err(Exit::Cancelled)
    }
}

/// Outputs of steps that are left out, from the last good run of the same
/// commit and tag.
pub(crate) fn reused(
    session: &Session,
    journal: &Journal,
    terminal: &Terminal,
) -> Result<Outputs, Exit> {
    let graph = &session.graph;
    let mut outputs = Outputs::default();
    if graph.steps.iter().all(|step| step.selected) {
        return Ok(outputs);
    }
    let git = session.project.git.clone().unwrap_or_default();
    let environment = graph.environment.as_ref();
    let origin = Origin {
        pipeline: &graph.pipeline,
        environment: environment.map_or("", |environment| environment.name.as_str()),
        commit: &git.commit,
        tag: &graph.tag,
        dirty: git.dirty,
    };
    for node in graph.steps.iter().filter(|step| !step.selected) {
        for key in node.instances() {
            let found = journal.last_good_outputs(&origin, &key).map_err(|error| {
                terminal.error(&error.to_string(), error.hint().as_deref());
                Exit::Engine
            })?;
            if let Some(found) = found {
                outputs.insert(&key, found);
            }
        }
    }
    let missing = graph.missing_outputs(&outputs);
    if missing.has_errors() {
        terminal.diagnostics(&missing.sorted());
        return Err(Exit::Invalid);
    }
    Ok(outputs)
}
