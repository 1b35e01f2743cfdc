//! The lease on a target: two runs stay apart. It is a directory there.
//!
//! | file | what |
//! |---|---|
//! | `holder` | who holds it: run, fence, since, expiry, time to live, owner, start of the machine, reason |
//! | `fence` | a number that grows by one with each holder |
//! | `mutex` | guards both, by `flock` where the target has it, else by `mkdir` |
//! | `operations` | locked, shared, by each operation of the holder; alone, by who takes over |
//!
//! So an operation is compared with the lease and done under one lock: an engine
//! that was left behind is refused on the target, and one that takes over never
//! meets what its predecessor began. Expiry is by the target's clock.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_model::call::{LeaseCall, LeaseOp};
use windlass_model::reply::Lease as LeaseReply;
use windlass_model::{CallContext, CallError, Reply, TargetName};

use crate::ssh::Connections;
use crate::ssh::operation::file_error;
use crate::ssh::shell::quote;
use crate::target::bad_answer;
use crate::target::script::{Answer, Script};

mod shell;

/// Answers calls of the capability `lease`.
#[derive(Debug)]
pub struct Lease {
    ssh: Arc<Connections>,
}

/// Owners are shown to people: longer ones are cut.
const MAX_OWNER: usize = 200;

impl Lease {
    pub fn new(ssh: Arc<Connections>) -> Self {
        Self { ssh }
    }

    pub async fn call(&self, context: &CallContext, call: LeaseCall) -> Result<Reply, CallError> {
        let LeaseCall { target, path, op } = call;
        let mut script = Script::new(context, None)?;
        set_path(&mut script, "P", &path)?;
        let run = context.id.run.0.simple().to_string();
        script.set("RUN", &run)?;
        let (owner, ttl_ms, reason) = match &op {
            LeaseOp::Acquire {
                owner,
                ttl_ms,
                reason,
            } => (owner.as_str(), *ttl_ms, reason.as_str()),
            LeaseOp::Renew { ttl_ms } => ("", *ttl_ms, ""),
            LeaseOp::Release | LeaseOp::Break { .. } | LeaseOp::Status => ("", 0, ""),
        };
        script.set("OWNER", &word(owner))?;
        script.set("REASON", &reason_word(reason))?;
        script.set("TTL", &ttl_ms.div_ceil(1000).to_string())?;
        script.push(shell::READ);
        match &op {
            LeaseOp::Acquire { .. } => {
                script.push(shell::LOCK);
                script.push(shell::ACQUIRE);
            }
            LeaseOp::Renew { .. } => {
                script.push(shell::LOCK);
                script.push(shell::RENEW);
            }
            LeaseOp::Release | LeaseOp::Break { .. } => {
                let whose = match &op {
                    LeaseOp::Break { run } => simple(run),
                    _ => run.clone(),
                };
                script.set("WHOSE", &whose)?;
                script.push(shell::RELEASE);
                script.push(shell::LOCK);
                script.push(shell::RELEASE_LOCKED);
            }
            LeaseOp::Status => script.push(shell::STATUS),
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
            LeaseOp::Acquire { .. } => {
                let lease = lease.ok_or_else(|| bad_answer(&target))?;
                if lease.ours {
                    let holder = format!("{run} {}", lease.fence);
                    self.ssh.set_fence(&target, Some(Fence { path, holder }));
                }
                Ok(Reply::Lease(Some(lease)))
            }
            LeaseOp::Renew { .. } => match lease {
                Some(lease) if lease.ours => Ok(Reply::Lease(Some(lease))),
                other => Err(lost(&target, other.as_ref())),
            },
            LeaseOp::Release => {
                self.ssh.set_fence(&target, None);
                Ok(Reply::Done)
            }
            LeaseOp::Break { .. } => Ok(Reply::Done),
            LeaseOp::Status => Ok(Reply::Lease(lease)),
        }
    }
}

impl Lease {
    /// Gives up what the run holds, for a process that has no time left.
    pub(crate) async fn release_all(&self, context: &CallContext) {
        let held = self.ssh.fences().into_iter().map(|(target, fence)| {
            self.call(
                context,
                LeaseCall {
                    target,
                    path: fence.path,
                    op: LeaseOp::Release,
                },
            )
        });
        // Best effort: a lease that stays expires.
        futures_util::future::join_all(held).await;
    }
}

