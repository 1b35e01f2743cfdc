//! One run at a time on each target: acquired in sorted order, renewed while
//! the run lasts, released on every exit.
//!
//! What changes a target by a script there is compared with the lease on the
//! target itself (`windlass-live`). For everything else (Docker's API, pushes,
//! HTTP) [`Fenced`] looks first whether the lease was renewed in time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::call::{Call, DockerOp, LeaseCall, LeaseOp};
use windlass_model::event::{Event, Level};
use windlass_model::reply::Lease;
use windlass_model::{CallContext, CallError, Capability, Reply, TargetName};

use super::away::Away;
use super::{Context, millis};

const CALL: Duration = Duration::from_secs(30);
const RELEASE: Duration = Duration::from_secs(7);
const RELEASE_CANCELLED: Duration = Duration::from_millis(2500);
/// Between looks at a lease that another run holds.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between words about it.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Leases held, with the task that renews them.
pub(super) struct Holding {
    places: Vec<(TargetName, String)>,
    stop: CancellationToken,
}

/// What a run knows of its leases.
pub(super) struct Leases {
    lost: Mutex<Option<CallError>>,
    ttl: Mutex<Option<Duration>>,
    renewed: watch::Sender<Renewed>,
    /// Asks for a renewal now.
    nudge: Notify,
}

/// By a clock that nobody sets, and by one that counts a machine's sleep.
#[derive(Clone, Copy, Debug)]
struct Renewed {
    at: Instant,
    wall: SystemTime,
}

impl Renewed {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    fn age(&self) -> Duration {
        self.at
            .elapsed()
            .max(self.wall.elapsed().unwrap_or_default())
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            lost: Mutex::default(),
            ttl: Mutex::default(),
            renewed: watch::Sender::new(Renewed::now()),
            nudge: Notify::new(),
        }
    }
}

impl Leases {
    /// Why a lease is no longer ours, if so.
    pub(super) fn lost(&self) -> Option<CallError> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn lose(&self, error: CallError) {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    fn set_ttl(&self, ttl: Option<Duration>) {
        *self.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl;
    }

    /// The steps have ended: what follows (notifications) needs no lease.
    pub(super) fn settle(&self) {
        self.set_ttl(None);
    }

    fn ttl(&self) -> Option<Duration> {
        *self.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the leases are known to be ours: at once, unless this
    /// engine slept through a renewal.
    async fn sure(&self, context: &CallContext) -> Result<(), CallError> {
        let mut renewed = self.renewed.subscribe();
        loop {
            let Some(ttl) = self.ttl() else {
                return Ok(());
            };
            if let Some(error) = self.lost() {
                return Err(error);
            }
            if renewed.borrow_and_update().age() < ttl {
                return Ok(());
            }
            self.nudge.notify_one();
            tokio::select! {
                _ = renewed.changed() => {}
                () = context.cancel.cancelled() => {
                    return Err(self.lost().unwrap_or_else(CallError::cancelled));
                }
                () = tokio::time::sleep_until(context.deadline) => {
                    return Err(CallError::timeout(
                        "lease.unknown",
                        "the deadline passed before the lease could be renewed",
                    ));
                }
            }
        }
    }
}

/// The layer that keeps a run without its lease from going on.
pub(super) struct Fenced {
    pub(super) leases: Arc<Leases>,
    /// The run's.
    pub(super) cancel: CancellationToken,
    pub(super) next: Arc<dyn Capability>,
}

/// Whether the target itself compares the call with the lease, or nothing needs to.
fn passes(call: &Call) -> bool {
    match call {
        Call::Lease(_) | Call::Target(_) | Call::Ssh(_) | Call::Releases(_) => true,
        // Cleaning up after oneself harms nobody.
        Call::Docker(call) => {
            matches!(call.op, DockerOp::RemoveContainer { .. })
                || !Call::Docker(call.clone()).class().is_effect()
        }
        other => !other.class().is_effect(),
    }
}

#[async_trait]
impl Capability for Fenced {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if !passes(&call) {
            self.leases.sure(context).await?;
        }
        let own = matches!(call, Call::Lease(_));
        let answer = self.next.call(context, call).await;
        if let Err(error) = &answer
            && error.code == LOST
            && !own
        {
            self.leases.lose(error.clone());
            self.cancel.cancel();
        }
        answer
    }
}

/// Of an error that says that another run went on.
const LOST: &str = "lease.lost";

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

/// Where the leases of a run are, in the order of their names, so that two runs
/// never wait for each other.
pub(crate) fn places(graph: &windlass_manifest::Graph) -> Vec<(TargetName, String)> {
    let path = path(graph);
    let targets = match named(graph) {
        Some(target) if !graph.active.is_empty() => std::slice::from_ref(target),
        _ => graph.active.as_slice(),
    };
    targets
        .iter()
        .map(|target| (target.clone(), path.clone()))
        .collect()
}

fn named(graph: &windlass_manifest::Graph) -> Option<&TargetName> {
    graph.environment.as_ref()?.lease_target.as_ref()
}

/// Takes the leases. A target that cannot be reached is noted as away, and the
/// others are taken all the same; but without the one that stands for all there
/// is no run.
pub(super) async fn acquire(
    context: &Arc<Context>,
    away: &mut Away,
) -> Result<Option<Holding>, CallError> {
    let mut places = Vec::new();
    let ttl = context.graph.settings.lease_ttl;
    let give_up = Instant::now() + context.graph.settings.lease_wait;
    let mut renewed = Renewed::now();
    let alone = named(&context.graph).is_some();
    for (target, path) in self::places(&context.graph) {
        let target = &target;
        let known = away.why(target).cloned();
        if let Some(error) = known {
            if alone {
                return Err(error);
            }
            continue;
        }
        let noted = match acquire_one(context, target, &path, ttl, give_up).await {
            Ok(taken) => {
                // The oldest counts. One that had to be waited for made those before it old:
                // they are renewed before anything else is done.
                if places.is_empty() {
                    renewed = taken;
                }
                places.push((target.clone(), path.clone()));
                Ok(())
            }
            Err(error) if alone => Err(error),
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
    };
    context.leases.renewed.send_replace(renewed);
    context.leases.set_ttl(Some(ttl));
    tokio::spawn(renew(
        Arc::clone(context),
        places,
        ttl,
        holding.stop.clone(),
    ));
    Ok(Some(holding))
}

async fn acquire_one(
    context: &Arc<Context>,
    target: &TargetName,
    path: &str,
    ttl: Duration,
    give_up: Instant,
) -> Result<Renewed, CallError> {
    let begun = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let op = LeaseOp::Acquire {
            owner: context.who.clone(),
            ttl_ms: millis(ttl),
            reason: String::new(),
        };
        let asked = Renewed::now();
        let answer = context
            .call(call(target, path, op), CALL, context.cancel.child_token())
            .await?;
        let lease = match answer {
            Reply::Lease(Some(lease)) => lease,
            other => return Err(CallError::wrong_reply("lease.acquire", other.kind())),
        };
        if lease.ours {
            return Ok(asked);
        }
        if Instant::now() >= give_up {
            return Err(held(target, &lease));
        }
        if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            said = Some(Instant::now());
            context.bus.emit(Event::LeaseWaiting {
                target: target.clone(),
                owner: lease.owner,
                run: lease.run,
                since: lease.since,
                remaining_ms: lease.remaining_ms,
                reason: lease.reason,
                waited_ms: millis(begun.elapsed()),
            });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN.min(give_up - Instant::now())) => {}
            () = context.cancel.cancelled() => return Err(CallError::cancelled()),
        }
    }
}

