//! HTTP from this machine, or through a target's connection.

use std::sync::Arc;

use windlass_model::call::HttpCall;
use windlass_model::{CallContext, CallError, Reply};

use crate::Config;
use crate::ssh::Connections;

#[derive(Debug)]
pub struct Http {}

impl Http {
    pub fn new(_config: Arc<Config>, _ssh: Arc<Connections>) -> Result<Self, CallError> {
        Ok(Self {})
    }

    pub async fn call(&self, _context: &CallContext, _call: HttpCall) -> Result<Reply, CallError> {
        Err(CallError::internal("http.missing", "not built yet"))
    }
}
