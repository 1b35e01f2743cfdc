//! One run at a time on each target: acquired in sorted order, renewed while
//! the run lasts, released on every exit.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::call::{Call, LeaseCall, LeaseOp};
use windlass_model::event::{Event, Level};
use windlass_model::{CallError, Reply, TargetName};

use super::away::Away;
use super::{Context, millis};

const CALL: Duration = Duration::from_secs(30);
const RELEASE: Duration = Duration::from_secs(7);
const RELEASE_CANCELLED: Duration = Duration::from_millis(2500);
/// Between looks at a lease that another run holds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Leases held, with the task that renews them.
pub(super) struct Holding {
    places: Vec<(TargetName, String)>,
    stop: CancellationToken,
    lost: Arc<Mutex<Option<CallError>>>,
}

impl Holding {
    /// Why the lease is no longer ours, if so.
    pub(super) fn lost(&self) -> Option<CallError> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Where the lease of this environment lies on its targets.
pub(crate) fn path(graph: &windlass_manifest::Graph) -> String {
    let environment = graph.environment.as_ref();
    let dir = environment
        .and_then(|environment| environment.values.get("dir"))
        .and_then(serde_json::Value::as_str)
        .filter(|dir| dir.starts_with('/'));
    match dir {
        Some(dir) => format!("{}/.windlass-lease", dir.trim_end_matches('/')),
        None => format!(
            "~/.windlass/leases/{}.{}",
            graph.pipeline,
            environment.map_or("default", |environment| environment.name.as_str())
        ),
    }
}

fn call(target: &TargetName, path: &str, op: LeaseOp) -> Call {
    Call::Lease(LeaseCall {
        target: target.clone(),
        path: path.to_owned(),
        op,
    })
}

/// Takes the lease on every active target, in the order of their names, so
/// that two runs never wait for each other. A target that cannot be reached is
/// noted as away.
pub(super) async fn acquire(
    context: &Arc<Context>,
    away: &mut Away,
) -> Result<Option<Holding>, CallError> {
    let path = path(&context.graph);
    let mut places = Vec::new();
    let ttl = context.graph.settings.lease_ttl;
    let give_up = Instant::now() + context.graph.settings.lease_wait;
    for target in &context.graph.active {
        if away.why(target).is_some() {
            continue;
        }
        let noted = match acquire_one(context, target, &path, ttl, give_up).await {
            Ok(()) => {
                places.push((target.clone(), path.clone()));
                Ok(())
            }
            Err(error) => away.note(context, target, error),
        };
        if let Err(error) = noted {
            release_all(context, &places).await;
            return Err(error);
        }
    }
    if places.is_empty() {
        return Ok(None);
    }
    let holding = Holding {
        places: places.clone(),
        stop: CancellationToken::new(),
        lost: Arc::default(),
    };
    tokio::spawn(renew(
        Arc::clone(context),
        places,
        ttl,
        holding.stop.clone(),
        Arc::clone(&holding.lost),
    ));
    Ok(Some(holding))
}

async fn acquire_one(
    context: &Arc<Context>,
    target: &TargetName,
    path: &str,
    ttl: Duration,
    give_up: Instant,
) -> Result<(), CallError> {
    loop {
        let op = LeaseOp::Acquire {
            owner: context.who.clone(),
            ttl_ms: millis(ttl),
        };
        let answer = context
            .call(call(target, path, op), CALL, context.cancel.child_token())
            .await?;
        let lease = match answer {
            Reply::Lease(Some(lease)) => lease,
            other => return Err(CallError::wrong_reply("lease.acquire", other.kind())),
        };
        if lease.ours {
            return Ok(());
        }
        if Instant::now() >= give_up {
            return Err(CallError::conflict(
                "lease.held",
                format!(
                    "{target} is being deployed to by {} (run {}) since {}",
                    lease.owner, lease.run, lease.since
                ),
            )
            .hint(format!(
                "wait for it to end, or raise `lease_wait` under [run]; a run that died gives it \
                 up by itself in {} s",
                lease.remaining_ms.div_ceil(1000)
            )));
        }
        context.bus.emit(Event::LeaseWaiting {
            target: target.clone(),
            owner: lease.owner,
            run: lease.run,
            remaining_ms: lease.remaining_ms,
        });
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN.min(give_up - Instant::now())) => {}
            () = context.cancel.cancelled() => return Err(CallError::cancelled()),
        }
    }
}

/// The heartbeat. A lease that is not ours any more ends the run: another one
/// may be at work there.
async fn renew(
    context: Arc<Context>,
    places: Vec<(TargetName, String)>,
    ttl: Duration,
    stop: CancellationToken,
    lost: Arc<Mutex<Option<CallError>>>,
) {
    let mut since = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(ttl / 3) => {}
            () = stop.cancelled() => return,
        }
        let mut renewed = true;
        for (target, path) in &places {
            let op = LeaseOp::Renew {
                ttl_ms: millis(ttl),
            };
            let answer = context
                .call(
                    call(target, path, op),
                    CALL.min(ttl / 3),
                    stop.child_token(),
                )
                .await;
            let Err(error) = answer else { continue };
            if stop.is_cancelled() {
                return;
            }
            renewed = false;
            let gone = error.kind == windlass_model::ErrorKind::Conflict;
            if gone || since.elapsed() >= ttl {
                let reason = CallError::conflict(
                    "lease.lost",
                    format!("the lease on {target} was lost: {}", error.message),
                )
                .hint("see `windlass releases` for what is on the target, then run again");
                *lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                context.cancel.cancel();
                return;
            }
            context.notice(
                Level::Warning,
                format!(
                    "the lease on {target} could not be renewed: {}",
                    error.message
                ),
                None,
            );
        }
        if renewed {
            since = Instant::now();
        }
    }
}

/// Gives the leases up.
pub(super) async fn release(context: &Context, holding: Option<Holding>) {
    if let Some(holding) = holding {
        holding.stop.cancel();
        release_all(context, &holding.places).await;
    }
}

async fn release_all(context: &Context, places: &[(TargetName, String)]) {
    // Steps may have used up most of the 7 s that a CI system gives.
    let limit = if context.cancel.is_cancelled() {
        RELEASE_CANCELLED
    } else {
        RELEASE
    };
    let released = places.iter().map(|(target, path)| async move {
        let answer = context
            .call(
                call(target, path, LeaseOp::Release),
                limit,
                CancellationToken::new(),
            )
            .await;
        if let Err(error) = answer {
            context.notice(
                Level::Warning,
                format!(
                    "the lease on {target} could not be given up: {}; it expires by itself",
                    error.message
                ),
                error.hint,
            );
        }
    });
    futures_util::future::join_all(released).await;
}
