//! Notifications, on failure as on success. One that fails never fails a run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_layers::Guard;
use windlass_manifest::graph::NotifyNode;
use windlass_manifest::manifest::NotifyEvent;
use windlass_model::event::{Envelope, Event, Level, Outcome, RunFinished};
use windlass_model::{CallError, Capability, StepKey};

use super::policy::complete;
use super::step::setup;
use super::{Context, millis, policy_for};

/// What they have after a cancel: with what steps, cleanup and leases have, less than
/// the 10 s after which a CI system kills.
const AFTER_CANCEL: Duration = Duration::from_secs(2);

/// Sends those that want this outcome, all at once.
pub(super) async fn send(context: &Context, finished: &RunFinished) {
    let event = match finished.outcome {
        Outcome::Succeeded => NotifyEvent::Succeeded,
        Outcome::Failed => NotifyEvent::Failed,
        Outcome::Cancelled => NotifyEvent::Cancelled,
    };
    let wanted: Vec<NotifyNode> = context
        .graph
        .notify
        .iter()
        .filter(|notify| notify.events.contains(&event))
        .cloned()
        .collect();
    if wanted.is_empty() {
        return;
    }
    context.bus.flush().await;
    // The report is of the whole run, whose last event comes after this.
    let mut history = context.bus.history();
    history.push(Envelope {
        number: 0,
        at: jiff::Timestamp::now(),
        event: Event::RunFinished(Box::new(finished.clone())),
    });
    let report = windlass_report::report_json(&history).to_string();
    let sent = wanted.into_iter().map(|notify| {
        let report = report.clone();
        async move {
            match context.earlier.notified.get(notify.name.as_str()) {
                Some(true) => return,
                Some(false) => {
                    context.notice(
                        Level::Warning,
                        format!(
                            "{} was being notified when the run was cut short, and is not again",
                            notify.name
                        ),
                        Some("look there whether it arrived".to_owned()),
                    );
                    return;
                }
                None => {}
            }
            let clock = Instant::now();
            let error = one(context, &notify, report).await.err();
            context.bus.emit(Event::NotificationFinished {
                name: notify.name.clone(),
                error: error.map(|error| context.redactor.clean_error(error)),
                duration_ms: millis(clock.elapsed()),
            });
        }
    });
    futures_util::future::join_all(sent).await;
}

async fn one(context: &Context, notify: &NotifyNode, report: String) -> Result<(), CallError> {
    let loaded = context.plugins.get(&notify.uses).ok_or_else(|| {
        CallError::internal("engine.plugin", format!("{} is not loaded", notify.uses))
    })?;
    let config = notify.config(&context.graph.notify_scope());
    let resolved = complete(&context.graph, loaded, config)?;
    let policy = policy_for(
        &context.graph,
        format!("notify.{}", notify.name),
        loaded,
        &resolved,
        None,
        &notify.grants,
        context.operator.clone(),
    )?;
    let guard: Arc<dyn Capability> = Arc::new(Guard::new(policy, Arc::clone(&context.stack)));
    let key = StepKey::new(format!("notify.{}", notify.name), None);
    let attempt = context.earlier.attempt(&key);
    let mut setup = setup(
        context,
        &key,
        attempt,
        guard,
        resolved.value,
        Instant::now() + notify.timeout,
        Some(report),
    );
    // A cancelled run is told of, too, but a service that does not answer holds its
    // end no longer than this.
    let cancel = CancellationToken::new();
    setup.cancel = cancel.clone();
    let over = async {
        context.cancel.cancelled().await;
        tokio::time::sleep(AFTER_CANCEL).await;
        cancel.cancel();
        std::future::pending().await
    };
    tokio::select! {
        finished = loaded.plugin.run(setup) => finished.result,
        never = over => never,
    }
}
