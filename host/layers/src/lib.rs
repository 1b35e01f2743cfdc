//! Small layers around a backend, each written once for all capabilities. From
//! the guest outwards: [`Guard`], [`Journalled`], [`Redact`], then live, or
//! [`Scripted`] in live's place.

mod guard;
mod journalled;
mod redact;
mod scripted;

pub use guard::{Guard, Policy};
pub use journalled::Journalled;
pub use redact::{Redact, Redactor};
pub use scripted::{Answer, Expectation, Order, Scripted, Transcript};
