//! Accepts connections and answers one request on each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::settings::Settings;
use crate::signals::Termination;

/// A client that sends nothing must not hold a thread for ever.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long requests in flight get after SIGTERM.
const DRAIN: Duration = Duration::from_secs(3);
/// More than this of a request's head is not read.
const HEAD_LIMIT: u64 = 16 * 1024;

/// Serves until a termination signal, then lets the requests in flight finish.
pub fn run(settings: Settings, termination: Termination) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, settings.port))?;
    let address = listener.local_addr()?;
    eprintln!("observer {} listens on {address}", settings.version);

    let stopping = Arc::new(AtomicBool::new(false));
    let in_flight = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let settings = Arc::new(settings);

    let flag = Arc::clone(&stopping);
    thread::spawn(move || {
        let signal = termination.wait();
        eprintln!("observer: {signal}, finishing");
        flag.store(true, Ordering::SeqCst);
        // The accept below blocks: one connection of our own wakes it.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())));
    });

    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let (settings, in_flight) = (Arc::clone(&settings), Arc::clone(&in_flight));
        in_flight.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            if let Err(problem) = answer(&stream, &settings, started) {
                eprintln!("observer: a request failed: {problem}");
            }
            in_flight.fetch_sub(1, Ordering::SeqCst);
        });
    }

    let deadline = Instant::now() + DRAIN;
    while in_flight.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn answer(stream: &TcpStream, settings: &Settings, started: Instant) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut head = BufReader::new(stream.take(HEAD_LIMIT));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, kind, body) = route(&request, settings, started.elapsed());
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len(),
    )?;
    stream.flush()
}

/// A request line, the settings and the time since the start give status, type and body.
fn route(request: &str, settings: &Settings, up: Duration) -> (u16, &'static str, String) {
    let mut words = request.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if method != "GET" {
        return (405, "text/plain", "only GET is served here\n".to_owned());
    }
    match target.split('?').next().unwrap_or("") {
        "/" => (
            200,
            "text/plain",
            format!("observer {} is watching\n", settings.version),
        ),
        "/health" => {
            let healthy = !settings.unhealthy && up >= settings.ready_after;
            let (status, word) = if healthy {
                (200, "ok")
            } else {
                (503, "unhealthy")
            };
            let version = json_string(&settings.version);
            let body = format!("{{\"status\":\"{word}\",\"version\":{version}}}\n");
            (status, "application/json", body)
        }
        _ => (404, "text/plain", "here are / and /health\n".to_owned()),
    }
}

fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{json_string, route};
    use crate::settings::Settings;

    fn settings() -> Settings {
        Settings::from_env(|_| None).expect("defaults")
    }

    #[test]
    fn health_waits_until_it_is_ready() {
        let settings = Settings {
            ready_after: Duration::from_secs(2),
            ..settings()
        };
        let at = |seconds| {
            route(
                "GET /health HTTP/1.1",
                &settings,
                Duration::from_secs(seconds),
            )
            .0
        };
        assert_eq!((at(1), at(2)), (503, 200));
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let status = |line: &str| route(line, &settings(), Duration::ZERO).0;
        assert_eq!(status("POST /health HTTP/1.1"), 405);
        assert_eq!(status("GET /admin HTTP/1.1"), 404);
        assert_eq!(status("GET /health?x=1 HTTP/1.1"), 200);
        assert_eq!(status(""), 405);
    }

    #[test]
    fn a_version_cannot_break_out_of_the_json() {
        assert_eq!(json_string("1\"\\\n"), r#""1\"\\\u000a""#);
    }
}
