//! Scripts for targets: what they begin with, and how they answer.
//!
//! A script's answers go to its stdout, which nothing else there writes to, as
//! frames: a line `MARK KIND NUMBER LENGTH`, so many bytes, a line end. What
//! programs print goes to stderr, line by line into the log, or into frames.
//! What a frame holds cannot be taken for a frame: its length is known first.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_model::{CallContext, CallError, TargetName};
use zeroize::Zeroizing;

use crate::ssh::Connections;
use crate::ssh::exec::{Output, Ran, Request};
use crate::ssh::lines::excerpt;
use crate::ssh::shell::quote;

/// Most that a script may answer: hundreds of release records or outputs at
/// their own caps. A target that floods the engine is stopped here.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// Finds the Docker engine that the login reaches, and names it for `docker`
/// and compose alike: what the session says, then the usual sockets.
pub(crate) const FIND_DOCKER: &str = r#"PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/snap/bin
if [ -z "$DOCKER_HOST" ]; then
  w_u=$(id -u)
  for w_s in /var/run/docker.sock "$XDG_RUNTIME_DIR/docker.sock" "/run/user/$w_u/docker.sock" "$HOME/.docker/run/docker.sock"; do
    if [ -S "$w_s" ] && [ -w "$w_s" ]; then DOCKER_HOST=unix://$w_s; break; fi
  done
  [ -n "$DOCKER_HOST" ] || DOCKER_HOST=unix:///var/run/docker.sock
fi
export DOCKER_HOST"#;

/// Answers on descriptor 3; a private directory `$T`; helpers.
///
/// A cut connection or a hang-up does not stop a script: it ends what it began.
const PRELUDE: &str = r#"exec 3>&1 1>&2
umask 022
trap '' PIPE HUP
command -v base64 >/dev/null || { echo "base64 is not installed" >&2; exit 119; }
T=$(mktemp -d "${TMPDIR:-/tmp}/windlass.XXXXXXXX") || { echo "no temporary directory can be made" >&2; exit 120; }
trap 'rm -rf "$T"' EXIT
trap 'exit 143' INT TERM
say() { printf '%s %s %s %d\n%s\n' "$M" "$1" "$2" "${#3}" "$3" >&3; }
emit() { w_n=$(wc -c < "$3"); printf '%s %s %s %d\n' "$M" "$1" "$2" "$((w_n))" >&3; cat "$3" >&3; echo >&3; }
dc() {
  if [ -z "$DC" ]; then
    if docker compose version >/dev/null 2>&1; then DC='docker compose'
    elif command -v docker-compose >/dev/null 2>&1; then DC=docker-compose
    else echo "neither docker compose nor docker-compose is installed" >&2; return 127
    fi
  fi
}
settle() { sync "$1" 2>/dev/null || sync; }
put() {
  # put PATH MODE, the content on stdin: temporary name, fsync, rename.
  [ ! -d "$1" ] || { echo "$1 is a directory" >&2; return 1; }
  [ -d "${1%/*}/" ] || { echo "${1%/*}: No such file or directory" >&2; return 1; }
  w_t="$1.$S"
  w_m=$(umask); umask 077
  cat > "$w_t"; w_r=$?
  umask "$w_m"
  [ $w_r -eq 0 ] && chmod "$2" "$w_t" || { rm -f "$w_t"; return 1; }
  if [ -f "$1" ] && [ ! -L "$1" ] && cmp -s "$w_t" "$1"; then
    w_o=$(stat -c %a "$1" 2>/dev/null)
    rm -f "$w_t"
    [ "$w_o" = "$2" ] || { chmod "$2" "$1" || return 1; CHANGED=1; }
    return 0
  fi
  settle "$w_t" && mv -f "$w_t" "$1" || { rm -f "$w_t"; return 1; }
  CHANGED=1
}
link() {
  # link TARGET PATH: replaced atomically where mv can.
  [ "$(readlink "$2" 2>/dev/null)" = "$1" ] && return 0
  if [ -e "$2" ] && [ ! -L "$2" ]; then echo "$2 is there and is no link" >&2; return 1; fi
  ln -s "$1" "$2.$S" || return 1
  mv -fT "$2.$S" "$2" 2>/dev/null || { rm -f "$2.$S"; ln -sfn "$1" "$2" || return 1; }
  CHANGED=1
}
"#;

