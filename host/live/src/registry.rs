//! Registries of the OCI distribution specification, and the logins for them,
//! which the Docker engines use, too.

use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use windlass_model::call::RegistryCall;
use windlass_model::reply::ManifestInfo;
use windlass_model::{CallContext, CallError, Reply};
use zeroize::Zeroizing;

use crate::Config;
use crate::http::tls;

mod client;
pub(crate) mod credentials;
pub(crate) mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod trouble;

use client::{Client, MAX_MANIFEST};
use credentials::Login;
use reference::{HUB, Reference};

/// Every kind of manifest that an engine can pull.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Cap on the tags of a repository; a hostile one could page for ever.
const MAX_TAGS: usize = 20_000;
const MAX_PAGES: usize = 200;
/// Cap on one page of tags.
const MAX_PAGE: usize = 4 * 1024 * 1024;
/// Cap on any other answer.
const MAX_ANSWER: usize = 256 * 1024;

#[derive(Debug)]
pub struct Registry {
    config: Arc<Config>,
}

impl Registry {
    pub fn new(config: Arc<Config>) -> Result<Self, CallError> {
        tls::install_provider();
        Ok(Self { config })
    }

    pub async fn call(
        &self,
        context: &CallContext,
        call: RegistryCall,
    ) -> Result<Reply, CallError> {
        let work = async {
            match call {
                RegistryCall::Manifest { reference } => {
                    let text = reference::plain(&reference)?;
                    self.manifest(&Reference::parse(text)?).await
                }
                RegistryCall::MayPush { repository } => {
                    self.may_push(&repository_of(&repository)?).await
                }
                RegistryCall::Tags { repository } => self.tags(&repository_of(&repository)?).await,
            }
        };
        tokio::select! {
            reply = work => reply,
            () = context.cancel.cancelled() => Err(CallError::cancelled()),
            () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
                "registry.deadline",
                "the registry did not answer before the step's deadline",
            )
            .retryable()),
        }
    }

    /// The login for a registry: the manifest's, else the user's own.
    pub(crate) async fn login(&self, registry: &str) -> Result<Option<Login>, CallError> {
        let wanted = canonical(registry);
        for login in &self.config.registries {
            if canonical(&login.registry) == wanted {
                return Ok(Some(Login {
                    username: self.config.secrets.resolve(&login.username)?.to_string(),
                    secret: Zeroizing::new(
                        self.config
                            .secrets
                            .resolve(&login.password)?
                            .trim_end_matches(['\r', '\n'])
                            .to_owned(),
                    ),
                    identity_token: false,
                    origin: "the manifest".to_owned(),
                }));
            }
        }
        match credentials::config_dir() {
            Some(dir) => credentials::from_store(&dir, wanted).await,
            None => Ok(None),
        }
    }

    async fn manifest(&self, reference: &Reference) -> Result<Reply, CallError> {
        let login = self.login(&reference.registry).await?;
        let mut client = Client::new(
            &reference.registry,
            &reference.repository,
            login.as_ref(),
            false,
        )?;
        let url = client.url(&format!("manifests/{}", reference.selector()))?;
        let answer = client
            .send(Method::GET, &url, Some(MANIFESTS), MAX_MANIFEST)
            .await?;
        match answer.status {
            200 => {}
            404 => return Ok(Reply::Manifest(None)),
            status => return Err(client.attempt().explain_status(status, &answer.body)),
        }
        // Computed, not believed.
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&answer.body)));
        if reference
            .digest
            .as_ref()
            .is_some_and(|wanted| *wanted != digest)
        {
            return Err(CallError::unavailable(
                "registry.wrong-content",
                format!(
                    "{} gave another manifest than the one that was asked for",
                    reference.registry
                ),
            ));
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest {
            media_type: Option<String>,
            #[serde(default)]
            manifests: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            platform: Option<Platform>,
        }
        #[derive(Deserialize)]
        struct Platform {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
        }
        let manifest: Manifest = serde_json::from_slice(&answer.body).map_err(|_| {
            CallError::unavailable(
                "registry.unexpected",
                format!("{} gave a manifest that is none", reference.registry),
            )
        })?;
        let content_type = answer
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
        let mut platforms: Vec<String> = manifest
            .manifests
            .into_iter()
            .filter_map(|entry| entry.platform)
            // How attestations are listed.
            .filter(|platform| platform.os != "unknown" && !platform.os.is_empty())
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        platforms.dedup();
        Ok(Reply::Manifest(Some(ManifestInfo {
            digest,
            media_type: manifest.media_type.or(content_type).unwrap_or_default(),
            platforms,
        })))
    }

    /// Begins an upload and takes it back: the one question that every
    /// registry answers truthfully.
    async fn may_push(&self, reference: &Reference) -> Result<Reply, CallError> {
        let login = self.login(&reference.registry).await?;
        let mut client = Client::new(
            &reference.registry,
            &reference.repository,
            login.as_ref(),
            true,
        )?;
        let url = client.url("blobs/uploads/")?;
        let answer = client.send(Method::POST, &url, None, MAX_ANSWER).await?;
        match answer.status {
            202 => {}
            // The second 401: the login was fine for the token server, or the
            // password is wrong where there is none.
            401 if login.is_some() && bearer_scope_missing(&answer) => {
                return Err(client
                    .attempt()
                    .explain_words("insufficient_scope")
                    .unwrap_or_else(|| client.attempt().bad_login("")));
            }
            401 if login.is_some() => return Err(client.attempt().bad_login("")),
            status if (200..300).contains(&status) => {
                return Err(CallError::unavailable(
                    "registry.unexpected",
                    format!(
                        "{} answered {status} where an upload should begin",
                        reference.registry
                    ),
                )
                .hint("is this the address of a registry?"));
            }
            status => return Err(client.attempt().explain_status(status, &answer.body)),
        }
        if let Some(upload) = answer
            .headers
            .get(http::header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|location| client.own(&url, location))
        {
            // Registries drop uploads that nobody goes on with, so a failure
            // here changes nothing.
            let _ = client.send(Method::DELETE, &upload, None, MAX_ANSWER).await;
        }
        Ok(Reply::Done)
    }

    async fn tags(&self, reference: &Reference) -> Result<Reply, CallError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let login = self.login(&reference.registry).await?;
        let mut client = Client::new(
            &reference.registry,
            &reference.repository,
            login.as_ref(),
            false,
        )?;
        let mut next = Some(client.url("tags/list?n=1000")?);
        let mut tags = Vec::new();
        let mut pages = 0;
        while let Some(url) = next.take() {
            let answer = client.send(Method::GET, &url, None, MAX_PAGE).await?;
            if answer.status != 200 {
                return Err(client.attempt().explain_status(answer.status, &answer.body));
            }
            let page: Page = serde_json::from_slice(&answer.body).map_err(|_| {
                CallError::unavailable(
                    "registry.unexpected",
                    format!("{} gave a list of tags that is none", reference.registry),
                )
            })?;
            tags.extend(page.tags.unwrap_or_default());
            pages += 1;
            if tags.len() > MAX_TAGS || pages >= MAX_PAGES {
                return Err(CallError::exhausted(
                    "registry.too-many-tags",
                    format!("{} has more than {MAX_TAGS} tags", reference.name),
                ));
            }
            next = answer
                .headers
                .get(http::header::LINK)
                .and_then(|value| value.to_str().ok())
                .and_then(next_link)
                .and_then(|location| client.own(&url, location));
        }
        Ok(Reply::Texts(tags))
    }
}

