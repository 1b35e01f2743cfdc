//! The capability `ssh`: exec, upload, download.

use std::fmt::Write as _;

use windlass_model::call::{SshCall, SshOp, Variables};
use windlass_model::reply::Exit;
use windlass_model::{Blob, BlobRef, CallContext, CallError, Reply, TargetName, Text};
use zeroize::Zeroizing;

use super::Connections;
use super::durable::{self, MAX_STDIN};
use super::exec::{Input, Output, Ran, Reading, Request};
use super::lines::excerpt;
use super::shell::{check_variable_name, quote};

/// Exit codes by which our own scripts tell their failures from the command's.
const NO_DIRECTORY: i32 = 121;
const FENCED_OUT: i32 = 122;

pub(super) async fn call(
    connections: &Connections,
    context: &CallContext,
    call: SshCall,
) -> Result<Reply, CallError> {
    let target = &call.target;
    match call.op {
        SshOp::Exec {
            argv,
            env,
            stdin,
            dir,
        } => {
            exec(
                connections,
                context,
                target,
                &argv,
                &env,
                stdin,
                dir.as_deref(),
            )
            .await
        }
        SshOp::Upload {
            path,
            content,
            mode,
        } => upload(connections, context, target, &path, &content, mode).await,
        SshOp::Download { path } => download(connections, context, target, &path).await,
        SshOp::Trace { stamp } => super::trace::look(connections, context, target, &stamp).await,
        SshOp::Rejoin { dir } => {
            let (ran, word) =
                durable::run(connections, context, target, durable::Work::Rejoin).await?;
            exit(target, dir.as_deref(), ran, word)
        }
    }
}

async fn exec(
    connections: &Connections,
    context: &CallContext,
    target: &TargetName,
    argv: &[Text],
    env: &Variables,
    stdin: Option<BlobRef>,
    dir: Option<&str>,
) -> Result<Reply, CallError> {
    let stamp = context.id.stamp();
    let mut script = Zeroizing::new(String::new());
    let check = match connections.fence(target) {
        // A login without sudo may not see what root keeps there.
        Some(fence) => format!(
            "{}fenced || {{ echo \"windlass-{stamp} $w_held\" >&2; exit {FENCED_OUT}; }}\nexec 8<&-\n",
            fence.text(connections.sudo(target))?
        ),
        None => String::new(),
    };
    let secret = exports(connections, env, &mut script)?;
    if let Some(dir) = dir {
        // A relative one stays below the login's home, and is no option of cd.
        let dir = if dir.starts_with('/') {
            dir.to_owned()
        } else {
            format!("./{dir}")
        };
        let dir = quote(&dir)?;
        let _ = writeln!(
            script,
            "cd {dir} || {{ echo windlass-{stamp} directory >&2; exit {NO_DIRECTORY}; }}"
        );
    }
    if argv.is_empty() {
        return Err(CallError::invalid(
            "ssh.no-command",
            "there is no command to run",
        ));
    }
    script.push_str("exec");
    // `exec -a` and the like are options of some shells: a path is none.
    for (index, word) in argv.iter().enumerate() {
        let word = plain_argument(word)?;
        if index == 0 && word.starts_with('-') {
            return Err(CallError::invalid(
                "ssh.no-command",
                format!("{word:?} is no command"),
            ));
        }
        script.push(' ');
        script.push_str(&quote(&word)?);
    }
    script.push('\n');
    let size = stdin.as_ref().map(|reference| reference.size);
    let input = match stdin {
        None => Input::Nothing,
        Some(reference) => Input::Blob {
            blob: blob(context, &reference)?,
            secret_script: secret,
        },
    };
    let plain = connections.is_local(target) || size.is_some_and(|size| size > MAX_STDIN);
    let (ran, word) = if plain {
        let mut whole = Zeroizing::new(check);
        if size.is_none() {
            whole.push_str("exec </dev/null\n");
        }
        whole.push_str(&script);
        let request = Request {
            script: whole,
            input,
            output: Output::Log,
            sudo: false,
            plain_locale: false,
        };
        let mut reading = Reading::with_control(durable::control(&stamp));
        let ran = connections
            .run_with(context, target, request, &mut reading)
            .await;
        let ended = reading.end(Ran::default(), context.log.as_ref());
        let ran = Ran {
            tail: ended.tail,
            ..ran?
        };
        (ran, reading.take_control())
    } else {
        let command = durable::Command {
            body: script,
            check,
            input,
            stdin: size,
        };
        let work = durable::Work::Begin(Box::new(command));
        durable::run(connections, context, target, work).await?
    };
    exit(target, dir, ran, word)
}

