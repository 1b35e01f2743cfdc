//! One command on a target: started, fed, read, awaited, and ended there when
//! the call is cancelled. A local process is treated in the same way.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openssh::Session;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use windlass_model::backend::NoLog;
use windlass_model::blob::Source;
use windlass_model::{Blob, BlobRef, CallContext, CallError, LogSink, LogStream, TargetName};
use zeroize::Zeroizing;

use super::lines::{Lines, Tail, excerpt};
use super::shell::{Carrier, Launch, kill_script};
use super::{Connections, Link};

/// Environment variables of the engine that a command on the local target
/// sees; the others may hold the run's secrets.
const LOCAL_ENVIRONMENT: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "DOCKER_API_VERSION",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// How long ending a command on the far side may take.
const KILL_LIMIT: Duration = Duration::from_secs(4);
/// How long its output is read on after that.
const DRAIN: Duration = Duration::from_millis(500);
const CHUNK: usize = 64 * 1024;

/// A script to run, and what becomes of its streams.
pub(crate) struct Request {
    pub(crate) script: Zeroizing<String>,
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) sudo: bool,
    /// See [`Launch::plain_locale`].
    pub(crate) plain_locale: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Input {
    Nothing,
    /// The script's stdin. `secret_script`: then the script is not put where
    /// others on the far side can read it.
    Blob {
        blob: Arc<Blob>,
        secret_script: bool,
    },
}

#[derive(Debug)]
pub(crate) enum Output {
    /// Lines of the log.
    Log,
    /// Kept whole, at most so many bytes; more is an error.
    Keep(usize),
    /// Written to a file, and hashed.
    File(File),
}

/// How a command ended.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    /// Of [`Output::Keep`].
    pub(crate) stdout: Vec<u8>,
    /// Of [`Output::File`].
    pub(crate) written: Option<BlobRef>,
    /// The log's end.
    pub(crate) tail: String,
}

impl Request {
    pub(crate) fn script(script: Zeroizing<String>, output: Output, sudo: bool) -> Self {
        Self {
            script,
            input: Input::Nothing,
            output,
            sudo,
            plain_locale: true,
        }
    }
}

/// What was read so far, over all the connections that it took.
#[derive(Debug)]
pub(super) struct Reading {
    out_lines: Lines,
    err_lines: Lines,
    tail: Tail,
    pub(super) out_bytes: u64,
    pub(super) err_bytes: u64,
    /// More came than [`Output::Keep`] takes: nobody waits for its end.
    flooded: CancellationToken,
}

impl Reading {
    fn new() -> Self {
        Self {
            out_lines: Lines::new(LogStream::Stdout),
            err_lines: Lines::new(LogStream::Stderr),
            tail: Tail::default(),
            out_bytes: 0,
            err_bytes: 0,
            flooded: CancellationToken::new(),
        }
    }

    /// Lines of stderr that begin with this word are for the engine, and go into no log.
    pub(super) fn with_control(word: String) -> Self {
        let mut reading = Self::new();
        reading.err_lines.keep_control(word);
        reading
    }

    pub(super) fn take_control(&mut self) -> Option<String> {
        self.err_lines.take_control()
    }

