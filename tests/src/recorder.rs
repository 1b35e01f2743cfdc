//! An HTTP server on loopback that records what it is asked and answers by script:
//! Slack, Discord, GHCR's refusals, a health endpoint that recovers.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// A request that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// `GET`, `POST`, …
    pub method: String,
    /// Path with query, as sent.
    pub path: String,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The body, whole; chunks are put together.
    pub body: Vec<u8>,
}

impl Received {
    /// First header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    hang_up: bool,
}

impl Reply {
    /// A status and a body, which is JSON if it starts like it.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let kind = match body.first() {
            Some(b'{' | b'[') => "application/json",
            _ => "text/plain; charset=utf-8",
        };
        let headers = vec![("content-type".to_owned(), kind.to_owned())];
        Self {
            status,
            headers,
            body,
            delay: Duration::ZERO,
            hang_up: false,
        }
    }

    /// Closes the connection without an answer.
    pub fn hang_up() -> Self {
        Self {
            hang_up: true,
            ..Self::new(0, "")
        }
    }

    /// Adds a header, or replaces it.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the answer.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Handler = Box<dyn Fn(&Received) -> Reply + Send + Sync>;

struct Shared {
    handler: Handler,
    received: Mutex<Vec<Received>>,
    arrived: Condvar,
    stopping: AtomicBool,
}

/// A running server; on drop its port is closed.
pub struct HttpRecorder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for HttpRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRecorder")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl HttpRecorder {
    /// Answers every request with 200 and `ok`, as Slack's webhooks do.
    pub fn start() -> Result<Self> {
        Self::answering(|_| Reply::new(200, "ok"))
    }

    /// Answers the first request with the first reply, and so on; the last reply
    /// serves all further requests.
    pub fn script(replies: impl IntoIterator<Item = Reply>) -> Result<Self> {
        let replies: Mutex<VecDeque<Reply>> = Mutex::new(replies.into_iter().collect());
        Self::answering(move |_| {
            let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
            let next = if replies.len() > 1 {
                replies.pop_front()
            } else {
                replies.front().cloned()
            };
            next.unwrap_or_else(|| Reply::new(500, "the script of this server is empty"))
        })
    }

    /// Answers with what `handler` makes of a request.
    pub fn answering(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(Error::system("listen for the HTTP recorder"))?;
        let address = listener
            .local_addr()
            .map_err(Error::system("read its address"))?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            received: Mutex::default(),
            arrived: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let serving = Arc::clone(&serving);
                thread::spawn(move || serve(&stream, &serving));
            }
        });
        Ok(Self { address, shared })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What arrived so far.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.lock().clone()
    }

    /// Waits until `count` requests have arrived; gives what is there at the limit.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Received> {
        let deadline = Instant::now() + limit;
        let mut received = self.shared.lock();
        while received.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            received = self
                .shared
                .arrived
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        received.clone()
    }
}

impl Drop for HttpRecorder {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The accept blocks: one connection of our own wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the requests of one connection. A broken one ends it: the client says so.
fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Ok(Some(received)) = receive(&mut reader, stream) {
        let reply = (shared.handler)(&received);
        let head_only = received.method == "HEAD";
        let close = received
            .header("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        shared.lock().push(received);
        shared.arrived.notify_all();
        thread::sleep(reply.delay);
        if reply.hang_up || answer(stream, &reply, head_only).is_err() || close {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn receive(reader: &mut impl BufRead, mut stream: &TcpStream) -> io::Result<Option<Received>> {
    let Some(first) = line(reader)? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    while let Some(line) = line(reader)?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let mut received = Received {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    if received.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if received
        .header("transfer-encoding")
        .is_some_and(|value| value.contains("chunked"))
    {
        loop {
            let size = line(reader)?.unwrap_or_default();
            let size = size.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size.trim(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            reader.take(size).read_to_end(&mut received.body)?;
            line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = received
        .header("content-length")
        .and_then(|v| v.parse().ok())
    {
        reader.take(length).read_to_end(&mut received.body)?;
    }
    Ok(Some(received))
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn answer(mut stream: &TcpStream, reply: &Reply, head_only: bool) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !(reply.status == 204 || reply.status == 304) {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if !head_only {
        stream.write_all(&reply.body)?;
    }
    stream.flush()
}
