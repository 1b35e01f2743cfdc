//! A batch of typed operations as one script.

use std::fmt::Write as _;

use windlass_model::call::{Compose, Content, FileOp};
use windlass_model::reply::Outcome;
use windlass_model::{CallContext, CallError, TargetName};
use zeroize::Zeroizing;

use super::script::{Frame, Script};
use crate::ssh::Connections;
use crate::ssh::operation::{check_path, exports, plain_argument};
use crate::ssh::shell::quote;

/// Of an operation's output.
const MAX_OUTPUT: u32 = 64 * 1024;
/// Contents of a batch travel inside its script, thus through the memory of
/// both sides; larger files go by `ssh.upload`.
const MAX_CONTENT: u64 = 16 * 1024 * 1024;
const MAX_OPERATIONS: usize = 1000;

/// Runs the operations in order up to the first that fails.
pub(super) async fn apply(
    ssh: &Connections,
    context: &CallContext,
    target: &TargetName,
    operations: &[FileOp],
) -> Result<Vec<Outcome>, CallError> {
    if operations.len() > MAX_OPERATIONS {
        return Err(CallError::invalid(
            "target.too-many",
            format!(
                "a batch has {} operations, more than {MAX_OPERATIONS}",
                operations.len()
            ),
        ));
    }
    let mut script = Script::new(context, ssh.named_docker_socket(target).as_deref())?;
    if operations
        .iter()
        .any(|operation| operation.class().is_effect())
    {
        script.fence(ssh, target)?;
    }
    script.push(STEP);
    let mut size = 0;
    for (number, operation) in operations.iter().enumerate() {
        write(ssh, context, &mut script, number, operation, &mut size)?;
    }
    let answer = script.run(ssh, context, target).await?;
    answer
        .frames
        .iter()
        .enumerate()
        .map(|(number, frame)| {
            outcome(number, frame).ok_or_else(|| {
                CallError::internal(
                    "target.answer",
                    format!("{target} gave an answer that makes no sense"),
                )
            })
        })
        .collect()
}

/// `done NUMBER CODE`: answers with what the operation left in `$T/out`, and
/// ends the script when it failed.
const STEP: &str = r#"fin() {
  w_k=kept; [ -z "$CHANGED" ] || w_k=changed
  if [ $(($(wc -c < "$T/out"))) -gt 65536 ]; then
    if [ -n "$HEAD" ]; then dd if="$T/out" bs=65536 count=1 2>/dev/null; else tail -c 65536 "$T/out"; fi > "$T/cut"
    mv -f "$T/cut" "$T/out"
  fi
  emit "$w_k" "$1" "$T/out"
  if [ "$1" -ne 0 ]; then say end 0 ''; exit 0; fi
}
live() { { "$@" 2>&1 3>&- 8>&-; echo $? > "$T/code"; } | tee "$T/out" >&2; return "$(cat "$T/code")"; }
run() { dc && $DC "$@"; }
"#;

fn outcome(_number: usize, frame: &Frame) -> Option<Outcome> {
    let changed = match frame.kind.as_str() {
        "changed" => true,
        "kept" => false,
        _ => return None,
    };
    let exit_code = i32::try_from(frame.number).ok()?;
    let mut output = frame.text();
    if output.len() > MAX_OUTPUT as usize {
        let mut end = MAX_OUTPUT as usize;
        while !output.is_char_boundary(end) {
            end -= 1;
        }
        output.truncate(end);
    }
    Some(Outcome {
        ok: exit_code == 0,
        changed: changed && exit_code == 0,
        output,
        exit_code,
    })
}

