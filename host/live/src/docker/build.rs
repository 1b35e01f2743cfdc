//! Builds: BuildKit where the engine has it, the classic builder else.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use prost::Message as _;
use tokio_util::io::ReaderStream;
use windlass_model::blob::Source;
use windlass_model::call::{BuildSpec, Pairs};
use windlass_model::reply::Exit;
use windlass_model::{Blob, CallContext, CallError, LogStream};
use zeroize::Zeroizing;

use super::Docker;
use super::engine::{Body, Engine, full, streamed};
use super::progress::Progress;
use super::query::Query;
use super::session::{BuildSecrets, Session};
use super::stream::{Message, Messages};
use super::tail::{Lines, Tail};
use crate::registry::reference::{Reference, is_digest};

/// What BuildKit itself allows for one secret.
const MAX_SECRET: usize = 500 * 1024;

impl Docker {
    pub(super) async fn build(
        &self,
        context: &CallContext,
        engine: &Engine,
        spec: &BuildSpec,
    ) -> Result<Exit, CallError> {
        for tag in &spec.tags {
            if Reference::parse(tag)?.digest.is_some() {
                return Err(CallError::invalid(
                    "registry.invalid-name",
                    format!("{tag} names a digest where a tag is wanted"),
                ));
            }
        }
        let archive = spec
            .context
            .as_ref()
            .and_then(|reference| context.blobs.get(reference))
            .ok_or_else(|| {
                CallError::not_found("blob.missing", "the build has no context")
                    .hint("give it an archive of the project's files")
            })?;
        let buildkit = self.info(engine).await?.buildkit;
        if !buildkit && !spec.secrets.is_empty() {
            return Err(CallError::invalid(
                "docker.no-buildkit",
                format!(
                    "the build has secrets, which only BuildKit takes, and the Docker engine of {} builds without it",
                    engine.name
                ),
            )
            .hint(if self.classic {
                "DOCKER_BUILDKIT=0 is set: unset it"
            } else {
                "use Docker 18.09 or newer"
            }));
        }
        let mut query = query(spec);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        // Lives until the build has ended.
        let mut _session = None;
        if buildkit {
            let session =
                Session::open(engine, self.secrets(spec)?, Arc::clone(&self.registry)).await?;
            query = query.with("version", "2").with("session", &session.id);
            _session = Some(session);
        } else if let Some(value) = self.logins()? {
            headers.insert("X-Registry-Config", value);
        }
        let response = engine
            .send(Method::POST, &query, headers, tar(&archive).await?)
            .await
            .map_err(|failure| failure.into_error("the build did not begin"))?;
        let mut output = Output::new(Tail::new(&context.log));
        let mut messages = Messages::new(response.into_body(), "during the build");
        while let Some(message) = messages.next(engine).await? {
            if let Some(error) = message.failure() {
                let error = failed(error, &output.tail);
                return Err(error);
            }
            output.take(&message);
        }
        output.finish()
    }

    fn secrets(&self, spec: &BuildSpec) -> Result<BuildSecrets, CallError> {
        let mut secrets = BuildSecrets::new();
        for (id, text) in &spec.secrets {
            let bytes = self.config.secrets.resolve(text)?;
            if bytes.len() > MAX_SECRET {
                return Err(CallError::invalid(
                    "docker.secret-too-large",
                    format!("the build secret {id} is larger than {MAX_SECRET} bytes"),
                ));
            }
            secrets.insert(id.clone(), Zeroizing::new(bytes.as_bytes().to_vec()));
        }
        Ok(secrets)
    }

