//! Images: tag, push, pull, inspect, remove.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use windlass_model::reply::{Exit, ImageInfo};
use windlass_model::{CallContext, CallError, LogStream, Reply, Text};

use super::Docker;
use super::engine::{Engine, Failure, Refusal, full};
use super::query::Query;
use super::stream::{Message, Messages};
use super::tail::Tail;
use crate::registry::credentials::Login;
use crate::registry::reference::{Reference, is_digest, plain};
use crate::registry::trouble::Attempt;

/// What the engine assumes when a HEALTHCHECK names no interval.
const DEFAULT_INTERVAL_MS: u64 = 30_000;

/// Layers whose progress is told apart.
const MAX_LAYERS: usize = 2048;

/// An image on the engine: a name or an id, fit for a path.
pub(super) fn local_name(text: &Text) -> Result<&str, CallError> {
    let name = plain(text)?;
    if !is_digest(name) {
        Reference::parse(name)?;
    }
    Ok(name)
}

fn no_image(engine: &Engine, name: &str) -> CallError {
    CallError::not_found(
        "docker.no-image",
        format!("the Docker engine of {} has no image {name}", engine.name),
    )
    .hint("build it or pull it first")
}

/// A refusal that names a missing image, or what it is else.
pub(super) fn image_error(engine: &Engine, name: &str, failure: Failure, what: &str) -> CallError {
    match &failure {
        Failure::Refused(refusal)
            if refusal.status.as_u16() == 404
                && refusal
                    .message
                    .to_ascii_lowercase()
                    .contains("no such image") =>
        {
            no_image(engine, name)
        }
        _ => failure.into_error(what),
    }
}

impl Docker {
    pub(super) async fn tag(
        &self,
        engine: &Engine,
        image: &Text,
        new_tag: &Text,
    ) -> Result<Reply, CallError> {
        let image = local_name(image)?;
        let new_tag = plain(new_tag)?;
        let reference = Reference::parse(new_tag)?;
        if reference.digest.is_some() {
            return Err(CallError::invalid(
                "registry.invalid-name",
                format!("{new_tag} names a digest where a tag is wanted"),
            ));
        }
        let query = Query::new(format!("/images/{image}/tag"))
            .with("repo", &reference.name)
            .with("tag", reference.selector());
        engine
            .ask(Method::POST, &query, None)
            .await
            .map_err(|failure| {
                image_error(engine, image, failure, &format!("{image} cannot be tagged"))
            })?;
        Ok(Reply::Done)
    }

    pub(super) async fn inspect_image(
        &self,
        engine: &Engine,
        image: &Text,
    ) -> Result<Reply, CallError> {
        let image = local_name(image)?;
        match engine
            .get::<Inspected>(&Query::new(format!("/images/{image}/json")))
            .await
        {
            Ok(inspected) => Ok(Reply::Image(Some(Box::new(inspected.into_info())))),
            Err(Failure::Refused(Refusal { status, .. })) if status.as_u16() == 404 => {
                Ok(Reply::Image(None))
            }
            Err(failure) => Err(failure.into_error(&format!("{image} cannot be inspected"))),
        }
    }

    pub(super) async fn remove_image(
        &self,
        engine: &Engine,
        image: &Text,
    ) -> Result<Reply, CallError> {
        let image = local_name(image)?;
        let query = Query::new(format!("/images/{image}"));
        match engine.ask(Method::DELETE, &query, None).await {
            Ok(_) => Ok(Reply::Done),
            Err(Failure::Refused(Refusal { status, .. })) if status.as_u16() == 404 => {
                Ok(Reply::Done)
            }
            Err(failure) => Err(failure.into_error(&format!("{image} cannot be removed"))),
        }
    }

