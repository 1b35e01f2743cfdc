//! Releases on a target.

use std::sync::Arc;

use windlass_model::call::ReleasesCall;
use windlass_model::{CallContext, CallError, Reply};

#[derive(Debug)]
pub struct Releases {
    config: Arc<crate::Config>,
    ssh: Arc<crate::ssh::Connections>,
}

impl Releases {
    pub fn new(config: Arc<crate::Config>, ssh: Arc<crate::ssh::Connections>) -> Self {
        Self { config, ssh }
    }

    pub async fn call(
        &self,
        _context: &CallContext,
        _call: ReleasesCall,
    ) -> Result<Reply, CallError> {
        Err(CallError::internal("engine.not-built", "not built yet"))
    }
}