    /// The manifest's logins, for the classic builder's base images.
    fn logins(&self) -> Result<Option<HeaderValue>, CallError> {
        if self.config.registries.is_empty() {
            return Ok(None);
        }
        let mut map = serde_json::Map::new();
        for login in &self.config.registries {
            map.insert(
                login.registry.clone(),
                serde_json::json!({
                    "username": *self.config.secrets.resolve(&login.username)?,
                    "password": *self.config.secrets.resolve(&login.password)?,
                }),
            );
        }
        let json = Zeroizing::new(serde_json::Value::Object(map).to_string());
        let mut value = HeaderValue::from_str(&URL_SAFE.encode(json.as_bytes()))
            .map_err(|_| CallError::internal("docker.login", "the login cannot be written"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn query(spec: &BuildSpec) -> Query {
    let map = |pairs: &Pairs| {
        serde_json::Value::Object(
            pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
        )
        .to_string()
    };
    let dockerfile = if spec.dockerfile.is_empty() {
        "Dockerfile"
    } else {
        &spec.dockerfile
    };
    let mut query = Query::new("/build")
        .with("dockerfile", dockerfile)
        .with("rm", "1")
        .with("forcerm", "1")
        .maybe("target", spec.stage.as_deref())
        .maybe("platform", spec.platform.as_deref())
        .flag("nocache", spec.no_cache)
        .flag("pull", spec.pull);
    for tag in &spec.tags {
        query = query.with("t", tag);
    }
    if !spec.args.is_empty() {
        query = query.with("buildargs", map(&spec.args));
    }
    if !spec.labels.is_empty() {
        query = query.with("labels", map(&spec.labels));
    }
    query
}

/// The context, read while it is sent.
async fn tar(archive: &Arc<Blob>) -> Result<Body, CallError> {
    match archive.source() {
        Source::Memory(bytes) => Ok(full(bytes.clone())),
        Source::File { path, .. } => {
            let file = tokio::fs::File::open(path).await.map_err(|error| {
                CallError::internal(
                    "blob.unreadable",
                    format!("the build context cannot be read: {error}"),
                )
            })?;
            // Held, so that a spooled file stays until its last byte was sent.
            let held = Arc::clone(archive);
            Ok(streamed(ReaderStream::with_capacity(file, 256 * 1024).map(
                move |chunk| {
                    let _held = &held;
                    chunk
                },
            )))
        }
    }
}

/// The build's log, and its result.
struct Output {
    tail: Tail,
    lines: Lines,
    progress: Progress,
    image: Option<String>,
}

impl Output {
    fn new(tail: Tail) -> Self {
        Self {
            tail,
            lines: Lines::default(),
            progress: Progress::default(),
            image: None,
        }
    }

    fn take(&mut self, message: &Message) {
        if let Some(text) = &message.stream {
            let tail = &mut self.tail;
            self.lines
                .push(text.as_bytes(), |line| tail.line(LogStream::Stdout, line));
        }
        if let Some(status) = &message.status {
            match &message.id {
                Some(id) => self.tail.status(&format!("{id}: {status}")),
                None => self.tail.line(LogStream::Stdout, status),
            }
        }
        match (&message.aux, message.id.as_deref()) {
            (Some(serde_json::Value::String(trace)), Some("moby.buildkit.trace")) => {
                // A status that cannot be read costs lines of the log, not
                // the build.
                if let Some(response) = STANDARD
                    .decode(trace)
                    .ok()
                    .and_then(|bytes| StatusResponse::decode(bytes.as_slice()).ok())
                {
                    self.progress.take(response, &mut self.tail);
                }
            }
            (Some(aux), None | Some("moby.image.id")) => {
                if let Some(id) = aux.get("ID").and_then(serde_json::Value::as_str)
                    && is_digest(id)
                {
                    self.image = Some(id.to_owned());
                }
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Result<Exit, CallError> {
        let tail = &mut self.tail;
        self.lines.flush(|line| tail.line(LogStream::Stdout, line));
        match self.image {
            Some(image) => Ok(self.tail.exit(0, vec![("image".to_owned(), image)])),
            None => Err(CallError::unavailable(
                "docker.build-cut",
                "the engine ended the build without an image",
            )
            .retryable()),
        }
    }
}

fn failed(why: &str, tail: &Tail) -> CallError {
    let mut message = format!("the build failed: {}", why.trim());
    let lines = tail.last_lines();
    if !lines.is_empty() {
        message.push_str("\nits last lines:\n");
        message.push_str(&lines);
    }
    let text = why.to_ascii_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if has(&["no space left on device"]) {
        return CallError::exhausted("docker.disk-full", message)
            .hint("make room on the engine's disk: `docker system prune`");
    }
    // Nobody here cancelled it: then nobody would listen any more.
    if has(&["context canceled", "context cancelled"]) {
        return CallError::unavailable("docker.build-cut", message)
            .hint("an engine that is stopped gives its builds up: `windlass resume` builds again")
            .retryable();
    }
    let error = CallError::invalid("docker.build-failed", message);
    if has(&[
        "pull access denied",
        "authorization failed",
        "unauthorized",
        "insufficient_scope",
    ]) {
        error.hint("the base image may need a login: [registry.\"HOST\"] in the manifest")
    } else if has(&[
        "failed to resolve source metadata",
        "no such host",
        "i/o timeout",
        "tls handshake",
    ]) {
        error
            .hint("the engine could not reach the registry of the base image")
            .retryable()
    } else if has(&[
        "cannot locate specified dockerfile",
        "failed to read dockerfile",
        "failed to find dockerfile",
    ]) {
        error.hint("is the Dockerfile within the context, and not in .dockerignore?")
    } else if has(&[
        "the --mount option requires buildkit",
        "unknown flag: mount",
    ]) {
        error.hint("build with BuildKit: unset DOCKER_BUILDKIT")
    } else if has(&["not found"])
        && has(&[
            "failed to compute cache key",
            "copy failed",
            "failed to calculate checksum",
        ])
    {
        error.hint("the Dockerfile copies a file that is not in the context; see .dockerignore")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::backend::NoLog;
    use windlass_model::{ErrorKind, LogSink};

    use super::*;

    #[test]
    fn what_the_engine_gave_up_is_not_a_cancel_of_ours() {
        let log: Arc<dyn LogSink> = Arc::new(NoLog);
        let error = failed("context canceled", &Tail::new(&log));
        assert_eq!(
            (error.kind, error.code.as_str(), error.retryable),
            (ErrorKind::Unavailable, "docker.build-cut", true)
        );
    }
}
