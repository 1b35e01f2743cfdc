//! Registries of the OCI distribution specification.

use std::sync::Arc;

use windlass_model::call::RegistryCall;
use windlass_model::{CallContext, CallError, Reply};

use crate::Config;

#[derive(Debug)]
pub struct Registry {}

impl Registry {
    pub fn new(_config: Arc<Config>) -> Result<Self, CallError> {
        Ok(Self {})
    }

    pub async fn call(
        &self,
        _context: &CallContext,
        _call: RegistryCall,
    ) -> Result<Reply, CallError> {
        Err(CallError::internal("registry.missing", "not built yet"))
    }
}
