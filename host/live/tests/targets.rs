//! Targets for real: OpenSSH's server on loopback, Docker and compose behind it.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "targets/apply.rs"]
mod apply;
#[path = "targets/connection.rs"]
mod connection;
#[path = "targets/durable.rs"]
mod durable;
#[path = "targets/exec.rs"]
mod exec;
#[path = "targets/hostile.rs"]
mod hostile;
#[path = "targets/lease.rs"]
mod lease;
#[path = "targets/releases.rs"]
mod releases;
#[path = "targets/support.rs"]
mod support;
