//! Against a real registry, and against servers that answer what the hosted
//! ones are documented to answer.

use std::sync::Arc;
use std::time::Duration;

use windlass_model::call::RegistryCall;
use windlass_model::reply::ManifestInfo;
use windlass_model::{CallError, ErrorKind, Reply, Text};
use windlass_tests::recorder::{HttpRecorder, Received, Reply as Answer};
use windlass_tests::require;

use super::Registry;
use crate::docker::testing::{World, config, login};

const PASSWORD: &str = "right-password-1";

async fn ask(registry: &Registry, call: RegistryCall) -> Result<Reply, CallError> {
    registry.call(&World::new().context(), call).await
}

/// A client with that login for the server.
fn client(server: &HttpRecorder, password: Option<&str>) -> Registry {
    let secrets = [("PASSWORD", password.unwrap_or_default())];
    let logins = match password {
        Some(_) => vec![login(&server.address(), "acme", "PASSWORD")],
        None => Vec::new(),
    };
    Registry::new(config(&secrets, logins)).expect("registry")
}

async fn may_push(server: &HttpRecorder, password: Option<&str>) -> Result<Reply, CallError> {
    let call = RegistryCall::MayPush {
        repository: format!("{}/acme/observer", server.address()),
    };
    ask(&client(server, password), call).await
}

/// A registry with a token server, like GHCR: `refusal` is what an upload
/// with a good token is answered.
fn like_ghcr(refusal: Option<(u16, &'static str)>) -> HttpRecorder {
    HttpRecorder::answering(move |request: &Received| {
        let host = request.header("host").unwrap_or_default().to_owned();
        let authorization = request.header("authorization").unwrap_or_default();
        if request.path.starts_with("/token") {
            // acme:right-password-1
            return if authorization.is_empty()
                || authorization == "Basic YWNtZTpyaWdodC1wYXNzd29yZC0x"
            {
                let token = if authorization.is_empty() { "anonymous" } else { "good" };
                Answer::new(200, format!("{{\"token\":\"{token}\"}}"))
            } else {
                Answer::new(
                    403,
                    r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#,
                )
            };
        }
        match authorization {
            "Bearer good" => {}
            _ => {
                let challenge = format!(
                    "Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:acme/observer:pull\""
                );
                return Answer::new(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
                )
                .header("WWW-Authenticate", &challenge);
            }
        }
        match (request.method.as_str(), refusal) {
            ("DELETE", _) => Answer::new(204, ""),
            (_, Some((status, body))) => Answer::new(status, body),
            _ => Answer::new(202, "").header(
                "Location",
                "/v2/acme/observer/blobs/uploads/1234?_state=x",
            ),
        }
    })
    .expect("server")
}

#[tokio::test]
async fn a_good_login_may_push_and_leaves_no_upload() {
    let server = like_ghcr(None);
    assert_eq!(may_push(&server, Some(PASSWORD)).await, Ok(Reply::Done));
    let requests = server.requests();
    let token = requests
        .iter()
        .find(|request| request.path.starts_with("/token"))
        .expect("a token was asked for");
    assert!(
        token
            .path
            .contains("scope=repository%3Aacme%2Fobserver%3Apull%2Cpush"),
        "{}",
        token.path
    );
    let last = requests.last().expect("requests");
    assert_eq!(
        (last.method.as_str(), last.path.as_str()),
        ("DELETE", "/v2/acme/observer/blobs/uploads/1234?_state=x")
    );
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (status, body, code) in [
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"permission_denied: The token provided does not match expected scopes."}]}"#,
            "registry.no-write-scope",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"installation not allowed to Write organization package"}]}"#,
            "registry.no-write-scope",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}"#,
            "registry.repository-not-linked",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"installation not allowed to Create organization package"}]}"#,
            "registry.organisation-forbids",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"Resource protected by organization SAML enforcement. You must grant your Personal Access token access to this organization."}]}"#,
            "registry.organisation-forbids",
        ),
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Action":"push"}]}]}"#,
            "registry.bad-login",
        ),
        (
            404,
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'observer' does not exist"}]}"#,
            "registry.not-found",
        ),
        (
            405,
            r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}"#,
            "registry.read-only",
        ),
        (429, "{}", "registry.rate-limited"),
        (502, "<html>bad gateway</html>", "registry.failed"),
        (200, "<html>a web page</html>", "registry.unexpected"),
    ] {
        let server = like_ghcr(Some((status, body)));
        let error = may_push(&server, Some(PASSWORD)).await.expect_err(body);
        assert_eq!(error.code, code, "{body}: {error:?}");
        assert!(!format!("{error:?}").contains(PASSWORD));
    }
}

