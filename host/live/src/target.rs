//! Operations on a target, batched.

use std::sync::Arc;

use windlass_model::call::TargetCall;
use windlass_model::{CallContext, CallError, Reply};

#[derive(Debug)]
pub struct Target {
    config: Arc<crate::Config>,
    ssh: Arc<crate::ssh::Connections>,
}

impl Target {
    pub fn new(config: Arc<crate::Config>, ssh: Arc<crate::ssh::Connections>) -> Self {
        Self { config, ssh }
    }

    pub async fn call(
        &self,
        _context: &CallContext,
        _call: TargetCall,
    ) -> Result<Reply, CallError> {
        Err(CallError::internal("engine.not-built", "not built yet"))
    }
}

pub(crate) mod script;

pub(crate) async fn inspect(
    _ssh: &crate::ssh::Connections,
    _context: &CallContext,
    _target: &windlass_model::TargetName,
) -> Result<windlass_model::reply::TargetFacts, CallError> {
    Ok(windlass_model::reply::TargetFacts::default())
}