    /// Nothing comes any more.
    pub(super) fn end(&mut self, mut ran: Ran, log: &dyn LogSink) -> Ran {
        self.out_lines.finish(log, &mut self.tail);
        self.err_lines.finish(log, &mut self.tail);
        ran.tail = self.tail.text();
        ran
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub(super) enum Process {
    Local(Box<tokio::process::Child>),
    Remote(Box<openssh::Child<Arc<Session>>>),
}

pub(super) struct Started {
    pub(super) process: Process,
    pub(super) stdin: Option<Writer>,
    pub(super) stdout: Option<Reader>,
    pub(super) stderr: Option<Reader>,
}

impl Connections {
    /// Runs a script on a target. A code other than 0 is no error here.
    pub(crate) async fn run(
        &self,
        context: &CallContext,
        target: &TargetName,
        request: Request,
    ) -> Result<Ran, CallError> {
        let mut reading = Reading::new();
        let ran = self.run_with(context, target, request, &mut reading).await;
        let ended = reading.end(Ran::default(), context.log.as_ref());
        ran.map(|ran| Ran {
            tail: ended.tail,
            ..ran
        })
    }

    /// The same, going on with what was read before. The log's last line may be
    /// open afterwards, and the tail is not filled in.
    pub(super) async fn run_with(
        &self,
        context: &CallContext,
        target: &TargetName,
        mut request: Request,
        reading: &mut Reading,
    ) -> Result<Ran, CallError> {
        let entry = self.entry(target)?;
        let link = within(context, target, entry.link(&self.config)).await??;
        let _permit = within(context, target, link.permit()).await??;
        entry.count();
        let stamp = context.id.stamp();
        let sudo = request.sudo;
        let forgotten = entry.take_answered();
        if !forgotten.is_empty() {
            let stamps: Vec<String> = forgotten.iter().map(|call| call.stamp.clone()).collect();
            request
                .script
                .insert_str(0, &super::durable::forget(&stamps));
        }
        let flooded = reading.flooded.clone();
        let work = perform(&link, target, context, &stamp, request, reading);
        let mut work = std::pin::pin!(async {
            let done = work.await;
            if done.is_err() {
                entry.put_ended(forgotten);
            }
            done
        });
        let stop = tokio::select! {
            biased;
            done = &mut work => return done,
            () = context.cancel.cancelled() => Stop::Cancelled,
            () = flooded.cancelled() => Stop::Flooded,
            () = tokio::time::sleep_until(context.deadline) => Stop::Deadline,
        };
        let kill = tokio::time::timeout(KILL_LIMIT, kill(&link, &stamp, sudo));
        let mut kill = std::pin::pin!(kill);
        // The output is read on meanwhile, or a full pipe keeps the command.
        let (ended, killed) = tokio::select! {
            killed = &mut kill => (false, matches!(killed, Ok(Ok(())))),
            _ = &mut work => (true, true),
        };
        if ended {
            let _ = kill.await;
        } else {
            let _ = tokio::time::timeout(DRAIN, work).await;
        }
        if !killed && let Link::Remote(connection) = &link {
            // Nobody answers: what comes next had better connect anew.
            connection.lost.store(true, Ordering::Relaxed);
        }
        Err(match stop {
            Stop::Cancelled => CallError::cancelled(),
            Stop::Flooded => too_large(target),
            Stop::Deadline => deadline(target, killed),
        })
    }
}

/// Why a command is ended before its time.
enum Stop {
    Cancelled,
    Flooded,
    Deadline,
}

fn too_large(target: &TargetName) -> CallError {
    CallError::exhausted(
        "ssh.output-too-large",
        format!("{target} answered with more than was asked for"),
    )
    .hint(format!(
        "a shell on {target} that prints by itself, at every login, does that: `ssh HOST true` \
         has to print nothing"
    ))
}

/// Awaits what comes before a command, unless the call is to stop.
pub(super) async fn within<F: Future>(
    context: &CallContext,
    target: &TargetName,
    future: F,
) -> Result<F::Output, CallError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(CallError::cancelled()),
        output = future => Ok(output),
        () = tokio::time::sleep_until(context.deadline) => Err(CallError::timeout(
            "ssh.deadline",
            format!("the deadline passed before anything could be started on {target}"),
        )),
    }
}

fn deadline(target: &TargetName, killed: bool) -> CallError {
    let fate = if killed {
        "it was stopped there"
    } else {
        "the target does not answer, so it may run on there"
    };
    CallError::timeout(
        "ssh.deadline",
        format!("the deadline passed while a command ran on {target}; {fate}"),
    )
    .hint("give the step a longer `timeout`")
}

async fn perform(
    link: &Link,
    target: &TargetName,
    context: &CallContext,
    stamp: &str,
    request: Request,
    reading: &mut Reading,
) -> Result<Ran, CallError> {
    let Request {
        script,
        input,
        output,
        sudo,
        plain_locale,
    } = request;
    let (carrier, stdin_file, blob) = carry(input)?;
    let launch = Launch {
        stamp,
        carrier,
        sudo,
        plain_locale,
    };
    let command = launch.command(&script)?;
    let mut started = start(link, target, &command, stdin_file).await?;
    let stdin = started.stdin.take();
    let feed = async {
        let Some(mut stdin) = stdin else {
            return Ok(());
        };
        // The far side may end without reading all of it: that is its right.
        match write_input(&mut stdin, carrier, &script, blob.as_deref()).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    };
    let read = read_output(
        started.stdout.take(),
        started.stderr.take(),
        output,
        context.log.as_ref(),
        &mut *reading,
    );
    let (fed, read) = tokio::join!(feed, read);
    let (mut ran, too_much) = read.map_err(|error| broken(target, &error))?;
    ran.code = wait(started.process, link, target).await?;
    fed.map_err(|error| broken(target, &error))?;
    if too_much {
        return Err(too_large(target));
    }
    let said = if sudo && ran.code == 1 {
        reading.tail.text()
    } else {
        String::new()
    };
    if said.contains("sudo:") {
        return Err(CallError::denied(
            "target.sudo",
            format!(
                "{target} does not let this login use sudo: {}",
                excerpt(&said)
            ),
        )
        .hint("allow it without a password in /etc/sudoers.d, or set `sudo = false`"));
    }
    Ok(ran)
}

