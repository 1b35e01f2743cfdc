//! `windlass resume` and `windlass retry-failed`: going on with a run from what the
//! journal has of it. Without one, `records` goes on from what the targets have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use windlass_journal::{Journal, JournalError, Reader, RunSummary};
use windlass_manifest::Outputs;
use windlass_model::event::{Event, Outcome};
use windlass_model::{RunInputs, StepKey};

use super::history::failed;
use super::opened::Opened;
use super::plan::saved::Difference;
use super::run::{ShowArgs, Shown, confirm, reused};
use super::session::{self, Session, state_dir};
use super::terminal::Terminal;
use super::{StateArgs, alive};
use crate::engine::{self, Earlier};
use crate::exit::Exit;
use crate::project::{Options, Project, Recorded};

mod questions;
mod records;

use questions::{decide, describe};

/// Runs that are looked through for the one to go on with.
const LOOKED_THROUGH: usize = 500;

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// What to do about a call of which nobody knows whether it took place
    #[arg(long, value_name = "WHAT")]
    on_ambiguous: Option<OnAmbiguous>,
    /// The environment; that of the run in the journal when absent
    #[arg(long, short = 'e', value_name = "NAME")]
    env: Option<String>,
    /// Sets a variable of [vars] for a run that has no journal, which would know it
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = super::variable)]
    vars: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// A run's id or the last digits of it; the last one that did not end well when
    /// absent
    run: Option<String>,
    /// The manifest; windlass.toml here or above when absent
    #[arg(long, short = 'f', value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    /// Goes on although manifest, plugins or inputs are not what they were
    #[arg(long)]
    allow_changed: bool,
    /// Answers yes for an environment that asks
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnAmbiguous {
    /// Makes the call again
    Redo,
    /// Counts it as done, with nothing in its answer
    Skip,
    /// Leaves the run as it is
    Abort,
}

/// What a run is to go on from.
struct Found {
    summary: RunSummary,
    inputs: RunInputs,
    options: Options,
}

/// Where a run is known from.
enum Source {
    Journal(Box<Found>),
    /// No journal tells of it: why not.
    Records(String),
}

impl WhichArgs {
    /// The run, with what it was asked for.
    async fn find(
        &self,
        environment: Option<&str>,
        resumes: bool,
        terminal: &Terminal,
    ) -> Result<Source, Exit> {
        let project = Project::open(self.file.as_deref())
            .await
            .map_err(|error| terminal.project_error(&error))?;
        let dir = state_dir(&project.root, &self.state);
        let reader = Journal::open_existing(&dir).map_err(|error| failed(&error, terminal))?;
        let nothing = || {
            Ok(Source::Records(format!(
                "no run is recorded in {}",
                dir.display()
            )))
        };
        let Some(reader) = reader else {
            return nothing();
        };
        let read = |error: JournalError| failed(&error, terminal);
        let runs = Runs {
            reader: &reader,
            environment,
        };
        let wanted = match &self.run {
            Some(wanted) => match reader.find_run(wanted) {
                Err(error @ JournalError::NoSuchRun { .. }) => {
                    return Ok(Source::Records(error.to_string()));
                }
                found => found.map(Some),
            },
            None if runs.is_empty().map_err(read)? => return nothing(),
            None => runs.last(&dir, resumes),
        };
        let Some(summary) = wanted.map_err(read)? else {
            terminal.error(
                "no run since the last one that succeeded is left to go on with",
                Some("`windlass runs` lists them; name one to go on with it all the same"),
            );
            return Err(Exit::Invalid);
        };
        let id = summary.run.short();
        if let Some(pid) = alive::living(&dir, summary.run) {
            let whose = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            terminal.error(
                &format!("run {id} is under way{whose}"),
                Some("wait for it to end, or stop that process"),
            );
            return Err(Exit::LeaseHeld);
        }
        if summary.outcome == Some(Outcome::Succeeded) {
            terminal.error(
                &format!("run {id} succeeded: there is nothing to go on with"),
                Some("`windlass run` begins another"),
            );
            return Err(Exit::Invalid);
        }
        if !resumes && summary.outcome.is_none() {
            terminal.error(
                &format!("run {id} did not end"),
                Some(&format!("`windlass resume {id}` goes on with it")),
            );
            return Err(Exit::Invalid);
        }
        let inputs = reader.inputs(summary.run);
        let Some(inputs) = inputs.map_err(|error| failed(&error, terminal))? else {
            terminal.error(
                &format!("the journal does not say what run {id} was asked for"),
                Some(
                    "it is not one of `windlass run`, or of an older Windlass; `windlass run` \
                     begins another",
                ),
            );
            return Err(Exit::Invalid);
        };
        let of = inputs.environment.as_deref();
        if let Some(wanted) = environment.filter(|wanted| Some(*wanted) != of) {
            terminal.error(
                &format!("run {id} is not one of environment {wanted}"),
                Some(&format!(
                    "it is one of {}: leave --env out",
                    of.unwrap_or("none")
                )),
            );
            return Err(Exit::Invalid);
        }
        let given = inputs.vars.iter().chain(&inputs.env);
        if let Some((name, _)) = given.into_iter().find(|(_, value)| is_masked(value)) {
            terminal.error(
                &format!("variable {name} of run {id} held a secret, which no journal keeps"),
                Some(
                    "`windlass run` begins another; name the secret in the manifest with \
                     `{ secret = \"NAME\" }` instead",
                ),
            );
            return Err(Exit::Invalid);
        }
        let options = Options {
            file: self.file.clone(),
            environment: inputs.environment.clone(),
            vars: inputs.vars.clone(),
            tag: Some(inputs.tag.clone()),
            only: inputs.only.clone(),
            from: inputs.from.clone(),
            recorded: Some(Recorded {
                run: resumes.then_some(summary.run),
                started: inputs.started,
                branch: inputs.branch.clone(),
                env: inputs.env.clone(),
            }),
        };
        Ok(Source::Journal(Box::new(Found {
            summary,
            inputs,
            options,
        })))
    }

