//! One Docker engine: where it listens, and a pooled HTTP client for it.
//!
//! The API is spoken directly so that every answer has a cap; connections are
//! kept, because each new one costs round trips when it goes over SSH.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OnceCell;
use windlass_model::reply::EngineInfo;
use windlass_model::{CallError, ErrorKind};

use super::query::Query;

/// Cap on an answer that is read as a whole: a hostile engine cannot fill the
/// memory.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Cap on an error's body.
const MAX_ERROR: usize = 64 * 1024;

/// An engine that accepts connections and then says nothing is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// A byte stream to an engine.
#[derive(Debug)]
pub(super) enum Wire {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Endpoint {
    pub(super) async fn connect(&self) -> std::io::Result<Wire> {
        let connect = async {
            match self {
                Self::Unix(path) => UnixStream::connect(path).await.map(Wire::Unix),
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(Wire::Tcp(stream))
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What hyper's pool wants of a connection.
#[derive(Debug)]
struct Pooled(TokioIo<Wire>);

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Pooled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[derive(Clone, Debug)]
struct Connector(Endpoint);

impl tower_service::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Pooled, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let endpoint = self.0.clone();
        Box::pin(async move { Ok(Pooled(TokioIo::new(endpoint.connect().await?))) })
    }
}

/// A client of one engine. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// For messages: `local`, or the target's name.
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    client: Client<Connector, Body>,
    info: Arc<OnceCell<EngineInfo>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Version {
    version: String,
    api_version: String,
    os: String,
    arch: String,
    components: Option<Vec<Component>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Component {
    name: String,
}

impl Version {
    fn into_info(self) -> EngineInfo {
        let parse = |text: &str| -> Option<(u32, u32)> {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        // BuildKit came with API 1.39. Podman speaks the API without it.
        let podman = self
            .components
            .iter()
            .flatten()
            .any(|component| component.name.contains("Podman"));
        let has_buildkit = parse(&self.api_version).is_some_and(|version| version >= (1, 39))
            && self.os == "linux"
            && !podman;
        EngineInfo {
            version: self.version,
            api_version: self.api_version,
            os: self.os,
            architecture: self.arch,
            buildkit: has_buildkit,
        }
    }
}

/// As the `docker` program has it.
pub(super) fn buildkit_disabled() -> bool {
    std::env::var("DOCKER_BUILDKIT").is_ok_and(|value| matches!(value.as_str(), "0" | "false"))
}

/// The engine's own words about a request that it refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Refusal),
    Failed(CallError),
}

impl Engine {
    pub(super) fn new(name: impl Into<String>, endpoint: Endpoint) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            // Each may hold a session of the target's SSH connection.
            .pool_max_idle_per_host(2)
            .build(Connector(endpoint.clone()));
        Self {
            name: name.into(),
            endpoint,
            client,
            info: Arc::default(),
        }
    }

    /// What the engine is; asked once.
    pub(super) async fn info(&self) -> Result<EngineInfo, CallError> {
        self.info
            .get_or_try_init(|| async {
                let version: Version =
                    self.get(&Query::new("/version")).await.map_err(|failure| {
                        failure.into_error("the engine does not tell its version")
                    })?;
                Ok(version.into_info())
            })
            .await
            .cloned()
    }

    /// Sends a request. An answer that is no success becomes a [`Refusal`].
    pub(super) async fn send(
        &self,
        method: Method,
        query: &Query,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://docker{}", query.as_str()))
            .body(body)
            .map_err(|error| {
                Failure::Failed(CallError::invalid(
                    "docker.invalid-request",
                    format!("the request for the engine cannot be written: {error}"),
                ))
            })?;
        request.headers_mut().extend(headers);
        let response = self.client.request(request).await.map_err(|error| {
            Failure::Failed(if error.is_connect() {
                self.unreachable(&error)
            } else {
                // It was sent, or a part of it: what it asks for may have been done.
                self.cut(&error)
            })
        })?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let bytes = self
            .read(response.into_body(), MAX_ERROR)
            .await
            .unwrap_or_default();
        Err(Failure::Refused(Refusal {
            status,
            message: refusal_text(&bytes),
        }))
    }

    /// A request without a body, or with one of JSON; the whole answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        query: &Query,
        json: Option<&serde_json::Value>,
    ) -> Result<Bytes, Failure> {
        let mut headers = HeaderMap::new();
        let body = match json {
            Some(value) => {
                headers.insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static("application/json"),
                );
                full(Bytes::from(value.to_string()))
            }
            None => full(Bytes::new()),
        };
        let response = self.send(method, query, headers, body).await?;
        self.read(response.into_body(), MAX_ANSWER)
            .await
            .map_err(Failure::Failed)
    }

    /// [`ask`](Self::ask), decoded.
    pub(super) async fn get<T: DeserializeOwned>(&self, query: &Query) -> Result<T, Failure> {
        let bytes = self.ask(Method::GET, query, None).await?;
        self.decode(&bytes).map_err(Failure::Failed)
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CallError> {
        serde_json::from_slice(bytes).map_err(|error| {
            CallError::unavailable(
                "docker.bad-answer",
                format!(
                    "the Docker engine of {} answered what is not understood: {error}",
                    self.name
                ),
            )
        })
    }

    async fn read(&self, body: Incoming, cap: usize) -> Result<Bytes, CallError> {
        http_body_util::Limited::new(body, cap)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    CallError::exhausted(
                        "docker.answer-too-large",
                        format!(
                            "the Docker engine of {} answered more than {cap} bytes",
                            self.name
                        ),
                    )
                } else {
                    self.cut(&*error)
                }
            })
    }
}

impl Failure {
    /// The error of a call: with the engine's own words.
    pub(super) fn into_error(self, what: &str) -> CallError {
        match self {
            Self::Failed(error) => error,
            Self::Refused(refusal) => refusal.into_error(what),
        }
    }
}

impl Refusal {
    fn into_error(self, what: &str) -> CallError {
        let (kind, code) = match self.status.as_u16() {
            404 => (ErrorKind::NotFound, "docker.not-found"),
            409 => (ErrorKind::Conflict, "docker.conflict"),
            401 | 403 => (ErrorKind::Denied, "docker.denied"),
            400..=499 => (ErrorKind::Invalid, "docker.invalid"),
            _ if self.message.contains("no space left on device") => {
                (ErrorKind::Exhausted, "docker.disk-full")
            }
            _ => (ErrorKind::Unavailable, "docker.failed"),
        };
        let error = CallError::new(kind, code, format!("{what}: {}", self.message));
        if code == "docker.disk-full" {
            error.hint("make room on the engine's disk: `docker system prune`")
        } else {
            error
        }
    }
}

/// `{"message": "…"}`, or whatever it is, on one line.
fn refusal_text(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let text = match serde_json::from_slice::<Message>(bytes) {
        Ok(message) => message.message,
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    let text = text.trim();
    if text.is_empty() {
        "the engine gave no reason".to_owned()
    } else {
        text.to_owned()
    }
}

pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that is read while it is sent.
pub(super) fn streamed(
    stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Body {
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Whether something listens: tells a socket that is there from one that was
/// left over.
pub(super) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
