//! The project's git repository.

use std::sync::Arc;

use windlass_model::call::GitCall;
use windlass_model::{CallContext, CallError, Reply};

#[derive(Debug)]
pub struct Git {
    config: Arc<crate::Config>,
}

impl Git {
    pub fn new(config: Arc<crate::Config>) -> Self {
        Self { config }
    }

    pub async fn call(&self, _context: &CallContext, _call: GitCall) -> Result<Reply, CallError> {
        Err(CallError::internal("engine.not-built", "not built yet"))
    }
}
