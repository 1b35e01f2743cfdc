//! A capability call as a value: it can be checked, written down, compared,
//! previewed, scripted and sent to a backend.
//!
//! Adding a capability is: an interface in `wit/`, its variants here, its
//! class in [`crate::class`], its needs in [`crate::need`], a live backend.

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::id::TargetName;
use crate::text::Text;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "capability", rename_all = "kebab-case")]
pub enum Call {
    Docker(DockerCall),
    Registry(RegistryCall),
    Target(TargetCall),
    Ssh(SshCall),
    Releases(ReleasesCall),
    Lease(LeaseCall),
    Http(HttpCall),
    Git(GitCall),
    File(FileCall),
    Clock(ClockCall),
    Secret(SecretCall),
}

/// Name and value, in the order given.
pub type Pairs = Vec<(String, String)>;
/// Name and value, where the value may be a secret.
pub type Variables = Vec<(String, Text)>;

/// An engine: the local one, or that of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerCall {
    pub engine: TargetName,
    #[serde(flatten)]
    pub op: DockerOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum DockerOp {
    /// [`Reply::Engine`](crate::Reply::Engine)
    Info,
    /// Streams the build's log. [`Reply::Exit`](crate::Reply::Exit) with the
    /// value `image`.
    Build(Box<BuildSpec>),
    /// [`Reply::Done`](crate::Reply::Done)
    Tag { image: Text, new_tag: Text },
    /// Exit with the values `digest` and `ref`.
    Push { image: Text },
    /// Exit with the value `image`, the id.
    Pull { image: Text },
    /// [`Reply::Image`](crate::Reply::Image)
    InspectImage { image: Text },
    /// Done, also when there is no such image.
    RemoveImage { image: Text },
    /// Creates and starts. [`Reply::Id`](crate::Reply::Id)
    Run(Box<RunSpec>),
    /// [`Reply::Container`](crate::Reply::Container)
    InspectContainer { id: String },
    /// [`Reply::Text`](crate::Reply::Text): newest kept.
    ContainerLogs { id: String, max_bytes: u32 },
    /// Streams the log. Exit with the container's code.
    WaitContainer { id: String },
    /// SIGTERM, after the grace SIGKILL, then removed with its anonymous
    /// volumes. Done, also when there is no such container.
    RemoveContainer { id: String, grace_ms: u32 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// A tar archive.
    pub context: Option<BlobRef>,
    /// Path within the context.
    pub dockerfile: String,
    pub tags: Vec<String>,
    pub args: Pairs,
    pub labels: Pairs,
    pub stage: Option<String>,
    pub platform: Option<String>,
    /// By `id` of the Dockerfile's `--mount=type=secret`.
    pub secrets: Variables,
    pub no_cache: bool,
    pub pull: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A named volume, or an absolute path of the host.
    pub source: String,
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    pub image: Text,
    pub command: Vec<Text>,
    pub entrypoint: Option<Vec<String>>,
    pub env: Variables,
    pub mounts: Vec<Mount>,
    pub network: Option<String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub privileged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum RegistryCall {
    /// [`Reply::Manifest`](crate::Reply::Manifest)
    Manifest { reference: Text },
    /// Done, or an error whose code tells the reason.
    MayPush { repository: String },
    /// [`Reply::Texts`](crate::Reply::Texts)
    Tags { repository: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCall {
    pub target: TargetName,
    #[serde(flatten)]
    pub op: TargetOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum TargetOp {
    /// [`Reply::Facts`](crate::Reply::Facts), in one round trip.
    Inspect,
    /// [`Reply::Outcomes`](crate::Reply::Outcomes), in one round trip.
    Apply { ops: Vec<FileOp> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Blob(BlobRef),
    Text(Text),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compose {
    pub project: String,
    pub dir: String,
    pub files: Vec<String>,
    pub env_file: Option<String>,
}

/// One operation of a batch. Paths are absolute on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum FileOp {
    MakeDirectory {
        path: String,
        mode: u32,
    },
    /// Temporary name, fsync, rename; unchanged when the content is there.
    PutFile {
        path: String,
        content: Content,
        mode: u32,
    },
    ReadFile {
        path: String,
        max: u32,
    },
    SwitchLink {
        path: String,
        to: String,
    },
    Remove {
        path: String,
    },
    ComposeConfig(Compose),
    ComposePull(Compose),
    ComposeUp(Compose),
    ComposePs(Compose),
    RunScript {
        body: String,
        args: Vec<Text>,
        env: Variables,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshCall {
    pub target: TargetName,
    #[serde(flatten)]
    pub op: SshOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum SshOp {
    /// Streams stdout and stderr. Exit with the command's code; a command
    /// that fails is no error of the call.
    Exec {
        argv: Vec<Text>,
        env: Variables,
        stdin: Option<BlobRef>,
        dir: Option<String>,
    },
    /// Done.
    Upload {
        path: String,
        content: BlobRef,
        mode: u32,
    },
    /// [`Reply::Blob`](crate::Reply::Blob)
    Download { path: String },
    /// [`Reply::Trace`](crate::Reply::Trace): of a command that an earlier process
    /// began, by its stamp. The engine's own.
    Trace { stamp: String },
    /// Streams and answers as the exec with the same identity would have, which an
    /// earlier process began; begins nothing. The engine's own.
    Rejoin { dir: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasesCall {
    pub target: TargetName,
    /// Absolute on the target.
    pub dir: String,
    #[serde(flatten)]
    pub op: ReleasesOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum ReleasesOp {
    /// [`Reply::Staged`](crate::Reply::Staged)
    Stage(Box<StageSpec>),
    /// Streams compose's output. Exit with the value `release`.
    Activate {
        id: String,
        timeout_ms: u64,
        remove_orphans: bool,
    },
    /// [`Reply::Releases`](crate::Reply::Releases), newest first.
    List,
    /// Streams compose's output. Exit with the value `release`. Image,
    /// compose file and env go back together.
    Restore { id: String },
    /// The run succeeded here. The engine's own. Done.
    MarkGood { id: String },
    /// Removes all but the newest `keep` good releases, the current one and
    /// those under way. The engine's own. Texts: the ids that went.
    Prune { keep: u32 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSpec {
    pub project: String,
    pub compose: Option<BlobRef>,
    /// Service and image reference.
    pub images: Variables,
    /// Of `.env`, for interpolation.
    pub env: Variables,
    /// Files of variables beside the compose file, by name.
    pub files: Vec<(String, Variables)>,
    pub directories: Vec<String>,
    pub image_tag: Option<Text>,
    /// Facts that `release.json` keeps. Filled in by the host.
    pub pipeline: String,
    pub environment: String,
    pub tag: String,
    pub commit: String,
    /// `user@machine`, or what CI tells.
    pub who: String,
}

/// The engine's own: two runs on one target stay apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseCall {
    pub target: TargetName,
    /// Absolute on the target, or beginning with `~/`.
    pub path: String,
    #[serde(flatten)]
    pub op: LeaseOp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum LeaseOp {
    /// [`Reply::Lease`](crate::Reply::Lease): held by us now, or by whom.
    /// Expiry is by the target's clock.
    Acquire {
        owner: String,
        /// 0: until it is released.
        ttl_ms: u64,
        /// Why a person keeps deploys away. Empty for a run.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Lease; an error of the kind conflict when it is no longer ours.
    Renew { ttl_ms: u64 },
    /// Done, also when it is not ours.
    Release,
    /// Takes it from this holder, dead or alive; what that one does next there
    /// is refused. Done, also when somebody else holds it by now.
    Break { run: String },
    /// Lease, or nothing.
    Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCall {
    /// Upper case.
    pub method: String,
    pub url: Text,
    pub headers: Variables,
    pub body: HttpBody,
    pub timeout_ms: u32,
    pub max_redirects: u8,
    /// The target from which the connection is opened.
    pub via: Option<TargetName>,
    /// Bytes of the body to keep.
    pub max_body: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpBody {
    Empty,
    Text(Text),
    Blob(BlobRef),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum GitCall {
    /// [`Reply::Git`](crate::Reply::Git)
    Inspect,
    /// [`Reply::Tag`](crate::Reply::Tag)
    TagState { remote: String, tag: String },
    /// Done; conflict when it is on another commit.
    CreateTag {
        tag: String,
        message: Option<String>,
    },
    /// Done.
    PushTag { remote: String, tag: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum FileCall {
    /// [`Reply::Blob`](crate::Reply::Blob)
    Open { path: String },
    /// Blob: a canonical tar (sorted, zero mtime).
    Archive {
        root: String,
        ignore: Vec<String>,
        keep: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum ClockCall {
    /// Done.
    Sleep { ms: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum SecretCall {
    /// The guest reads the bytes. Text. Never journalled with its reply.
    Reveal { name: String },
}

impl Call {
    /// `docker.push`: what grants, denials, logs and the journal call it.
    pub fn name(&self) -> String {
        match self {
            Self::Docker(call) => format!("docker.{}", call.op.name()),
            Self::Registry(call) => format!(
                "registry.{}",
                match call {
                    RegistryCall::Manifest { .. } => "manifest",
                    RegistryCall::MayPush { .. } => "may-push",
                    RegistryCall::Tags { .. } => "tags",
                }
            ),
            Self::Target(call) => match call.op {
                TargetOp::Inspect => "target.inspect".into(),
                TargetOp::Apply { .. } => "target.apply".into(),
            },
            Self::Ssh(call) => format!(
                "ssh.{}",
                match call.op {
                    SshOp::Exec { .. } => "exec",
                    SshOp::Upload { .. } => "upload",
                    SshOp::Download { .. } => "download",
                    SshOp::Trace { .. } => "trace",
                    SshOp::Rejoin { .. } => "rejoin",
                }
            ),
            Self::Releases(call) => format!(
                "releases.{}",
                match call.op {
                    ReleasesOp::Stage(_) => "stage",
                    ReleasesOp::Activate { .. } => "activate",
                    ReleasesOp::List => "list",
                    ReleasesOp::Restore { .. } => "restore",
                    ReleasesOp::MarkGood { .. } => "mark-good",
                    ReleasesOp::Prune { .. } => "prune",
                }
            ),
            Self::Lease(call) => format!(
                "lease.{}",
                match call.op {
                    LeaseOp::Acquire { .. } => "acquire",
                    LeaseOp::Renew { .. } => "renew",
                    LeaseOp::Release => "release",
                    LeaseOp::Break { .. } => "break",
                    LeaseOp::Status => "status",
                }
            ),
            Self::Http(call) => format!("http.{}", call.method),
            Self::Git(call) => format!(
                "git.{}",
                match call {
                    GitCall::Inspect => "inspect",
                    GitCall::TagState { .. } => "tag-state",
                    GitCall::CreateTag { .. } => "create-tag",
                    GitCall::PushTag { .. } => "push-tag",
                }
            ),
            Self::File(call) => format!(
                "file.{}",
                match call {
                    FileCall::Open { .. } => "open",
                    FileCall::Archive { .. } => "archive",
                }
            ),
            Self::Clock(ClockCall::Sleep { .. }) => "clock.sleep".into(),
            Self::Secret(SecretCall::Reveal { .. }) => "secret.reveal".into(),
        }
    }

    /// The target whose connection the call uses, if any.
    pub fn target(&self) -> Option<&TargetName> {
        match self {
            Self::Docker(call) => Some(&call.engine),
            Self::Target(call) => Some(&call.target),
            Self::Ssh(call) => Some(&call.target),
            Self::Releases(call) => Some(&call.target),
            Self::Lease(call) => Some(&call.target),
            Self::Http(call) => call.via.as_ref(),
            Self::Registry(_) | Self::Git(_) | Self::File(_) | Self::Clock(_) | Self::Secret(_) => {
                None
            }
        }
    }
}

impl DockerOp {
    fn name(&self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Build(_) => "build",
            Self::Tag { .. } => "tag",
            Self::Push { .. } => "push",
            Self::Pull { .. } => "pull",
            Self::InspectImage { .. } => "inspect-image",
            Self::RemoveImage { .. } => "remove-image",
            Self::Run(_) => "run",
            Self::InspectContainer { .. } => "inspect-container",
            Self::ContainerLogs { .. } => "container-logs",
            Self::WaitContainer { .. } => "wait-container",
            Self::RemoveContainer { .. } => "remove-container",
        }
    }
}
