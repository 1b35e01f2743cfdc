//! What a run left behind: things that it made and that nobody tried to take
//! away again.

use std::fmt;

use serde_json::Value as Json;
use windlass_layers::scripted::Asked;
use windlass_model::{ErrorKind, Reply};

/// Left behind, with the number of the call that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mess {
    Container {
        id: String,
        call: usize,
    },
    Lease {
        target: String,
        call: usize,
    },
    /// Nobody knows how far `up` came, and nothing was put back.
    Activating {
        target: String,
        id: String,
        call: usize,
    },
}

impl fmt::Display for Mess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, call } => {
                let id = &id[..id.floor_char_boundary(12)];
                write!(f, "container {id} of call {call} was not removed")
            }
            Self::Lease { target, call } => {
                write!(f, "the lease on {target} of call {call} was not released")
            }
            Self::Activating { target, id, call } => write!(
                f,
                "release {id} on {target} of call {call} was left activating"
            ),
        }
    }
}

/// What is left. A release whose activation was scripted to fail was put back
/// by the host on the far side; one whose connection went may be anywhere.
pub(crate) fn left(transcript: &[Asked], releases: bool) -> Vec<Mess> {
    let mut found = Vec::new();
    for (index, asked) in transcript.iter().enumerate() {
        let call = index + 1;
        let later = |name: &str, keys: &[&str], with: &Json| {
            transcript[call..].iter().any(|later| {
                later.name == name && keys.iter().all(|key| later.with[*key] == with[*key])
            })
        };
        let target = || text(&asked.with, "target");
        match (asked.name.as_str(), &asked.answer) {
            ("docker.run", Some(Ok(Reply::Id(id)))) => {
                let mut with = asked.with.clone();
                with["id"] = id.as_str().into();
                if !later("docker.remove-container", &["engine", "id"], &with) {
                    found.push(Mess::Container {
                        id: id.clone(),
                        call,
                    });
                }
            }
            ("lease.acquire", Some(Ok(Reply::Lease(Some(lease)))))
                if lease.ours && !later("lease.release", &["target", "path"], &asked.with) =>
            {
                found.push(Mess::Lease {
                    target: target(),
                    call,
                });
            }
            ("releases.activate", answer) if releases => {
                let unknown = match answer {
                    None => true,
                    Some(Err(error)) => {
                        matches!(error.kind, ErrorKind::Timeout | ErrorKind::Cancelled)
                            || error.code == "ssh.lost"
                    }
                    Some(Ok(_)) => false,
                };
                if unknown && !later("releases.restore", &["target", "dir"], &asked.with) {
                    found.push(Mess::Activating {
                        target: target(),
                        id: text(&asked.with, "id"),
                        call,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

fn text(with: &Json, key: &str) -> String {
    with[key].as_str().unwrap_or_default().to_owned()
}
