//! `windlass lock`: who holds the targets; a lock that keeps deploys away from
//! them; a lease that is taken from its holder.
//!
//! A lock is a lease without a heartbeat, with a reason, and held by a person.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;
use windlass_model::call::{Call, LeaseCall, LeaseOp};
use windlass_model::reply::Lease;
use windlass_model::{CallError, Capability as _, Reply, TargetName};
use windlass_report::clean_line;
use windlass_report::text::duration as duration_text;

use super::session::{self, Backends, Session};
use super::terminal::Terminal;
use super::{ProjectArgs, duration};
use crate::engine::lease::{held, places};
use crate::exit::Exit;
use crate::project::outside_a_run;

/// Connecting and one round trip.
const LOOK: Duration = Duration::from_secs(60);
/// Between looks at a target that somebody holds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between words about it.
const SAY_AGAIN: Duration = Duration::from_secs(30);
const NO_REASON: &str = "no reason given";

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Shows who holds each target, since when, and until when
    Status(StatusArgs),
    /// Keeps deploys away from the targets, until it is released or the time is over
    Acquire(AcquireArgs),
    /// Frees the targets
    Release(ReleaseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AcquireArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Why: shown to everybody whose deploy is kept away
    #[arg(long, value_name = "TEXT", default_value = NO_REASON)]
    reason: String,
    /// Ends by itself after so long; without it, only by `windlass lock release`
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<Duration>,
    /// Waits so long for a target that another holds
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Also from another person, and from a run: if that run is still alive, what it does
    /// next on the target is refused there, and it ends with code 4
    #[arg(long)]
    force: bool,
}

pub(crate) async fn dispatch(command: LockCommand, terminal: &Terminal) -> Exit {
    let project = match &command {
        LockCommand::Status(args) => &args.project,
        LockCommand::Acquire(args) => &args.project,
        LockCommand::Release(args) => &args.project,
    };
    let opened = Opened::new(project, terminal).await;
    let opened = match opened {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    let work = async {
        match &command {
            LockCommand::Status(args) => opened.status(args, terminal).await,
            LockCommand::Acquire(args) => opened.acquire(args, terminal).await,
            LockCommand::Release(args) => opened.release(args, terminal).await,
        }
    };
    let exit = work.await;
    opened.backends.close().await;
    exit
}

struct Opened {
    session: Session,
    backends: Backends,
    places: Vec<(TargetName, String)>,
}

impl Opened {
    async fn new(project: &ProjectArgs, terminal: &Terminal) -> Result<Self, Exit> {
        let session = session::open(terminal, &project.options()).await?;
        let places = places(&session.graph);
        if places.is_empty() {
            terminal.error(
                "no step of this pipeline works on a target",
                Some("a step with `on` does"),
            );
            return Err(Exit::Invalid);
        }
        let backends = session.backends(terminal).await?;
        Ok(Self {
            session,
            backends,
            places,
        })
    }

    async fn call(
        &self,
        (target, path): &(TargetName, String),
        op: LeaseOp,
    ) -> Result<Option<Lease>, CallError> {
        let context = outside_a_run(self.session.run, Instant::now() + LOOK);
        let call = Call::Lease(LeaseCall {
            target: target.clone(),
            path: path.clone(),
            op,
        });
        match self.backends.live.call(&context, call).await? {
            Reply::Lease(lease) => Ok(lease),
            Reply::Done => Ok(None),
            other => Err(CallError::wrong_reply("lease", other.kind())),
        }
    }

    async fn look(&self) -> Vec<Result<Option<Lease>, CallError>> {
        let asked = self
            .places
            .iter()
            .map(|place| self.call(place, LeaseOp::Status));
        futures_util::future::join_all(asked).await
    }

    async fn status(&self, args: &StatusArgs, terminal: &Terminal) -> Exit {
        let answers = self.look().await;
        let mut exit = Exit::Succeeded;
        let mut list = Vec::new();
        for ((target, path), answer) in self.places.iter().zip(answers) {
            match answer {
                Ok(lease) => {
                    if !args.json {
                        terminal.out(&format!("{target}: {}\n", told(lease.as_ref())));
                    }
                    list.push(serde_json::json!({
                        "target": target, "path": path, "lease": lease.as_ref().map(facts),
                    }));
                }
                Err(error) => {
                    list.push(serde_json::json!({
                        "target": target, "path": path, "error": error,
                    }));
                    exit = terminal.call_error(&error);
                }
            }
        }
        if args.json {
            terminal.json(&serde_json::Value::Array(list));
        }
        exit
    }

    /// All or none; but a target that cannot be reached keeps nobody from the
    /// others.
    async fn acquire(&self, args: &AcquireArgs, terminal: &Terminal) -> Exit {
        let mut taken = Vec::new();
        let mut unreachable = None;
        let give_up = Instant::now() + args.wait;
        let mut stop = std::pin::pin!(interrupted());
        for place in &self.places {
            let answer = tokio::select! {
                answer = self.acquire_one(place, args, give_up, terminal) => answer,
                () = &mut stop => Err(CallError::cancelled()),
            };
            match answer {
                Ok(()) => taken.push(place),
                Err(error) if is_away(&error) => {
                    terminal.call_error(&error);
                    unreachable = Some(error);
                }
                Err(error) => {
                    // The last one, too: it may be taken there, though nobody heard of it.
                    taken.push(place);
                    for place in taken {
                        if let Err(error) = self.call(place, LeaseOp::Release).await {
                            terminal.call_error(&error);
                        }
                    }
                    return terminal.call_error(&error);
                }
            }
        }
        if taken.is_empty() {
            return unreachable.map_or(Exit::StepFailed, |error| Exit::for_error(&error));
        }
        let names: Vec<&str> = taken.iter().map(|(target, _)| target.as_str()).collect();
        let until = match args.lasts {
            Some(_) => "until the time is over, or `windlass lock release`",
            None => "until `windlass lock release`",
        };
        terminal.say(&format!("locked {} {until}", names.join(", ")));
        if let Some(error) = unreachable {
            terminal.say("what could not be reached is not locked");
            return Exit::for_error(&error);
        }
        Exit::Succeeded
    }

    async fn acquire_one(
        &self,
        place: &(TargetName, String),
        args: &AcquireArgs,
        give_up: Instant,
        terminal: &Terminal,
    ) -> Result<(), CallError> {
        let mut said: Option<Instant> = None;
        loop {
            let op = LeaseOp::Acquire {
                owner: self.session.project.who(),
                ttl_ms: args.lasts.map_or(0, |lasts| {
                    u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1)
                }),
                reason: args.reason.clone(),
            };
            let lease = self
                .call(place, op)
                .await?
                .ok_or_else(|| CallError::wrong_reply("lease.acquire", "nothing"))?;
            if lease.ours {
                return Ok(());
            }
            if Instant::now() >= give_up {
                return Err(held(&place.0, &lease));
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                said = Some(Instant::now());
                terminal.say(&format!("waiting for {}: {}", place.0, told(Some(&lease))));
            }
            tokio::time::sleep(LOOK_AGAIN.min(give_up - Instant::now())).await;
        }
    }

    async fn release(&self, args: &ReleaseArgs, terminal: &Terminal) -> Exit {
        let who = self.session.project.who();
        let answers = self.look().await;
        let mut exit = Exit::Succeeded;
        for (place, answer) in self.places.iter().zip(answers) {
            let target = &place.0;
            let lease = match answer {
                Ok(Some(lease)) => lease,
                Ok(None) => {
                    terminal.say(&format!("{target} is free"));
                    continue;
                }
                Err(error) => {
                    exit = terminal.call_error(&error);
                    continue;
                }
            };
            let is_run = lease.reason.is_empty();
            if !args.force && (is_run || lease.owner != who) {
                exit = terminal.call_error(&not_ours(target, &lease));
                continue;
            }
            let taken = LeaseOp::Break {
                run: lease.run.clone(),
            };
            match self.call(place, taken).await {
                Ok(_) if is_run => terminal.say(&format!(
                    "took {target} from {} (run {}): what that run does next there is refused",
                    clean_line(&lease.owner),
                    lease.run
                )),
                Ok(_) => terminal.say(&format!("{target} is free")),
                Err(error) => exit = terminal.call_error(&error),
            }
        }
        exit
    }
}

