//! The Docker engines of this machine and of the targets.

use std::sync::Arc;

use windlass_model::call::DockerCall;
use windlass_model::{CallContext, CallError, Reply};

use crate::Config;
use crate::registry::Registry;
use crate::ssh::Connections;

#[derive(Debug)]
pub struct Docker {}

impl Docker {
    pub fn new(_config: Arc<Config>, _ssh: Arc<Connections>, _registry: Arc<Registry>) -> Self {
        Self {}
    }

    pub async fn call(
        &self,
        _context: &CallContext,
        _call: DockerCall,
    ) -> Result<Reply, CallError> {
        Err(CallError::internal("docker.missing", "not built yet"))
    }
}