/// What a command's end means, with the word that its script said of itself.
fn exit(
    target: &TargetName,
    dir: Option<&str>,
    ran: Ran,
    word: Option<String>,
) -> Result<Reply, CallError> {
    match (ran.code, word) {
        (FENCED_OUT, Some(held)) => return Err(crate::lease::refused(target, &held)),
        (NO_DIRECTORY, Some(_)) => {
            let dir = dir.unwrap_or_default();
            return Err(CallError::not_found(
                "ssh.no-directory",
                format!("{target} has no directory {dir} that the login may enter"),
            ));
        }
        (durable::TROUBLE, Some(word)) => {
            if let Some(error) = durable::trouble(target, &word) {
                return Err(error);
            }
        }
        _ => {}
    }
    Ok(Reply::Exit(Exit {
        code: ran.code,
        tail: ran.tail,
        values: Vec::new(),
    }))
}

/// Everybody on a machine can read the arguments of its processes.
pub(crate) fn plain_argument(word: &Text) -> Result<String, CallError> {
    if let Some(name) = word.secrets().next() {
        return Err(CallError::invalid(
            "ssh.secret-in-argv",
            format!("the secret {name} would be an argument, which every user there can read"),
        )
        .hint("pass it in `env`, and let the command read the variable"));
    }
    word.as_plain().map(str::to_owned).ok_or_else(|| {
        CallError::internal(
            "engine.unknown-value",
            "a value that is not known yet reached a backend",
        )
    })
}

/// `export` lines. Whether a secret is among them.
pub(crate) fn exports(
    connections: &Connections,
    env: &Variables,
    script: &mut Zeroizing<String>,
) -> Result<bool, CallError> {
    let mut secret = false;
    for (name, value) in env {
        check_variable_name(name)?;
        secret |= value.secrets().next().is_some();
        let value = connections.config().secrets.resolve(value)?;
        let quoted = Zeroizing::new(quote(&value)?);
        script.push_str(name);
        script.push('=');
        script.push_str(&quoted);
        script.push_str("; export ");
        script.push_str(name);
        script.push('\n');
    }
    Ok(secret)
}

fn blob(context: &CallContext, reference: &BlobRef) -> Result<std::sync::Arc<Blob>, CallError> {
    context.blobs.get(reference).ok_or_else(|| {
        CallError::internal(
            "blob.missing",
            format!("the blob {} is not here", reference.sha256),
        )
    })
}

/// Of `~` and an absolute path; anything else has no meaning on a server.
pub(crate) fn check_path(path: &str) -> Result<(), CallError> {
    if path.starts_with('/') && !path.contains(['\0', '\n']) {
        return Ok(());
    }
    Err(
        CallError::invalid("target.path", format!("{path:?} is not an absolute path"))
            .hint("paths on targets begin with /"),
    )
}