/// A script under construction.
pub(crate) struct Script {
    text: Zeroizing<String>,
    mark: String,
}

impl Script {
    /// `docker_socket`: the engine's, where the manifest names it.
    pub(crate) fn new(
        context: &CallContext,
        docker_socket: Option<&str>,
    ) -> Result<Self, CallError> {
        let stamp = context.id.stamp();
        let mark = format!("windlass:{stamp}");
        let mut text = Zeroizing::new(String::new());
        let _ = write!(
            text,
            "M={}\nS={}\n",
            quote(&mark)?,
            quote(&format!("windlass-{stamp}"))?
        );
        if let Some(socket) = docker_socket {
            let host = if socket.starts_with('/') {
                format!("unix://{socket}")
            } else {
                socket.to_owned()
            };
            let _ = writeln!(text, "DOCKER_HOST={}", quote(&host)?);
        }
        text.push_str(FIND_DOCKER);
        text.push('\n');
        text.push_str(PRELUDE);
        Ok(Self { text, mark })
    }

    /// What follows is done only while the run's lease on the target holds,
    /// and no other run takes it over meanwhile.
    pub(crate) fn fence(
        &mut self,
        ssh: &Connections,
        target: &TargetName,
    ) -> Result<(), CallError> {
        if let Some(fence) = ssh.fence(target) {
            self.push(&fence.text(false)?);
            self.push("fenced || { say fence 0 \"$w_held\"; say end 0 ''; exit 0; }");
        }
        Ok(())
    }

    /// Text of ours, complete lines.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// `NAME='value'`
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), CallError> {
        let quoted = Zeroizing::new(quote(value)?);
        self.text.push_str(name);
        self.text.push('=');
        self.text.push_str(&quoted);
        self.text.push('\n');
        Ok(())
    }

    /// Decodes bytes into the stdin of a command: `COMMAND` reads them. They
    /// pass through no argument.
    pub(crate) fn feed(&mut self, bytes: &[u8], command: &str) {
        let encoded = Zeroizing::new(STANDARD.encode(bytes));
        self.text.push_str("base64 -d <<'WINDLASS' | ");
        self.text.push_str(command);
        self.text.push('\n');
        // In lines: some decoders read no long ones.
        let mut rest: &str = &encoded;
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(76));
            self.text.push_str(line);
            self.text.push('\n');
            rest = after;
        }
        self.text.push_str("WINDLASS\n");
    }

    pub(crate) fn append(&mut self, text: &Zeroizing<String>) {
        self.text.push_str(text);
    }

    /// Runs the script; its frames, in order. One round trip.
    pub(crate) async fn run(
        mut self,
        ssh: &Connections,
        context: &CallContext,
        target: &TargetName,
    ) -> Result<Answer, CallError> {
        self.push("say end 0 ''\nexit 0");
        let request = Request::script(self.text, Output::Keep(MAX_ANSWER), ssh.sudo(target));
        let ran = ssh.run(context, target, request).await?;
        let frames = parse(&self.mark, &ran.stdout);
        match frames {
            Some(frames) => match frames.iter().find(|frame| frame.kind == "fence") {
                Some(held) => Err(crate::lease::refused(target, &held.text())),
                None => Ok(Answer { frames, ran }),
            },
            None => Err(incomplete(target, &ran)),
        }
    }
}

