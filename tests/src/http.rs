//! A plain HTTP/1.1 client for loopback: one request, one connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Nothing on loopback takes longer; what does hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Response {
    /// First header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// One request to `address` (`host:port`).
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    address: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A GET of `path`.
    pub fn get(address: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new("GET", address, path)
    }

    /// Any method.
    pub fn new(method: &str, address: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            address: address.into(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a login.
    #[must_use]
    pub fn basic(self, user: &str, password: &str) -> Self {
        let pair = STANDARD.encode(format!("{user}:{password}"));
        self.header("authorization", &format!("Basic {pair}"))
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it and reads the answer to its end.
    pub fn send(&self) -> Result<Response> {
        let to = format!("{} http://{}{}", self.method, self.address, self.path);
        let mut bytes = Vec::new();
        (|| {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            // HTTP/1.0, so that nobody answers in chunks.
            let mut head = format!(
                "{} {} HTTP/1.0\r\nhost: {}\r\n",
                self.method, self.path, self.address
            );
            for (name, value) in &self.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!(
                "connection: close\r\ncontent-length: {}\r\n\r\n",
                self.body.len()
            ));
            stream.write_all(head.as_bytes())?;
            stream.write_all(&self.body)?;
            stream.read_to_end(&mut bytes)
        })()
        .map_err(Error::system(to.clone()))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        parse(&text).ok_or(Error::Answer {
            from: to,
            problem: "it is not HTTP".to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .get(2..5)?
        .parse()
        .ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response {
        status,
        headers,
        body: body.to_owned(),
    })
}
