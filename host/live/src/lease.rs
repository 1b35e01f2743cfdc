//! The lease on a target: two runs stay apart. It is a directory there.
//!
//! | file | what |
//! |---|---|
//! | `holder` | who holds it: run, owner, since, expiry, time to live, fence |
//! | `fence` | a number that grows by one with each holder |
//! | `mutex` | guards both, by `flock` where the target has it, else by `mkdir` |
//!
//! Expiry is by the target's clock. A clock that was set back cannot make a
//! lease last longer than its time to live from then on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_model::call::{LeaseCall, LeaseOp};
use windlass_model::reply::Lease as LeaseReply;
use windlass_model::{CallContext, CallError, Reply, TargetName};

use crate::ssh::Connections;
use crate::ssh::operation::file_error;
use crate::target::bad_answer;
use crate::target::script::{Answer, Script};

/// Answers calls of the capability `lease`.
#[derive(Debug)]
pub struct Lease {
    ssh: Arc<Connections>,
}

/// Owners are shown to people: longer ones are cut.
const MAX_OWNER: usize = 200;

/// Reads `holder`, if there is one that is well-formed and not expired.
const READ: &str = r#"now=$(date +%s)
held() {
  H_RUN=
  [ -f "$P/holder" ] || return 1
  read -r H_RUN H_FENCE H_SINCE H_EXPIRES H_TTL H_OWNER H_END < "$P/holder" || return 1
  case "$H_FENCE$H_SINCE$H_EXPIRES$H_TTL" in ''|*[!0-9]*) H_RUN=; return 1 ;; esac
  [ "$H_END" = . ] || { H_RUN=; return 1; }
  left=$((H_EXPIRES - now))
  [ $left -le "$H_TTL" ] || left=$H_TTL
  [ $left -gt 0 ] || { H_RUN=; return 1; }
}
at() { date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null; }
tell() { say lease $left "$H_RUN $H_FENCE $(at "$H_SINCE") $H_OWNER"; }
"#;

const LOCK: &str = r#"bad() { say failed 0 "$(cat "$T/err")"; say end 0 ''; exit 0; }
mkdir -p "$P" 2> "$T/err" || bad
locked=
if command -v flock >/dev/null 2>&1; then
  { : >> "$P/mutex"; } 2> "$T/err" || bad
  exec 9>> "$P/mutex"
  flock 9 2> "$T/err" && locked=1
fi
if [ -z "$locked" ]; then
  i=0
  until mkdir "$P/mutex.d" 2>/dev/null; do
    # Whoever made it holds it for moments only: after a minute it was killed.
    [ -z "$(find "$P/mutex.d" -prune -mmin +1 2>/dev/null)" ] || rmdir "$P/mutex.d" 2>/dev/null
    i=$((i + 1))
    [ $i -lt 100 ] || { echo "another program keeps $P/mutex.d" > "$T/err"; bad; }
    sleep 0.1 2>/dev/null || sleep 1
  done
  trap 'rmdir "$P/mutex.d" 2>/dev/null; rm -rf "$T"' EXIT
fi
now=$(date +%s)
hold() {
  # hold FENCE SINCE
  H_RUN=$RUN H_FENCE=$1 H_SINCE=$2 H_OWNER=$OWNER H_TTL=$TTL left=$TTL
  # By cat: a full disk is no "No space left" when it is the shell that writes.
  { echo "$RUN $1 $2 $((now + TTL)) $TTL $OWNER ." | cat > "$P/holder.$S"; } 2> "$T/err" || { rm -f "$P/holder.$S"; bad; }
  settle "$P/holder.$S"
  mv -f "$P/holder.$S" "$P/holder" 2> "$T/err" || bad
}
"#;

const ACQUIRE: &str = r#"if held; then
  if [ "$H_RUN" = "$RUN" ]; then hold "$H_FENCE" "$H_SINCE"; fi
else
  fence=0
  [ ! -f "$P/fence" ] || read -r fence < "$P/fence"
  case $fence in ''|*[!0-9]*) fence=0 ;; esac
  fence=$((fence + 1))
  { echo $fence | cat > "$P/fence.$S"; } 2> "$T/err" || { rm -f "$P/fence.$S"; bad; }
  settle "$P/fence.$S"
  mv -f "$P/fence.$S" "$P/fence" 2> "$T/err" || bad
  hold $fence "$now"
fi
tell
"#;

const RENEW: &str = r#"if held; then
  if [ "$H_RUN" = "$RUN" ]; then OWNER=$H_OWNER; hold "$H_FENCE" "$H_SINCE"; fi
  tell
