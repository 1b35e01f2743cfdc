//! The rig: real parts on loopback for the end-to-end tests and for `xtask demo`.
//!
//! Windlass is tested against what it meets in life: a Docker engine, a registry,
//! an sshd, `docker compose` on the far side. Each part here starts on a free
//! port, keeps its files in a directory of its own and is gone when its value is
//! dropped. A part also goes when its process is killed (see [`process`]), and what
//! only a later run can remove (containers, images, directories) carries the
//! owner's process id in its name and is swept by that run (see [`sweep`]).
//!
//! | value | part |
//! |---|---|
//! | [`Registry`] | Debian's `docker-registry`, with a login or open |
//! | [`Sshd`] | OpenSSH's server with keys, known_hosts and environment of its own |
//! | [`Relay`] | a TCP relay that delays, cuts or swallows what passes |
//! | [`HttpRecorder`] | an HTTP server that records requests and answers by script |
//! | [`Workspace`] | a git repository with a copy of `examples/observer` |
//! | [`Rig`] | registry, sshd and workspace, wired up: what `windlass run` needs |
//! | [`deploys`] | what tests of deploys do with a rig again and again |
//! | [`Hosts`] | several machines, each a network namespace with its own engine |
//! | [`fleet`] | the example, deployed to several hosts |
//! | [`guests`] | components that misbehave |
//! | [`Windlass`] | one invocation of the `windlass` binary, with a hard time limit |
//!
//! # A test on top of the rig
//!
//! ```no_run
//! use windlass_tests::{Rig, require};
//!
//! #[test]
//! fn a_deploy_answers_with_its_version() {
//!     require!(Docker, Registry, Sshd, Compose, Observer, Windlass);
//!     let rig = Rig::start().expect("rig");
//!     let outcome = rig.windlass(["run", "--tag", "20260124-014658"]).run().expect("windlass");
//!     assert_eq!(outcome.code, Some(0), "{outcome}");
//!     assert_eq!(rig.health().expect("health").json()["version"], "20260124-014658");
//! }
//! ```
//!
//! `require!` leaves the test when a part is missing on this machine, and says so;
//! with `CI=true` it fails the test instead. `cargo xtask setup` installs the parts.

#![allow(
    clippy::print_stderr,
    reason = "a rig has no reporter: what it skips or sweeps is said on stderr"
)]

pub mod deploys;
pub mod docker;
mod error;
pub mod fleet;
pub mod guests;
pub mod hosts;
pub mod http;
pub mod killed;
pub mod parts;
pub mod process;
pub mod recorder;
pub mod registry;
pub mod relay;
mod rig;
pub mod scratch;
pub mod sshd;
pub mod sweep;
pub mod tools;
pub mod windlass;
pub mod workspace;

pub use error::{Error, Result};
pub use hosts::Hosts;
pub use parts::Part;
pub use recorder::HttpRecorder;
pub use registry::Registry;
pub use relay::Relay;
pub use rig::Rig;
pub use sshd::Sshd;
pub use windlass::Windlass;
pub use workspace::Workspace;
