//! Local unix sockets that lead to a target's Docker engine, or to a port as
//! seen from the target.
//!
//! OpenSSH forwards them over the one connection. Where a server forbids that,
//! or the engine's socket needs sudo, each connection to the local socket
//! becomes a session that runs `docker system dial-stdio`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openssh::{ForwardType, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use windlass_model::{CallContext, CallError, TargetName};

use super::exec::{Output, Request, start, within};
use super::shell::{Carrier, Launch, quote};
use super::{Connection, Connections, Entry, Link};
use crate::target::script::FIND_DOCKER;

/// Sessions of the connection that bridges may hold at a time.
pub(super) const MAX_BRIDGES: usize = 4;

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was set up on a connection so far.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    docker: Option<PathBuf>,
    tcp: Vec<(String, u16, PathBuf)>,
    bridges: Vec<Task>,
    /// Length of the master's log that is about the engine's socket.
    log_seen: usize,
}

impl Connections {
    /// A local unix socket that leads to the target's Docker engine; over the
    /// target's one SSH connection.
    pub async fn docker_socket(
        &self,
        context: &CallContext,
        target: &TargetName,
    ) -> Result<PathBuf, CallError> {
        let entry = self.entry(target)?;
        let link = within(context, target, entry.link(&self.config)).await??;
        let forwards = match &link {
            Link::Local => &entry.local,
            Link::Remote(connection) => &connection.forwards,
        };
        let mut forwards = within(context, target, forwards.lock()).await?;
        if let Some(path) = &forwards.docker {
            return Ok(path.clone());
        }
        let path = match &link {
            Link::Local => self.local_docker(entry, &mut forwards)?,
            Link::Remote(connection) => {
                self.remote_docker(context, target, entry, connection, &mut forwards)
                    .await?
            }
        };
        forwards.docker = Some(path.clone());
        Ok(path)
    }