/// The lease under which this run works on a target. Operations carry it.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    path: String,
    /// Run and number, as `holder` begins.
    holder: String,
}

impl Fence {
    /// Shell text: `fenced`, and what it compares. `soft`: a login that may not
    /// see the lease passes, because it is kept by another one (`sudo`).
    pub(crate) fn text(&self, soft: bool) -> Result<String, CallError> {
        let path = match self.path.strip_prefix("~/") {
            Some(rest) => format!("$HOME/{}", quote(rest)?),
            None => quote(&self.path)?,
        };
        Ok(format!(
            "W_P={path}\nW_LEASE={}\nW_SOFT={}\n{}",
            quote(&self.holder)?,
            if soft { "1" } else { "" },
            shell::FENCED
        ))
    }
}

/// Why an operation was refused on the target: `held` is the line of `holder`
/// that it found there.
pub(crate) fn refused(target: &TargetName, held: &str) -> CallError {
    let words: Vec<&str> = held.split(' ').collect();
    let holder = match words.as_slice() {
        [run, fence, since, _, _, owner, _, reason, "."] => Some(LeaseReply {
            ours: false,
            owner: unword(owner),
            run: hyphened(run),
            since: since
                .parse()
                .ok()
                .and_then(|since| jiff::Timestamp::from_second(since).ok())
                .map_or_else(String::new, |since| since.to_string()),
            remaining_ms: None,
            fence: fence.parse().unwrap_or_default(),
            reason: unreason(reason),
        }),
        _ => None,
    };
    let mut error = lost(target, holder.as_ref());
    error.message.push_str("; this operation was refused there");
    error
}

fn lost(target: &TargetName, holder: Option<&LeaseReply>) -> CallError {
    match holder {
        Some(holder) => CallError::conflict(
            "lease.lost",
            format!(
                "the lease on {target} is no longer ours: {} (run {}) holds it since {}",
                holder.owner, holder.run, holder.since
            ),
        )
        .hint("another run went on; look at `windlass runs` and the target before going on"),
        None => CallError::conflict(
            "lease.lost",
            format!(
                "the lease on {target} is no longer ours: it was released, and nobody holds it"
            ),
        )
        .hint("`windlass lock release --force` does that; look at the target, then run again"),
    }
}

fn set_path(script: &mut Script, name: &str, path: &str) -> Result<(), CallError> {
    if let Some(rest) = path.strip_prefix("~/") {
        script.set(name, rest)?;
        script.push(&format!("{name}=$HOME/${name}"));
        return Ok(());
    }
    crate::ssh::operation::check_path(path)?;
    script.set(name, path)
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

fn word(owner: &str) -> String {
    STANDARD.encode(printable(owner))
}

fn unword(word: &str) -> String {
    let owner = STANDARD.decode(word).unwrap_or_default();
    printable(&String::from_utf8_lossy(&owner))
}

fn reason_word(reason: &str) -> String {
    if reason.is_empty() {
        "-".to_owned()
    } else {
        word(reason)
    }
}

fn unreason(text: &str) -> String {
    if text == "-" {
        String::new()
    } else {
        unword(text)
    }
}

fn simple(run: &str) -> String {
    uuid::Uuid::parse_str(run).map_or_else(|_| run.to_owned(), |id| id.simple().to_string())
}

fn hyphened(run: &str) -> String {
    uuid::Uuid::parse_str(run).map_or_else(|_| printable(run), |id| id.to_string())
}

fn read(answer: &Answer, run: &str, target: &TargetName) -> Result<Option<LeaseReply>, CallError> {
    let Some(frame) = answer.find("lease") else {
        return Ok(None);
    };
    let text = frame.text();
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or_else(|| bad_answer(target));
    let (holder, fence, since) = (next()?, next()?, next()?);
    let (owner, ttl, reason) = (next()?, next()?, next()?);
    let left = u64::try_from(frame.number)
        .unwrap_or(0)
        .saturating_mul(1000);
    Ok(Some(LeaseReply {
        ours: holder == run,
        owner: unword(owner),
        run: hyphened(holder),
        since: since.to_owned(),
        remaining_ms: (ttl != "0").then_some(left),
        fence: fence.parse().map_err(|_| bad_answer(target))?,
        reason: unreason(reason),
    }))
}