    /// Refuses what is not as it was, or gives the places where it differs.
    fn compare(
        &self,
        found: &Found,
        session: &Session,
        terminal: &Terminal,
    ) -> Result<Vec<String>, Exit> {
        let differences = differences(&found.inputs, &session.inputs(&found.options));
        if differences.is_empty() || self.allow_changed {
            return Ok(differences.into_iter().map(|found| found.place).collect());
        }
        Err(refuse(&found.summary.run.short(), differences, terminal))
    }
}

/// Says what is not as it was.
fn refuse(id: &str, differences: Vec<Difference>, terminal: &Terminal) -> Exit {
    terminal.error(
        &format!("what run {id} was begun with has changed since"),
        Some("put it back, or begin another run; --allow-changed goes on with what is here now"),
    );
    for difference in differences {
        terminal.say(&windlass_report::clean(&format!(
            "  {}\n    then {}\n    now  {}",
            difference.place, difference.then, difference.now
        )));
    }
    Exit::NeedsPerson
}

/// The runs of a journal, of one environment or of all.
struct Runs<'a> {
    reader: &'a Reader,
    environment: Option<&'a str>,
}

impl Runs<'_> {
    /// Newest first. Those of `windlass rollback`, say, were asked for nothing.
    fn all(&self) -> Result<impl Iterator<Item = Result<RunSummary, JournalError>>, JournalError> {
        let ours = |run: RunSummary| match self.reader.inputs(run.run) {
            Err(error) => Some(Err(error)),
            Ok(None) => None,
            Ok(Some(inputs)) => {
                let wanted = self.environment;
                let same =
                    wanted.is_none_or(|wanted| inputs.environment.as_deref() == Some(wanted));
                same.then_some(Ok(run))
            }
        };
        Ok(self
            .reader
            .runs(LOOKED_THROUGH)?
            .into_iter()
            .filter_map(ours))
    }

    fn is_empty(&self) -> Result<bool, JournalError> {
        Ok(self.all()?.next().transpose()?.is_none())
    }

    /// The newest run since the last that succeeded: for `resume` one that did not end,
    /// else one that did not end well.
    fn last(&self, dir: &Path, resumes: bool) -> Result<Option<RunSummary>, JournalError> {
        let mut ended = None;
        let mut living = None;
        for run in self.all()? {
            let run = run?;
            match run.outcome {
                Some(Outcome::Succeeded) => break,
                None if alive::living(dir, run.run).is_some() => {
                    living.get_or_insert(run);
                }
                None if resumes => return Ok(Some(run)),
                None => {}
                Some(_) => {
                    ended.get_or_insert(run);
                }
            }
        }
        Ok(ended.or(living))
    }
}

