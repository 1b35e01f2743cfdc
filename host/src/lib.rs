//! The engine of Windlass, and its command line.
//!
//! `manifest -> graph -> engine -> plugin instance -> call -> layers ->
//! backend`: [`project`] gets from files to a checked graph, [`engine`] runs
//! it, [`cli`] is what a person types. Nothing in here talks to Docker, SSH or
//! HTTP itself; `windlass-live` does.

pub mod builtin;
pub mod ci;
pub mod cli;
pub mod engine;
pub mod exit;
pub mod plugins;
pub mod project;
pub mod secrets;
pub mod testing;
