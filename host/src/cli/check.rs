//! `windlass check`

use clap::Args;

use super::terminal::Terminal;
use super::{ProjectArgs, session};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    project: ProjectArgs,
}

pub(crate) async fn check(args: CheckArgs, terminal: &Terminal) -> Exit {
    let session = match session::open(terminal, &args.project.options()).await {
        Ok(session) => session,
        Err(exit) => return exit,
    };
    if !session.warnings.is_empty() {
        terminal.diagnostics(&session.warnings);
    }
    let steps = session.graph.steps.len();
    let targets = session.graph.active.len();
    let secrets = session.graph.secrets.len();
    terminal.say(&format!(
        "{} {}: {steps} steps, {targets} targets, {secrets} secrets, no problems",
        terminal.people.paint(
            windlass_report::Tone::Good,
            terminal.people.glyph("✓", "ok")
        ),
        session.project.manifest.source.name,
    ));
    Exit::Succeeded
}
