//! A run that goes on from the records on the targets looks at them again once it
//! holds the leases: the run before may have gone on meanwhile, and what it did then
//! would be done twice.

use std::sync::Arc;
use std::time::Duration;

use windlass_model::call::{Call, ReleasesCall, ReleasesOp};
use windlass_model::{CallError, Reply};

use super::Context;
use super::resume::records::{Seen, moved};

/// One round trip.
const LOOK: Duration = Duration::from_secs(30);

/// Fails where the records are not as they were when it was decided how to go on.
pub(super) async fn check(context: &Arc<Context>) -> Result<(), CallError> {
    let looks = context.earlier.seen.iter().map(|seen| one(context, seen));
    let answers = futures_util::future::join_all(looks).await;
    answers.into_iter().collect()
}

async fn one(context: &Context, seen: &Seen) -> Result<(), CallError> {
    let list = Call::Releases(ReleasesCall {
        target: seen.target.clone(),
        dir: seen.dir.clone(),
        op: ReleasesOp::List,
    });
    let cancel = context.cancel.child_token();
    let now = match context.call(list, LOOK, cancel).await? {
        Reply::Releases(now) => now,
        other => return Err(CallError::wrong_reply("releases.list", other.kind())),
    };
    match moved(seen, &now) {
        None => Ok(()),
        Some(place) => Err(CallError::conflict(
            "resume.moved",
            format!("the releases in {place} changed since it was decided how to go on"),
        )
        .hint("another run was at work there; look at `windlass releases`, then resume again")),
    }
}
