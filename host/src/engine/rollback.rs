//! After the steps: releases are marked good, or the former ones put back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_model::call::{Call, ReleasesCall, ReleasesOp};
use windlass_model::event::{Event, Level};
use windlass_model::reply::{Release, ReleaseState};
use windlass_model::{CallError, Reply};

use super::changes::Place;
use super::{Context, Failure, millis};

/// Pulling and starting the former release.
const RESTORE: Duration = Duration::from_secs(300);
const MARK: Duration = Duration::from_secs(30);

fn call(place: &Place, op: ReleasesOp) -> Call {
    Call::Releases(ReleasesCall {
        target: place.0.clone(),
        dir: place.1.clone(),
        op,
    })
}

/// What a failed run puts back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Every target that the run changed.
    Changed,
    /// Only where switching was cut short: whatever the manifest says, nobody
    /// wants old and new containers mixed.
    Torn,
}

/// Targets go back, all at once. Gives the release that is current again, by
/// place.
pub(super) async fn put_back(
    context: &Arc<Context>,
    failure: Option<&Failure>,
    extent: Extent,
) -> BTreeMap<Place, String> {
    let changed: Vec<_> = context
        .changes
        .all()
        .into_iter()
        .filter(|(_, change)| {
            change.torn || (extent == Extent::Changed && change.active && change.changed)
        })
        .collect();
    if changed.is_empty() {
        return BTreeMap::new();
    }
    let reason = match failure {
        Some((Some(step), error)) => format!("{step} failed: {}", headline(error)),
        Some((None, error)) => headline(error).to_owned(),
        None => "the run failed".to_owned(),
    };
    context.bus.emit(Event::RollbackStarted {
        targets: changed.iter().map(|(place, _)| place.0.clone()).collect(),
        reason,
    });
    let mut tasks = tokio::task::JoinSet::new();
    for (place, change) in changed {
        let context = Arc::clone(context);
        tasks.spawn(async move {
            let clock = Instant::now();
            let outcome = match &change.previous {
                Some(previous) => context
                    .call(
                        call(
                            &place,
                            ReleasesOp::Restore {
                                id: previous.clone(),
                            },
                        ),
                        RESTORE,
                        CancellationToken::new(),
                    )
                    .await
                    .map(|_| previous.clone()),
                None => Err(CallError::not_found(
                    "rollback.first-release",
                    format!("{} had no release before this one", place.0),
                )
                .hint("the new one stays as it is; fix the cause and deploy again")),
            };
            context.bus.emit(Event::RollbackFinished {
                target: place.0.clone(),
                release: match &outcome {
                    Ok(release) => Some(release.clone()),
                    Err(_) => Some(change.release.clone()),
                },
                error: outcome.as_ref().err().cloned(),
                duration_ms: millis(clock.elapsed()),
            });
            outcome.ok().map(|release| (place, release))
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// The first line: what follows (each attempt of a probe, say) stands with the step.
fn headline(error: &CallError) -> &str {
    let line = error.message.lines().next().unwrap_or_default();
    line.trim_end_matches(':')
}

/// Puts a release that the user chose back on every place. Gives the first
/// failure, and what is current now.
pub(super) async fn to_release(
    context: &Arc<Context>,
    places: Vec<Place>,
    to: Option<String>,
) -> (Option<Failure>, BTreeMap<Place, String>) {
    let targets = places.iter().map(|(target, _)| target.clone()).collect();
    context.bus.emit(Event::RollbackStarted {
        targets,
        reason: match &to {
            Some(id) => format!("asked to go to {id}"),
            None => "asked to go to the release before".to_owned(),
        },
    });
    let done = places.into_iter().map(|place| {
        let to = to.clone();
        async move {
            let clock = Instant::now();
            let outcome = one(context, &place, to.as_deref()).await;
            context.bus.emit(Event::RollbackFinished {
                target: place.0.clone(),
                release: outcome.as_ref().ok().cloned(),
                error: outcome.as_ref().err().cloned(),
                duration_ms: millis(clock.elapsed()),
            });
            (place, outcome)
        }
    });
    let mut failure = None;
    let mut restored = BTreeMap::new();
    for (place, outcome) in futures_util::future::join_all(done).await {
        match outcome {
            Ok(release) => {
                restored.insert(place, release);
            }
            Err(error) => {
                failure.get_or_insert((None, error));
            }
        }
    }
    (failure, restored)
}

async fn one(context: &Arc<Context>, place: &Place, to: Option<&str>) -> Result<String, CallError> {
    let cancel = || context.cancel.child_token();
    let answer = context
        .call(call(place, ReleasesOp::List), MARK, cancel())
        .await?;
    let Reply::Releases(releases) = answer else {
        return Err(CallError::wrong_reply("releases.list", answer.kind()));
    };
    let id = choose(&releases, to, place)?;
    let op = ReleasesOp::Restore { id: id.clone() };
    context.call(call(place, op), RESTORE, cancel()).await?;
    Ok(id)
}

/// `to`, by its id or its tag; else the newest that was good, is older than the
/// current one, and is not it.
fn choose(releases: &[Release], to: Option<&str>, place: &Place) -> Result<String, CallError> {
    let (target, dir) = place;
    let known = || {
        let list: Vec<&str> = releases.iter().map(|release| release.id.as_str()).collect();
        format!("`windlass releases` lists them: {}", list.join(", "))
    };
    if let Some(to) = to {
        return releases
            .iter()
            .find(|release| release.id == to)
            .or_else(|| releases.iter().find(|release| release.tag == to))
            .map(|release| release.id.clone())
            .ok_or_else(|| {
                CallError::not_found(
                    "rollback.no-such-release",
                    format!("{target} has no release {to} in {dir}"),
                )
                .hint(known())
            });
    }
    let current = releases.iter().position(|release| release.is_current);
    releases
        .iter()
        .skip(current.map_or(0, |at| at + 1))
        .find(|release| matches!(release.state, ReleaseState::Good | ReleaseState::Superseded))
        .map(|release| release.id.clone())
        .ok_or_else(|| {
            CallError::not_found(
                "rollback.nothing-before",
                format!("{target} has no good release before the current one in {dir}"),
            )
            .hint(if releases.is_empty() {
                "nothing was deployed there yet".to_owned()
            } else {
                known()
            })
        })
}

/// The run succeeded: its releases are what a later rollback goes back to.
pub(super) async fn mark_good(context: &Arc<Context>) {
    let keep = context.graph.settings.keep_releases;
    let mut tasks = tokio::task::JoinSet::new();
    for (place, change) in context.changes.all() {
        if !change.active {
            continue;
        }
        let context = Arc::clone(context);
        tasks.spawn(async move {
            let good = ReleasesOp::MarkGood { id: change.release };
            let marked = context
                .call(call(&place, good), MARK, CancellationToken::new())
                .await;
            let done = match marked {
                // Nothing new: nothing to remove.
                Ok(_) if !change.changed => Ok(()),
                Ok(_) => context
                    .call(
                        call(&place, ReleasesOp::Prune { keep }),
                        MARK,
                        CancellationToken::new(),
                    )
                    .await
                    .map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                context.notice(
                    Level::Warning,
                    format!(
                        "the releases on {} could not be tidied up: {}",
                        place.0, error.message
                    ),
                    error.hint,
                );
            }
        });
    }
    tasks.join_all().await;
}
