//! Small layers around a backend, each written once for all capabilities. From
//! the guest outwards: [`Guard`], [`Preview`] or [`Journalled`] (below [`Replayed`], where a run
//! goes on), [`Redact`], then live, or
//! [`Scripted`] in live's place.

mod guard;
mod journalled;
mod preview;
mod redact;
mod replayed;
pub mod scripted;

pub use guard::{Guard, Policy};
pub use journalled::Journalled;
pub use preview::{Effect, FileChange, Preview, Previewed, Read, UNKNOWN};
pub use redact::{Redact, Redactor};
pub use replayed::{DIVERGED, Replayed, Taken, UNREPLAYABLE};
pub use scripted::Scripted;
