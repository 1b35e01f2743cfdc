//! Steps with `cleanup = true`: they run when everything else has ended, however
//! it ended, with a deadline of their own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_manifest::Outputs;

use super::away::Away;
use super::schedule::{self, Ended};
use super::{Context, Failure};

/// What they have after a cancel, all together. CI systems kill 7.5 s after their
/// first signal, or 2.5 s after their second; the leases are given up in that time, too.
const AFTER_CANCEL: Duration = Duration::from_millis(2500);

/// Runs them, if there are any. The failure stays that of the run, if it had one.
pub(super) async fn run(
    context: &Arc<Context>,
    ended: Ended,
    failure: Option<Failure>,
    reused: &Outputs,
    away: &Away,
) -> Option<Failure> {
    if !context.graph.steps.iter().any(|node| node.cleanup) {
        return failure;
    }
    let cancel = CancellationToken::new();
    let cleaning = Arc::new(context.for_cleanup(cancel.clone()));
    let over = async {
        context.cancel.cancelled().await;
        tokio::time::sleep(AFTER_CANCEL).await;
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let before = Ended {
        failure: None,
        ..ended
    };
    let after = tokio::select! {
        after = schedule::run_cleanup(&cleaning, before, reused, away) => after,
        () = over => Ended::default(),
    };
    failure.or(after.failure)
}

impl Context {
    /// The same run, with an end of its own.
    fn for_cleanup(&self, cancel: CancellationToken) -> Self {
        Self {
            run: self.run,
            graph: Arc::clone(&self.graph),
            plugins: self.plugins.clone(),
            stack: Arc::clone(&self.stack),
            bus: self.bus.clone(),
            redactor: Arc::clone(&self.redactor),
            blobs: Arc::clone(&self.blobs),
            changes: self.changes.clone(),
            operator: self.operator.clone(),
            cancel,
            leases: Arc::clone(&self.leases),
            clock: Arc::clone(&self.clock),
            facts: self.facts.clone(),
            who: self.who.clone(),
            // Its own calls are counted there; here only steps make any.
            seq: AtomicU64::new(0),
            earlier: self.earlier.clone(),
            resumes: self.resumes,
            journal: self.journal.clone(),
            bare: Arc::clone(&self.bare),
        }
    }
}