fn broken(target: &TargetName, error: &io::Error) -> CallError {
    CallError::unavailable(
        "ssh.stream",
        format!("the streams of a command on {target} broke: {error}"),
    )
    .retryable()
}

/// How the script goes there, the file that is its stdin, the blob that is fed.
type Carried = (Carrier, Option<File>, Option<Arc<Blob>>);

/// A blob in a file goes as that file itself: nothing copies its bytes here.
fn carry(input: Input) -> Result<Carried, CallError> {
    let Input::Blob {
        blob,
        secret_script,
    } = input
    else {
        return Ok((Carrier::Stdin, None, None));
    };
    if secret_script {
        return Ok((Carrier::FirstLine, None, Some(blob)));
    }
    match blob.source() {
        Source::File { path, .. } => match File::open(path) {
            Ok(file) => Ok((Carrier::Argument, Some(file), None)),
            Err(error) => Err(CallError::internal(
                "blob.unreadable",
                format!("the blob {} cannot be read: {error}", path.display()),
            )),
        },
        Source::Memory(_) => Ok((Carrier::FirstLine, None, Some(blob))),
    }
}

async fn write_input(
    stdin: &mut Writer,
    carrier: Carrier,
    script: &str,
    blob: Option<&Blob>,
) -> io::Result<()> {
    match carrier {
        Carrier::Stdin => stdin.write_all(script.as_bytes()).await?,
        Carrier::FirstLine => {
            use base64::Engine as _;
            let mut line = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(script));
            line.push('\n');
            stdin.write_all(line.as_bytes()).await?;
        }
        Carrier::Argument => {}
    }
    match blob.map(Blob::source) {
        Some(Source::Memory(bytes)) => stdin.write_all(bytes).await?,
        Some(Source::File { path, .. }) => {
            let mut file = tokio::fs::File::open(path).await?;
            tokio::io::copy(&mut file, stdin).await?;
        }
        None => {}
    }
    stdin.shutdown().await
}

