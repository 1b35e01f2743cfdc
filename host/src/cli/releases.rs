//! `windlass releases` and `windlass rollback`

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use windlass_model::call::{Call, ReleasesCall, ReleasesOp};
use windlass_model::reply::Release;
use windlass_model::{CallError, Capability as _, Reply, TargetName};
use windlass_report::table;

use super::opened::Opened;
use super::run::{ShowArgs, Shown};
use super::session::{self, Backends, Session};
use super::terminal::Terminal;
use super::{ProjectArgs, StateArgs, WaitArgs};
use crate::engine;
use crate::exit::Exit;
use crate::project::outside_a_run;

/// Connecting and one round trip.
const LOOK: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct ReleasesArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Prints them as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    state: StateArgs,
    /// A release's id or tag; the good one before the current when absent
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Targets and directories, each once.
fn places(session: &Session, terminal: &Terminal) -> Result<Vec<(TargetName, String)>, Exit> {
    let mut places: Vec<(TargetName, String)> =
        engine::release_directories(&session.graph, &session.plugins)
            .into_iter()
            .map(|(_, target, dir)| (target, dir))
            .collect();
    places.sort();
    places.dedup();
    if places.is_empty() {
        terminal.error(
            "no step of this pipeline puts releases on a target",
            Some("a step with `uses = \"compose-deploy\"` and `on` does"),
        );
        return Err(Exit::Invalid);
    }
    Ok(places)
}

pub(crate) async fn releases(args: ReleasesArgs, terminal: &Terminal) -> Exit {
    match list(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn list(args: ReleasesArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let session = session::open(terminal, &args.project.options()).await?;
    let places = places(&session, terminal)?;
    let backends = session.backends(terminal).await?;
    let answers = look(&places, &session, &backends).await;
    backends.close().await;
    let mut exit = Exit::Succeeded;
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for ((target, dir), answer) in places.into_iter().zip(answers) {
        match answer {
            Ok(list) => {
                if list.is_empty() {
                    terminal.say(&format!("{target} has no release in {dir}"));
                }
                found.push((target, dir, list));
            }
            Err(error) => {
                terminal.error(
                    &format!("what is on {target} is not known: {}", error.message),
                    error.hint.as_deref(),
                );
                exit = Exit::for_error(&error);
                unknown.push((target, dir, error));
            }
        }
    }
    if args.json {
        let found = found.iter().map(|(target, dir, list)| {
            serde_json::json!({"target": target, "dir": dir, "releases": list})
        });
        let unknown = unknown.iter().map(|(target, dir, error)| {
            serde_json::json!({"target": target, "dir": dir, "releases": null, "error": error})
        });
        terminal.json(&found.chain(unknown).collect());
    } else if found.iter().any(|(_, _, list)| !list.is_empty()) {
        let rows: Vec<_> = found
            .into_iter()
            .map(|(target, _, list)| (target, list))
            .collect();
        terminal.out(&table::releases(&rows, terminal.width(), terminal.data));
    }
    Ok(exit)
}

/// What these places hold, newest first. All are asked at once.
pub(super) async fn look(
    places: &[(TargetName, String)],
    session: &Session,
    backends: &Backends,
) -> Vec<Result<Vec<Release>, CallError>> {
    let asked = places.iter().map(|(target, dir)| {
        let call = Call::Releases(ReleasesCall {
            target: target.clone(),
            dir: dir.clone(),
            op: ReleasesOp::List,
        });
        let context = outside_a_run(session.run, Instant::now() + LOOK);
        let live = &backends.live;
        async move {
            match live.call(&context, call).await? {
                Reply::Releases(list) => Ok(list),
                other => Err(CallError::wrong_reply("releases.list", other.kind())),
            }
        }
    });
    futures_util::future::join_all(asked).await
}

pub(crate) async fn rollback(args: RollbackArgs, terminal: &Terminal) -> Exit {
    match put_back(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn put_back(args: RollbackArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let mut session = session::open(terminal, &args.project.options()).await?;
    session.wait(args.wait);
    let places = places(&session, terminal)?;
    let opened = Opened::open(&session, &args.state, terminal).await?;
    let cancel = opened.watch(&session, terminal);
    let shown = Shown::new(&args.show, terminal, &session.project.ci);
    let (reporters, summary, files) = shown.parts();
    let mut input = session.input(&opened.backends, reporters, cancel);
    input.journal = Some(opened.journal.clone());
    let result = engine::restore(input, places, args.to).await;
    opened.close(terminal).await;
    Shown::write(&files, &summary, terminal);
    Ok(result.exit)
}
