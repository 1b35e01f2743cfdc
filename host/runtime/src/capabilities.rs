//! The interfaces of `wit/`, one file each: a guest's call becomes a
//! [`windlass_model::Call`], goes through the layers, and its reply goes back.

mod blobs;
mod convert;
mod docker;
mod git;
mod host;
mod http;
mod jobs;
mod registry;
mod releases;
mod ssh;
mod target;
mod values;

pub(crate) use convert::cut;
