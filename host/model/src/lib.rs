//! The words that every part of Windlass shares: a capability [`Call`] and its
//! [`Reply`], who made it ([`CallId`]), what allows it ([`grant`]), what was
//! seen ([`event`]). Nothing in here does anything to the world.
//!
//! Data flows one way: manifest → graph → engine → plugin instance → call →
//! layers → backend. Every arrow's type lives here, so nothing has to import
//! upward.

pub mod backend;
pub mod blob;
pub mod call;
pub mod class;
pub mod error;
pub mod event;
pub mod grant;
pub mod id;
pub mod inputs;
pub mod need;
pub mod probe;
pub mod reply;
pub mod secret;
pub mod target;
pub mod text;

pub use backend::{Answered, CallContext, Capability, LogSink, LogStream};
pub use blob::{Blob, BlobRef, Blobs};
pub use call::Call;
pub use class::Class;
pub use error::{CallError, ErrorKind};
pub use id::{CallId, PluginDigest, RunId, StepKey, StepName, TargetName};
pub use inputs::{Inherited, InheritedRelease, InheritedStep, RunInputs};
pub use reply::Reply;
pub use secret::Secrets;
pub use text::{Segment, Text};
