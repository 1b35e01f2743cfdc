//! Commands that outlive the connection: one runs on when the line is cut, and
//! is found again by the identity of its call.
//!
//! A directory on the target, named after the call, is made before the command
//! starts: whoever makes it runs the command, everybody else waits for its end
//! there. So it runs once, however often the script arrives. It is 0700, and
//! holds:
//!
//! | file | what |
//! |---|---|
//! | `pid`, `session` | the shell that waits for the command, and the sshd above it |
//! | `in` | the command's stdin, whole before it starts; gone once it is open |
//! | `out`, `err` | the end of what it printed |
//! | `out.n`, `err.n` | how many bytes that was in all |
//! | `code` | how it ended; the last to appear |
//!
//! It goes with the next thing that this run does there once the answer is on the
//! engine's disk, so that an engine that was killed finds either there. One that
//! nobody came back for goes after a day.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;
use windlass_model::backend::LogStream;
use windlass_model::{CallContext, CallError, ErrorKind, TargetName};
use zeroize::Zeroizing;

use super::Connections;
use super::exec::{Input, Output, Ran, Reading, Request};
use super::shell::quote;

/// How long a target may stay away before its command is given up.
const RECONNECT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
/// A stdin that broke off was not given to the command; it is sent again, so often.
const MAX_AGAIN: u32 = 3;
/// The code with which the script ends when it says a word of its own.
pub(super) const TROUBLE: i32 = 123;
/// Larger ones go to the command as they come, and do not survive a cut.
pub(super) const MAX_STDIN: u64 = 64 * 1024 * 1024;

/// The directories in which a call's own may be: the first one that can be used.
/// `$w_u`: the login's number.
macro_rules! places {
    () => {
        r#""$HOME/.windlass/calls" "${XDG_RUNTIME_DIR:-/nonexistent}/windlass-calls" "/dev/shm/windlass-calls-$w_u" "/tmp/windlass-calls-$w_u""#
    };
}

pub(super) const PLACES: &str = places!();

/// `$D`: the call's directory's name; `$S`: how a line for the engine begins;
/// `$N`: bytes of stdin, if any; `$SEEN_OUT`, `$SEEN_ERR`: what the engine has already.
pub(super) const FIND: &str = concat!(
    r#"w_umask=$(umask); umask 077
w_u=$(id -u) W= w_new=
for w_c in "#,
    places!(),
    r#"; do
  if [ -d "$w_c/$D" ] && [ -O "$w_c/$D" ]; then W=$w_c/$D; break; fi
done
"#
);

/// `lives`: whether the shell that waits for the command is there still, and is not
/// another process that has its number by now.
pub(super) const LIVES: &str = r#"w_lives() {
  w_r=; { read -r w_r < "$W/pid"; } 2>/dev/null
  [ -n "$w_r" ] && kill -0 "$w_r" 2>/dev/null || return 1
  [ ! -r "/proc/$w_r/environ" ] || grep -qF "WINDLASS_CALL=$D:" "/proc/$w_r/environ"
}
"#;