fn is_away(error: &CallError) -> bool {
    matches!(
        error.code.as_str(),
        "ssh.unreachable" | "ssh.connect-timeout"
    )
}

/// SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn not_ours(target: &TargetName, lease: &Lease) -> CallError {
    let (what, fate) = if lease.reason.is_empty() {
        (
            format!(
                "{} (run {}) deploys to {target} since {}",
                lease.owner, lease.run, lease.since
            ),
            "if that run is still alive, what it does next there is refused, and it ends with code 4",
        )
    } else {
        (
            format!(
                "{target} was locked by {} since {}: {}",
                lease.owner, lease.since, lease.reason
            ),
            "ask before you do",
        )
    };
    CallError::conflict("lease.held", what).hint(format!("`--force` takes it: {fate}"))
}

/// For people.
fn told(lease: Option<&Lease>) -> String {
    let Some(lease) = lease else {
        return "free".to_owned();
    };
    let (owner, reason) = (clean_line(&lease.owner), clean_line(&lease.reason));
    let since = clean_line(&lease.since);
    let ends = match lease.remaining_ms {
        Some(0) => "an operation of it still runs".to_owned(),
        Some(left) if lease.reason.is_empty() => {
            format!("ends in {} unless renewed", duration_text(left))
        }
        Some(left) => format!("ends in {}", duration_text(left)),
        None => "until it is released".to_owned(),
    };
    if lease.reason.is_empty() {
        format!(
            "{owner} deploys there since {since} (run {}), {ends}",
            clean_line(&lease.run)
        )
    } else {
        format!("locked by {owner} since {since}, {ends}: {reason}")
    }
}

fn facts(lease: &Lease) -> serde_json::Value {
    serde_json::json!({
        "owner": lease.owner,
        "run": lease.run,
        "since": lease.since,
        "remaining_ms": lease.remaining_ms,
        "reason": lease.reason,
        "fence": lease.fence,
    })
}