/// `<URL>; rel="next"` (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let (url, parameters) = header.strip_prefix('<')?.split_once('>')?;
    let parameters = parameters.to_ascii_lowercase();
    (parameters.contains("rel=\"next\"") || parameters.contains("rel=next")).then_some(url)
}

/// A login whose token was taken and still is not enough (RFC 6750).
fn bearer_scope_missing(answer: &client::Answer) -> bool {
    answer
        .headers
        .get_all(http::header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.len() >= 6 && value.as_bytes()[..6].eq_ignore_ascii_case(b"bearer"))
}

fn canonical(registry: &str) -> &str {
    let bare = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry)
        .trim_end_matches('/');
    match bare {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    }
}

fn repository_of(text: &str) -> Result<Reference, CallError> {
    let reference = Reference::parse(text)?;
    if reference.tag.is_some() || reference.digest.is_some() {
        return Err(CallError::invalid(
            "registry.invalid-name",
            format!("{text} names an image where a repository is wanted"),
        )
        .hint(format!("leave the tag out: {}", reference.name)));
    }
    Ok(reference)
}

#[cfg(test)]
mod units {
    use super::*;

    #[test]
    fn links_lead_on() {
        assert_eq!(
            next_link(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next_link(r#"</x>; rel="prev""#), None);
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert!(repository_of("ghcr.io/acme/app:1").is_err());
        assert!(repository_of("localhost:5000/acme/app").is_ok());
    }
}
