//! SIGINT and SIGTERM: the first asks the run to end, a second SIGINT ends the
//! process. CI systems send SIGINT and then SIGTERM: that is one request.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::terminal::Terminal;
use crate::exit::Exit;

/// Fires `cancel` on the first signal.
pub(crate) fn watch(terminal: Terminal, cancel: CancellationToken) {
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
                std::process::exit(Exit::Cancelled.code().into());
            }
            if !cancel.is_cancelled() {
                terminal.say("cancelling: steps get 2 s to end, then what they left is cleaned up; Ctrl-C again stops at once");
                cancel.cancel();
            }
        }
    });
}