    /// A local unix socket that leads to `host:port` as seen from the target.
    pub async fn tcp_socket(
        &self,
        context: &CallContext,
        target: &TargetName,
        host: &str,
        port: u16,
    ) -> Result<PathBuf, CallError> {
        if host.is_empty()
            || host.starts_with('-')
            || host.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return Err(CallError::invalid(
                "ssh.forward-host",
                format!("{host:?} is no host name"),
            ));
        }
        let entry = self.entry(target)?;
        let link = within(context, target, entry.link(&self.config)).await??;
        let forwards = match &link {
            Link::Local => &entry.local,
            Link::Remote(connection) => &connection.forwards,
        };
        let mut forwards = within(context, target, forwards.lock()).await?;
        if let Link::Remote(connection) = &link {
            let log = connection.master.log();
            if log
                .get(forwards.log_seen..)
                .is_some_and(|new| new.contains("administratively prohibited"))
            {
                return Err(forbidden(target));
            }
        }
        if let Some((.., path)) = forwards
            .tcp
            .iter()
            .find(|(h, p, _)| h == host && *p == port)
        {
            return Ok(path.clone());
        }
        let path = match &link {
            Link::Local => {
                let path = self.local_path(&format!("t{}", forwards.tcp.len()));
                bridge_tcp(&path, host.to_owned(), port, &mut forwards)?;
                path
            }
            Link::Remote(connection) => {
                let path = connection.path(&format!("t{}", forwards.tcp.len()));
                entry.count();
                let ask = connection.forward(
                    &path,
                    Socket::TcpSocket {
                        host: host.into(),
                        port,
                    },
                );
                within(context, target, ask)
                    .await?
                    .map_err(|_| forbidden(target))?;
                path
            }
        };
        forwards.tcp.push((host.to_owned(), port, path.clone()));
        Ok(path)
    }

    fn local_path(&self, name: &str) -> PathBuf {
        self.config.scratch.join(name)
    }

    fn local_docker(&self, entry: &Entry, forwards: &mut Forwards) -> Result<PathBuf, CallError> {
        let host = entry
            .docker_socket()
            .or_else(|| {
                std::env::var("DOCKER_HOST")
                    .ok()
                    .filter(|host| !host.is_empty())
            })
            .unwrap_or_else(|| "/var/run/docker.sock".to_owned());
        match Engine::parse(&host) {
            Some(Engine::Unix(path)) => Ok(path),
            Some(Engine::Tcp(host, port)) => {
                let path = self.local_path("d");
                bridge_tcp(&path, host, port, forwards)?;
                Ok(path)
            }
            None => Err(CallError::invalid(
                "docker.host",
                format!("DOCKER_HOST is {host:?}, which is neither unix:// nor tcp://"),
            )
            .hint("for an engine on another machine, declare a target with `ssh`")),
        }
    }

    async fn remote_docker(
        &self,
        context: &CallContext,
        target: &TargetName,
        entry: &Entry,
        connection: &Arc<Connection>,
        forwards: &mut Forwards,
    ) -> Result<PathBuf, CallError> {
        let engine = if entry.sudo() {
            None
        } else {
            self.engine_of(context, target, entry).await?
        };
        if let Some(engine) = engine {
            let path = connection.path("d");
            let to = match engine {
                Engine::Unix(path) => Socket::UnixSocket { path: path.into() },
                Engine::Tcp(host, port) => Socket::TcpSocket {
                    host: host.into(),
                    port,
                },
            };
            entry.count();
            let asked = within(context, target, connection.forward(&path, to)).await?;
            let works = asked.is_ok() && within(context, target, ping(&path)).await?;
            forwards.log_seen = connection.master.log().len();
            if works {
                return Ok(path);
            }
            if !connection.master.is_alive().await {
                return Err(connection.lost(target));
            }
        }
        let path = connection.path("b");
        entry.count();
        bridge_docker(&path, target, entry, connection, forwards)?;
        if within(context, target, ping(&path)).await? {
            return Ok(path);
        }
        forwards.bridges.clear();
        let facts = crate::target::inspect(self, context, target).await?;
        let reason = if facts.docker_problem.is_empty() {
            "its socket can neither be forwarded nor dialled".to_owned()
        } else {
            facts.docker_problem
        };
        Err(CallError::unavailable(
            "docker.unreachable",
            format!("the Docker engine of {target} cannot be reached: {reason}"),
        )
        .hint(format!(
            "log in to {target} as the same user and run `docker info`: it must answer there"
        )))
    }

    /// Where the far engine listens: as the target says, else found there.
    async fn engine_of(
        &self,
        context: &CallContext,
        target: &TargetName,
        entry: &Entry,
    ) -> Result<Option<Engine>, CallError> {
        if let Some(host) = entry.docker_socket() {
            return Ok(Engine::parse(&host));
        }
        let script = format!("{FIND_DOCKER}\nprintf '\\nengine=%s\\n' \"$DOCKER_HOST\"\n");
        let request = Request::script(script.into(), Output::Keep(64 * 1024), false);
        let ran = self.run(context, target, request).await?;
        let text = String::from_utf8_lossy(&ran.stdout);
        Ok(text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("engine="))
            .and_then(Engine::parse))
    }
}

fn forbidden(target: &TargetName) -> CallError {
    CallError::denied(
        "ssh.forwarding-forbidden",
        format!("the SSH server of {target} forbids forwarding"),
    )
    .hint("set `AllowTcpForwarding local` in its sshd_config, or reach the address from here")
}

#[derive(Debug, PartialEq, Eq)]
enum Engine {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl Engine {
    /// Of `DOCKER_HOST`, or a path.
    fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self::Unix(text.into()));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let rest = text.strip_prefix("tcp://")?.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':')?;
        Some(Self::Tcp(
            host.trim_matches(['[', ']']).to_owned(),
            port.parse().ok()?,
        ))
    }
}

