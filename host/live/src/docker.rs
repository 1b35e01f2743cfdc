//! The Docker engines of this machine and of the targets.
//!
//! A remote engine is reached through the target's one SSH connection
//! ([`crate::ssh`]); logins come from [`crate::registry`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use windlass_model::call::{DockerCall, DockerOp};
use windlass_model::reply::EngineInfo;
use windlass_model::target::Address;
use windlass_model::{CallContext, CallError, Reply, TargetName};

use crate::Config;
use crate::registry::Registry;
use crate::ssh::Connections;

mod build;
mod container;
mod engine;
mod image;
mod local;
mod logs;
mod loss;
mod progress;
mod query;
mod session;
mod stopped;
mod stream;
mod sweep;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use sweep::Swept;

use engine::{Endpoint, Engine};

#[derive(Debug)]
pub struct Docker {
    config: Arc<Config>,
    ssh: Arc<Connections>,
    registry: Arc<Registry>,
    /// `DOCKER_BUILDKIT=0`
    classic: bool,
    /// Clients, each with its pool, by the target's name.
    engines: Mutex<HashMap<TargetName, Engine>>,
    containers: Mutex<Containers>,
}

/// What is known of containers that calls started.
#[derive(Debug, Default)]
struct Containers {
    /// Where those are that were not removed yet, by their id; by their name while
    /// they are made.
    there: HashMap<String, TargetName>,
    /// Those that a call stops: their end is nobody else's doing.
    stopping: HashSet<String>,
}

impl Docker {
    pub fn new(config: Arc<Config>, ssh: Arc<Connections>, registry: Arc<Registry>) -> Self {
        Self {
            config,
            ssh,
            registry,
            classic: engine::buildkit_disabled(),
            engines: Mutex::default(),
            containers: Mutex::default(),
        }
    }

    /// Engines that have containers of the run, because they could not be removed.
    pub fn left_behind(&self) -> BTreeSet<TargetName> {
        self.containers().there.values().cloned().collect()
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn call(&self, context: &CallContext, call: DockerCall) -> Result<Reply, CallError> {
        let DockerCall { engine: name, op } = call;
        let engine = match &op {
            // What a cancellation calls must still find its engine, and does
            // not wait for a new connection.
            DockerOp::RemoveContainer { .. } => match self.known(&name) {
                Some(engine) => engine,
                None => self.engine(context, &name).await?,
            },
            _ => self.bounded(context, self.engine(context, &name)).await?,
        };
        let engine = &engine;
        match op {
            DockerOp::Run(spec) => self.run(context, engine, &spec).await,
            DockerOp::RemoveContainer { id, grace_ms } => {
                self.remove_container(context, engine, &id, grace_ms).await
            }
            op => {
                self.bounded(context, self.answer(context, engine, op))
                    .await
            }
        }
    }

    async fn answer(
        &self,
        context: &CallContext,
        engine: &Engine,
        op: DockerOp,
    ) -> Result<Reply, CallError> {
        match op {
            DockerOp::Info => self.info(engine).await.map(Reply::Engine),
            DockerOp::Build(spec) => self.build(context, engine, &spec).await.map(Reply::Exit),
            DockerOp::Tag { image, new_tag } => self.tag(engine, &image, &new_tag).await,
            DockerOp::Push { image } => self.push(context, engine, &image).await.map(Reply::Exit),
            DockerOp::Pull { image } => self.pull(context, engine, &image).await.map(Reply::Exit),
            DockerOp::InspectImage { image } => self.inspect_image(engine, &image).await,
            DockerOp::RemoveImage { image } => self.remove_image(engine, &image).await,
            DockerOp::InspectContainer { id } => self.inspect_container(engine, &id).await,
            DockerOp::ContainerLogs { id, max_bytes } => {
                self.container_logs(engine, &id, max_bytes).await
            }
            DockerOp::WaitContainer { id } => self
                .wait_container(context, engine, &id)
                .await
                .map(Reply::Exit),
            // Not cancellable in the same way: answered by the caller.
            DockerOp::Run(spec) => self.run(context, engine, &spec).await,
            DockerOp::RemoveContainer { id, grace_ms } => {
                self.remove_container(context, engine, &id, grace_ms).await
            }
        }
    }

    async fn info(&self, engine: &Engine) -> Result<EngineInfo, CallError> {
        let mut info = engine.info().await?;
        info.buildkit &= !self.classic;
        Ok(info)
    }

    /// Ends with the call's deadline or cancellation. Dropping the work drops
    /// its connection, and that stops it in the engine.
    async fn bounded<T>(
        &self,
        context: &CallContext,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(CallError::cancelled()),
            result = work => result,
            () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
                "docker.deadline",
                "the Docker engine was not done before the step's deadline",
            )),
        }
    }

    async fn engine(&self, context: &CallContext, name: &TargetName) -> Result<Engine, CallError> {
        let endpoint = self.endpoint(context, name).await?;
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(name)
            && engine.endpoint == endpoint
        {
            return Ok(engine.clone());
        }
        // New, or reached another way since the connection was made anew.
        let engine = Engine::new(name.as_str(), endpoint);
        engines.insert(name.clone(), engine.clone());
        Ok(engine)
    }

    fn known(&self, name: &TargetName) -> Option<Engine> {
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.get(name).cloned()
    }

    async fn endpoint(
        &self,
        context: &CallContext,
        name: &TargetName,
    ) -> Result<Endpoint, CallError> {
        let spec = self.config.targets.iter().find(|spec| spec.name == *name);
        match spec {
            Some(spec) if spec.address == Address::Local => match &spec.docker_socket {
                Some(socket) => Ok(Endpoint::Unix(socket.into())),
                None => local::endpoint(&local::Environment::of_process()),
            },
            None if name.is_local() => local::endpoint(&local::Environment::of_process()),
            _ => self
                .ssh
                .docker_socket(context, name)
                .await
                .map(Endpoint::Unix),
        }
    }
}
