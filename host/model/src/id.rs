//! Names and numbers that tell things apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of this machine as a target.
pub const LOCAL: &str = "local";

/// The step name under which the engine's own effects are recorded.
pub const ENGINE_STEP: &str = "@engine";

/// One execution of a pipeline: a UUID of version 7, so that ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl RunId {
    /// The last eight hexadecimal digits: random ones, so they tell runs of the
    /// same second apart. For people; never for look-ups that must be unique.
    pub fn short(self) -> String {
        let text = self.0.simple().to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A step's name in the manifest: `[a-z][a-z0-9_]*`, or `@engine`.
    StepName
}
name! {
    /// A target's name in the manifest, or `local`.
    TargetName
}
name! {
    /// Lower-case hexadecimal SHA-256 of a component's bytes.
    PluginDigest
}

impl TargetName {
    pub fn local() -> Self {
        Self(LOCAL.to_owned())
    }

    pub fn is_local(&self) -> bool {
        self.0 == LOCAL
    }
}

/// One instance of a step: with `on`, there is one for each target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepKey {
    pub name: StepName,
    pub target: Option<TargetName>,
}

impl StepKey {
    pub fn new(name: impl Into<String>, target: Option<TargetName>) -> Self {
        Self {
            name: StepName::new(name),
            target,
        }
    }

    /// The key of what the engine itself does.
    pub fn engine() -> Self {
        Self::new(ENGINE_STEP, None)
    }
}

impl fmt::Display for StepKey {
    /// `deploy@prod_1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Some(target) => write!(f, "{}@{}", self.name, target),
            None => self.name.fmt(f),
        }
    }
}

/// Who made a call. It is stamped on what effects leave behind: container
/// labels, markers of remote commands, names of temporary files. Guests are
/// single-threaded, so `seq` is total within an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallId {
    pub run: RunId,
    pub step: StepKey,
    /// Counted from 1.
    pub attempt: u32,
    /// Counted from 1 within the attempt.
    pub seq: u64,
}

impl CallId {
    /// Letters, digits, `-`, `_` and `.` only: fit for a label, a file name or
    /// a container name. Unique among all runs.
    pub fn stamp(&self) -> String {
        let target = self.step.target.as_ref().map_or("", TargetName::as_str);
        format!(
            "{}-{}{}{}-{}-{}",
            self.run.0.simple(),
            self.step.name.as_str().trim_start_matches('@'),
            if target.is_empty() { "" } else { "." },
            target,
            self.attempt,
            self.seq
        )
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.run, self.step, self.attempt, self.seq
        )
    }
}