const MAKE: &str = concat!(
    "  for w_c in ",
    places!(),
    r#"; do
    mkdir -p "$w_c" 2>/dev/null
    [ -d "$w_c" ] && [ ! -L "$w_c" ] && [ -O "$w_c" ] || continue
    set -- "$w_c"/*-*-*
    [ ! -e "$1" ] || find "$w_c" -name '*-*-*' -prune -mmin +1440 2>/dev/null | while read -r w_o; do
      kill -0 "$(cat "$w_o/pid" 2>/dev/null)" 2>/dev/null || rm -rf "$w_o"
    done
    if mkdir "$w_c/$D" 2>/dev/null; then
      W=$w_c/$D
      if { echo $$ > "$W/pid" && echo $PPID > "$W/session" && mkfifo "$W/o1" "$W/o2" "$W/e1" "$W/e2"; } 2>/dev/null; then w_new=1; break; fi
      rm -rf "$W"; W=
    elif [ -d "$w_c/$D" ]; then W=$w_c/$D; break
    fi
  done
  [ -n "$W" ] || { echo "$S place" >&2; exit 123; }
"#
);

/// The command's output goes to the connection while there is one, and its end
/// to the directory.
const RUN: &str = r#"w_relay() { trap '' HUP PIPE; exec tee "$W/${1}1" "$W/${1}2" 2>/dev/null; }
if [ -n "$w_new" ]; then
  if [ -n "$N" ]; then
    cat > "$W/in" 2>/dev/null || { rm -rf "$W"; echo "$S full" >&2; exit 123; }
    [ $(($(wc -c < "$W/in"))) -eq "$N" ] || { rm -rf "$W"; echo "$S again" >&2; exit 123; }
  fi
  trap : HUP PIPE
  tail -c 65536 < "$W/o1" > "$W/out" 2>/dev/null &
  wc -c < "$W/o2" > "$W/out.n" 2>/dev/null &
  tail -c 65536 < "$W/e1" > "$W/err" 2>/dev/null &
  wc -c < "$W/e2" > "$W/err.n" 2>/dev/null &
  {
    {
      ( exec 4>&- 8<&-; umask "$w_umask"; w_command )
      echo $? > "$W/status"
    } 2>&1 >&4 | w_relay e >&2 4>&-
  } 4>&1 | w_relay o
  wait
  w_code=; read -r w_code < "$W/status"
  [ -n "$w_code" ] || { echo "$S full" >&2; exit 123; }
  mv -f "$W/status" "$W/code"
  exit "$w_code"
fi
"#;

/// Waits for the end of a command that runs, or ran, already.
const ATTACH: &str = r#"# Its first connection may hang, and hold the output: it ends.
w_p=; { read -r w_p < "$W/session"; } 2>/dev/null
case $w_p in
  ''|*[!0-9]*|"$PPID") ;;
  *) case $(cat "/proc/$w_p/comm" 2>/dev/null) in sshd*) kill "$w_p" 2>/dev/null ;; esac ;;
esac
w_i=0
until [ -f "$W/code" ]; do
  [ -d "$W" ] || { echo "$S again" >&2; exit 123; }
  if w_lives; then w_i=0; else w_i=$((w_i + 1)); fi
  [ $w_i -lt 10 ] || { echo "$S gone" >&2; exit 123; }
  sleep 0.2 2>/dev/null || sleep 1
done
w_part() {
  w_t=0; read -r w_t < "$W/$1.n"
  w_m=$((w_t - $2))
  if [ $w_m -gt 65536 ]; then
    # The first line that is there is a part of one: it may begin within a secret.
    [ "$2" = 0 ] || echo
    echo "windlass: $((w_m - 65536)) bytes and more before this came while nobody listened, and are not kept"
    tail -n +2 "$W/$1"
  elif [ $w_m -gt 0 ]; then tail -c "$w_m" "$W/$1"
  fi
}
w_part out "$SEEN_OUT"
w_part err "$SEEN_ERR" >&2
exit "$(cat "$W/code")"
"#;

/// What a call runs on a target.
pub(super) struct Command {
    /// Shell text that ends with `exec`: environment, directory, words.
    pub(super) body: Zeroizing<String>,
    /// Shell text that may refuse, before the command starts.
    pub(super) check: String,
    pub(super) input: Input,
    /// Bytes of stdin, if it has one.
    pub(super) stdin: Option<u64>,
}

/// What is to be done about a command.
pub(super) enum Work {
    /// It runs, unless it does already.
    Begin(Box<Command>),
    /// An earlier process began it: nothing runs that does not already.
    Rejoin,
}

impl Work {
    /// Complete, or a syntax error: half of it runs nothing.
    fn script(&self, stamp: &str, reading: &Reading) -> Result<Zeroizing<String>, CallError> {
        let mut script = Zeroizing::new(String::new());
        if let Self::Begin(command) = self {
            let stdin = match command.stdin {
                Some(_) => "exec < \"$W/in\"; rm -f \"$W/in\"",
                None => "exec </dev/null",
            };
            let _ = writeln!(script, "w_command() {{\n{stdin}\n{}}}", *command.body);
        }
        let _ = write!(
            script,
            "w_call() {{\nD={} S={}\nSEEN_OUT={} SEEN_ERR={}\n{FIND}",
            quote(stamp)?,
            quote(&control(stamp))?,
            reading.out_bytes,
            reading.err_bytes,
        );
        match self {
            Self::Begin(command) => {
                let size = command
                    .stdin
                    .map_or_else(String::new, |size| size.to_string());
                let check = &command.check;
                let _ = write!(
                    script,
                    "N={size}\nif [ -z \"$W\" ]; then\n{check}{MAKE}fi\n{RUN}"
                );
            }
            Self::Rejoin => {
                script.push_str("[ -n \"$W\" ] || { echo \"$S none\" >&2; exit 123; }\n");
            }
        }
        let _ = write!(script, "{LIVES}{ATTACH}}}\nw_call\n");
        Ok(script)
    }

    fn input(&self) -> Input {
        match self {
            Self::Begin(command) => command.input.clone(),
            Self::Rejoin => Input::Nothing,
        }
    }
}

/// How lines for the engine begin.
pub(super) fn control(stamp: &str) -> String {
    format!("windlass-{stamp}")
}

/// Removes the directories of calls.
pub(super) fn forget(stamps: &[String]) -> String {
    let mut text = String::new();
    for stamp in stamps {
        // Letters, digits, `-`, `_` and `.` only.
        let _ = writeln!(
            text,
            "rm -rf \"$HOME/.windlass/calls/{stamp}\" \"${{XDG_RUNTIME_DIR:-/nonexistent}}/windlass-calls/{stamp}\" /dev/shm/windlass-calls-*/{stamp} /tmp/windlass-calls-*/{stamp} 2>/dev/null"
        );
    }
    text.push_str("rmdir \"$HOME/.windlass/calls\" \"$HOME/.windlass\" 2>/dev/null\n");
    text
}

