//! The lease on a target.

use std::sync::Arc;

use windlass_model::call::LeaseCall;
use windlass_model::{CallContext, CallError, Reply};

#[derive(Debug)]
pub struct Lease {
    ssh: Arc<crate::ssh::Connections>,
}

impl Lease {
    pub fn new(ssh: Arc<crate::ssh::Connections>) -> Self {
        Self { ssh }
    }

    pub async fn call(&self, _context: &CallContext, _call: LeaseCall) -> Result<Reply, CallError> {
        Err(CallError::internal("engine.not-built", "not built yet"))
    }
}
