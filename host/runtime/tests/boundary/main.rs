//! The boundary between host and guests, with the misbehaving components of
//! `tests/guests/`: what a guest can take, reach, leave behind, and say.

mod cache;
mod interface;
mod limits;
mod outputs;
mod replaying;
mod room;
mod stopping;
mod support;
mod traps;
mod wasi;
