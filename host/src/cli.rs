//! What a person types. Data goes to stdout, everything for people to stderr.

mod alive;
mod check;
mod history;
mod lock;
mod opened;
mod plan;
mod plugin;
mod releases;
mod resume;
mod run;
mod session;
mod signals;
mod starter;
mod terminal;
mod test;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use windlass_report::ColorChoice;

use crate::exit::Exit;
use crate::project::Options;
use terminal::Terminal;

const AFTER: &str = "\
Exit codes: 0 succeeded, 1 a step failed, 2 invalid manifest, command line or plugin,
3 a call was denied, 4 the lease is held by another run, 5 the engine itself failed,
6 needs a person, 10 plan found something to do, 130 cancelled.";

/// Deploys: builds, verifies, pushes, releases, checks, and puts back what
/// fails.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, after_help = AFTER, max_term_width = 100)]
struct Cli {
    /// When to use colours: auto, always, never
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN",
          value_parser = |text: &str| text.parse::<ColorChoice>())]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the pipeline
    Run(run::RunArgs),
    /// Goes on with a run that was cut short, or that did not end well
    Resume(resume::ResumeArgs),
    /// Runs the failed, skipped and cancelled steps of a run again, and no others
    RetryFailed(resume::RetryArgs),
    /// Checks the manifest, the plugins and their grants; changes nothing
    Check(check::CheckArgs),
    /// Shows what a run would do: graph, targets, grants, what preflight finds
    Plan(plan::PlanArgs),
    /// Draws the graph
    Graph(plan::GraphArgs),
    /// Lists the plugins
    Plugins(plugin::ListArgs),
    /// Looks at plugins, and locks their bytes
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Prints the manifest's JSON Schema, for editors
    Schema,
    /// Lists past runs
    Runs(history::RunsArgs),
    /// Shows a past run
    Show(history::ShowArgs),
    /// Prints the log of a past run
    Logs(history::LogsArgs),
    /// Lists what is on the targets
    Releases(releases::ReleasesArgs),
    /// Puts an earlier release back: image, compose file and env together
    Rollback(releases::RollbackArgs),
    /// Looks at who holds the targets, keeps deploys away from them, or frees them
    #[command(subcommand)]
    Lock(lock::LockCommand),
    /// Runs test cases of steps and pipelines: no Docker, no SSH, no network
    Test(test::TestArgs),
    /// Records a target's host key, after showing its fingerprint
    Trust(trust::TrustArgs),
    /// Writes a commented manifest
    Init(starter::InitArgs),
    /// Prints a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Prints the manual page
    Man,
}

/// Which manifest, and with which inputs.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProjectArgs {
    /// The manifest; windlass.toml here or above when absent
    #[arg(long, short = 'f', value_name = "PATH")]
    file: Option<PathBuf>,
    /// The environment
    #[arg(long, short = 'e', value_name = "NAME")]
    env: Option<String>,
    /// Sets a variable of [vars]
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    vars: Vec<(String, String)>,
    /// The tag, whatever CI, git or the manifest say
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

impl ProjectArgs {
    pub(crate) fn options(&self) -> Options {
        Options {
            file: self.file.clone(),
            environment: self.env.clone(),
            vars: self.vars.iter().cloned().collect(),
            tag: self.tag.clone(),
            only: Vec::new(),
            from: None,
            recorded: None,
        }
    }
}

/// A duration as the manifest writes it: 90s, 1m30s, 2h.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    windlass_manifest::parse_duration(text).ok_or_else(|| "write it as in 90s, 1m30s or 2h".into())
}

/// How long to wait for who holds a target.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Waits so long while another run or a person holds a target; `lease_wait` of the manifest
    /// when absent
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<std::time::Duration>,
}

/// Where the journal is.
#[derive(Clone, Debug, Args)]
pub(crate) struct StateArgs {
    /// The directory of the journal; .windlass beside the manifest when absent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Exit::Invalid.code()
            } else {
                0
            });
        }
    };
    let terminal = Terminal::new(cli.color);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&format!("start the engine: {error}"), None);
            return ExitCode::from(Exit::Engine.code());
        }
    };
    // On one of the runtime's own threads: a step that it starts then ends without
    // another thread being woken.
    let work = runtime.spawn(async move { dispatch(cli.command, &terminal).await });
    let exit = match runtime.block_on(work) {
        Ok(exit) => exit,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    // A blocked thread (a name look-up, say) must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    ExitCode::from(exit.code())
}

async fn dispatch(command: Command, terminal: &Terminal) -> Exit {
    match command {
        Command::Run(args) => run::run(args, terminal).await,
        Command::Resume(args) => resume::resume(args, terminal).await,
        Command::RetryFailed(args) => resume::retry_failed(args, terminal).await,
        Command::Check(args) => check::check(args, terminal).await,
        Command::Plan(args) => plan::plan(args, terminal).await,
        Command::Graph(args) => plan::graph(args, terminal).await,
        Command::Plugins(args) => plugin::list(args, terminal).await,
        Command::Plugin(command) => plugin::dispatch(command, terminal).await,
        Command::Schema => {
            terminal.json(&windlass_manifest::json_schema::manifest_schema());
            Exit::Succeeded
        }
        Command::Runs(args) => history::runs(&args, terminal),
        Command::Show(args) => history::show(&args, terminal),
        Command::Logs(args) => history::logs(&args, terminal),
        Command::Releases(args) => releases::releases(args, terminal).await,
        Command::Rollback(args) => releases::rollback(args, terminal).await,
        Command::Lock(command) => lock::dispatch(command, terminal).await,
        Command::Test(args) => test::test(args, terminal).await,
        Command::Trust(args) => trust::trust(args, terminal).await,
        Command::Init(args) => starter::init(&args, terminal).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "windlass", &mut text);
            terminal.out(&String::from_utf8_lossy(&text));
            Exit::Succeeded
        }
        Command::Man => {
            let mut text = Vec::new();
            match clap_mangen::Man::new(Cli::command()).render(&mut text) {
                Ok(()) => {
                    terminal.out(&String::from_utf8_lossy(&text));
                    Exit::Succeeded
                }
                Err(error) => {
                    terminal.error(&format!("write the manual page: {error}"), None);
                    Exit::Engine
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
