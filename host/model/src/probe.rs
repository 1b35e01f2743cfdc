//! What became of a call whose process did not live to hear its answer: the
//! question that finds out, and the one that goes on with it.
//!
//! A probe is worth having where it gives back the whole answer. So far that is a
//! command on a server: its target keeps how it ended. A batch with a script, a
//! container, and a request that is not repeatable by its method have none.

use crate::call::{Call, SshCall, SshOp};
use crate::id::CallId;

impl Call {
    /// The read that finds out whether this call, made by `id`, took place. Answered
    /// by [`Reply::Trace`](crate::Reply::Trace).
    pub fn probe(&self, id: &CallId) -> Option<Self> {
        let Self::Ssh(SshCall { target, op }) = self else {
            return None;
        };
        match op {
            // A command on this machine ends with its engine.
            SshOp::Exec { .. } if !target.is_local() => Some(Self::Ssh(SshCall {
                target: target.clone(),
                op: SshOp::Trace { stamp: id.stamp() },
            })),
            _ => None,
        }
    }

    /// The call to make in place of this one, under the same identity, once its
    /// probe has found it: it begins nothing, and answers what this one would have.
    pub fn rejoin(&self) -> Option<Self> {
        let Self::Ssh(SshCall { target, op }) = self else {
            return None;
        };
        match op {
            SshOp::Exec { dir, .. } => Some(Self::Ssh(SshCall {
                target: target.clone(),
                op: SshOp::Rejoin { dir: dir.clone() },
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{DockerCall, DockerOp};
    use crate::class::Class;
    use crate::{RunId, StepKey, TargetName};

    fn id() -> CallId {
        CallId {
            run: RunId(uuid::Uuid::nil()),
            step: StepKey::new("migrate", None),
            attempt: 2,
            seq: 7,
        }
    }

    fn exec(target: &str) -> Call {
        Call::Ssh(SshCall {
            target: target.into(),
            op: SshOp::Exec {
                argv: vec!["true".into()],
                env: Vec::new(),
                stdin: None,
                dir: Some("app".into()),
            },
        })
    }

    #[test]
    fn a_command_on_a_server_is_asked_about_by_its_identity() {
        let probe = exec("prod_1").probe(&id()).expect("a probe");
        assert_eq!(
            (probe.name().as_str(), probe.class()),
            ("ssh.trace", Class::Read)
        );
        assert_eq!(probe.target(), Some(&TargetName::from("prod_1")));
        let stamp = id().stamp();
        assert!(matches!(&probe, Call::Ssh(ssh) if ssh.op == SshOp::Trace { stamp }));
        let rejoin = exec("prod_1").rejoin().expect("a way to go on");
        assert_eq!(rejoin.class(), Class::Read, "it begins nothing");
    }

    #[test]
    fn what_leaves_nothing_to_ask_for_has_no_probe() {
        assert_eq!(exec("local").probe(&id()), None);
        let run = Call::Docker(DockerCall {
            engine: "prod_1".into(),
            op: DockerOp::Run(Default::default()),
        });
        assert_eq!((run.probe(&id()), run.rejoin()), (None, None));
    }
}
