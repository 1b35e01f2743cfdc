//! Files beneath the project's root.

use std::sync::Arc;

use windlass_model::call::FileCall;
use windlass_model::{CallContext, CallError, Reply};

#[derive(Debug)]
pub struct Files {
    config: Arc<crate::Config>,
}

impl Files {
    pub fn new(config: Arc<crate::Config>) -> Self {
        Self { config }
    }

    pub async fn call(&self, _context: &CallContext, _call: FileCall) -> Result<Reply, CallError> {
        Err(CallError::internal("engine.not-built", "not built yet"))
    }
}
