//! Against servers on loopback.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass_model::call::{HttpBody, HttpCall};
use windlass_model::reply::Response;
use windlass_model::{Blob, CallError, ErrorKind, Reply, Text};
use windlass_tests::recorder::{HttpRecorder, Received, Reply as Answer};

use super::Http;
use crate::docker::testing::{World, config};
use crate::ssh::Connections;

fn client(secrets: &[(&str, &str)]) -> Http {
    let config = config(secrets, Vec::new());
    let ssh = Arc::new(Connections::new(Arc::clone(&config)));
    Http::new(config, ssh).expect("client")
}

fn get(url: impl Into<Text>) -> HttpCall {
    HttpCall {
        method: "GET".into(),
        url: url.into(),
        headers: Vec::new(),
        body: HttpBody::Empty,
        timeout_ms: 5000,
        max_redirects: 0,
        via: None,
        max_body: 64 * 1024,
    }
}

async fn send(http: &Http, call: HttpCall) -> Result<Response, CallError> {
    match http.call(&World::new().context(), call).await? {
        Reply::Response(response) => Ok(response),
        other => panic!("a request answers {}", other.kind()),
    }
}

/// A server that says these bytes to whoever connects, and hangs up.
fn says(bytes: &'static [u8]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(bytes);
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn a_request_goes_out_as_told_and_its_answer_comes_back() {
    let server = HttpRecorder::answering(|_| {
        Answer::new(201, r#"{"ok":true}"#).header("X-Mixed-Case", "Yes")
    })
    .expect("server");
    let http = client(&[("TOKEN", "s3cr3t-token"), ("PATH_SECRET", "T0/B0/xyz")]);
    let mut url = Text::from(server.url("/hook/"));
    url.append(Text::secret("PATH_SECRET"));
    let mut authorization = Text::from("Bearer ");
    authorization.append(Text::secret("TOKEN"));
    let call = HttpCall {
        method: "POST".into(),
        headers: vec![
            ("Authorization".into(), authorization),
            ("X-Twice".into(), "1".into()),
            ("X-Twice".into(), "2".into()),
        ],
        body: HttpBody::Text("{\"text\":\"ä\"}".into()),
        ..get(url)
    };
    let response = send(&http, call).await.expect("answer");
    assert_eq!((response.status, response.truncated), (201, false));
    assert_eq!(response.body, br#"{"ok":true}"#);
    assert!(
        response
            .headers
            .contains(&("x-mixed-case".into(), "Yes".into()))
    );
    let got = &server.requests()[0];
    assert_eq!(
        (got.method.as_str(), got.path.as_str()),
        ("POST", "/hook/T0/B0/xyz")
    );
    assert_eq!(got.header("authorization"), Some("Bearer s3cr3t-token"));
    assert_eq!(got.text(), "{\"text\":\"ä\"}");
    assert_eq!(
        got.headers
            .iter()
            .filter(|(name, _)| name == "x-twice")
            .count(),
        2
    );
    assert!(
        got.header("user-agent")
            .expect("agent")
            .starts_with("windlass/")
    );
}

#[tokio::test]
async fn a_blob_streams_as_the_body() {
    let server = HttpRecorder::answering(|_| Answer::new(204, "")).expect("server");
    let world = World::new();
    let file = tempfile::NamedTempFile::new().expect("file");
    let bytes = vec![7_u8; 300_000];
    std::fs::write(file.path(), &bytes).expect("written");
    let digest = Blob::from_bytes(bytes.clone().into()).reference.clone();
    let blob = world
        .blobs
        .add(Blob::from_file(file.path().into(), false, digest));
    let call = HttpCall {
        method: "PUT".into(),
        body: HttpBody::Blob(blob),
        ..get(server.url("/up"))
    };
    let reply = client(&[]).call(&world.context(), call).await;
    assert!(matches!(reply, Ok(Reply::Response(response)) if response.status == 204));
    let got = &server.requests()[0];
    assert_eq!(got.header("content-length"), Some("300000"));
    assert!(got.body == bytes);
}

#[tokio::test]
async fn redirects_stay_within_the_origin() {
    let elsewhere = HttpRecorder::answering(|_| Answer::new(200, "elsewhere")).expect("server");
    let away = elsewhere.url("/away");
    let server = HttpRecorder::answering(move |request: &Received| match request.path.as_str() {
        "/start" => Answer::new(302, "").header("Location", "/next"),
        "/next" => Answer::new(200, request.method.clone()),
        "/away" => Answer::new(307, "").header("Location", &away),
        "/loop" => Answer::new(302, "").header("Location", "/loop"),
        _ => Answer::new(404, ""),
    })
    .expect("server");
    let http = client(&[("TOKEN", "s3cr3t-token")]);
    let follow = |path: &str| HttpCall {
        method: "POST".into(),
        body: HttpBody::Text("x".into()),
        headers: vec![("Authorization".into(), Text::secret("TOKEN"))],
        max_redirects: 3,
        ..get(server.url(path))
    };
    let response = send(&http, follow("/start")).await.expect("followed");
    assert_eq!(
        (response.status, response.body.as_slice()),
        (200, &b"GET"[..])
    );
    // Not followed: the answer itself comes back, and no secret goes there.
    let response = send(&http, follow("/away")).await.expect("not followed");
    assert_eq!(response.status, 307);
    assert!(elsewhere.requests().is_empty());
    let response = send(&http, follow("/loop")).await.expect("loop");
    assert_eq!(response.status, 302);
    let response = send(&http, get(server.url("/start")))
        .await
        .expect("none asked for");
    assert_eq!(response.status, 302);
}

#[tokio::test]
async fn bodies_are_cut_and_not_waited_for() {
    let server =
        HttpRecorder::answering(|_| Answer::new(200, vec![b'x'; 200_000])).expect("server");
    let call = HttpCall {
        max_body: 1000,
        ..get(server.url("/"))
    };
    let response = send(&client(&[]), call).await.expect("answer");
    assert!(response.truncated && response.body.len() == 1000);
    let call = HttpCall {
        max_body: 200_000,
        ..get(server.url("/"))
    };
    let response = send(&client(&[]), call).await.expect("answer");
    assert!(!response.truncated && response.body.len() == 200_000);
    let call = HttpCall {
        method: "HEAD".into(),
        ..get(server.url("/"))
    };
    let response = send(&client(&[]), call).await.expect("answer");
    assert_eq!((response.status, response.body.len()), (200, 0));
}

#[tokio::test]
async fn failures_say_why() {
    let http = client(&[]);
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("port");
    for (url, code, why) in [
        (format!("http://{free}/"), "http.connection", "refused"),
        ("http://no-such-host.invalid/".into(), "http.dns", "DNS"),
        (says(b""), "http.lost", "closed"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "http.not-http", "HTTP"),
        (
            says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"),
            "http.lost",
            "closed",
        ),
        (
            says(b"HTTP/1.1 400 Bad\r\n\r\n").replace("http:", "https:"),
            "http.tls",
            "TLS",
        ),
    ] {
        let error = send(&http, get(url.as_str())).await.expect_err(&url);
        assert_eq!(
            (error.kind, error.code.as_str()),
            (ErrorKind::Unavailable, code),
            "{url}: {error:?}"
        );
        assert!(error.message.contains(why), "{error:?}");
    }
}

#[tokio::test]
async fn time_runs_out_and_cancel_cuts() {
    let server =
        HttpRecorder::answering(|_| Answer::new(200, "late").after(Duration::from_secs(4)))
            .expect("server");
    let http = client(&[]);
    let began = Instant::now();
    let call = HttpCall {
        timeout_ms: 150,
        ..get(server.url("/?token=abc"))
    };
    let error = send(&http, call).await.expect_err("late");
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Timeout, "http.timeout")
    );
    assert!(!error.message.contains("abc"), "{}", error.message);
    let context = World::new().context();
    let cancel = context.cancel.clone();
    let (result, ()) = tokio::join!(http.call(&context, get(server.url("/"))), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    });
    assert_eq!(result, Err(CallError::cancelled()));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn what_must_not_be_asked_is_refused() {
    let http = client(&[("HOOK", "https://hooks.invalid/T0/secret-part")]);
    for (url, code) in [
        (
            "http://169.254.169.254/latest/meta-data",
            "http.metadata-address",
        ),
        ("http://[::ffff:a9fe:a9fe]/", "http.metadata-address"),
        ("file:///etc/passwd", "http.invalid-url"),
        ("nonsense", "http.invalid-url"),
    ] {
        assert_eq!(send(&http, get(url)).await.expect_err(url).code, code);
    }
    let via = HttpCall {
        via: Some("prod_1".into()),
        ..get("http://169.254.169.254/")
    };
    assert_eq!(
        send(&http, via).await.expect_err("via").code,
        "http.metadata-address"
    );
    for name in ["Host", "Content-Length", "Transfer-Encoding", "a b"] {
        let call = HttpCall {
            headers: vec![(name.into(), "x".into())],
            ..get("http://127.0.0.1:1/")
        };
        assert_eq!(
            send(&http, call).await.expect_err(name).code,
            "http.invalid-header"
        );
    }
    // The URL is the secret: not a part of it is told.
    let error = send(&http, get(Text::secret("HOOK")))
        .await
        .expect_err("DNS");
    assert!(!format!("{error:?}").contains("secret-part"), "{error:?}");
    assert!(!error.message.contains("T0"), "{error:?}");
}

#[tokio::test]
async fn a_socket_stands_for_the_host() {
    let server = HttpRecorder::answering(|_| Answer::new(200, "healthy")).expect("server");
    let address = server.address();
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("via.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("socket");
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("accepted");
        let mut far = tokio::net::TcpStream::connect(address).await.expect("far");
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    // A name that only the target knows.
    let url = reqwest::Url::parse("http://app.internal:8000/health").expect("URL");
    let response = super::client(&url, &super::Route::Socket(path.clone()))
        .expect("client")
        .get(url)
        .send()
        .await
        .expect("answer");
    assert_eq!(response.text().await.expect("body"), "healthy");
    assert_eq!(
        server.requests()[0].header("host"),
        Some("app.internal:8000")
    );

    // A forward whose far side is closed: the connection ends at once.
    drop(server);
    let url = reqwest::Url::parse("http://app.internal:8000/health").expect("URL");
    let error = super::client(&url, &super::Route::Socket(path))
        .expect("client")
        .get(url)
        .send()
        .await
        .expect_err("nobody");
    let reason = super::Reason::of(&error);
    assert!(reason.retryable, "{reason:?}");
    assert_eq!(reason.code, "http.lost");
}

#[tokio::test]
async fn via_a_target_localhost_is_the_target() {
    windlass_tests::require!(Sshd);
    let sshd = windlass_tests::Sshd::start().expect("sshd");
    let server = HttpRecorder::answering(|_| Answer::new(200, "healthy")).expect("server");
    let world = World::over(&sshd, &[]);
    let config = config(&[], Vec::new());
    let http = Http::new(config, Arc::clone(&world.ssh)).expect("client");
    let port = server
        .address()
        .rsplit_once(':')
        .expect("port")
        .1
        .to_owned();
    let probe = |path: &str| HttpCall {
        via: Some(world.engine.clone()),
        max_redirects: 3,
        ..get(format!("http://localhost:{port}{path}").as_str())
    };
    for _ in 0..2 {
        let response = send(&http, probe("/health")).await.expect("answer");
        assert_eq!(response.body, b"healthy");
    }
    let host = format!("localhost:{port}");
    assert_eq!(server.requests()[1].header("host"), Some(host.as_str()));
    assert_eq!(sshd.logins(), 1);

    // Nobody listens there: told as such, and worth another attempt.
    drop(server);
    let error = send(&http, probe("/health")).await.expect_err("nobody");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.retryable, "{error:?}");
    world.ssh.close().await;
}
