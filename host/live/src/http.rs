//! HTTP from this machine, or through a target's connection.
//!
//! A name is resolved once, checked, and the connection goes to exactly those
//! addresses. No ambient proxy counts. Redirects are followed within the
//! origin only: the grant names a URL, and headers may hold secrets. Each call
//! makes its own connection: a probe should see what a new client would see.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use tokio_util::io::ReaderStream;
use windlass_model::blob::Source;
use windlass_model::call::{HttpBody, HttpCall};
use windlass_model::reply::Response;
use windlass_model::{CallContext, CallError, Reply, TargetName};
use zeroize::Zeroizing;

use crate::Config;
use crate::ssh::Connections;

pub(crate) mod address;
pub(crate) mod failure;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use failure::Reason;

/// Cap on the body that is kept, whatever the call asks for.
const MAX_BODY: u32 = 1024 * 1024;
/// Cap on the answer's headers that are kept.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Cap on redirects, whatever the call asks for.
const MAX_REDIRECTS: u8 = 10;
/// A host that does not answer to a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// When a call sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers that frame the message or choose another virtual host than the one
/// that was granted.
const OWN_HEADERS: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "proxy-authorization",
];

#[derive(Debug)]
pub struct Http {
    config: Arc<Config>,
    ssh: Arc<Connections>,
}

impl Http {
    pub fn new(config: Arc<Config>, ssh: Arc<Connections>) -> Result<Self, CallError> {
        tls::install_provider();
        Ok(Self { config, ssh })
    }

    pub async fn call(&self, context: &CallContext, call: HttpCall) -> Result<Reply, CallError> {
        let timeout = match call.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let limit = timeout.min(context.remaining());
        tokio::select! {
            response = self.exchange(context, &call) => response.map(Reply::Response),
            () = context.cancel.cancelled() => Err(CallError::cancelled()),
            () = tokio::time::sleep(limit) => Err(CallError::timeout(
                "http.timeout",
                format!(
                    "no answer from {} within {:.1} s",
                    told(&call.url.to_string(), call.url.as_plain().is_some()),
                    limit.as_secs_f64()
                ),
            )
            .retryable()),
        }
    }

    async fn exchange(
        &self,
        context: &CallContext,
        call: &HttpCall,
    ) -> Result<Response, CallError> {
        let plain = call.url.as_plain().is_some();
        let text = self.config.secrets.resolve(&call.url)?;
        // The parser's error says nothing of the text.
        let mut url = Url::parse(&text).map_err(|error| {
            CallError::invalid("http.invalid-url", format!("not a URL: {error}"))
        })?;
        let what = told(&call.url.to_string(), plain);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CallError::invalid(
                "http.invalid-url",
                format!("{what} is neither http nor https"),
            ));
        }
        let mut method = Method::from_bytes(call.method.as_bytes()).map_err(|_| {
            CallError::invalid(
                "http.invalid-method",
                format!("{:?} is no method", call.method),
            )
        })?;
        let headers = self.headers(call)?;
        let mut body = &call.body;
        let mut redirects = call.max_redirects.min(MAX_REDIRECTS);
        if call.via.is_some() {
            redirects = 0;
        }
        loop {
            let client = self.client(context, &url, call.via.as_ref()).await?;
            let mut request = client
                .request(method.clone(), url.clone())
                .headers(headers.clone());
            request = self.with_body(context, request, body).await?;
            let response = request
                .send()
                .await
                .map_err(|error| Reason::of(&error).into_error(&what))?;
            if redirects > 0
                && let Some(next) = same_origin_target(&response, &url)
            {
                redirects -= 1;
                // RFC 9110, 15.4: what browsers do with POST.
                let status = response.status().as_u16();
                if status == 303 || (matches!(status, 301 | 302) && method == Method::POST) {
                    if method != Method::HEAD {
                        method = Method::GET;
                    }
                    body = &HttpBody::Empty;
                }
                url = next;
                continue;
            }
            return read(response, call.max_body.min(MAX_BODY), &what).await;
        }
    }

    async fn client(
        &self,
        context: &CallContext,
        url: &Url,
        via: Option<&TargetName>,
    ) -> Result<reqwest::Client, CallError> {
        let route = match via.filter(|target| !target.is_local()) {
            Some(target) => {
                address::check(url)?;
                let host = url.host_str().unwrap_or_default();
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let port = url.port_or_known_default().unwrap_or(80);
                Route::Socket(self.ssh.tcp_socket(context, target, bare, port).await?)
            }
            None => Route::Addresses(address::resolve(url).await?),
        };
        client(url, &route)
    }

    fn headers(&self, call: &HttpCall) -> Result<HeaderMap, CallError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let invalid = |why: &str| {
                CallError::invalid("http.invalid-header", format!("the header {name:?} {why}"))
            };
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid("has no valid name"))?;
            if OWN_HEADERS.contains(&header.as_str()) {
                return Err(invalid("is set by Windlass itself"));
            }
            let text = self.config.secrets.resolve(value)?;
            let mut value = HeaderValue::from_str(&text)
                .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
                .map_err(|_| invalid("has a value with characters that no header holds"))?;
            value.set_sensitive(true);
            headers.append(header, value);
        }
        Ok(headers)
    }

    async fn with_body(
        &self,
        context: &CallContext,
        request: reqwest::RequestBuilder,
        body: &HttpBody,
    ) -> Result<reqwest::RequestBuilder, CallError> {
        Ok(match body {
            HttpBody::Empty => request,
            HttpBody::Text(text) => {
                let text: Zeroizing<String> = self.config.secrets.resolve(text)?;
                request.body(text.as_bytes().to_vec())
            }
            HttpBody::Blob(reference) => {
                let blob = context.blobs.get(reference).ok_or_else(|| {
                    CallError::not_found("blob.missing", "the request's body is not there any more")
                })?;
                match blob.source() {
                    Source::Memory(bytes) => request.body(bytes.clone()),
                    Source::File { path, .. } => {
                        let file = tokio::fs::File::open(path).await.map_err(|error| {
                            CallError::internal(
                                "blob.unreadable",
                                format!("the request's body cannot be read: {error}"),
                            )
                        })?;
                        // The blob, and with it a spooled file, stays until
                        // the last byte was sent.
                        let stream =
                            ReaderStream::with_capacity(file, 64 * 1024).map(move |chunk| {
                                let _held = &blob;
                                chunk
                            });
                        request
                            .header(http::header::CONTENT_LENGTH, reference.size)
                            .body(reqwest::Body::wrap_stream(stream))
                    }
                }
            }
        })
    }
}

