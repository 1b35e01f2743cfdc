//! What a call does to the world, and so what may be done about it after a
//! crash: nothing, again, or ask.

use serde::{Deserialize, Serialize};

use crate::call::{Call, DockerOp, FileOp, GitCall, LeaseOp, ReleasesOp, SshOp, TargetOp};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Changes nothing.
    Read,
    /// The same call twice leaves the world as once.
    Convergent,
    /// Twice is not once.
    Once,
}

/// Something outside that calls read or write: `image:app:1`,
/// `path:prod_1:/srv/app`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resource {
    pub name: String,
    pub written: bool,
}

impl Class {
    pub fn is_effect(self) -> bool {
        self != Self::Read
    }
}

impl Call {
    pub fn class(&self) -> Class {
        match self {
            Self::Docker(call) => match &call.op {
                DockerOp::Info
                | DockerOp::InspectImage { .. }
                | DockerOp::InspectContainer { .. }
                | DockerOp::ContainerLogs { .. }
                | DockerOp::WaitContainer { .. } => Class::Read,
                DockerOp::Build(_)
                | DockerOp::Tag { .. }
                | DockerOp::Push { .. }
                | DockerOp::Pull { .. }
                | DockerOp::RemoveImage { .. }
                | DockerOp::RemoveContainer { .. } => Class::Convergent,
                // The label with the call's identity tells whether it ran.
                DockerOp::Run(_) => Class::Once,
            },
            Self::Registry(_) | Self::File(_) | Self::Clock(_) | Self::Secret(_) => Class::Read,
            Self::Target(call) => match &call.op {
                TargetOp::Inspect => Class::Read,
                TargetOp::Apply { ops } => {
                    ops.iter().map(FileOp::class).max().unwrap_or(Class::Read)
                }
            },
            Self::Ssh(call) => match call.op {
                SshOp::Exec { .. } => Class::Once,
                SshOp::Upload { .. } => Class::Convergent,
                SshOp::Download { .. } | SshOp::Trace { .. } | SshOp::Rejoin { .. } => Class::Read,
            },
            Self::Releases(call) => match call.op {
                ReleasesOp::List => Class::Read,
                _ => Class::Convergent,
            },
            Self::Lease(call) => match call.op {
                LeaseOp::Status => Class::Read,
                _ => Class::Convergent,
            },
            // RFC 9110, 9.2.1 and 9.2.2: safe, and idempotent, methods.
            Self::Http(call) => match call.method.as_str() {
                "GET" | "HEAD" | "OPTIONS" => Class::Read,
                "PUT" | "DELETE" => Class::Convergent,
                _ => Class::Once,
            },
            Self::Git(call) => match call {
                GitCall::Inspect | GitCall::TagState { .. } => Class::Read,
                GitCall::CreateTag { .. } | GitCall::PushTag { .. } => Class::Convergent,
            },
        }
    }

    /// What the call reads and writes, so that two calls can be told to be
    /// independent, and a preview can say what a change touches.
    pub fn resources(&self) -> Vec<Resource> {
        let written = self.class().is_effect();
        let one = |name: String| vec![Resource { name, written }];
        match self {
            Self::Docker(call) => match &call.op {
                DockerOp::Build(spec) => spec
                    .tags
                    .iter()
                    .map(|tag| Resource {
                        name: format!("image:{}:{tag}", call.engine),
                        written,
                    })
                    .collect(),
                DockerOp::Tag { image, new_tag } => vec![
                    Resource {
                        name: format!("image:{}:{image}", call.engine),
                        written: false,
                    },
                    Resource {
                        name: format!("image:{}:{new_tag}", call.engine),
                        written,
                    },
                ],
                DockerOp::Push { image } => one(format!("registry:{image}")),
                DockerOp::Pull { image }
                | DockerOp::InspectImage { image }
                | DockerOp::RemoveImage { image } => one(format!("image:{}:{image}", call.engine)),
                DockerOp::Run(_) | DockerOp::Info => one(format!("engine:{}", call.engine)),
                DockerOp::InspectContainer { id }
                | DockerOp::ContainerLogs { id, .. }
                | DockerOp::WaitContainer { id }
                | DockerOp::RemoveContainer { id, .. } => {
                    one(format!("container:{}:{id}", call.engine))
                }
            },
            Self::Registry(call) => {
                use crate::call::RegistryCall;
                match call {
                    RegistryCall::Manifest { reference } => one(format!("registry:{reference}")),
                    RegistryCall::MayPush { repository } | RegistryCall::Tags { repository } => {
                        one(format!("registry:{repository}"))
                    }
                }
            }
            Self::Target(call) => match &call.op {
                TargetOp::Inspect => one(format!("target:{}", call.target)),
                TargetOp::Apply { ops } => ops
                    .iter()
                    .filter_map(|op| {
                        Some(Resource {
                            name: format!("path:{}:{}", call.target, op.path()?),
                            written: op.class().is_effect(),
                        })
                    })
                    .collect(),
            },
            Self::Ssh(call) => match &call.op {
                SshOp::Exec { .. } | SshOp::Trace { .. } | SshOp::Rejoin { .. } => {
                    one(format!("target:{}", call.target))
                }
                SshOp::Upload { path, .. } | SshOp::Download { path } => {
                    one(format!("path:{}:{path}", call.target))
                }
            },
            Self::Releases(call) => one(format!("releases:{}:{}", call.target, call.dir)),
            Self::Lease(call) => one(format!("lease:{}:{}", call.target, call.path)),
            Self::Http(call) => one(format!("http:{}", call.url)),
            Self::Git(call) => match call {
                GitCall::Inspect => one("git:HEAD".into()),
                GitCall::TagState { remote, tag } | GitCall::PushTag { remote, tag } => {
                    one(format!("git:{remote}:{tag}"))
                }
                GitCall::CreateTag { tag, .. } => one(format!("git:{tag}")),
            },
            Self::File(call) => {
                use crate::call::FileCall;
                match call {
                    FileCall::Open { path } => one(format!("file:{path}")),
                    FileCall::Archive { root, .. } => one(format!("file:{root}")),
                }
            }
            Self::Clock(_) => Vec::new(),
            Self::Secret(_) => Vec::new(),
        }
    }
}

impl FileOp {
    pub fn class(&self) -> Class {
        match self {
            Self::ReadFile { .. } | Self::ComposeConfig(_) | Self::ComposePs(_) => Class::Read,
            Self::RunScript { .. } => Class::Once,
            _ => Class::Convergent,
        }
    }

    fn path(&self) -> Option<&str> {
        match self {
            Self::MakeDirectory { path, .. }
            | Self::PutFile { path, .. }
            | Self::ReadFile { path, .. }
            | Self::SwitchLink { path, .. }
            | Self::Remove { path } => Some(path),
            Self::ComposeConfig(compose)
            | Self::ComposePull(compose)
            | Self::ComposeUp(compose)
            | Self::ComposePs(compose) => Some(&compose.dir),
            Self::RunScript { .. } => None,
        }
    }
}
