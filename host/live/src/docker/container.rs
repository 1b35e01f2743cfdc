//! Containers: run, inspect, logs, wait, remove, and the sweep of what runs
//! that were killed left over.

use std::collections::VecDeque;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use windlass_model::call::RunSpec;
use windlass_model::reply::{ContainerInfo, Exit, Health, Probe};
use windlass_model::{CallContext, CallError, LogStream, Reply, Text};

use super::Docker;
use super::engine::{Engine, Failure};
use super::image::{image_error, local_name};
use super::logs;
use super::query::Query;
use super::stopped::DURING;
use super::tail::{Lines, Tail};

pub(super) const LABEL_RUN: &str = "windlass.run";
const LABEL_STEP: &str = "windlass.step";
pub(super) const LABEL_CALL: &str = "windlass.call";

/// Cap on what [`DockerOp::ContainerLogs`](windlass_model::call::DockerOp)
/// answers.
const MAX_LOG: u32 = 1024 * 1024;
/// Cap on one probe's output within a reply, and on their number.
const MAX_PROBE: usize = 4 * 1024;
const MAX_PROBES: usize = 10;
/// Removing goes on after a cancellation, so it has a time of its own, however
/// little the call has left.
const CLEANUP_TIME: Duration = Duration::from_secs(5);
/// After a container's end its log is read to the end, but not for ever.
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl Docker {
    pub(super) async fn run(
        &self,
        context: &CallContext,
        engine: &Engine,
        spec: &RunSpec,
    ) -> Result<Reply, CallError> {
        let image = local_name(&spec.image)?;
        let body = self.container(context, spec, image)?;
        let name = format!("windlass-{}", context.id.stamp());
        self.containers()
            .there
            .insert(name.clone(), engine.name.as_str().into());
        let query = Query::new("/containers/create").with("name", &name);
        // Not abandoned by a cancellation: what was created must be known, so
        // that it can be removed.
        let work = async {
            let created = engine
                .ask(Method::POST, &query, Some(&body))
                .await
                .map_err(|failure| {
                    image_error(engine, image, failure, "the container cannot be created")
                })?;
            #[derive(Deserialize)]
            #[serde(rename_all = "PascalCase")]
            struct Created {
                id: String,
            }
            let id = engine.decode::<Created>(&created)?.id;
            check_id(&id)?;
            if !context.cancel.is_cancelled() {
                engine
                    .ask(
                        Method::POST,
                        &Query::new(format!("/containers/{id}/start")),
                        None,
                    )
                    .await
                    .map_err(|failure| {
                        start_error(failure.into_error("the container cannot be started"))
                    })?;
            }
            Ok(id)
        };
        let abandoned = async {
            context.cancel.cancelled().await;
            tokio::time::sleep(CLEANUP_TIME).await;
        };
        let result = tokio::select! {
            result = work => result,
            () = abandoned => Err(CallError::cancelled()),
            () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
                "docker.deadline",
                "the container did not start before the step's deadline",
            )),
        };
        let result = match result {
            Ok(_) if context.cancel.is_cancelled() => Err(CallError::cancelled()),
            other => other,
        };
        match result {
            Ok(id) => {
                let mut containers = self.containers();
                if let Some(engine) = containers.there.remove(&name) {
                    containers.there.insert(id.clone(), engine);
                }
                Ok(Reply::Id(id))
            }
            Err(error) => {
                let gone = match error.code.as_str() {
                    // Another call's container under that name; or no call at all.
                    "docker.conflict" | "docker.no-engine" | "docker.unreachable" => true,
                    _ => tokio::time::timeout(CLEANUP_TIME, delete(engine, &name))
                        .await
                        .is_ok_and(|deleted| deleted.is_ok()),
                };
                if gone {
                    self.containers().there.remove(&name);
                }
                Err(error)
            }
        }
    }

    fn container(
        &self,
        context: &CallContext,
        spec: &RunSpec,
        image: &str,
    ) -> Result<Value, CallError> {
        let plain = |text: &Text| {
            text.as_plain().map(str::to_owned).ok_or_else(|| {
                CallError::invalid(
                    "docker.secret-in-command",
                    format!("the command's argument {text} is not plain text"),
                )
                .hint("commands are seen by everyone on the machine: pass a secret in `env`")
            })
        };
        let mut env = Vec::new();
        for (name, value) in &spec.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(CallError::invalid(
                    "docker.invalid-env",
                    format!("{name:?} is no name of a variable"),
                ));
            }
            env.push(format!("{name}={}", *self.config.secrets.resolve(value)?));
        }
        let mounts: Vec<Value> = spec
            .mounts
            .iter()
            .map(|mount| {
                json!({
                    "Type": if mount.source.starts_with('/') { "bind" } else { "volume" },
                    "Source": mount.source,
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                })
            })
            .collect();
        let mut host = Map::new();
        host.insert("Mounts".into(), mounts.into());
        host.insert("Privileged".into(), spec.privileged.into());
        if let Some(network) = &spec.network {
            host.insert("NetworkMode".into(), network.as_str().into());
        }
        let mut body = json!({
            "Image": image,
            "Env": env,
            "Labels": {
                LABEL_RUN: context.id.run.to_string(),
                LABEL_STEP: context.id.step.to_string(),
                LABEL_CALL: context.id.stamp(),
            },
            "HostConfig": host,
        });
        if !spec.command.is_empty() {
            body["Cmd"] = spec
                .command
                .iter()
                .map(plain)
                .collect::<Result<Vec<_>, _>>()?
                .into();
        }
        if let Some(entrypoint) = &spec.entrypoint {
            body["Entrypoint"] = entrypoint.clone().into();
        }
        if let Some(user) = &spec.user {
            body["User"] = user.as_str().into();
        }
        if let Some(workdir) = &spec.workdir {
            body["WorkingDir"] = workdir.as_str().into();
        }
        Ok(body)
    }

    pub(super) async fn inspect_container(
        &self,
        engine: &Engine,
        id: &str,
    ) -> Result<Reply, CallError> {
        check_id(id)?;
        let query = Query::new(format!("/containers/{id}/json"));
        let inspected: Inspected = match engine.get(&query).await {
            Ok(inspected) => inspected,
            Err(failure) => {
                let error = container_error(id, failure, "cannot be inspected");
                // It ran: then its engine was there, too.
                return Err(engine.failed(error, DURING).await);
            }
        };
        let stopped = self.stopped(engine, id, &inspected.state).await?;
        let mut info = inspected.into_info();
        if let Some(stopped) = stopped
            && info.error.is_empty()
        {
            info.error = stopped.to_string();
        }
        Ok(Reply::Container(Box::new(info)))
    }

    pub(super) async fn container_logs(
        &self,
        engine: &Engine,
        id: &str,
        max_bytes: u32,
    ) -> Result<Reply, CallError> {
        let cap = max_bytes.min(MAX_LOG) as usize;
        let mut logs = logs::open(engine, id, false).await?;
        let mut newest: VecDeque<u8> = VecDeque::new();
        while logs
            .next(engine, |_, bytes| {
                newest.extend(bytes);
                let surplus = newest.len().saturating_sub(cap);
                newest.drain(..surplus);
            })
            .await?
        {}
        let bytes: Vec<u8> = newest.into();
        // What was cut off may have begun in the middle of a character.
        let start = bytes
            .iter()
            .position(|byte| byte & 0xC0 != 0x80)
            .unwrap_or(0);
        Ok(Reply::Text(
            String::from_utf8_lossy(&bytes[start..]).into_owned(),
        ))
    }

    pub(super) async fn wait_container(
        &self,
        context: &CallContext,
        engine: &Engine,
        id: &str,
    ) -> Result<Exit, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Waited {
            status_code: i64,
            error: Option<WaitError>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct WaitError {
            #[serde(default)]
            message: String,
        }
        check_id(id)?;
        let mut tail = Tail::new(&context.log);
        let mut out = Lines::default();
        let mut err = Lines::default();
        let mut logs = logs::open(engine, id, true).await?;
        let query = Query::new(format!("/containers/{id}/wait"));
        let wait = engine.ask(Method::POST, &query, None);
        tokio::pin!(wait);
        let mut waited = None;
        let mut drained = false;
        let mut drain_until = None;
        while waited.is_none() || !drained {
            let drain = async {
                match drain_until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                more = logs.next(engine, |stream, bytes| {
                    let lines = if stream == LogStream::Stderr { &mut err } else { &mut out };
                    lines.push(bytes, |line| tail.line(stream, line));
                }), if !drained => drained = !more?,
                answer = &mut wait, if waited.is_none() => {
                    let bytes = match answer {
                        Ok(bytes) => bytes,
                        Err(failure) => {
                            let error = container_error(id, failure, "cannot be waited for");
                            return Err(engine.failed(error, DURING).await);
                        }
                    };
                    waited = Some(engine.decode::<Waited>(&bytes)?);
                    drain_until = Some(tokio::time::Instant::now() + DRAIN_TIME);
                }
                () = drain => drained = true,
            }
        }
        out.flush(|line| tail.line(LogStream::Stdout, line));
        err.flush(|line| tail.line(LogStream::Stderr, line));
        self.ended_by_itself(engine, id).await?;
        let waited = waited.map_or((-1, None), |waited| (waited.status_code, waited.error));
        match waited {
            (_, Some(error)) if !error.message.is_empty() => Err(CallError::unavailable(
                "docker.wait-failed",
                format!("the container did not end as it should: {}", error.message),
            )),
            (code, _) => Ok(tail.exit(i32::try_from(code).unwrap_or(-1), Vec::new())),
        }
    }

    /// Not stopped by a cancellation: it is what a cancellation calls.
    pub(super) async fn remove_container(
        &self,
        context: &CallContext,
        engine: &Engine,
        id: &str,
        grace_ms: u32,
    ) -> Result<Reply, CallError> {
        check_id(id)?;
        let time = context.remaining().max(CLEANUP_TIME);
        self.containers().stopping.insert(id.to_owned());
        let work = async {
            if grace_ms > 0 {
                let query = Query::new(format!("/containers/{id}/stop"))
                    .with("t", grace_ms.div_ceil(1000).to_string());
                // Whatever this answers, the next one removes it.
                let limit = Duration::from_millis(grace_ms.into()) + Duration::from_secs(2);
                let _ = tokio::time::timeout(
                    limit.min(time.mul_f32(0.6)),
                    engine.ask(Method::POST, &query, None),
                )
                .await;
            }
            delete(engine, id).await
        };
        tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
            Err(CallError::timeout(
                "docker.deadline",
                format!("the container {id} was not removed in time"),
            ))
        })?;
        self.containers().there.remove(id);
        Ok(Reply::Done)
    }
}