/// Whether a value is not what it was: the journal has the name of a secret instead.
fn is_masked(value: &str) -> bool {
    value.contains("[secret:")
}

/// Secrets are not compared: nothing of them is recorded. Variables of the
/// environment are, where they are set now.
fn differences(then: &RunInputs, now: &RunInputs) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |place: String, then: &str, now: &str| {
        if then != now {
            let shown = |text: &str| {
                if text.is_empty() {
                    "nothing".to_owned()
                } else {
                    text.to_owned()
                }
            };
            found.push(Difference {
                place,
                then: shown(then),
                now: shown(now),
            });
        }
    };
    compare("the manifest".into(), &then.manifest, &now.manifest);
    let uses: std::collections::BTreeSet<&String> =
        then.plugins.keys().chain(now.plugins.keys()).collect();
    for uses in uses {
        let digest = |inputs: &RunInputs| inputs.plugins.get(uses).cloned().unwrap_or_default();
        compare(format!("plugin {uses}"), &digest(then), &digest(now));
    }
    compare("the commit".into(), &then.commit, &now.commit);
    let tree = |dirty| if dirty { "with changes" } else { "clean" };
    compare("the working tree".into(), tree(then.dirty), tree(now.dirty));
    for (name, value) in &now.env {
        let before = then.env.get(name).map_or("", String::as_str);
        compare(format!("variable {name}"), before, value);
    }
    found
}

