//! What a call gives when all goes well and the script says no more.

use windlass_model::call::{
    Call, DockerOp, GitCall, LeaseOp, RegistryCall, ReleasesOp, SshOp, TargetOp,
};
use windlass_model::reply::{EngineInfo, Exit, Lease, Outcome};
use windlass_model::{Reply, Text};

/// Nothing where only the script can know.
pub fn usual_reply(call: &Call) -> Option<Reply> {
    let exit = |values: Vec<(String, Text)>| {
        Reply::Exit(Exit {
            values,
            ..Exit::default()
        })
    };
    Some(match call {
        Call::Docker(call) => match &call.op {
            DockerOp::Info => Reply::Engine(EngineInfo {
                version: "28.0.0".into(),
                api_version: "1.48".into(),
                os: "linux".into(),
                architecture: "amd64".into(),
                buildkit: true,
            }),
            DockerOp::Tag { .. }
            | DockerOp::RemoveImage { .. }
            | DockerOp::RemoveContainer { .. } => Reply::Done,
            DockerOp::WaitContainer { .. } => exit(vec![]),
            DockerOp::ContainerLogs { .. } => Reply::Text(String::new()),
            DockerOp::Push { image } => {
                let image = image.to_string();
                let digest = format!("sha256:{}", "d".repeat(64));
                let repository = windlass_model::need::repository_of(&image);
                exit(vec![
                    ("digest".into(), digest.as_str().into()),
                    ("ref".into(), format!("{repository}@{digest}").into()),
                ])
            }
            DockerOp::Build(_) | DockerOp::Pull { .. } => exit(vec![(
                "image".into(),
                format!("sha256:{}", "a".repeat(64)).into(),
            )]),
            DockerOp::Run(_) => Reply::Id("c".repeat(64)),
            DockerOp::InspectImage { .. } | DockerOp::InspectContainer { .. } => return None,
        },
        Call::Registry(RegistryCall::MayPush { .. }) => Reply::Done,
        Call::Registry(RegistryCall::Tags { .. }) => Reply::Texts(vec![]),
        Call::Registry(RegistryCall::Manifest { .. }) => return None,
        Call::Target(call) => match &call.op {
            TargetOp::Inspect => return None,
            TargetOp::Apply { ops } => Reply::Outcomes(
                ops.iter()
                    .map(|_| Outcome {
                        ok: true,
                        ..Outcome::default()
                    })
                    .collect(),
            ),
        },
        Call::Ssh(call) => match &call.op {
            SshOp::Exec { .. } => exit(vec![]),
            SshOp::Upload { .. } => Reply::Done,
            SshOp::Download { .. } | SshOp::Trace { .. } | SshOp::Rejoin { .. } => return None,
        },
        Call::Releases(call) => match &call.op {
            ReleasesOp::Activate { id, .. } | ReleasesOp::Restore { id } => {
                exit(vec![("release".into(), id.as_str().into())])
            }
            ReleasesOp::MarkGood { .. } => Reply::Done,
            ReleasesOp::Prune { .. } => Reply::Texts(vec![]),
            ReleasesOp::List => Reply::Releases(vec![]),
            ReleasesOp::Stage(_) => return None,
        },
        Call::Lease(call) => match &call.op {
            LeaseOp::Acquire { owner, ttl_ms, .. } => Reply::Lease(Some(lease(owner, *ttl_ms))),
            LeaseOp::Renew { ttl_ms } => Reply::Lease(Some(lease("", *ttl_ms))),
            LeaseOp::Release | LeaseOp::Break { .. } => Reply::Done,
            LeaseOp::Status => Reply::Lease(None),
        },
        Call::Git(GitCall::CreateTag { .. } | GitCall::PushTag { .. }) => Reply::Done,
        Call::Git(_) | Call::Http(_) | Call::File(_) | Call::Secret(_) => return None,
        Call::Clock(_) => Reply::Done,
    })
}

fn lease(owner: &str, ttl_ms: u64) -> Lease {
    Lease {
        ours: true,
        owner: owner.to_owned(),
        remaining_ms: Some(ttl_ms),
        fence: 1,
        ..Lease::default()
    }
}

/// What the host does by itself, or what a guest may always ask.
pub(super) fn needs_no_expectation(call: &Call) -> bool {
    match call {
        Call::Docker(call) => matches!(call.op, DockerOp::RemoveContainer { .. }),
        Call::Releases(call) => matches!(
            call.op,
            ReleasesOp::MarkGood { .. } | ReleasesOp::Prune { .. }
        ),
        Call::Lease(_) | Call::Secret(_) => true,
        _ => false,
    }
}