/// How a connection is made.
enum Route {
    Addresses(Vec<SocketAddr>),
    /// That leads to the host and port, as seen from a target.
    Socket(PathBuf),
}

fn client(url: &Url, route: &Route) -> Result<reqwest::Client, CallError> {
    let builder = if url.scheme() == "https" {
        tls::client_builder()?
    } else {
        tls::plain_client_builder()
    };
    let builder = builder
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(0)
        .http1_max_headers(200);
    let builder = match route {
        Route::Socket(path) => builder.unix_socket(path.as_path()),
        Route::Addresses(addresses) => {
            builder.resolve_to_addrs(url.host_str().unwrap_or_default(), addresses)
        }
    };
    builder.build().map_err(|error| {
        CallError::internal(
            "http.client",
            format!("the HTTP client cannot be made: {}", error.without_url()),
        )
    })
}

/// A URL for messages. One that holds a secret is told by the secret's name
/// only, where it stands; a query may hold what its author forgot to hide.
fn told(url: &str, plain: bool) -> String {
    if !plain {
        return "a URL that holds a secret".to_owned();
    }
    match Url::parse(url) {
        Ok(mut url) => {
            let had_query = url.query().is_some();
            url.set_query(None);
            url.set_fragment(None);
            let _ = url.set_password(None);
            let _ = url.set_username("");
            if had_query {
                format!("{url}?…")
            } else {
                url.to_string()
            }
        }
        Err(_) => "the URL".to_owned(),
    }
}

/// Where a redirect leads, when that is the same origin (RFC 6454).
fn same_origin_target(response: &reqwest::Response, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response
        .headers()
        .get(http::header::LOCATION)?
        .to_str()
        .ok()?;
    let next = from.join(location).ok()?;
    (next.origin() == from.origin()).then_some(next)
}

async fn read(response: reqwest::Response, cap: u32, what: &str) -> Result<Response, CallError> {
    let status = response.status().as_u16();
    let mut room = MAX_HEADER_BYTES;
    let mut headers = Vec::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let Some(rest) = room.checked_sub(name.as_str().len() + value.len()) else {
            break;
        };
        room = rest;
        headers.push((name.as_str().to_owned(), value));
    }
    let cap = cap as usize;
    let mut body = Vec::new();
    let mut truncated = false;
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|error| Reason::of(&error).into_error(what))?;
        let room = cap - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            // The rest is not waited for: it may never end.
            truncated = true;
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response {
        status,
        headers,
        body,
        truncated,
    })
}

#[cfg(test)]
mod units {
    use super::*;

    #[test]
    fn urls_are_told_without_what_may_be_secret() {
        assert_eq!(told("secret:SLACK", false), "a URL that holds a secret");
        assert_eq!(
            told("https://u:p@example.com/a?token=1#x", true),
            "https://example.com/a?…"
        );
    }
}