/// Somebody else has the target.
pub(crate) fn held(target: &TargetName, lease: &Lease) -> CallError {
    let Lease {
        owner, run, since, ..
    } = lease;
    let (message, hint) = match lease.remaining_ms {
        Some(0) => (
            format!(
                "an operation of {owner} (run {run}), whose lease has ended, still runs on {target}"
            ),
            "wait for it to end; `ps` on the target shows it".to_owned(),
        ),
        left if !lease.reason.is_empty() => (
            format!(
                "{target} was locked by {owner} since {since}: {}",
                lease.reason
            ),
            match left {
                Some(left) => format!(
                    "the lock ends by itself in {} s, or with `windlass lock release`",
                    left.div_ceil(1000)
                ),
                None => "`windlass lock release` ends it".to_owned(),
            },
        ),
        left => (
            format!("{target} is being deployed to by {owner} (run {run}) since {since}"),
            format!(
                "wait for it to end, with `--wait 10m` or `lease_wait` under [run]; a run that died gives it up by itself in {} s",
                left.unwrap_or_default().div_ceil(1000)
            ),
        ),
    };
    CallError::conflict("lease.held", message).hint(hint)
}

/// The heartbeat. A lease that is not ours any more ends the run: another one
/// may be at work there. Those on other targets are kept until the run ends.
async fn renew(
    context: Arc<Context>,
    mut places: Vec<(TargetName, String)>,
    ttl: Duration,
    stop: CancellationToken,
) {
    let leases = Arc::clone(&context.leases);
    loop {
        tokio::select! {
            () = tokio::time::sleep(ttl / 3) => {}
            () = leases.nudge.notified() => {}
            () = stop.cancelled() => return,
        }
        let mut missed = false;
        let begun = Renewed::now();
        let since = leases.renewed.borrow().age();
        let mut gone = Vec::new();
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
            let taken = error.kind == windlass_model::ErrorKind::Conflict;
            if taken || since + begun.age() >= ttl {
                gone.push(target.clone());
                leases.lose(
                    CallError::conflict(
                        LOST,
                        format!("the lease on {target} was lost: {}", error.message),
                    )
                    .hint("see `windlass releases` for what is on the target, then run again"),
                );
                context.cancel.cancel();
                continue;
            }
            missed = true;
            context.notice(
                Level::Warning,
                format!(
                    "the lease on {target} could not be renewed: {}",
                    error.message
                ),
                None,
            );
        }
        places.retain(|(target, _)| !gone.contains(target));
        if !missed {
            leases.renewed.send_replace(begun);
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

#[cfg(test)]
mod tests;
