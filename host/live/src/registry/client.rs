//! A client of the OCI distribution API: challenge, login, token, request.

use std::time::Duration;

use futures_util::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;
use windlass_model::CallError;
use zeroize::Zeroizing;

use super::credentials::Login;
use super::reference::HUB;
use super::trouble::Attempt;
use crate::http::address;
use crate::http::failure::Reason;
use crate::http::tls;

/// Cap on a manifest, as the distribution specification advises.
pub(super) const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// Cap on an error's body and on a token server's answer.
const MAX_ANSWER: usize = 256 * 1024;
/// A registry, or a token server, that says nothing for so long.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Registries besides loopback that are asked without TLS: a comma-separated
/// list, as the engine's `insecure-registries` has it.
const INSECURE_VARIABLE: &str = "WINDLASS_INSECURE_REGISTRIES";

pub(super) fn is_insecure(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => registry,
    };
    if address::is_loopback(host) {
        return true;
    }
    std::env::var(INSECURE_VARIABLE).is_ok_and(|list| {
        list.split(',')
            .map(str::trim)
            .any(|entry| entry == registry || entry == host)
    })
}

/// An answer, read as a whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// One repository of one registry, with or without a login.
#[derive(Debug)]
pub(super) struct Client<'a> {
    http: reqwest::Client,
    base: Url,
    attempt: Attempt<'a>,
    login: Option<&'a Login>,
    authorization: Option<HeaderValue>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        registry: &'a str,
        repository: &'a str,
        login: Option<&'a Login>,
        push: bool,
    ) -> Result<Self, CallError> {
        let insecure = is_insecure(registry);
        let host = if registry == HUB {
            "registry-1.docker.io"
        } else {
            registry
        };
        let scheme = if insecure { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| {
            CallError::invalid(
                "registry.invalid-name",
                format!("{registry} is no host name"),
            )
        })?;
        address::check(&base)?;
        let builder = if insecure {
            tls::client_builder().unwrap_or_else(|_| tls::plain_client_builder())
        } else {
            tls::client_builder()?
        };
        let http = builder
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .dns_resolver(address::CheckedResolver)
            .build()
            .map_err(|error| {
                CallError::internal(
                    "registry.client",
                    format!("the HTTP client cannot be made: {}", error.without_url()),
                )
            })?;
        Ok(Self {
            http,
            base,
            attempt: Attempt {
                registry,
                repository,
                logged_in: login.is_some(),
                push,
            },
            login,
            authorization: None,
        })
    }

    pub(super) fn attempt(&self) -> &Attempt<'a> {
        &self.attempt
    }

    /// `/v2/REPOSITORY/…`
    pub(super) fn url(&self, rest: &str) -> Result<Url, CallError> {
        self.base
            .join(&format!("{}/{rest}", self.attempt.repository))
            .map_err(|_| {
                CallError::invalid(
                    "registry.invalid-name",
                    format!("{} is no repository name", self.attempt.repository),
                )
            })
    }

    /// A URL that the registry named, when it is its own: credentials go
    /// nowhere else.
    pub(super) fn own(&self, from: &Url, location: &str) -> Option<Url> {
        let url = from.join(location).ok()?;
        (url.origin() == self.base.origin()).then_some(url)
    }

    /// Sends a request; logs in as the registry asks for, once.
    pub(super) async fn send(
        &mut self,
        method: Method,
        url: &Url,
        accept: Option<&'static str>,
        cap: usize,
    ) -> Result<Answer, CallError> {
        let answer = self.try_send(method.clone(), url, accept, cap).await?;
        if answer.status != 401 || self.authorization.is_some() {
            return Ok(answer);
        }
        self.authenticate(&answer).await?;
        self.try_send(method, url, accept, cap).await
    }

    async fn try_send(
        &self,
        method: Method,
        url: &Url,
        accept: Option<&'static str>,
        cap: usize,
    ) -> Result<Answer, CallError> {
        let mut request = self.http.request(method.clone(), url.clone());
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if method == Method::POST {
            request = request.header(http::header::CONTENT_LENGTH, 0);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        self.read(response, cap).await
    }

    async fn read(&self, response: reqwest::Response, cap: usize) -> Result<Answer, CallError> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.failed(&error))?;
            if body.len() + chunk.len() > cap {
                return Err(CallError::exhausted(
                    "registry.answer-too-large",
                    format!("{} answered more than {cap} bytes", self.attempt.registry),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn failed(&self, error: &reqwest::Error) -> CallError {
        self.attempt.unreachable(&Reason::of(error).text)
    }

    async fn authenticate(&mut self, answer: &Answer) -> Result<(), CallError> {
        let challenge = answer
            .headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .next();
        let text = match challenge {
            Some(Challenge::Basic) => match self.login {
                Some(login) => login.basic(),
                None => return Err(self.attempt.explain_status(401, &answer.body)),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(&realm, service.as_deref()).await?;
                Zeroizing::new(format!("Bearer {}", *token))
            }
            None => {
                return Err(CallError::unavailable(
                    "registry.unexpected",
                    format!(
                        "{} wants a login but does not say which kind",
                        self.attempt.registry
                    ),
                )
                .hint("is this the address of a registry?"));
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            self.attempt
                .bad_login("user name or password hold characters that no header does")
        })?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(())
    }

    /// The token protocol of the distribution registry; the OAuth2 form where
    /// the login is a refresh token.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
    ) -> Result<Zeroizing<String>, CallError> {
        let mut url = Url::parse(realm)
            .ok()
            .filter(|url| self.may_ask(url))
            .ok_or_else(|| {
                CallError::denied(
                    "registry.unsafe-token-server",
                    format!(
                        "{} names a token server that is not reached over TLS",
                        self.attempt.registry
                    ),
                )
            })?;
        address::check(&url)?;
        let scope = format!(
            "repository:{}:{}",
            self.attempt.repository,
            if self.attempt.push {
                "pull,push"
            } else {
                "pull"
            }
        );
        let request = match self.login {
            Some(login) if login.identity_token => {
                let mut form = Url::parse("form:/").map_err(|_| {
                    CallError::internal("registry.client", "the form cannot be written")
                })?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "windlass")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", &login.secret);
                self.http
                    .post(url)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            login => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    query.append_pair("scope", &scope);
                    if let Some(login) = login {
                        query.append_pair("account", &login.username);
                    }
                }
                let request = self.http.get(url);
                match login {
                    Some(login) => {
                        let mut value = HeaderValue::from_str(&login.basic()).map_err(|_| {
                            self.attempt
                                .bad_login("it holds characters that no header does")
                        })?;
                        value.set_sensitive(true);
                        request.header(AUTHORIZATION, value)
                    }
                    None => request,
                }
            }
        };
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        let answer = self.read(response, MAX_ANSWER).await?;
        if !(200..300).contains(&answer.status) {
            let error = self.attempt.explain_status(answer.status, &answer.body);
            // A token server that refuses a login has checked the login, not
            // the repository, unless it says something that is known better.
            let vague = matches!(
                error.code.as_str(),
                "registry.no-write-scope" | "registry.denied"
            ) && matches!(answer.status, 400 | 401 | 403)
                && self.login.is_some();
            let text = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
            if vague && !text.contains("scope") && !text.contains("not allowed") {
                return Err(self.attempt.bad_login(""));
            }
            return Err(error);
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        serde_json::from_slice::<Token>(&answer.body)
            .ok()
            .and_then(|token| token.token.or(token.access_token))
            .map(Zeroizing::new)
            .ok_or_else(|| {
                CallError::unavailable(
                    "registry.unexpected",
                    format!(
                        "the token server of {} gave no token",
                        self.attempt.registry
                    ),
                )
            })
    }

    /// Passwords go over TLS, or not beyond this machine.
    fn may_ask(&self, realm: &Url) -> bool {
        match realm.scheme() {
            "https" => true,
            "http" => {
                self.base.scheme() == "http"
                    && realm.host_str().is_some_and(|host| {
                        address::is_loopback(host) || Some(host) == self.base.host_str()
                    })
            }
            _ => false,
        }
    }
}

/// What `WWW-Authenticate` asks for (RFC 7235; the token specification).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, parameters) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut realm = None;
        let mut service = None;
        let mut rest = parameters.trim_start();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let (value, after) = quoted.split_once('"')?;
                    (value, after)
                }
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        assert_eq!(
            Challenge::parse(
                r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:a/b:pull,push""#
            ),
            Some(Challenge::Bearer {
                realm: "https://ghcr.io/token".into(),
                service: Some("ghcr.io".into())
            })
        );
        assert_eq!(
            Challenge::parse(r#"Basic realm="Registry Realm""#),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
    }

    #[test]
    fn only_loopback_goes_without_tls() {
        for registry in [
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "localhost",
        ] {
            assert!(is_insecure(registry), "{registry}");
        }
        for registry in ["ghcr.io", "10.0.0.1:5000", "localhost.evil.example:5000"] {
            assert!(!is_insecure(registry), "{registry}");
        }
    }
}
