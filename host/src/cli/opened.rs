//! What a run holds while it lives: the journal, the backends, its mark as alive, and
//! from its first effect on the signals.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;
use windlass_journal::Journal;

use super::session::{Backends, Session};
use super::terminal::Terminal;
use super::{StateArgs, alive, signals};
use crate::engine::resume::Containers;
use crate::exit::Exit;

/// Runs that the journal keeps.
const KEEP_RUNS: usize = 500;

pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) backends: Backends,
    /// Those at work still of a run that is resumed.
    pub(crate) containers: Containers,
    alive: alive::Alive,
}

impl Opened {
    /// Reads the secrets, opens the journal, and clears away what dead runs left.
    pub(crate) async fn open(
        session: &Session,
        state: &StateArgs,
        terminal: &Terminal,
    ) -> Result<Self, Exit> {
        let backends = session.backends(terminal).await?;
        Self::with(backends, session, state, terminal).await
    }

    /// The same with backends that somebody has opened.
    pub(crate) async fn with(
        backends: Backends,
        session: &Session,
        state: &StateArgs,
        terminal: &Terminal,
    ) -> Result<Self, Exit> {
        let journal = Journal::open(&session.state_dir(state)).map_err(|error| {
            terminal.error(&error.to_string(), error.hint().as_deref());
            Exit::Engine
        })?;
        let (alive, containers) = alive::enter(session, state, &backends, &journal, terminal).await;
        Ok(Self {
            journal,
            backends,
            containers,
            alive,
        })
    }

    /// False where another process has the run.
    pub(crate) fn is_ours(&self) -> bool {
        self.alive.is_held()
    }

    /// From here on a signal cancels; before, it ends the process, also while somebody
    /// is asked.
    pub(crate) fn watch(&self, session: &Session, terminal: &Terminal) -> CancellationToken {
        let cancel = CancellationToken::new();
        let leases = self.backends.leases(session.run);
        signals::watch(*terminal, cancel.clone(), Some(leases));
        cancel
    }

    /// Removes the containers of a run that is resumed that it does not go on with:
    /// all but those of these calls, by their stamps.
    pub(crate) async fn goes_on_with(
        &mut self,
        session: &Session,
        wanted: &BTreeSet<String>,
        terminal: &Terminal,
    ) {
        let clear = self
            .alive
            .clear(session, &self.backends, wanted, alive::SWEEP, terminal);
        clear.await;
    }

    /// The end of a run that was resumed: its steps took over what was at work, or it did
    /// not come to them.
    pub(crate) async fn end(mut self, session: &Session, terminal: &Terminal) {
        let (wanted, limit) = (BTreeSet::new(), alive::SWEEP_AFTER);
        let clear = self
            .alive
            .clear(session, &self.backends, &wanted, limit, terminal);
        clear.await;
        self.close(terminal).await;
    }

    /// Says on which engines containers are left.
    pub(crate) async fn close(self, terminal: &Terminal) {
        let left = self.backends.live.docker().left_behind();
        self.backends.close().await;
        for engine in self.alive.end(left) {
            terminal.say(&format!(
                "containers of this run are left on {engine}: `windlass resume` goes on with those \
                 at work, the next run removes them, or `docker rm`"
            ));
        }
        // Best effort: an old run too many is no reason to fail.
        let _ = self.journal.prune(KEEP_RUNS).await;
    }
}