#[tokio::test]
async fn logins_are_told_apart() {
    let server = like_ghcr(None);
    let error = may_push(&server, None).await.expect_err("none");
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Denied, "registry.not-logged-in")
    );
    let error = may_push(&server, Some("wrong-password-1"))
        .await
        .expect_err("wrong");
    assert_eq!(error.code, "registry.bad-login", "{error:?}");
    assert!(!format!("{error:?}").contains("wrong-password-1"));
}

#[tokio::test]
async fn a_missing_scope_in_the_second_challenge_is_one() {
    // Docker Hub gives a token with less than was asked for.
    let server = HttpRecorder::answering(|request: &Received| {
        let host = request.header("host").unwrap_or_default();
        if request.path.starts_with("/token") {
            return Answer::new(200, r#"{"access_token":"less"}"#);
        }
        Answer::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        )
        .header(
            "WWW-Authenticate",
            &format!(
                "Bearer realm=\"http://{host}/token\",service=\"x\",error=\"insufficient_scope\""
            ),
        )
    })
    .expect("server");
    let error = may_push(&server, Some(PASSWORD)).await.expect_err("scope");
    assert_eq!(error.code, "registry.no-write-scope", "{error:?}");
}

#[tokio::test]
async fn passwords_do_not_leave_the_machine_without_tls() {
    for realm in [
        "http://192.0.2.1/token",
        "ftp://127.0.0.1/token",
        "http://169.254.169.254/token",
    ] {
        let server = HttpRecorder::answering(move |_| {
            Answer::new(401, "").header(
                "WWW-Authenticate",
                &format!("Bearer realm=\"{realm}\",service=\"x\""),
            )
        })
        .expect("server");
        let error = may_push(&server, Some(PASSWORD)).await.expect_err(realm);
        assert_eq!(error.code, "registry.unsafe-token-server", "{realm}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("port");
    let registry = Registry::new(config(&[], Vec::new())).expect("registry");
    for (repository, why) in [
        (format!("{port}/acme/x"), "refused"),
        ("no-such-registry.invalid/acme/x".to_owned(), "DNS"),
    ] {
        let error = ask(&registry, RegistryCall::MayPush { repository })
            .await
            .expect_err("nobody");
        assert_eq!(
            (error.kind, error.code.as_str()),
            (ErrorKind::Unavailable, "registry.unreachable")
        );
        assert!(error.message.contains(why), "{error:?}");
    }
    let call = RegistryCall::MayPush {
        repository: "ghcr.io/Acme/Observer".into(),
    };
    let error = ask(&registry, call).await.expect_err("upper case");
    assert_eq!(error.code, "registry.invalid-name");
}

#[tokio::test]
async fn a_registry_that_says_nothing_ends_with_the_deadline() {
    let server = HttpRecorder::answering(|_| Answer::new(200, "").after(Duration::from_secs(5)))
        .expect("server");
    let registry = client(&server, None);
    let mut context = World::new().context();
    context.deadline = tokio::time::Instant::now() + Duration::from_millis(200);
    let call = RegistryCall::Tags {
        repository: format!("{}/acme/x", server.address()),
    };
    let error = registry
        .call(&context, call.clone())
        .await
        .expect_err("silence");
    assert_eq!(error.code, "registry.deadline");
    let context = World::new().context();
    context.cancel.cancel();
    assert_eq!(
        registry.call(&context, call).await,
        Err(CallError::cancelled())
    );
}

#[tokio::test]
async fn pages_of_tags_are_followed_but_not_elsewhere() {
    let server = HttpRecorder::answering(|request: &Received| match request.path.as_str() {
        "/v2/acme/x/tags/list?n=1000" => Answer::new(200, r#"{"name":"acme/x","tags":["1","2"]}"#)
            .header("Link", "</v2/acme/x/tags/list?last=2>; rel=\"next\""),
        "/v2/acme/x/tags/list?last=2" => Answer::new(200, r#"{"tags":["3"]}"#)
            .header("Link", "<http://192.0.2.1/v2/more>; rel=\"next\""),
        _ => Answer::new(404, ""),
    })
    .expect("server");
    let call = RegistryCall::Tags {
        repository: format!("{}/acme/x", server.address()),
    };
    assert_eq!(
        ask(&client(&server, None), call).await,
        Ok(Reply::Texts(vec!["1".into(), "2".into(), "3".into()]))
    );
    // One that pages for ever.
    let endless = HttpRecorder::answering(|_| {
        Answer::new(200, r#"{"tags":["1"]}"#)
            .header("Link", "</v2/acme/x/tags/list?again>; rel=\"next\"")
    })
    .expect("server");
    let call = RegistryCall::Tags {
        repository: format!("{}/acme/x", endless.address()),
    };
    let error = ask(&client(&endless, None), call)
        .await
        .expect_err("endless");
    assert_eq!(error.kind, ErrorKind::Exhausted);
}

#[tokio::test]
async fn manifests_tell_their_platforms() {
    const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
        {"digest":"sha256:a","platform":{"os":"linux","architecture":"amd64"}},
        {"digest":"sha256:b","platform":{"os":"linux","architecture":"arm64"}},
        {"digest":"sha256:c","platform":{"os":"unknown","architecture":"unknown"}}]}"#;
    let server = HttpRecorder::answering(|request: &Received| match request.path.as_str() {
        "/v2/acme/x/manifests/none" => {
            Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#)
        }
        _ => Answer::new(200, INDEX),
    })
    .expect("server");
    let registry = client(&server, None);
    let manifest = |reference: String| RegistryCall::Manifest {
        reference: Text::from(reference),
    };
    let digest = format!(
        "sha256:{}",
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest(INDEX))
    );
    assert_eq!(
        ask(
            &registry,
            manifest(format!("{}/acme/x:1", server.address()))
        )
        .await,
        Ok(Reply::Manifest(Some(ManifestInfo {
            digest,
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
        })))
    );
    let none = manifest(format!("{}/acme/x:none", server.address()));
    assert_eq!(ask(&registry, none).await, Ok(Reply::Manifest(None)));
    // Another content than the digest names.
    let wrong = manifest(format!(
        "{}/acme/x@sha256:{}",
        server.address(),
        "0".repeat(64)
    ));
    let error = ask(&registry, wrong).await.expect_err("other content");
    assert_eq!(error.code, "registry.wrong-content");
}

#[tokio::test]
async fn a_real_registry_with_a_password() {
    require!(Registry);
    let server = windlass_tests::registry::Registry::start().expect("registry");
    let registry = |password: &str| {
        let config = config(
            &[("PASSWORD", password)],
            vec![login(&server.address(), server.user(), "PASSWORD")],
        );
        Arc::new(Registry::new(config).expect("registry"))
    };
    let may_push = || RegistryCall::MayPush {
        repository: server.repository("app"),
    };
    assert_eq!(
        ask(&registry(server.password()), may_push()).await,
        Ok(Reply::Done)
    );
    let error = ask(&registry("wrong-password-1"), may_push())
        .await
        .expect_err("wrong");
    assert_eq!(error.code, "registry.bad-login");
    let anonymous = Registry::new(config(&[], Vec::new())).expect("registry");
    let error = ask(&anonymous, may_push()).await.expect_err("anonymous");
    assert_eq!(error.code, "registry.not-logged-in");
    let manifest = RegistryCall::Manifest {
        reference: format!("{}:1", server.repository("app")).as_str().into(),
    };
    assert_eq!(
        ask(&registry(server.password()), manifest).await,
        Ok(Reply::Manifest(None))
    );
}
