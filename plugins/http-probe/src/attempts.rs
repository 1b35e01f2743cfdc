//! What was tried, and the error that tells of it.

use windlass_sdk::http::Response;
use windlass_sdk::{Error, format};

/// Bytes of the last body that the error shows.
const BODY: usize = 2_048;
/// Attempts that the error lists; those in the middle of more are left out.
const LISTED: usize = 24;

/// The attempts so far.
pub(crate) struct Attempts {
    start: u64,
    /// Milliseconds after the start, and what was said.
    list: Vec<(u64, String)>,
    body: String,
}

impl Attempts {
    pub(crate) fn new(start: u64) -> Self {
        Self {
            start,
            list: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn elapsed(&self, now: u64) -> u64 {
        now.saturating_sub(self.start)
    }

    pub(crate) fn push(&mut self, begun: u64, said: String) {
        self.list.push((self.elapsed(begun), said));
    }

    /// Keeps the start of the body; the last one is shown.
    pub(crate) fn body(&mut self, response: &Response) {
        let end = response.body.len().min(BODY);
        self.body = String::from_utf8_lossy(&response.body[..end])
            .trim_end()
            .to_owned();
        if end < response.body.len() || response.truncated {
            self.body.push('…');
        }
    }

    pub(crate) fn error(&self, url: &str, via: Option<&str>) -> Error {
        let place = via.map_or_else(
            || "this machine".to_owned(),
            |target| format!("target {target}"),
        );
        let mut message = format!(
            "{url} did not answer as expected in {}, asked from {place}:",
            format::count(self.list.len(), "attempt")
        );
        let hidden = self.list.len().saturating_sub(LISTED);
        let width = self.list.len().to_string().len();
        for (index, (at, said)) in self.list.iter().enumerate() {
            if hidden > 0 && index == LISTED / 2 {
                message.push_str(&format!("\n  … {hidden} more …"));
            }
            if hidden > 0 && index >= LISTED / 2 && index < LISTED / 2 + hidden {
                continue;
            }
            let number = index + 1;
            message.push_str(&format!(
                "\n  {number:>width$}  +{}  {said}",
                format::elapsed(*at)
            ));
        }
        if self.body.is_empty() {
            message.push_str("\nno body was received");
        } else {
            message.push_str("\nlast body:\n");
            message.push_str(&format::indent(&self.body));
        }
        Error::unavailable("http-probe.no-success", message).with_hint(
            "look at the service's own log; if it only needs longer, raise `attempts` or `every`",
        )
    }
}

#[cfg(test)]
mod tests {
    use windlass_sdk::http::Response;

    use super::Attempts;

    fn response(body: &str) -> Response {
        Response {
            status: 503,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
            truncated: false,
        }
    }

    #[test]
    fn lists_each_attempt_and_the_last_body() {
        let mut attempts = Attempts::new(1_000);
        attempts.push(1_000, "connection refused".into());
        attempts.push(6_000, "503".into());
        attempts.body(&response("starting\n"));
        let error = attempts.error("http://localhost/health", Some("prod_1"));
        assert_eq!(
            error.message,
            "http://localhost/health did not answer as expected in 2 attempts, asked from target prod_1:\n\
             \x20 1  +0 ms  connection refused\n\
             \x20 2  +5.0 s  503\n\
             last body:\n\
             \x20 starting"
        );
    }

    #[test]
    fn long_lists_and_bodies_are_capped() {
        let mut attempts = Attempts::new(0);
        for _ in 0..500 {
            attempts.push(0, "x".into());
        }
        attempts.body(&response(&"y".repeat(10_000)));
        let error = attempts.error("u", None);
        assert!(
            error.message.contains("\n  … 476 more …\n"),
            "{}",
            error.message
        );
        assert_eq!(error.message.matches("  x\n").count(), 24);
        assert!(error.message.len() < 3_500);
    }
}
