//! `docker`: an engine, here or on a target.

use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Resource;
use windlass_model::call::{BuildSpec, Call, DockerCall, DockerOp, Mount, RunSpec};
use windlass_model::reply::{ContainerInfo, Health};
use windlass_model::{Reply, TargetName};

use super::convert::{done, reply};
use crate::bindings::windlass::plugin::values::Part;
use crate::bindings::windlass::plugin::{docker, types};
use crate::guest::{ContainerEntry, EngineEntry, Guest, Trapped};
use crate::job::Job;
use crate::limits;

/// What an answer may hold of a container's log.
const LOG_BYTES: u32 = 64 * 1024;

type Answer<T> = Trapped<Result<T, types::Error>>;

fn pairs(pairs: Vec<docker::Pair>) -> Vec<(String, String)> {
    pairs
        .into_iter()
        .map(|pair| (pair.name, pair.value))
        .collect()
}

impl Guest {
    fn docker(&self, engine: &Resource<EngineEntry>, op: DockerOp) -> Trapped<Call> {
        Ok(Call::Docker(DockerCall {
            engine: self.table.get(engine)?.0.clone(),
            op,
        }))
    }

    fn start_job(&mut self, call: Call) -> Answer<Resource<Job>> {
        Ok(self.start(call)?.map_err(Into::into))
    }

    fn container(&self, container: &Resource<ContainerEntry>) -> Trapped<(TargetName, String)> {
        let entry = self.table.get(container)?;
        Ok((entry.engine.clone(), entry.id.clone()))
    }
}

impl docker::Host for Guest {}

impl docker::HostEngine for Guest {
    async fn open(&mut self, target: Option<String>) -> Answer<Resource<EngineEntry>> {
        let target = target.map_or_else(TargetName::local, TargetName::new);
        Ok(Ok(self.table.push(EngineEntry(target))?))
    }

    async fn info(&mut self, engine: Resource<EngineEntry>) -> Answer<docker::EngineInfo> {
        let call = self.docker(&engine, DockerOp::Info)?;
        let answer = self.invoke(call).await?;
        Ok(
            reply!(answer, "docker.info", Reply::Engine(info) => docker::EngineInfo {
                version: info.version,
                api_version: info.api_version,
                os: info.os,
                architecture: info.architecture,
                buildkit: info.buildkit,
            }),
        )
    }

    async fn build(
        &mut self,
        engine: Resource<EngineEntry>,
        spec: docker::BuildSpec,
    ) -> Answer<Resource<Job>> {
        let mut secrets = Vec::new();
        for secret in &spec.secrets {
            secrets.push((secret.id.clone(), self.table.get(&secret.value)?.0.clone()));
        }
        let spec = BuildSpec {
            context: Some(self.blob_reference(&spec.context)?),
            dockerfile: spec.dockerfile,
            tags: spec.tags,
            args: pairs(spec.args),
            labels: pairs(spec.labels),
            stage: spec.stage,
            platform: spec.platform,
            secrets,
            no_cache: spec.no_cache,
            pull: spec.pull,
        };
        let call = self.docker(&engine, DockerOp::Build(Box::new(spec)))?;
        self.start_job(call)
    }

    async fn tag(
        &mut self,
        engine: Resource<EngineEntry>,
        image: Vec<Part>,
        new_tag: Vec<Part>,
    ) -> Answer<()> {
        let op = DockerOp::Tag {
            image: self.text(image)?,
            new_tag: self.text(new_tag)?,
        };
        let call = self.docker(&engine, op)?;
        Ok(done("docker.tag", self.invoke(call).await?))
    }

    async fn push(
        &mut self,
        engine: Resource<EngineEntry>,
        image: Vec<Part>,
    ) -> Answer<Resource<Job>> {
        let image = self.text(image)?;
        let call = self.docker(&engine, DockerOp::Push { image })?;
        self.start_job(call)
    }

    async fn pull(
        &mut self,
        engine: Resource<EngineEntry>,
        image: Vec<Part>,
    ) -> Answer<Resource<Job>> {
        let image = self.text(image)?;
        let call = self.docker(&engine, DockerOp::Pull { image })?;
        self.start_job(call)
    }

    async fn inspect_image(
        &mut self,
        engine: Resource<EngineEntry>,
        image: Vec<Part>,
    ) -> Answer<Option<docker::ImageInfo>> {
        let image = self.text(image)?;
        let call = self.docker(&engine, DockerOp::InspectImage { image })?;
        let answer = self.invoke(call).await?;
        Ok(
            reply!(answer, "docker.inspect-image", Reply::Image(image) => image.map(|info| {
                docker::ImageInfo {
                    id: info.id,
                    tags: info.tags,
                    repo_digests: info.repo_digests,
                    os: info.os,
                    architecture: info.architecture,
                    size: info.size,
                    labels: info
                        .labels
                        .into_iter()
                        .map(|(name, value)| docker::Pair { name, value })
                        .collect(),
                    has_healthcheck: info.has_healthcheck,
                    health_interval_ms: info.health_interval_ms,
                }
            })),
        )
    }

