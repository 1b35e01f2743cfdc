//! What was measured on: kind and size, never a name.

use std::path::Path;
use std::process::Command;

use windlass_tests::{docker, process};

/// One line.
pub(crate) fn describe(windlass: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
        .unwrap_or(0.0);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let engine = docker::run(["version", "--format", "{{.Server.Version}}"]).unwrap_or_default();
    let version = process::capture(Command::new(windlass).arg("--version")).unwrap_or_default();
    let size = std::fs::metadata(windlass).map_or(0, |meta| meta.len());
    format!(
        "{cores} cores ({model}), {:.0} GiB, Linux {}, Docker {engine}; {} of {:.1} MB; load {}",
        memory / (1024.0 * 1024.0),
        read("/proc/sys/kernel/osrelease").trim(),
        version.trim(),
        size as f64 / 1e6,
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}
