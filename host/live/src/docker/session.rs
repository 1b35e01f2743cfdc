//! A BuildKit session: the engine calls back over it for secrets and logins,
//! so neither is ever written to a disk or into the context.
//!
//! POST `/session`, upgraded to HTTP/2 without TLS, on which we serve gRPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::health;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::filesync::v1::auth_server::{Auth, AuthServer};
use bollard_buildkit_proto::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Response, Status};
use windlass_model::CallError;
use zeroize::Zeroizing;

use super::engine::Engine;
use crate::registry::Registry;

/// An engine that accepts the request and never upgrades.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type BuildSecrets = HashMap<String, Zeroizing<Vec<u8>>>;

/// Serves until dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Session {
    pub(super) async fn open(
        engine: &Engine,
        secrets: BuildSecrets,
        registry: Arc<Registry>,
    ) -> Result<Self, CallError> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        tokio::time::timeout(
            UPGRADE_TIMEOUT,
            Self::connect(engine, id, secrets, registry),
        )
        .await
        .unwrap_or_else(|_| {
            Err(failed(engine, "it did not upgrade the connection in time").retryable())
        })
    }

    async fn connect(
        engine: &Engine,
        id: String,
        secrets: BuildSecrets,
        registry: Arc<Registry>,
    ) -> Result<Self, CallError> {
        let wire = engine
            .endpoint
            .connect()
            .await
            .map_err(|error| engine.unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(wire))
                .await
                .map_err(|error| engine.cut(&error))?;
        let driver = tokio::spawn(async move {
            // How it ends shows in the build.
            let _ = connection.with_upgrades().await;
        });
        let mut session = Self {
            id,
            tasks: vec![driver],
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/session")
            .header(HOST, "docker")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "h2c")
            .header("X-Docker-Expose-Session-Uuid", &session.id)
            .header("X-Docker-Expose-Session-Name", "windlass")
            .header("X-Docker-Expose-Session-Sharedkey", "");
        for exposed in [
            "/grpc.health.v1.Health/Check",
            "/moby.buildkit.secrets.v1.Secrets/GetSecret",
            "/moby.filesync.v1.Auth/Credentials",
        ] {
            request = request.header("X-Docker-Expose-Session-Grpc-Method", exposed);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| failed(engine, &error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| engine.cut(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(
                engine,
                &format!(
                    "it answered {} where a session should begin",
                    response.status()
                ),
            )
            .hint("DOCKER_BUILDKIT=0 builds with the classic builder"));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| engine.cut(&error))?;
        let routes = Routes::new(SecretsServer::new(FromMemory(secrets)))
            .add_service(AuthServer::new(Logins(registry)))
            .add_service(health::health_server::HealthServer::new(Healthy))
            .prepare();
        let service = TowerToHyperService::new(routes);
        session.tasks.push(tokio::spawn(async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(upgraded, service)
                .await;
        }));
        Ok(session)
    }
}

fn failed(engine: &Engine, why: &str) -> CallError {
    CallError::unavailable(
        "docker.session",
        format!(
            "no BuildKit session with the Docker engine of {}: {why}",
            engine.name
        ),
    )
}

struct FromMemory(BuildSecrets);

#[tonic::async_trait]
impl Secrets for FromMemory {
    async fn get_secret(
        &self,
        request: tonic::Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.0.get(&id) {
            Some(bytes) => Ok(Response::new(GetSecretResponse {
                data: bytes.to_vec(),
            })),
            None => Err(Status::not_found(format!("no build secret {id}"))),
        }
    }
}

/// Logins for base images.
struct Logins(Arc<Registry>);

#[tonic::async_trait]
impl Auth for Logins {
    async fn credentials(
        &self,
        request: tonic::Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let login = self
            .0
            .login(&host)
            .await
            .map_err(|error| Status::unavailable(error.message))?;
        Ok(Response::new(match login {
            // BuildKit takes a refresh token as a secret without a user.
            Some(login) => CredentialsResponse {
                username: if login.identity_token {
                    String::new()
                } else {
                    login.username.clone()
                },
                secret: login.secret.to_string(),
            },
            None => CredentialsResponse::default(),
        }))
    }

    async fn fetch_token(
        &self,
        _: tonic::Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("use Credentials"))
    }

    async fn get_token_authority(
        &self,
        _: tonic::Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("use Credentials"))
    }

    async fn verify_token_authority(
        &self,
        _: tonic::Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("use Credentials"))
    }
}

/// BuildKit asks every few seconds, and ends a session that does not answer.
struct Healthy;

#[tonic::async_trait]
impl health::health_server::Health for Healthy {
    async fn check(
        &self,
        _: tonic::Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        Ok(Response::new(health::HealthCheckResponse {
            status: health::health_check_response::ServingStatus::Serving.into(),
        }))
    }

    async fn list(
        &self,
        _: tonic::Request<health::HealthListRequest>,
    ) -> Result<Response<health::HealthListResponse>, Status> {
        Err(Status::unimplemented("use Check"))
    }

    type WatchStream = futures_util::stream::Empty<Result<health::HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: tonic::Request<health::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("use Check"))
    }
}