async fn upload(
    connections: &Connections,
    context: &CallContext,
    target: &TargetName,
    path: &str,
    content: &BlobRef,
    mode: u32,
) -> Result<Reply, CallError> {
    check_path(path)?;
    let file = quote(path)?;
    let part = quote(&format!("{path}.windlass-{}", context.id.stamp()))?;
    let stamp = context.id.stamp();
    let fence = match connections.fence(target) {
        Some(fence) => format!(
            "{}fenced || {{ echo \"windlass-{stamp} $w_held\" >&2; exit {FENCED_OUT}; }}\n",
            fence.text(false)?
        ),
        None => String::new(),
    };
    let script = format!(
        "umask 077\n\
         {fence}\
         [ ! -d {file} ] || {{ echo is a directory >&2; exit 1; }}\n\
         trap 'rm -f {part_in_trap}' EXIT\n\
         trap 'exit 143' HUP INT TERM\n\
         cat > {part} || exit 1\n\
         n=$(wc -c < {part})\n\
         [ $((n)) -eq {size} ] || {{ echo only $((n)) of {size} bytes arrived >&2; exit 1; }}\n\
         chmod {mode:o} {part} || exit 1\n\
         sync {part} 2>/dev/null || sync\n\
         mv -f {part} {file}\n",
        part_in_trap = part.replace('\'', "'\\''"),
        size = content.size,
        mode = mode & 0o7777,
    );
    let request = Request {
        script: script.into(),
        input: Input::Blob {
            blob: blob(context, content)?,
            secret_script: false,
        },
        output: Output::Log,
        sudo: connections.sudo(target),
        plain_locale: true,
    };
    let ran = connections.run(context, target, request).await?;
    fenced_out(target, &ran, &stamp)?;
    if ran.code != 0 {
        return Err(file_error("written", target, path, &ran.tail));
    }
    Ok(Reply::Done)
}

/// Whether a script was refused because the lease is another run's by now.
fn fenced_out(target: &TargetName, ran: &Ran, stamp: &str) -> Result<(), CallError> {
    if ran.code == FENCED_OUT
        && let Some((_, held)) = ran.tail.rsplit_once(&format!("windlass-{stamp} "))
    {
        return Err(crate::lease::refused(target, held.trim_end()));
    }
    Ok(())
}

/// Why a file operation failed, from what the far tools said.
pub(crate) fn file_error(what: &str, target: &TargetName, path: &str, said: &str) -> CallError {
    let message = format!("{path} on {target} cannot be {what}: {}", excerpt(said));
    if said.contains("No space left") || said.contains("Disk quota") {
        CallError::exhausted("target.disk-full", message).hint(format!(
            "make room on {target}; `df -h {path}` there shows the disk"
        ))
    } else if said.contains("Permission denied") || said.contains("Operation not permitted") {
        CallError::denied("target.permission", message)
            .hint("give the login the right to write there, or set `sudo = true` for the target")
    } else if said.contains("Read-only file system") {
        CallError::denied("target.read-only", message)
    } else if said.contains("No such file") {
        CallError::not_found("target.no-file", message)
    } else {
        CallError::unavailable("target.file", message)
    }
}

async fn download(
    connections: &Connections,
    context: &CallContext,
    target: &TargetName,
    path: &str,
) -> Result<Reply, CallError> {
    check_path(path)?;
    let spool = tempfile::Builder::new()
        .prefix("down-")
        .tempfile_in(&connections.config().scratch)
        .map_err(|error| CallError::internal("ssh.scratch", format!("no spool file: {error}")))?;
    let (file, spool) = spool.into_parts();
    let quoted = quote(path)?;
    let script = format!(
        "[ ! -d {quoted} ] || {{ echo is a directory >&2; exit 1; }}\nexec cat < {quoted}\n"
    );
    let request = Request::script(script.into(), Output::File(file), connections.sudo(target));
    let ran = connections.run(context, target, request).await?;
    let Some(reference) = ran.written.filter(|_| ran.code == 0) else {
        return Err(file_error("read", target, path, &ran.tail));
    };
    let spool = spool
        .keep()
        .map_err(|error| CallError::internal("ssh.scratch", format!("no spool file: {error}")))?;
    let blob = Blob::from_file(spool, true, reference);
    Ok(Reply::Blob(context.blobs.add(blob)))
}
