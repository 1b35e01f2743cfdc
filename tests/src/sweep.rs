//! Removes what a killed run left behind: its directories, containers, networks
//! and images. Processes need no sweep, they end with their owner.

use std::fs;
use std::sync::Once;

use crate::scratch::{PREFIX, is_leftover};
use crate::{docker, hosts, process};

/// Sweeps once in this process. Failing is no error: another run may sweep at the
/// same time, and what stays is in nobody's way but takes space.
pub fn once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(now);
}

/// Sweeps.
pub fn now() {
    hosts::sweep();
    if process::find_program("docker").is_some() {
        containers_and_images();
    }
    directories();
}

fn containers_and_images() {
    let label = "label=com.docker.compose.project";
    let format = "{{.Label \"com.docker.compose.project\"}}";
    for listing in [
        &["ps", "--all", "--filter", label, "--format", format][..],
        &["network", "ls", "--filter", label, "--format", format][..],
    ] {
        let mut projects = docker::lines(listing).unwrap_or_default();
        projects.retain(|project| is_leftover(project));
        projects.sort_unstable();
        projects.dedup();
        for project in projects {
            eprintln!("rig: removing what a killed run left of the project {project}");
            let _ = docker::remove_project(&project);
        }
    }
    let _ = docker::remove_images(is_leftover);
}

fn directories() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(PREFIX) && is_leftover(name) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
