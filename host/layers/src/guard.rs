//! Refuses what was not granted, and says the line that would grant it.

use std::sync::Arc;

use async_trait::async_trait;
use windlass_model::grant::Grant;
use windlass_model::need::Need;
use windlass_model::{Call, CallContext, CallError, Capability, Reply};

/// What a step may do: what its plugin requests ∩ what the manifest grants ∩
/// an operator's policy.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The manifest's table that holds the step: `step.deploy`.
    pub place: String,
    /// The plugin's name, as in `uses`.
    pub plugin: String,
    /// The plugin's requests, filled in with the step's configuration.
    pub requested: Vec<Grant>,
    /// What the manifest writes, and for a built-in plugin what it requests
    /// with values that the manifest itself says.
    pub granted: Vec<Grant>,
    /// From a file outside the project; everything when absent.
    pub operator: Option<Vec<Grant>>,
}

impl Policy {
    fn allows(list: &[Grant], need: &Need) -> bool {
        list.iter().any(|grant| grant.allows(need))
    }

    /// The reason and the way out, if a need is not covered.
    pub fn check(&self, call: &str, needs: &[Need]) -> Result<(), CallError> {
        for need in needs {
            self.check_need(call, need)?;
        }
        Ok(())
    }

    fn check_need(&self, call: &str, need: &Need) -> Result<(), CallError> {
        let Self { place, plugin, .. } = self;
        if need.sink.as_deref() == Some("argv") {
            return Err(CallError::denied(
                "grant.secret-in-argv",
                format!(
                    "[{place}] would put secret {} on a command line, where every user of the \
                     machine can read it",
                    need.subject
                ),
            )
            .hint("pass it in `env` instead"));
        }
        if !Self::allows(&self.granted, need) {
            return Err(CallError::denied(
                "grant.missing",
                format!(
                    "[{place}] has no grant for `{need}`, which {call} of plugin {plugin} needs"
                ),
            )
            .hint(format!(
                "to allow it, add under [{place}]:\n  grant = [{:?}]",
                Grant::line_for(need)
            )));
        }
        if !Self::allows(&self.requested, need) {
            return Err(CallError::denied(
                "grant.not-requested",
                format!(
                    "plugin {plugin} called {call} for `{need}`, which it does not request in \
                     `describe`"
                ),
            )
            .hint(
                "the manifest's grant alone is not enough: the plugin's author has to declare \
                 the request",
            ));
        }
        if let Some(operator) = &self.operator
            && !Self::allows(operator, need)
        {
            return Err(CallError::denied(
                "grant.policy",
                format!("the operator's policy does not allow `{need}`, which [{place}] needs"),
            )
            .hint("whoever keeps the policy file has to add the line"));
        }
        Ok(())
    }
}

/// The outermost layer.
pub struct Guard {
    policy: Policy,
    next: Arc<dyn Capability>,
}

impl Guard {
    pub fn new(policy: Policy, next: Arc<dyn Capability>) -> Self {
        Self { policy, next }
    }
}

#[async_trait]
impl Capability for Guard {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        self.policy.check(&call.name(), &call.needs())?;
        self.next.call(context, call).await
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::call::{DockerCall, DockerOp, SshCall, SshOp};
    use windlass_model::{TargetName, Text};

    use super::*;

    fn grants(lines: &[&str]) -> Vec<Grant> {
        lines
            .iter()
            .map(|line| Grant::parse(line).expect("grant"))
            .collect()
    }

    fn push(image: &str) -> Call {
        Call::Docker(DockerCall {
            engine: TargetName::local(),
            op: DockerOp::Push {
                image: image.into(),
            },
        })
    }

    fn policy(requested: &[&str], granted: &[&str]) -> Policy {
        Policy {
            place: "step.push".into(),
            plugin: "docker-push".into(),
            requested: grants(requested),
            granted: grants(granted),
            operator: None,
        }
    }

    fn check(policy: &Policy, call: &Call) -> Result<(), CallError> {
        policy.check(&call.name(), &call.needs())
    }

    #[test]
    fn both_sides_must_agree() {
        let all = &["docker.push *"][..];
        let one = &["docker.push ghcr.io/a/b:1"][..];
        assert_eq!(check(&policy(all, one), &push("ghcr.io/a/b:1")), Ok(()));
        let denied = check(&policy(all, one), &push("ghcr.io/a/c:1")).expect_err("denied");
        assert_eq!(denied.code, "grant.missing");
        assert_eq!(
            denied.hint.as_deref(),
            Some("to allow it, add under [step.push]:\n  grant = [\"docker.push ghcr.io/a/c:1\"]")
        );
        let denied = check(&policy(one, all), &push("ghcr.io/a/c:1")).expect_err("denied");
        assert_eq!(denied.code, "grant.not-requested");
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let mut policy = policy(&["docker.push *"], &["docker.push *"]);
        policy.operator = Some(grants(&["docker.push ghcr.io/acme/**"]));
        assert_eq!(check(&policy, &push("ghcr.io/acme/b:1")), Ok(()));
        assert_eq!(
            check(&policy, &push("docker.io/b:1"))
                .expect_err("denied")
                .code,
            "grant.policy"
        );
    }

    #[test]
    fn no_grant_puts_a_secret_on_a_command_line() {
        let policy = policy(
            &["ssh.exec *", "secret.send * to *"],
            &["ssh.exec *", "secret.send * to *"],
        );
        let call = Call::Ssh(SshCall {
            target: TargetName::new("prod"),
            op: SshOp::Exec {
                argv: vec!["echo".into(), Text::secret("TOKEN")],
                env: vec![],
                stdin: None,
                dir: None,
            },
        });
        assert_eq!(
            check(&policy, &call).expect_err("denied").code,
            "grant.secret-in-argv"
        );
    }
}
