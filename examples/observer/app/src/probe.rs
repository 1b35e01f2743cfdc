//! One `GET /health` on this machine: what `observer health` does.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Shorter than the HEALTHCHECK's own timeout, so that the probe can say why.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// A health answer is a line; anything longer is cut.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// What the service answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks the service on `port` of this machine.
pub fn ask(port: u16) -> io::Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(ANSWER_LIMIT).read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_status_and_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nno\n").expect("HTTP");
        assert_eq!((answer.status, answer.body.as_str()), (503, "no\n"));
        assert!(parse("SSH-2.0-OpenSSH_9.2\r\n\r\n").is_none());
    }
}
