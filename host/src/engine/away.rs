//! Targets that nobody can reach. What was to happen there fails, and the other
//! targets go on; when no target answers, nothing is begun.

use std::collections::BTreeMap;

use windlass_model::{CallError, TargetName};

use super::Context;

/// Why each of them cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Away(BTreeMap<TargetName, CallError>);

impl Away {
    /// Notes a target when the error says that it cannot be reached, and others
    /// can. Gives the error back when it is one of another kind, or the last
    /// target is gone.
    pub(super) fn note(
        &mut self,
        context: &Context,
        target: &TargetName,
        error: CallError,
    ) -> Result<(), CallError> {
        let gone = matches!(
            error.code.as_str(),
            "ssh.unreachable" | "ssh.connect-timeout"
        );
        if !gone {
            return Err(error);
        }
        self.0
            .entry(target.clone())
            .or_insert_with(|| error.clone());
        let left = |name: &TargetName| !self.0.contains_key(name);
        if context.graph.active.iter().any(left) {
            Ok(())
        } else {
            Err(error)
        }
    }

    pub(super) fn why(&self, target: &TargetName) -> Option<&CallError> {
        self.0.get(target)
    }
}
