//! Notes which releases a run puts on which targets, so that the engine can
//! mark them good, or put the former ones back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use windlass_journal::RecordedCall;
use windlass_model::call::ReleasesOp;
use windlass_model::{
    Call, CallContext, CallError, Capability, Class, ErrorKind, InheritedRelease, Reply, TargetName,
};

/// A target and a directory on it.
pub(super) type Place = (TargetName, String);

#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// The release that this run staged.
    pub(super) release: String,
    /// The one that was current before.
    pub(super) previous: Option<String>,
    /// Whether its content differs from the former one's.
    pub(super) changed: bool,
    /// Whether it was switched to.
    pub(super) active: bool,
    /// Whether switching to it was cut short, so that nothing was put back
    /// there: old and new containers may be mixed.
    pub(super) torn: bool,
    /// The release that was put back afterwards.
    pub(super) restored: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<Mutex<BTreeMap<Place, Change>>>);

impl Changes {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Change>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<(Place, Change)> {
        self.lock()
            .iter()
            .map(|(place, change)| (place.clone(), change.clone()))
            .collect()
    }

    /// What is current on each target now; `restored` are those put back.
    pub(super) fn current(&self, restored: &BTreeMap<Place, String>) -> Vec<(TargetName, String)> {
        self.lock()
            .iter()
            .filter_map(|(place, change)| {
                let release = match restored.get(place) {
                    Some(release) => release.clone(),
                    None if change.restored.is_some() => change.restored.clone()?,
                    None if change.active => change.release.clone(),
                    None => change.previous.clone()?,
                };
                Some((place.0.clone(), release))
            })
            .collect()
    }

    /// What was taken over from another run, and what calls of an earlier process did,
    /// as the journal has them, in order.
    pub(super) fn of(inherited: &[InheritedRelease], calls: &[RecordedCall]) -> Self {
        let changes = Self::default();
        let places = inherited.iter().map(|one| {
            let change = Change {
                release: one.release.clone(),
                previous: one.previous.clone(),
                changed: one.changed,
                active: true,
                ..Change::default()
            };
            ((one.target.clone(), one.dir.clone()), change)
        });
        changes.lock().extend(places);
        for recorded in calls {
            if let Some(Call::Releases(releases)) = recorded.call.here() {
                let place = (releases.target.clone(), releases.dir.clone());
                let answer = recorded.answer.as_ref();
                let answer = answer.and_then(|answer| answer.result.here());
                changes.note(place, &releases.op, answer);
            }
        }
        changes
    }

    /// Notes a call, with its answer where there is one.
    fn note(&self, place: Place, op: &ReleasesOp, answer: Option<&Result<Reply, CallError>>) {
        let mut changes = self.lock();
        match (op, answer) {
            (ReleasesOp::Stage(_), Some(Ok(Reply::Staged(staged)))) => {
                let mut change = Change {
                    release: staged.id.clone(),
                    previous: staged.previous.clone(),
                    changed: staged.changed,
                    ..Change::default()
                };
                // Another attempt of this run: what was there before the first
                // one is what it goes back to.
                if let Some(first) = changes.get(&place)
                    && first.restored.is_none()
                    && staged.previous.as_ref() == Some(&first.release)
                {
                    change.previous.clone_from(&first.previous);
                    change.changed |= first.changed;
                    change.active = first.active;
                }
                changes.insert(place, change);
            }
            (ReleasesOp::Activate { id, .. }, answer) => {
                let Some(change) = changes
                    .get_mut(&place)
                    .filter(|change| change.release == *id)
                else {
                    return;
                };
                match answer {
                    Some(Ok(_)) => {
                        change.active = true;
                        change.torn = false;
                    }
                    Some(Err(error)) => change.torn = cut_short(error),
                    // The process ended meanwhile.
                    None => change.torn = true,
                }
            }
            (ReleasesOp::Restore { id }, Some(Ok(_))) => {
                if let Some(change) = changes.get_mut(&place) {
                    change.active = false;
                    change.torn = false;
                    change.restored = Some(id.clone());
                }
            }
            _ => {}
        }
    }