/// Runs a command once, and attaches to it again when the connection is lost.
pub(super) async fn run(
    connections: &Connections,
    context: &CallContext,
    target: &TargetName,
    work: Work,
) -> Result<(Ran, Option<String>), CallError> {
    let stamp = context.id.stamp();
    let mut reading = Reading::with_control(control(&stamp));
    let mut lost_at: Option<Instant> = None;
    let mut again = 0;
    let mut tries = 0;
    let mut anew = false;
    loop {
        tries += 1;
        let mut script = work.script(&stamp, &reading)?;
        // In one try only: the next one may find what this one began.
        if std::mem::take(&mut anew) {
            script.insert_str(0, &forget(std::slice::from_ref(&stamp)));
        }
        let request = Request {
            script,
            input: work.input(),
            output: Output::Log,
            sudo: false,
            plain_locale: false,
        };
        let error = match connections
            .run_with(context, target, request, &mut reading)
            .await
        {
            Ok(ran) => {
                let word = reading.take_control();
                match word.as_deref() {
                    Some("again") if again < MAX_AGAIN => {
                        again += 1;
                        continue;
                    }
                    // What the first try finds is an earlier process's. It was stopped
                    // before it ended by itself, and somebody wants it done again.
                    Some("gone") if tries == 1 && matches!(work, Work::Begin(_)) => {
                        anew = true;
                        continue;
                    }
                    _ => {}
                }
                let ran = reading.end(ran, context.log.as_ref());
                connections.answered(target, stamp, context.answered.clone());
                return Ok((ran, word));
            }
            Err(error) => error,
        };
        match error.code.as_str() {
            "ssh.lost" | "ssh.stream" | "ssh.session-failed" => {
                lost_at = Some(Instant::now());
                context.log.line(
                    LogStream::Stderr,
                    &format!("windlass: the connection to {target} was lost; connecting again"),
                );
            }
            _ if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
                && lost_at.is_some_and(|lost| lost.elapsed() < RECONNECT)
                && context.remaining() > PAUSE => {}
            _ => {
                reading.end(Ran::default(), context.log.as_ref());
                return Err(match lost_at {
                    Some(_) if error.kind == ErrorKind::Cancelled => {
                        connections.end(target, &stamp).await;
                        error
                    }
                    Some(_) => unknown(target, &error),
                    None => error,
                });
            }
        }
        context
            .log
            .status("the connection was lost; connecting again");
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = context.cancel.cancelled() => {
                connections.end(target, &stamp).await;
                return Err(CallError::cancelled());
            }
            () = tokio::time::sleep_until(context.deadline) => {
                return Err(unknown(target, &error));
            }
        }
    }
}

fn unknown(target: &TargetName, error: &CallError) -> CallError {
    CallError::unavailable(
        "ssh.lost",
        format!(
            "the connection to {target} was lost while a command ran there, and it cannot be \
             reached again ({}); the command runs on there",
            error.message
        ),
    )
    .hint("look at the network and at the server's sshd")
    .retryable()
}

/// What a word that the script says of itself means.
pub(super) fn trouble(target: &TargetName, word: &str) -> Option<CallError> {
    match word {
        "place" => Some(
            CallError::unavailable(
                "ssh.no-place",
                format!(
                    "no directory for the command's exit code can be made on {target}: neither in \
                     the login's home, nor in /dev/shm or /tmp"
                ),
            )
            .hint("make room there, or give the login a home that it may write to"),
        ),
        "full" => Some(
            CallError::exhausted(
                "target.disk-full",
                format!(
                    "a disk of {target} is full: the command's input or exit code found no room"
                ),
            )
            .hint(format!(
                "make room on {target}; `df -h` there shows its disks"
            )),
        ),
        "again" => Some(
            CallError::unavailable(
                "ssh.stream",
                format!("the command's input did not arrive whole on {target}; it was not started"),
            )
            .retryable(),
        ),
        "none" => Some(
            CallError::unavailable(
                "ssh.lost",
                format!("nothing is left on {target} of a command that was there a moment ago"),
            )
            .hint("look at the target: what the command did is not known"),
        ),
        "gone" => Some(
            CallError::unavailable(
                "ssh.lost",
                format!(
                    "the connection to {target} was lost while a command ran there, and the \
                     command was killed or the server started anew before it told how it ended"
                ),
            )
            .hint("look at the target: what the command did is not known"),
        ),
        _ => None,
    }
}
