//! SIGINT and SIGTERM: the first asks the run to end, a second SIGINT ends the
//! process. CI systems send SIGINT and then SIGTERM: that is one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use windlass_live::Live;
use windlass_model::RunId;

use super::terminal::Terminal;
use crate::exit::Exit;
use crate::project::outside_a_run;

/// What giving up the leases may take of a process that ends at once.
const LAST: Duration = Duration::from_secs(1);

/// What a process that ends at once still gives up.
pub(crate) struct Leases {
    pub(crate) live: Arc<Live>,
    pub(crate) run: RunId,
}

impl Leases {
    async fn release(&self) {
        let context = outside_a_run(self.run, Instant::now() + LAST);
        let _ = tokio::time::timeout(LAST, self.live.release_leases(&context)).await;
    }
}

/// Fires `cancel` on the first signal.
pub(crate) fn watch(terminal: Terminal, cancel: CancellationToken, leases: Option<Leases>) {
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        let mut interrupts = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => interrupts += 1,
                _ = terminate.recv() => {}
            }
            if interrupts >= 2 {
                if terminal.err_is_terminal {
                    // A live display may have hidden the cursor.
                    terminal.say(windlass_report::RESTORE_TERMINAL);
                }
                terminal.say("interrupted twice: stopping at once, without cleaning up");
                if let Some(leases) = &leases {
                    leases.release().await;
                }
                std::process::exit(Exit::Cancelled.code().into());
            }
            if !cancel.is_cancelled() {
                terminal.say("cancelling: steps get 2 s to end, then what they left is cleaned up; Ctrl-C again stops at once");
                cancel.cancel();
            }
        }
    });
}