    /// The layer that keeps the notes.
    pub(super) fn watch(&self, next: Arc<dyn Capability>) -> Arc<Watch> {
        Arc::new(Watch {
            changes: self.clone(),
            next,
            waiting: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        })
    }
}

pub(super) struct Watch {
    changes: Changes,
    next: Arc<dyn Capability>,
    /// Calls that must not happen twice and have no answer yet.
    waiting: AtomicUsize,
    /// The answer to one of them never came.
    lost: AtomicBool,
}

impl Watch {
    /// Whether a call that must not happen twice may have happened: its answer
    /// was lost. Then nothing is tried again by itself.
    pub(super) fn unresolved_once(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Errors of connections that never came about: nothing was sent.
const NOTHING_SENT: [&str; 9] = [
    "docker.no-engine",
    "docker.unreachable",
    "http.connection",
    "http.dns",
    "ssh.connect-failed",
    "ssh.no-client",
    "ssh.no-place",
    "ssh.session-failed",
    "ssh.unreachable",
];

/// Whether an error leaves open if the call took place.
pub(super) fn lost(error: &CallError) -> bool {
    match error.kind {
        ErrorKind::Timeout | ErrorKind::Cancelled | ErrorKind::Internal => true,
        ErrorKind::Unavailable => !NOTHING_SENT.contains(&error.code.as_str()),
        _ => false,
    }
}

/// A release that fails to come up puts the former one back by itself; one
/// whose script was stopped, or whose connection went, could not.
fn cut_short(error: &CallError) -> bool {
    matches!(error.kind, ErrorKind::Cancelled) || error.code == "ssh.lost"
}

#[async_trait]
impl Capability for Watch {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        let once = call.class() == Class::Once;
        let noted = match &call {
            Call::Releases(releases) => Some((
                (releases.target.clone(), releases.dir.clone()),
                releases.op.clone(),
            )),
            _ => None,
        };
        if once {
            // A call that is given up in the middle stays counted.
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        let answer = self.next.call(context, call).await;
        if once {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if answer.as_ref().is_err_and(lost) {
                self.lost.store(true, Ordering::Relaxed);
            }
        }
        if let Some((place, op)) = noted {
            self.changes.note(place, &op, Some(&answer));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::backend::NoLog;
    use windlass_model::call::{SshCall, SshOp};
    use windlass_model::reply::Exit;
    use windlass_model::{CallId, RunId, StepKey};

    use super::*;

    /// Answers as its command says.
    struct World;

    #[async_trait]
    impl Capability for World {
        async fn call(&self, _context: &CallContext, call: Call) -> Result<Reply, CallError> {
            let text = format!("{call:?}");
            if text.contains("refused") {
                Err(CallError::unavailable("ssh.unreachable", "nobody is there"))
            } else if text.contains("cut") {
                Err(CallError::unavailable("http.lost", "no whole answer"))
            } else {
                Ok(Reply::Exit(Exit::default()))
            }
        }
    }

    async fn unresolved_after(words: &[&str]) -> bool {
        let watch = Changes::default().watch(Arc::new(World));
        for word in words {
            let context = CallContext {
                id: CallId {
                    run: RunId(uuid::Uuid::nil()),
                    step: StepKey::new("migrate", None),
                    attempt: 1,
                    seq: 1,
                },
                deadline: tokio::time::Instant::now(),
                cancel: Default::default(),
                log: Arc::new(NoLog),
                blobs: Default::default(),
                answered: Default::default(),
            };
            let call = Call::Ssh(SshCall {
                target: TargetName::from("prod_1"),
                op: SshOp::Exec {
                    argv: vec![(*word).into()],
                    env: Vec::new(),
                    stdin: None,
                    dir: None,
                },
            });
            let _ = watch.call(&context, call).await;
        }
        watch.unresolved_once()
    }

    #[tokio::test]
    async fn what_was_lost_stays_lost() {
        assert!(!unresolved_after(&["well", "refused"]).await);
        assert!(unresolved_after(&["cut"]).await);
        // What goes well afterwards says nothing of it.
        assert!(unresolved_after(&["cut", "well"]).await);
    }
}
