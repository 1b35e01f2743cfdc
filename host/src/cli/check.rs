//! `windlass check`

use clap::Args;

use super::terminal::Terminal;
use super::{ProjectArgs, session};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Prints problems as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn check(args: CheckArgs, terminal: &Terminal) -> Exit {
    let (session, exit) = match session::examine(terminal, &args.project.options()).await {
        Ok(examined) => examined,
        Err(exit) => return exit,
    };
    if args.json {
        terminal.json(&session.problems.to_json());
        return exit;
    }
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    if exit != Exit::Succeeded {
        return exit;
    }
    let steps = session.graph.steps.len();
    let targets = session.graph.active.len();
    let secrets = session.graph.secrets.len();
    terminal.say(&format!(
        "{} {}: {}, {}, {}, no problems",
        terminal.people.paint(
            windlass_report::Tone::Good,
            terminal.people.glyph("✓", "ok")
        ),
        session.project.manifest.source.name,
        count(steps, "step"),
        count(targets, "target"),
        count(secrets, "secret"),
    ));
    Exit::Succeeded
}

fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