/// With its anonymous volumes. Done when there is none.
pub(super) async fn delete(engine: &Engine, id: &str) -> Result<(), CallError> {
    let query = Query::new(format!("/containers/{id}"))
        .with("v", "1")
        .with("force", "1");
    match engine.ask(Method::DELETE, &query, None).await {
        Ok(_) => Ok(()),
        // Gone, or going: "removal of container … is already in progress".
        Err(Failure::Refused(refusal)) if matches!(refusal.status.as_u16(), 404 | 409) => Ok(()),
        Err(failure) => Err(failure.into_error(&format!("the container {id} cannot be removed"))),
    }
}

pub(super) fn check_id(id: &str) -> Result<(), CallError> {
    let fit = (1..=128).contains(&id.len())
        && id.as_bytes()[0].is_ascii_alphanumeric()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fit {
        Ok(())
    } else {
        Err(CallError::invalid(
            "docker.invalid-container",
            format!("{id:?} is no container's id"),
        ))
    }
}

pub(super) fn container_error(id: &str, failure: Failure, what: &str) -> CallError {
    match &failure {
        Failure::Refused(refusal) if refusal.status.as_u16() == 404 => {
            CallError::not_found("docker.no-container", format!("there is no container {id}"))
        }
        _ => failure.into_error(&format!("the container {id} {what}")),
    }
}

