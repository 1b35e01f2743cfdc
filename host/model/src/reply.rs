//! What a call answers.

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::call::Pairs;
use crate::text::Text;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "value", rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Text(String),
    Texts(Vec<String>),
    /// Of something that the call made.
    Id(String),
    Blob(BlobRef),
    Engine(EngineInfo),
    Exit(Exit),
    Image(Option<Box<ImageInfo>>),
    Container(Box<ContainerInfo>),
    Manifest(Option<ManifestInfo>),
    Facts(Box<TargetFacts>),
    Outcomes(Vec<Outcome>),
    Staged(Staged),
    Releases(Vec<Release>),
    Lease(Option<Lease>),
    Response(Response),
    Git(Box<GitFacts>),
    Tag(TagCommits),
    Trace(Trace),
}

impl Reply {
    /// For error messages: the variant's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Text(_) => "text",
            Self::Texts(_) => "texts",
            Self::Id(_) => "id",
            Self::Blob(_) => "blob",
            Self::Engine(_) => "engine",
            Self::Exit(_) => "exit",
            Self::Image(_) => "image",
            Self::Container(_) => "container",
            Self::Manifest(_) => "manifest",
            Self::Facts(_) => "facts",
            Self::Outcomes(_) => "outcomes",
            Self::Staged(_) => "staged",
            Self::Releases(_) => "releases",
            Self::Lease(_) => "lease",
            Self::Response(_) => "response",
            Self::Git(_) => "git",
            Self::Tag(_) => "tag",
            Self::Trace(_) => "trace",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    pub version: String,
    pub api_version: String,
    pub os: String,
    /// `amd64`, `arm64`: as in image configurations, not as `uname` says.
    pub architecture: String,
    pub buildkit: bool,
}

/// How work that takes a while ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    /// The last lines of the log, at most [`Exit::TAIL_BYTES`].
    pub tail: String,
    pub values: Vec<(String, Text)>,
}

impl Exit {
    /// Keeps replies small: the whole log lives in the event store.
    pub const TAIL_BYTES: usize = 16 * 1024;
}

/// What the target of a command has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Trace {
    /// Nothing. It never began, or what it left is gone.
    None,
    /// It runs still.
    Running,
    /// It ended by itself, and its answer is there.
    Ended { code: i32 },
    /// It was stopped, or its machine was, before it could tell how it ended.
    Died,
}

impl Trace {
    /// Whether the call's answer can be had without making it again.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Running | Self::Ended { .. })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// `sha256:…`
    pub id: String,
    pub tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub os: String,
    pub architecture: String,
    /// Bytes.
    pub size: u64,
    pub labels: Pairs,
    pub has_healthcheck: bool,
    pub health_interval_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub exit_code: i32,
    pub output: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    pub id: String,
    /// `created`, `running`, `exited`, …
    pub state: String,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub health: Health,
    /// Oldest first.
    pub probes: Vec<Probe>,
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInfo {
    pub digest: String,
    pub media_type: String,
    /// `os/architecture`
    pub platforms: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    pub os: String,
    /// As in image configurations.
    pub architecture: String,
    pub user: String,
    /// `docker compose 2.40.3`, `docker-compose 1.29.2`, or empty.
    pub compose: String,
    /// Empty when the user reaches the engine; otherwise reason and remedy.
    pub docker_problem: String,
    pub docker_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub ok: bool,
    pub changed: bool,
    /// Capped at 64 KiB.
    pub output: String,
    pub exit_code: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    pub id: String,
    /// False when the current release has the same content and runs.
    pub changed: bool,
    pub previous: Option<String>,
    pub missing_images: Vec<String>,
}

/// The states of a release on a target, as `release.json` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// The files are there, accepted by `compose config`.
    Staged,
    /// Pull and up are under way.
    Activating,
    /// Up, shown to run the images it was given, and switched to.
    Current,
    /// The run succeeded there.
    Good,
    /// `up` failed, or the run did and another one was put back.
    Failed,
    /// Was good; another one is current.
    Superseded,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: String,
    pub state: ReleaseState,
    /// RFC 3339, by the target's clock.
    pub created: String,
    pub run: String,
    pub tag: String,
    pub commit: String,
    pub who: String,
    /// Service and image.
    pub images: Pairs,
    pub is_current: bool,
    #[serde(default)]
    pub pipeline: String,
    /// Empty without one.
    #[serde(default)]
    pub environment: String,
    /// Lower-case hexadecimal digits.
    #[serde(default)]
    pub compose_sha256: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whether this run holds it.
    pub ours: bool,
    pub owner: String,
    pub run: String,
    /// RFC 3339, by the target's clock.
    pub since: String,
    /// Until it expires; absent when it is held until somebody releases it. 0: its
    /// holder is gone, but an operation of that one still runs on the target.
    pub remaining_ms: Option<u64>,
    /// Grows by one with each holder. Every operation of a run on the target
    /// carries it, and is refused there when it is no longer the latest.
    pub fence: u64,
    /// Why a person keeps deploys away. Empty for a run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Pairs,
    #[serde(with = "lossless")]
    pub body: Vec<u8>,
    pub truncated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitFacts {
    pub commit: String,
    pub branch: Option<String>,
    /// At HEAD.
    pub tags: Vec<String>,
    pub dirty: bool,
    pub shallow: bool,
    /// Of `origin`, without credentials, as a web address where it has one.
    pub origin: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagCommits {
    pub local: Option<String>,
    pub remote: Option<String>,
}

/// Bytes as text where they are UTF-8, else as an array: a journal is to be
/// read by people.
mod lossless {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Repr<'a> {
        Text(std::borrow::Cow<'a, str>),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Repr::Text(text.into()),
            Err(_) => Repr::Bytes(bytes.to_vec()),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        Ok(match Repr::deserialize(deserializer)? {
            Repr::Text(text) => text.into_owned().into_bytes(),
            Repr::Bytes(bytes) => bytes,
        })
    }
}