pub(crate) async fn resume(args: ResumeArgs, terminal: &Terminal) -> Exit {
    match go_on(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn go_on(args: ResumeArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let source = args.which.find(args.env.as_deref(), true, terminal).await?;
    let found = match source {
        Source::Journal(found) => *found,
        Source::Records(why) => return records::go_on(&args, &why, terminal).await,
    };
    if !args.vars.is_empty() {
        terminal.error(
            "--var is for a run that has no journal",
            Some("the journal has the variables that the run was begun with: leave it out"),
        );
        return Err(Exit::Invalid);
    }
    let session = session::open(terminal, &found.options).await?;
    let changed = args.which.compare(&found, &session, terminal)?;
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    confirm(&session, args.which.yes, terminal)?;
    // What the kill left goes first, but for what may go on; from here on the run is ours.
    let mut opened = Opened::open(&session, &args.which.state, terminal).await?;
    if !opened.is_ours() {
        terminal.error(
            &format!("another process goes on with run {}", session.run.short()),
            Some("wait for it to end"),
        );
        return Err(Exit::LeaseHeld);
    }
    let read = |error: JournalError| failed(&error, terminal);
    let journal = opened.journal.clone();
    let (events, number) = journal.happenings(session.run).map_err(read)?;
    let calls = journal.calls(session.run).map_err(read)?;
    let now = session.inputs(&found.options);
    let same_plugin = |step: &StepKey| {
        let uses = session
            .graph
            .step(step.name.as_str())
            .map(|node| &node.uses);
        uses.is_some_and(|uses| found.inputs.plugins.get(uses) == now.plugins.get(uses))
    };
    let (mut earlier, questions) = Earlier::of_run(
        &session.graph,
        events,
        number,
        calls,
        &found.inputs.inherited,
        &same_plugin,
        &opened.containers,
    );
    earlier.changed = changed;
    earlier.by = session.project.who();
    earlier.link = session.project.ci.link.clone();
    let backend = Arc::clone(&opened.backends.live) as Arc<_>;
    let secrets = &opened.backends.secrets;
    let questions = earlier
        .probe(questions, journal.clone(), secrets, backend)
        .await;
    let asked: Vec<String> = questions.iter().map(describe).collect();
    match decide(&asked, args.on_ambiguous, &session.run.short(), terminal) {
        Ok(decisions) => {
            for (question, decision) in questions.iter().zip(decisions) {
                earlier.decide(question, decision);
            }
        }
        Err(exit) => {
            opened.close(terminal).await;
            return Err(exit);
        }
    }
    let goes_on = earlier.goes_on_with(&opened.containers);
    opened.goes_on_with(&session, &goes_on, terminal).await;
    let reused = reused(&session, &journal, terminal)?;
    let reopened = journal.reopen(session.run, earlier.reopened()).await;
    reopened.map_err(read)?;

    let cancel = opened.watch(&session, terminal);
    let shown = Shown::new(&args.which.show, terminal, &session.project.ci);
    let (reporters, summary, files) = shown.parts();
    let mut input = session.input(&opened.backends, reporters, cancel);
    input.journal = Some(journal);
    input.reused = reused;
    input.earlier = Some(earlier);
    // What guests are told of the run is what they were told.
    input.who.clone_from(&found.inputs.who);
    input.link.clone_from(&found.inputs.link);
    input.git.branch = Some(found.inputs.branch.clone());
    let result = engine::run(input).await;
    opened.end(&session, terminal).await;
    Shown::write(&files, &summary, terminal);
    Ok(result.exit)
}

pub(crate) async fn retry_failed(args: RetryArgs, terminal: &Terminal) -> Exit {
    match again(args.which, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn again(args: WhichArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let found = match args.find(None, false, terminal).await? {
        Source::Journal(found) => *found,
        Source::Records(why) => {
            terminal.error(
                &why,
                Some(
                    "--state names the directory of the journal; without it, `windlass resume` \
                     goes on from what the targets' records say",
                ),
            );
            return Err(Exit::Invalid);
        }
    };
    let session = session::open(terminal, &found.options).await?;
    let changed = args.compare(&found, &session, terminal)?;
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    confirm(&session, args.yes, terminal)?;
    let opened = Opened::open(&session, &args.state, terminal).await?;
    let journal = &opened.journal;
    let read = |error: JournalError| failed(&error, terminal);
    let (events, _) = journal.happenings(found.summary.run).map_err(read)?;
    let calls = journal.calls(found.summary.run).map_err(read)?;
    let before = &found.inputs.inherited;
    let mut earlier = Earlier::of_failed(&session.graph, &events, &calls, before);
    earlier.changed = changed;
    let id = found.summary.run.short();
    if earlier.is_whole(&session.graph) && !failed_after_steps(&events) {
        terminal.say(&format!(
            "every step of run {id} succeeded: nothing to retry"
        ));
        opened.close(terminal).await;
        return Ok(Exit::Succeeded);
    }
    let reused = reused(&session, journal, terminal)?;
    let (options, show) = (&found.options, &args.show);
    begin_anew(opened, &session, options, show, reused, earlier, terminal).await
}

/// Runs what is left of another run as a run of its own.
async fn begin_anew(
    opened: Opened,
    session: &Session,
    options: &Options,
    show: &ShowArgs,
    reused: Outputs,
    earlier: Earlier,
    terminal: &Terminal,
) -> Result<Exit, Exit> {
    let cancel = opened.watch(session, terminal);
    let shown = Shown::new(show, terminal, &session.project.ci);
    let (reporters, summary, files) = shown.parts();
    let mut inputs = session.kept_inputs(options, &opened.backends);
    inputs.inherited = earlier.handed_on();
    let begun = opened.journal.begin(session.run, &inputs).await;
    begun.map_err(|error| failed(&error, terminal))?;
    let mut input = session.input(&opened.backends, reporters, cancel);
    input.journal = Some(opened.journal.clone());
    input.reused = reused;
    input.earlier = Some(earlier);
    let result = engine::run(input).await;
    opened.close(terminal).await;
    Shown::write(&files, &summary, terminal);
    Ok(result.exit)
}

/// Whether the run failed, or was cancelled, though all its steps did not: it may
/// have lost its lease, say.
fn failed_after_steps(events: &[windlass_model::event::Envelope]) -> bool {
    events.iter().rev().any(|envelope| {
        matches!(&envelope.event, Event::RunFinished(finished) if finished.failed_step.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_not_set_now_is_taken_from_the_record() {
        let mut then = RunInputs {
            manifest: "a".into(),
            ..RunInputs::default()
        };
        then.env.insert("DEPLOY_HOST".into(), "one".into());
        let mut now = then.clone();
        now.env.clear();
        assert_eq!(differences(&then, &now), []);
        now.env.insert("DEPLOY_HOST".into(), "two".into());
        now.manifest = "b".into();
        let places: Vec<String> = differences(&then, &now)
            .into_iter()
            .map(|difference| difference.place)
            .collect();
        assert_eq!(places, ["the manifest", "variable DEPLOY_HOST"]);
    }
}