fn write(
    ssh: &Connections,
    context: &CallContext,
    script: &mut Script,
    number: usize,
    operation: &FileOp,
    size: &mut u64,
) -> Result<(), CallError> {
    script.push("CHANGED= HEAD=; : > \"$T/out\"");
    match operation {
        FileOp::MakeDirectory { path, mode } => {
            check_path(path)?;
            let (path, mode) = (quote(path)?, mode & 0o7777);
            script.push(&format!(
                "if [ -d {path} ]; then\n  [ \"$(stat -c %a {path} 2>/dev/null)\" = {mode:o} ] || {{ chmod {mode:o} {path} && CHANGED=1; }}\nelse mkdir -p {path} && chmod {mode:o} {path} && CHANGED=1\nfi 2> \"$T/out\"; fin $?"
            ));
        }
        FileOp::PutFile {
            path,
            content,
            mode,
        } => {
            check_path(path)?;
            let bytes = content_bytes(ssh, context, content)?;
            *size += bytes.len() as u64;
            if *size > MAX_CONTENT {
                return Err(CallError::exhausted(
                    "target.content-too-large",
                    format!("a batch holds more than {MAX_CONTENT} bytes"),
                )
                .hint("send large files with `ssh.upload`"));
            }
            // In this shell, not in a pipe's: CHANGED is to be seen.
            script.feed(&bytes, "cat > \"$T/in\" 2> \"$T/out\" || fin 1");
            let (path, mode) = (quote(path)?, mode & 0o7777);
            script.push(&format!(
                "put {path} {mode:o} < \"$T/in\" 2> \"$T/out\"; r=$?; rm -f \"$T/in\"; fin $r"
            ));
        }
        FileOp::ReadFile { path, max } => {
            check_path(path)?;
            let max = (*max).min(MAX_OUTPUT);
            let path = quote(path)?;
            // Blocks of one byte would be slow, so the file is cut afterwards.
            script.push(&format!(
                "HEAD=1\nif [ -d {path} ]; then echo is a directory > \"$T/out\"; r=1; else dd if={path} bs={MAX_OUTPUT} count=1 > \"$T/all\" 2> \"$T/err\"; r=$?; fi\n\
                 if [ $r -ne 0 ]; then [ -s \"$T/out\" ] || cat \"$T/err\" > \"$T/out\"; elif [ $(($(wc -c < \"$T/all\"))) -gt {max} ]; then dd if=\"$T/all\" bs={block} count=1 > \"$T/out\" 2>/dev/null; else mv -f \"$T/all\" \"$T/out\"; fi; fin $r",
                block = max.max(1),
            ));
        }
        FileOp::SwitchLink { path, to } => {
            check_path(path)?;
            script.push(&format!(
                "link {} {} 2> \"$T/out\"; fin $?",
                quote(to)?,
                quote(path)?
            ));
        }
        FileOp::Remove { path } => {
            check_path(path)?;
            if path.trim_end_matches(['/', '.']).matches('/').count() < 2 {
                return Err(CallError::denied(
                    "target.remove-root",
                    format!("{path} is too near the root to be removed"),
                ));
            }
            let path = quote(path)?;
            script.push(&format!(
                "if [ -e {path} ] || [ -L {path} ]; then rm -rf -- {path} 2> \"$T/out\" && CHANGED=1; fi; fin $?"
            ));
        }
        FileOp::ComposeConfig(compose) => {
            script.push("HEAD=1");
            script.push(&format!(
                "run {} config > \"$T/out\" 2> \"$T/err\"; r=$?; [ $r -eq 0 ] || cat \"$T/err\" > \"$T/out\"; fin $r",
                arguments(compose)?
            ));
        }
        FileOp::ComposePull(compose) => {
            script.push(&format!(
                "CHANGED=1; dc 2>/dev/null; live run {} pull; fin $?",
                arguments(compose)?
            ));
        }
        FileOp::ComposeUp(compose) => {
            script.push(&format!(
                "CHANGED=1; dc 2>/dev/null; live run {} up -d; fin $?",
                arguments(compose)?
            ));
        }
        FileOp::ComposePs(compose) => {
            // v1 knows no formats; what it prints is given as it is.
            script.push(&format!(
                "HEAD=1\nif dc 2> \"$T/out\"; then case $DC in docker-compose) f= ;; *) f='-a --format json' ;; esac; $DC {} ps $f > \"$T/out\" 2> \"$T/err\"; r=$?; [ $r -eq 0 ] || cat \"$T/err\" > \"$T/out\"; else r=127; fi; fin $r",
                arguments(compose)?
            ));
        }
        FileOp::RunScript { body, args, env } => {
            script.feed(body.as_bytes(), "cat > \"$T/script\" || fin 1");
            let mut exported = Zeroizing::new(String::new());
            exports(ssh, env, &mut exported)?;
            script.push(&format!("body_{number}() (\nunset LC_ALL"));
            script.append(&exported);
            let mut words = String::new();
            for word in args {
                let _ = write!(words, " {}", quote(&plain_argument(word)?)?);
            }
            script.push(&format!("exec sh \"$T/script\"{words} </dev/null\n)"));
            script.push(&format!("CHANGED=1; live body_{number}; fin $?"));
        }
    }
    Ok(())
}

fn content_bytes(
    ssh: &Connections,
    context: &CallContext,
    content: &Content,
) -> Result<Zeroizing<Vec<u8>>, CallError> {
    match content {
        Content::Text(text) => {
            let text = ssh.config().secrets.resolve(text)?;
            Ok(Zeroizing::new(text.as_bytes().to_vec()))
        }
        Content::Blob(reference) => super::blob_bytes(context, reference, MAX_CONTENT),
    }
}

/// `-p … --project-directory … -f … --env-file …`, quoted.
fn arguments(compose: &Compose) -> Result<String, CallError> {
    check_path(&compose.dir)?;
    super::check_project(&compose.project)?;
    let mut words = format!(
        "-p {} --project-directory {}",
        quote(&compose.project)?,
        quote(&compose.dir)?
    );
    for file in &compose.files {
        check_path(file)?;
        let _ = write!(words, " -f {}", quote(file)?);
    }
    if let Some(file) = &compose.env_file {
        check_path(file)?;
        let _ = write!(words, " --env-file {}", quote(file)?);
    }
    Ok(words)
}