fn incomplete(target: &TargetName, ran: &Ran) -> CallError {
    let said = &ran.tail;
    if said.contains("No space left") || said.contains("Disk quota") {
        return CallError::exhausted(
            "target.disk-full",
            format!("a disk of {target} is full: {}", excerpt(said)),
        )
        .hint(format!(
            "make room on {target}; `df -h` there shows its disks"
        ));
    }
    if ran.code == 119 {
        return CallError::unavailable("target.no-base64", format!("{target} has no `base64`"))
            .hint("install coreutils or busybox there");
    }
    if ran.code == 120 {
        return CallError::unavailable(
            "target.no-temporary-directory",
            format!(
                "no temporary directory can be made on {target}: {}",
                excerpt(said)
            ),
        )
        .hint("is /tmp there full or read-only?");
    }
    CallError::unavailable(
        "target.script-broke",
        format!(
            "a script on {target} ended early with code {}: {}",
            ran.code,
            excerpt(said)
        ),
    )
}

/// What a script answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) frames: Vec<Frame>,
    pub(crate) ran: Ran,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: String,
    pub(crate) number: i64,
    pub(crate) data: Vec<u8>,
}

impl Frame {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

impl Answer {
    pub(crate) fn find(&self, kind: &str) -> Option<&Frame> {
        self.frames.iter().find(|frame| frame.kind == kind)
    }

    pub(crate) fn text(&self, kind: &str) -> String {
        self.find(kind).map(Frame::text).unwrap_or_default()
    }
}

/// The frames of an answer; none when it is not whole. What a login shell's
/// start-up files printed comes before the first frame and is passed over.
fn parse(mark: &str, bytes: &[u8]) -> Option<Vec<Frame>> {
    let head = format!("{mark} ").into_bytes();
    let mut rest = bytes;
    // The first frame begins a line, or follows noise without a line end.
    let start = rest.windows(head.len()).position(|window| window == head)?;
    rest = &rest[start..];
    let mut frames = Vec::new();
    loop {
        rest = rest.strip_prefix(head.as_slice())?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        let mut words = line.split(' ');
        let kind = words.next()?.to_owned();
        let number = words.next()?.parse().ok()?;
        let length: usize = words.next()?.parse().ok()?;
        if words.next().is_some() || length >= rest.len() || rest[length] != b'\n' {
            return None;
        }
        let data = rest[..length].to_vec();
        rest = &rest[length + 1..];
        if kind == "end" {
            return rest.is_empty().then_some(frames);
        }
        frames.push(Frame { kind, number, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(mark: &str, kind: &str, number: i64, data: &[u8]) -> Vec<u8> {
        let mut bytes = format!("{mark} {kind} {number} {}\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn noise_before_the_first_frame_is_passed_over() {
        let mut bytes = b"Welcome!".to_vec();
        bytes.extend(frame("m", "op", 3, b"x"));
        bytes.extend(frame("m", "end", 0, b""));
        let frames = parse("m", &bytes).expect("frames");
        assert_eq!((frames.len(), frames[0].number), (1, 3));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_none() {
        let whole = [frame("m", "op", 0, b"abc"), frame("m", "end", 0, b"")].concat();
        assert!(parse("m", &whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(parse("m", &whole[..cut]), None, "{cut}");
        }
        let more = [whole, b"x".to_vec()].concat();
        assert_eq!(parse("m", &more), None);
    }

    proptest::proptest! {
        #[test]
        fn data_cannot_forge_a_frame(data in proptest::collection::vec(
            proptest::prop_oneof!["m op 0 1\n", "m end 0 0\n\n", "\n", ".{0,8}"], 0..12
        )) {
            let data = data.concat().into_bytes();
            let bytes = [frame("m", "op", 7, &data), frame("m", "end", 0, b"")].concat();
            let frames = parse("m", &bytes).expect("frames");
            proptest::prop_assert_eq!(frames, vec![Frame { kind: "op".into(), number: 7, data }]);
        }
    }
}