/// Starts a command. `stdin`: that file, else a pipe.
pub(super) async fn start(
    link: &Link,
    target: &TargetName,
    command: &str,
    stdin: Option<File>,
) -> Result<Started, CallError> {
    match link {
        Link::Local => start_local(target, command, stdin),
        Link::Remote(connection) => {
            let mut tries: u32 = 0;
            loop {
                let file = match stdin.as_ref().map(File::try_clone).transpose() {
                    Ok(file) => file,
                    Err(error) => return Err(broken(target, &error)),
                };
                match start_remote(&connection.master.session, command, file).await {
                    Ok(started) => return Ok(started),
                    // The server takes fewer sessions than is usual: one of
                    // ours ends, sooner or later.
                    Err(openssh::Error::SshMux(error))
                        if tries < 600 && error.to_string().contains("refused by peer") =>
                    {
                        tries += 1;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => return Err(connection.failed(target, &error).await),
                }
            }
        }
    }
}

fn start_local(
    target: &TargetName,
    command: &str,
    stdin: Option<File>,
) -> Result<Started, CallError> {
    let mut process = tokio::process::Command::new("sh");
    process
        .args(["-c", command])
        .env_clear()
        .stdin(stdin.map_or_else(Stdio::piped, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in LOCAL_ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    if let Some(home) = std::env::var_os("HOME") {
        process.current_dir(home);
    }
    let mut child = process.spawn().map_err(|error| broken(target, &error))?;
    Ok(Started {
        stdin: child.stdin.take().map(|pipe| Box::new(pipe) as Writer),
        stdout: child.stdout.take().map(|pipe| Box::new(pipe) as Reader),
        stderr: child.stderr.take().map(|pipe| Box::new(pipe) as Reader),
        process: Process::Local(Box::new(child)),
    })
}

async fn start_remote(
    session: &Arc<Session>,
    command: &str,
    stdin: Option<File>,
) -> Result<Started, openssh::Error> {
    let mut process = Arc::clone(session).arc_raw_command(command);
    process
        .stdin(match stdin {
            Some(file) => openssh::Stdio::from(file),
            None => openssh::Stdio::piped(),
        })
        .stdout(openssh::Stdio::piped())
        .stderr(openssh::Stdio::piped());
    let mut child = process.spawn().await?;
    Ok(Started {
        stdin: child.stdin().take().map(|pipe| Box::new(pipe) as Writer),
        stdout: child.stdout().take().map(|pipe| Box::new(pipe) as Reader),
        stderr: child.stderr().take().map(|pipe| Box::new(pipe) as Reader),
        process: Process::Remote(Box::new(child)),
    })
}

/// The command's exit code; 128 and the signal when one ended it.
pub(super) async fn wait(
    process: Process,
    link: &Link,
    target: &TargetName,
) -> Result<i32, CallError> {
    match process {
        Process::Local(mut child) => {
            let status = child.wait().await.map_err(|error| broken(target, &error))?;
            Ok(status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
        }
        Process::Remote(child) => match child.wait().await {
            Ok(status) => Ok(status.code().unwrap_or(255)),
            // The library's reading of exit code 127.
            Err(openssh::Error::Remote(_)) => Ok(127),
            Err(error) => {
                let Link::Remote(connection) = link else {
                    return Ok(255);
                };
                if matches!(error, openssh::Error::RemoteProcessTerminated)
                    && connection.master.is_alive().await
                {
                    // By a signal, which the protocol does not name here.
                    return Ok(255);
                }
                Err(connection.failed(target, &error).await)
            }
        },
    }
}

async fn read_output(
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    output: Output,
    log: &dyn LogSink,
    reading: &mut Reading,
) -> io::Result<(Ran, bool)> {
    let mut ran = Ran::default();
    let mut too_much = false;
    let mut hash = Sha256::new();
    let mut size = 0_u64;
    let (mut stdout, mut stderr) = (stdout, stderr);
    let (mut out_chunk, mut err_chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut sink = match &output {
        Output::File(file) => Some(tokio::fs::File::from_std(file.try_clone()?)),
        _ => None,
    };
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            read = read_some(&mut stdout, &mut out_chunk), if stdout.is_some() => {
                let bytes = &out_chunk[..read?];
                if bytes.is_empty() {
                    stdout = None;
                    continue;
                }
                reading.out_bytes += bytes.len() as u64;
                match (&output, &mut sink) {
                    (Output::Keep(max), _) => {
                        let room = max.saturating_sub(ran.stdout.len());
                        if bytes.len() > room {
                            too_much = true;
                            reading.flooded.cancel();
                        }
                        ran.stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    (Output::File(_), Some(file)) => {
                        hash.update(bytes);
                        size += bytes.len() as u64;
                        file.write_all(bytes).await?;
                    }
                    _ => reading.out_lines.push(bytes, log, &mut reading.tail),
                }
            }
            read = read_some(&mut stderr, &mut err_chunk), if stderr.is_some() => {
                let bytes = &err_chunk[..read?];
                if bytes.is_empty() {
                    stderr = None;
                    continue;
                }
                reading.err_bytes += bytes.len() as u64;
                reading.err_lines.push(bytes, log, &mut reading.tail);
            }
        }
    }
    if let Some(mut file) = sink {
        file.flush().await?;
        ran.written = Some(BlobRef {
            sha256: hex::encode(hash.finalize()),
            size,
        });
    }
    Ok((ran, too_much))
}

async fn read_some(reader: &mut Option<Reader>, chunk: &mut [u8]) -> io::Result<usize> {
    match reader {
        Some(reader) => reader.read(chunk).await,
        None => Ok(0),
    }
}

impl Connections {
    /// Ends a command whose connection was lost, if the target can be reached.
    pub(super) async fn end(&self, target: &TargetName, stamp: &str) {
        let work = async {
            let link = self.entry(target)?.link(self.config()).await?;
            kill(&link, stamp, false).await
        };
        let _ = tokio::time::timeout(KILL_LIMIT, work).await;
    }
}

/// Ends every process of a call on the far side.
async fn kill(link: &Link, stamp: &str, sudo: bool) -> Result<(), CallError> {
    let target = TargetName::new(stamp);
    let killer = format!("end-{stamp}");
    let launch = Launch {
        stamp: &killer,
        carrier: Carrier::Stdin,
        sudo,
        plain_locale: true,
    };
    let script = kill_script(stamp);
    let mut started = start(link, &target, &launch.command(&script)?, None).await?;
    if let Some(mut stdin) = started.stdin.take() {
        let _ = write_input(&mut stdin, Carrier::Stdin, &script, None).await;
    }
    let _ = read_output(
        started.stdout.take(),
        started.stderr.take(),
        Output::Keep(1024),
        &NoLog,
        &mut Reading::new(),
    )
    .await;
    wait(started.process, link, &target).await.map(drop)
}
