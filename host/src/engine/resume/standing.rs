//! Which releases of a run still stand, and whose they are.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use windlass_journal::RecordedCall;
use windlass_model::call::ReleasesOp;
use windlass_model::{Call, InheritedRelease, StepKey};

use crate::engine::changes::Changes;

/// Steps that put a release where a former one was put back, in a run that then
/// ended. In one that did not, putting back goes on.
pub(super) fn put_back(
    ended: Option<Timestamp>,
    calls: &[RecordedCall],
    inherited: &[InheritedRelease],
) -> BTreeSet<StepKey> {
    let mut users: BTreeMap<_, BTreeSet<StepKey>> = BTreeMap::new();
    for one in inherited {
        let place = (one.target.clone(), one.dir.clone());
        users.entry(place).or_default().insert(one.step.clone());
    }
    let mut undone = BTreeSet::new();
    for recorded in calls {
        let Some(Call::Releases(call)) = recorded.call.here() else {
            continue;
        };
        let place = (call.target.clone(), call.dir.clone());
        let before_the_end = ended.is_some_and(|ended| recorded.asked <= ended);
        match &call.op {
            ReleasesOp::Stage(_) | ReleasesOp::Activate { .. } => {
                undone.remove(&recorded.id.step);
                users
                    .entry(place)
                    .or_default()
                    .insert(recorded.id.step.clone());
            }
            ReleasesOp::Restore { .. } if before_the_end => {
                undone.extend(users.get(&place).into_iter().flatten().cloned());
            }
            _ => {}
        }
    }
    undone
}

/// The releases that are current by what was inherited and by calls of steps that
/// ended well, for the run that comes next.
pub(super) fn handed_on(
    inherited: &[InheritedRelease],
    calls: &[RecordedCall],
) -> Vec<InheritedRelease> {
    let mut steps: BTreeMap<_, StepKey> = BTreeMap::new();
    for one in inherited {
        steps.insert((one.target.clone(), one.dir.clone()), one.step.clone());
    }
    for recorded in calls {
        if let Some(Call::Releases(call)) = recorded.call.here()
            && matches!(call.op, ReleasesOp::Activate { .. })
        {
            let place = (call.target.clone(), call.dir.clone());
            steps.insert(place, recorded.id.step.clone());
        }
    }
    let changes = Changes::of(inherited, calls).all().into_iter();
    changes
        .filter(|(_, change)| change.active)
        .filter_map(|(place, change)| {
            Some(InheritedRelease {
                step: steps.remove(&place)?,
                target: place.0,
                dir: place.1,
                release: change.release,
                previous: change.previous,
                changed: change.changed,
            })
        })
        .collect()
}