    pub(super) async fn push(
        &self,
        context: &CallContext,
        engine: &Engine,
        image: &Text,
    ) -> Result<Exit, CallError> {
        let image = plain(image)?;
        let reference = Reference::parse(image)?;
        if reference.digest.is_some() || is_digest(image) {
            return Err(CallError::invalid(
                "registry.invalid-name",
                format!("{image} names a digest where a tag is wanted"),
            )
            .hint("push repository:tag"));
        }
        let login = self.registry.login(&reference.registry).await?;
        let query = Query::new(format!("/images/{}/push", reference.name))
            .with("tag", reference.selector());
        let mut transfer = Transfer::new(context, &reference, login.as_ref(), true);
        let response = engine
            .send(
                Method::POST,
                &query,
                auth(&reference, login.as_ref())?,
                full(bytes::Bytes::new()),
            )
            .await
            .map_err(|failure| transfer.refused(engine, image, failure))?;
        let mut messages = Messages::new(response.into_body(), "during the push");
        while let Some(message) = messages.next(engine).await? {
            transfer.take(engine, &message)?;
        }
        let Some(digest) = transfer.digest.take() else {
            return Err(CallError::unavailable(
                "registry.push-cut",
                format!("the push of {image} ended without a digest"),
            )
            .retryable());
        };
        let full_reference = format!("{}@{digest}", reference.name);
        Ok(transfer.tail.exit(
            0,
            vec![
                ("digest".to_owned(), digest),
                ("ref".to_owned(), full_reference),
            ],
        ))
    }

    pub(super) async fn pull(
        &self,
        context: &CallContext,
        engine: &Engine,
        image: &Text,
    ) -> Result<Exit, CallError> {
        let image = plain(image)?;
        if is_digest(image) {
            return Err(CallError::invalid(
                "registry.invalid-name",
                format!("{image} names no registry's image"),
            )
            .hint("pull repository:tag or repository@sha256:…"));
        }
        let reference = Reference::parse(image)?;
        let login = self.registry.login(&reference.registry).await?;
        let query = Query::new("/images/create")
            .with("fromImage", &reference.name)
            .with("tag", reference.selector());
        let mut transfer = Transfer::new(context, &reference, login.as_ref(), false);
        let response = engine
            .send(
                Method::POST,
                &query,
                auth(&reference, login.as_ref())?,
                full(bytes::Bytes::new()),
            )
            .await
            .map_err(|failure| transfer.refused(engine, image, failure))?;
        let mut messages = Messages::new(response.into_body(), "during the pull");
        while let Some(message) = messages.next(engine).await? {
            transfer.take(engine, &message)?;
        }
        // The engine knows an image by its digest under the bare name.
        let local = match &reference.digest {
            Some(digest) => format!("{}@{digest}", reference.name),
            None => format!("{}:{}", reference.name, reference.selector()),
        };
        let inspected = engine
            .get::<Inspected>(&Query::new(format!("/images/{local}/json")))
            .await
            .map_err(|failure| image_error(engine, image, failure, "the pulled image is gone"))?;
        Ok(transfer
            .tail
            .exit(0, vec![("image".to_owned(), inspected.id)]))
    }
}

/// The engine wants the header even without a login.
fn auth(reference: &Reference, login: Option<&Login>) -> Result<HeaderMap, CallError> {
    let mut headers = HeaderMap::new();
    let text = match login {
        Some(login) => login.engine_header(&reference.registry),
        // `{}`
        None => zeroize::Zeroizing::new("e30=".to_owned()),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| CallError::internal("docker.login", "the login cannot be written"))?;
    value.set_sensitive(true);
    headers.insert("X-Registry-Auth", value);
    Ok(headers)
}

/// A push or a pull under way.
struct Transfer<'a> {
    reference: &'a Reference,
    logged_in: bool,
    push: bool,
    tail: Tail,
    /// What was last said of each layer.
    layers: HashMap<String, String>,
    digest: Option<String>,
}

impl<'a> Transfer<'a> {
    fn new(
        context: &CallContext,
        reference: &'a Reference,
        login: Option<&Login>,
        push: bool,
    ) -> Self {
        Self {
            reference,
            logged_in: login.is_some(),
            push,
            tail: Tail::new(&context.log),
            layers: HashMap::new(),
            digest: None,
        }
    }