fi
"#;

const RELEASE: &str = r#"[ -d "$P" ] || { say end 0 ''; exit 0; }
"#;

const RELEASE_LOCKED: &str = r#"if held && [ "$H_RUN" = "$RUN" ]; then rm -f "$P/holder" 2> "$T/err" || bad; fi
"#;

const STATUS: &str = "if held; then tell; fi\n";

impl Lease {
    pub fn new(ssh: Arc<Connections>) -> Self {
        Self { ssh }
    }

    pub async fn call(&self, context: &CallContext, call: LeaseCall) -> Result<Reply, CallError> {
        let LeaseCall { target, path, op } = call;
        let mut script = Script::new(context, None)?;
        set_path(&mut script, &path)?;
        let run = context.id.run.0.simple().to_string();
        script.set("RUN", &run)?;
        let (owner, ttl_ms) = match &op {
            LeaseOp::Acquire { owner, ttl_ms } => (owner.as_str(), *ttl_ms),
            LeaseOp::Renew { ttl_ms } => ("", *ttl_ms),
            LeaseOp::Release | LeaseOp::Status => ("", 0),
        };
        script.set("OWNER", &STANDARD.encode(printable(owner)))?;
        script.set("TTL", &ttl_ms.div_ceil(1000).max(1).to_string())?;
        script.push(READ);
        match &op {
            LeaseOp::Acquire { .. } => {
                script.push(LOCK);
                script.push(ACQUIRE);
            }
            LeaseOp::Renew { .. } => {
                script.push(LOCK);
                script.push(RENEW);
            }
            LeaseOp::Release => {
                script.push(RELEASE);
                script.push(LOCK);
                script.push(RELEASE_LOCKED);
            }
            LeaseOp::Status => script.push(STATUS),
        }
        let answer = script.run(&self.ssh, context, &target).await?;
        if let Some(failed) = answer.find("failed") {
            return Err(file_error(
                "used as a lease",
                &target,
                &path,
                &failed.text(),
            ));
        }
        let lease = read(&answer, &run, &target)?;
        match op {
            LeaseOp::Acquire { .. } => match lease {
                Some(lease) => Ok(Reply::Lease(Some(lease))),
                None => Err(bad_answer(&target)),
            },
            LeaseOp::Renew { .. } => match lease {
                Some(lease) if lease.ours => Ok(Reply::Lease(Some(lease))),
                Some(other) => Err(CallError::conflict(
                    "lease.lost",
                    format!(
                        "the lease on {target} is no longer ours: {} holds it since {}",
                        other.owner, other.since
                    ),
                )
                .hint(
                    "another run went on; look at `windlass runs` and the target before going on",
                )),
                None => Err(CallError::conflict(
                    "lease.lost",
                    format!("the lease on {target} expired, or was released"),
                )),
            },
            LeaseOp::Release => Ok(Reply::Done),
            LeaseOp::Status => Ok(Reply::Lease(lease)),
        }
    }
}

fn set_path(script: &mut Script, path: &str) -> Result<(), CallError> {
    if let Some(rest) = path.strip_prefix("~/") {
        script.set("P", rest)?;
        script.push("P=$HOME/$P");
        return Ok(());
    }
    crate::ssh::operation::check_path(path)?;
    script.set("P", path)
}

fn printable(owner: &str) -> String {
    let text: String = owner
        .chars()
        .filter(|character| !character.is_control())
        .take(MAX_OWNER)
        .collect();
    // A word must stand in its place in the file.
    if text.is_empty() {
        "?".to_owned()
    } else {
        text
    }
}

fn read(answer: &Answer, run: &str, target: &TargetName) -> Result<Option<LeaseReply>, CallError> {
    let Some(frame) = answer.find("lease") else {
        return Ok(None);
    };
    let text = frame.text();
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or_else(|| bad_answer(target));
    let (holder, fence, since) = (next()?, next()?, next()?);
    let owner = STANDARD.decode(next()?).unwrap_or_default();
    Ok(Some(LeaseReply {
        ours: holder == run,
        owner: printable(&String::from_utf8_lossy(&owner)),
        run: uuid::Uuid::parse_str(holder).map_or_else(|_| holder.to_owned(), |id| id.to_string()),
        since: since.to_owned(),
        remaining_ms: u64::try_from(frame.number).unwrap_or(0) * 1000,
        fence: fence.parse().map_err(|_| bad_answer(target))?,
    }))
}