fn start_error(error: CallError) -> CallError {
    let text = error.message.to_ascii_lowercase();
    let hint = if text.contains("executable file not found")
        || text.contains("no such file or directory")
    {
        "the image has no such program: check `command` and `entrypoint`, or the image's own"
    } else if text.contains("exec format error") {
        "the image is for another processor than the engine's"
    } else if text.contains("port is already allocated") || text.contains("address already in use")
    {
        "another container or program has that port"
    } else {
        return error;
    };
    error.hint(hint)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    id: String,
    pub(super) state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(super) struct State {
    pub(super) started_at: String,
    pub(super) finished_at: String,
    pub(super) status: String,
    exit_code: i64,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    error: String,
    health: Option<HealthState>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthState {
    status: String,
    log: Option<Vec<ProbeState>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ProbeState {
    exit_code: i64,
    output: String,
}

impl Inspected {
    fn into_info(self) -> ContainerInfo {
        let number = |code: i64| i32::try_from(code).unwrap_or(-1);
        let health = self.state.health.unwrap_or_default();
        let mut probes: Vec<Probe> = health
            .log
            .unwrap_or_default()
            .into_iter()
            .map(|probe| Probe {
                exit_code: number(probe.exit_code),
                output: cut(probe.output),
            })
            .collect();
        let surplus = probes.len().saturating_sub(MAX_PROBES);
        probes.drain(..surplus);
        ContainerInfo {
            id: self.id,
            state: self.state.status,
            exit_code: number(self.state.exit_code),
            oom_killed: self.state.oom_killed,
            health: match health.status.as_str() {
                "starting" => Health::Starting,
                "healthy" => Health::Healthy,
                "unhealthy" => Health::Unhealthy,
                _ => Health::None,
            },
            probes,
            error: cut(self.state.error),
        }
    }
}

fn cut(mut text: String) -> String {
    let mut at = MAX_PROBE.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fit_for_a_path() {
        for id in ["", "-x", "../json", "a/b", "a?x", "a b"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        check_id("windlass-0190.prod_1-1-2").expect("a name");
    }
}