    async fn remove_image(
        &mut self,
        engine: Resource<EngineEntry>,
        image: Vec<Part>,
    ) -> Answer<()> {
        let image = self.text(image)?;
        let call = self.docker(&engine, DockerOp::RemoveImage { image })?;
        Ok(done("docker.remove-image", self.invoke(call).await?))
    }

    async fn run(
        &mut self,
        engine: Resource<EngineEntry>,
        spec: docker::RunSpec,
    ) -> Answer<Resource<ContainerEntry>> {
        if self.containers.len() >= limits::MAX_CONTAINERS {
            return Ok(Err(windlass_model::CallError::exhausted(
                "limit.containers",
                format!("the step has {} containers", limits::MAX_CONTAINERS),
            )
            .hint("remove one before starting another")
            .into()));
        }
        let mut env = Vec::new();
        for variable in spec.env {
            env.push((variable.name, self.text(variable.value)?));
        }
        let op = DockerOp::Run(Box::new(RunSpec {
            image: self.text(spec.image)?,
            command: self.texts(spec.command)?,
            entrypoint: spec.entrypoint,
            env,
            mounts: spec
                .mounts
                .into_iter()
                .map(|mount| Mount {
                    source: mount.source,
                    target: mount.target,
                    read_only: mount.read_only,
                })
                .collect(),
            network: spec.network,
            user: spec.user,
            workdir: spec.workdir,
            privileged: spec.privileged,
        }));
        let call = self.docker(&engine, op)?;
        let engine = self.table.get(&engine)?.0.clone();
        let answer = self.invoke(call).await?;
        let id: Result<String, types::Error> = reply!(answer, "docker.run", Reply::Id(id) => id);
        match id {
            Ok(id) => {
                // Noted before the handle exists: it is removed even when the
                // table is full and the guest traps.
                self.containers.push((engine.clone(), id.clone()));
                Ok(Ok(self.table.push(ContainerEntry { engine, id })?))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn drop(&mut self, engine: Resource<EngineEntry>) -> Trapped<()> {
        self.table.delete(engine)?;
        Ok(())
    }
}

impl docker::HostContainer for Guest {
    async fn id(&mut self, container: Resource<ContainerEntry>) -> Trapped<String> {
        Ok(self.table.get(&container)?.id.clone())
    }

    async fn inspect(
        &mut self,
        container: Resource<ContainerEntry>,
    ) -> Answer<docker::ContainerInfo> {
        let (engine, id) = self.container(&container)?;
        let answer = self
            .invoke(Call::Docker(DockerCall {
                engine,
                op: DockerOp::InspectContainer { id },
            }))
            .await?;
        Ok(reply!(answer, "docker.inspect-container", Reply::Container(info) => (*info).into()))
    }

    async fn logs(&mut self, container: Resource<ContainerEntry>) -> Answer<String> {
        let (engine, id) = self.container(&container)?;
        let answer = self
            .invoke(Call::Docker(DockerCall {
                engine,
                op: DockerOp::ContainerLogs {
                    id,
                    max_bytes: LOG_BYTES,
                },
            }))
            .await?;
        Ok(reply!(answer, "docker.container-logs", Reply::Text(text) => text))
    }

    async fn wait(&mut self, container: Resource<ContainerEntry>) -> Answer<Resource<Job>> {
        let (engine, id) = self.container(&container)?;
        self.start_job(Call::Docker(DockerCall {
            engine,
            op: DockerOp::WaitContainer { id },
        }))
    }

    async fn remove(&mut self, container: Resource<ContainerEntry>, grace_ms: u32) -> Answer<()> {
        let (engine, id) = self.container(&container)?;
        let grace_ms = grace_ms.min(60_000);
        let deadline =
            Instant::now() + Duration::from_millis(grace_ms.into()) + self.limits.cleanup;
        Ok(self
            .remove_container(engine, id, grace_ms, deadline)
            .await
            .map_err(Into::into))
    }

    async fn drop(&mut self, container: Resource<ContainerEntry>) -> Trapped<()> {
        let entry = self.table.delete(container)?;
        if self
            .containers
            .iter()
            .any(|(engine, id)| *engine == entry.engine && *id == entry.id)
        {
            let deadline = Instant::now() + self.limits.cleanup;
            // What fails is tried again at the guest's end, which tells of it.
            let _ = self
                .remove_container(entry.engine, entry.id, 0, deadline)
                .await;
        }
        Ok(())
    }
}

impl From<ContainerInfo> for docker::ContainerInfo {
    fn from(info: ContainerInfo) -> Self {
        Self {
            id: info.id,
            state: info.state,
            exit_code: info.exit_code,
            oom_killed: info.oom_killed,
            health: match info.health {
                Health::None => docker::Health::None,
                Health::Starting => docker::Health::Starting,
                Health::Healthy => docker::Health::Healthy,
                Health::Unhealthy => docker::Health::Unhealthy,
            },
            probes: info
                .probes
                .into_iter()
                .map(|probe| docker::Probe {
                    exit_code: probe.exit_code,
                    output: probe.output,
                })
                .collect(),
            error: info.error,
        }
    }
}