impl Connection {
    fn path(&self, name: &str) -> PathBuf {
        self.master.dir.path().join(name)
    }

    async fn forward(&self, path: &Path, to: Socket<'_>) -> Result<(), openssh::Error> {
        let from = Socket::UnixSocket { path: path.into() };
        self.master
            .session
            .request_port_forward(ForwardType::Local, from, to)
            .await
    }
}

/// Whether an engine answers behind a socket.
async fn ping(path: &Path) -> bool {
    let ask = async {
        let mut stream = UnixStream::connect(path).await?;
        stream
            .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            .await?;
        let mut start = [0; 5];
        stream.read_exact(&mut start).await?;
        std::io::Result::Ok(&start == b"HTTP/")
    };
    tokio::time::timeout(Duration::from_secs(20), ask)
        .await
        .is_ok_and(|answer| answer.unwrap_or(false))
}

fn listen(path: &Path) -> Result<UnixListener, CallError> {
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).map_err(|error| {
        CallError::internal(
            "ssh.scratch",
            format!("no socket at {}: {error}", path.display()),
        )
    })
}

fn bridge_tcp(
    path: &Path,
    host: String,
    port: u16,
    forwards: &mut Forwards,
) -> Result<(), CallError> {
    let listener = listen(path)?;
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let host = host.clone();
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect((host.as_str(), port)).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    forwards.bridges.push(Task(task.abort_handle()));
    Ok(())
}

fn bridge_docker(
    path: &Path,
    target: &TargetName,
    entry: &Entry,
    connection: &Arc<Connection>,
    forwards: &mut Forwards,
) -> Result<(), CallError> {
    let listener = listen(path)?;
    let socket = match entry.docker_socket() {
        Some(socket) => {
            let host = if socket.starts_with('/') {
                format!("unix://{socket}")
            } else {
                socket
            };
            format!("DOCKER_HOST={}; export DOCKER_HOST\n", quote(&host)?)
        }
        None => String::new(),
    };
    let script = format!("{socket}{FIND_DOCKER}\nexec docker system dial-stdio");
    let command = Launch {
        stamp: "dial",
        carrier: Carrier::Argument,
        sudo: entry.sudo(),
        plain_locale: true,
    }
    .command(&script)?;
    let (target, connection) = (target.clone(), Arc::downgrade(connection));
    let task = tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(carry(
                near,
                connection.clone(),
                target.clone(),
                command.clone(),
            ));
        }
    });
    forwards.bridges.push(Task(task.abort_handle()));
    Ok(())
}

/// One connection to the local socket through one session.
async fn carry(
    near: UnixStream,
    connection: Weak<Connection>,
    target: TargetName,
    command: String,
) {
    let Some(connection) = connection.upgrade() else {
        return;
    };
    let Ok(_slot) = connection.bridges.acquire().await else {
        return;
    };
    let Ok(_permit) = connection.sessions.acquire().await else {
        return;
    };
    let link = Link::Remote(Arc::clone(&connection));
    let Ok(mut started) = start(&link, &target, &command, None).await else {
        return;
    };
    let (Some(mut stdin), Some(mut stdout)) = (started.stdin.take(), started.stdout.take()) else {
        return;
    };
    let (mut from, mut to) = near.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from, &mut stdin).await;
        // Ends dial-stdio's input, so that the engine sees the end, too.
        drop(stdin);
    };
    let down = async {
        let _ = tokio::io::copy(&mut stdout, &mut to).await;
        let _ = to.shutdown().await;
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_engines() {
        assert_eq!(
            Engine::parse("/x/d.sock"),
            Some(Engine::Unix("/x/d.sock".into()))
        );
        assert_eq!(Engine::parse("unix:///x"), Some(Engine::Unix("/x".into())));
        assert_eq!(
            Engine::parse("tcp://[::1]:2375"),
            Some(Engine::Tcp("::1".into(), 2375))
        );
        assert_eq!(Engine::parse("ssh://host"), None);
    }
}