    fn take(&mut self, engine: &Engine, message: &Message) -> Result<(), CallError> {
        if let Some(error) = message.failure() {
            return Err(self.failed(engine, error));
        }
        // Kept in `aux` by some versions, in the last line by all.
        if let Some(digest) = message
            .aux
            .as_ref()
            .and_then(|aux| aux.get("Digest"))
            .and_then(serde_json::Value::as_str)
            .filter(|digest| is_digest(digest))
        {
            self.digest = Some(digest.to_owned());
        }
        let Some(status) = message.status.as_deref() else {
            return Ok(());
        };
        let Some(id) = message.id.as_deref() else {
            if let Some(digest) = digest_of_status(self.reference.selector(), status) {
                self.digest = Some(digest);
            }
            self.tail.line(LogStream::Stdout, status);
            return Ok(());
        };
        if let Some(progress) = &message.progress
            && let (Some(current), Some(total)) = (progress.current, progress.total)
            && total > 0
        {
            self.tail
                .status(&format!("{id}: {status} {current}/{total}"));
        }
        let news = self.layers.get(id).is_none_or(|last| last != status);
        if news && self.layers.len() < MAX_LAYERS {
            self.layers.insert(id.to_owned(), status.to_owned());
            // The states that last: between them is progress.
            if !matches!(status, "Preparing" | "Waiting" | "Pulling fs layer") {
                self.tail
                    .line(LogStream::Stdout, &format!("{id}: {status}"));
            }
        }
        Ok(())
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            registry: &self.reference.registry,
            repository: &self.reference.repository,
            logged_in: self.logged_in,
            push: self.push,
        }
    }

    fn refused(&self, engine: &Engine, image: &str, failure: Failure) -> CallError {
        match failure {
            Failure::Refused(refusal) => {
                if refusal.status.as_u16() == 404
                    && refusal
                        .message
                        .to_ascii_lowercase()
                        .contains("no such image")
                {
                    return no_image(engine, image);
                }
                self.attempt()
                    .explain_words(&refusal.message)
                    .unwrap_or_else(|| Failure::Refused(refusal).into_error(&self.what()))
            }
            Failure::Failed(error) => error,
        }
    }

    fn failed(&self, engine: &Engine, words: &str) -> CallError {
        let text = words.to_ascii_lowercase();
        if self.push
            && (text.contains("does not exist locally")
                || text.contains("tag does not exist")
                || text.contains("no such image"))
        {
            return no_image(
                engine,
                &format!("{}:{}", self.reference.name, self.reference.selector()),
            );
        }
        self.attempt().explain_words(words).unwrap_or_else(|| {
            CallError::unavailable(
                "registry.failed",
                format!("{}: {}", self.what(), words.trim()),
            )
        })
    }

    fn what(&self) -> String {
        format!(
            "the {} of {} failed",
            if self.push { "push" } else { "pull" },
            self.reference.name
        )
    }
}

/// `1.0: digest: sha256:… size: 528`
fn digest_of_status(tag: &str, status: &str) -> Option<String> {
    let rest = status.strip_prefix(tag)?.strip_prefix(": digest: ")?;
    let digest = rest.split_whitespace().next()?;
    is_digest(digest).then(|| digest.to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    #[serde(default)]
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    size: u64,
    config: Option<ImageConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    labels: Option<HashMap<String, String>>,
    healthcheck: Option<Healthcheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<String>>,
    /// Nanoseconds.
    #[serde(default)]
    interval: u64,
}

impl Inspected {
    fn into_info(self) -> ImageInfo {
        let (labels, healthcheck) = match self.config {
            Some(config) => (config.labels.unwrap_or_default(), config.healthcheck),
            None => (HashMap::new(), None),
        };
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort();
        let healthcheck = healthcheck.filter(|check| {
            check
                .test
                .as_ref()
                .and_then(|test| test.first())
                .is_some_and(|first| first != "NONE")
        });
        ImageInfo {
            id: self.id,
            tags: self.repo_tags.unwrap_or_default(),
            repo_digests: self.repo_digests.unwrap_or_default(),
            os: self.os,
            architecture: self.architecture,
            size: self.size,
            labels,
            has_healthcheck: healthcheck.is_some(),
            health_interval_ms: healthcheck.map_or(0, |check| match check.interval / 1_000_000 {
                0 => DEFAULT_INTERVAL_MS,
                ms => ms,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_tells_the_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            digest_of_status("1.0", &format!("1.0: digest: {digest} size: 528")),
            Some(digest)
        );
        assert_eq!(
            digest_of_status("1.0", "1.0: digest: sha256:beef size: 1"),
            None
        );
        assert_eq!(digest_of_status("1.0", "Pushed"), None);
    }

    #[test]
    fn names_are_fit_for_a_path() {
        assert!(local_name(&Text::from("acme/app:1")).is_ok());
        assert!(local_name(&Text::from("../../containers/json?x=")).is_err());
        assert!(local_name(&Text::from("-f")).is_err());
        assert!(local_name(&Text::secret("IMAGE")).is_err());
    }
}
