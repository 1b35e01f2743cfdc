//! Why a request got no answer, in words for people and without its URL,
//! which may itself be a secret.

use std::error::Error;
use std::io::ErrorKind as Io;

use windlass_model::CallError;

/// A reason and whether another attempt could help.
#[derive(Debug)]
pub(crate) struct Reason {
    pub(crate) code: &'static str,
    pub(crate) text: String,
    pub(crate) retryable: bool,
}

impl Reason {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let make = |code, text: &str, retryable| Self {
            code,
            text: text.to_owned(),
            retryable,
        };
        // Whether the other side may have taken the request makes two codes.
        let broken = if error.is_connect() {
            "http.connection"
        } else {
            "http.lost"
        };
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        let mut dns = false;
        let mut last = String::new();
        while let Some(cause) = next {
            if let Some(tls) = rustls_error(cause) {
                return make("http.tls", &format!("TLS: {tls}"), false);
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                let known = match io.kind() {
                    Io::ConnectionRefused => Some("connection refused"),
                    Io::ConnectionReset => Some("connection reset"),
                    Io::ConnectionAborted => Some("connection aborted"),
                    Io::BrokenPipe => Some("connection closed by the other side"),
                    Io::UnexpectedEof => Some("connection closed before the answer was complete"),
                    Io::HostUnreachable => Some("host unreachable"),
                    Io::NetworkUnreachable => Some("network unreachable"),
                    Io::TimedOut => Some("connection timed out"),
                    _ => None,
                };
                if let Some(text) = known {
                    return make(broken, text, true);
                }
            }
            if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
                if hyper.is_incomplete_message() {
                    return make(
                        broken,
                        "connection closed before the answer was complete",
                        true,
                    );
                }
                if hyper.is_parse() || hyper.is_parse_too_large() {
                    return make(
                        "http.not-http",
                        "what answers there does not speak HTTP",
                        false,
                    );
                }
            }
            last = cause.to_string();
            dns |= last.contains("dns error") || last.contains("failed to lookup address");
            next = cause.source();
        }
        if error.is_timeout() {
            return make("http.timeout", "no answer in time", true);
        }
        if dns {
            return make("http.dns", "the name is not known to DNS", true);
        }
        if last.is_empty() {
            last = "the exchange failed".to_owned();
        }
        Self {
            code: "http.failed",
            text: last,
            retryable: error.is_connect() || error.is_body(),
        }
    }

    /// `what` names the other side, as far as it may be told.
    pub(crate) fn into_error(self, what: &str) -> CallError {
        let message = format!("no answer from {what}: {}", self.text);
        let error = if self.code == "http.timeout" {
            CallError::timeout(self.code, message)
        } else {
            CallError::unavailable(self.code, message)
        };
        let error = if self.code == "http.tls" {
            error.hint("check the certificate, its names and its dates; a private authority goes into the machine's root certificates, or SSL_CERT_FILE")
        } else {
            error
        };
        if self.retryable {
            error.retryable()
        } else {
            error
        }
    }
}

/// rustls's errors travel inside an `io::Error`, or inside two; and an
/// `io::Error` does not name what it wraps as its source.
fn rustls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let inner = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    rustls_error(inner)
}
