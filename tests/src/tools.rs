//! Where the project's own tools and builds are.
//!
//! `cargo xtask setup` puts what no package manager installs for us into
//! `target/windlass-tools/`: Compose v2 as a plug-in of a Docker configuration
//! directory of its own (so the user's stays as it is), the static `observer`, and what
//! builds plugins in Python and C.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Root of the project.
pub fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// What the set-up fills.
pub fn tools_dir() -> PathBuf {
    project_root().join("target/windlass-tools")
}

/// A Docker configuration directory that has the Compose v2 plug-in and no logins.
pub fn docker_config_dir() -> PathBuf {
    tools_dir().join("docker")
}

/// The Compose v2 binary in it.
pub fn compose_plugin() -> PathBuf {
    docker_config_dir().join("cli-plugins/docker-compose")
}

/// The static `observer` for an image `FROM scratch`.
pub fn observer_binary() -> PathBuf {
    tools_dir().join("observer")
}

/// Python packages that build plugins: componentize-py, and ziglang, a C compiler.
pub fn python_dir() -> PathBuf {
    tools_dir().join("python")
}

/// Where plugins of the tests are built: one directory for all, since they have most
/// of their dependencies in common.
pub fn plugin_build_dir() -> PathBuf {
    tools_dir().join("plugin-build")
}

/// The variables with which a command finds the packages in `python`, the `windlass`
/// under test, and where plugins are built.
pub fn plugin_env(python: &Path) -> Vec<(&'static str, OsString)> {
    let mut path = vec![python.join("bin")];
    path.extend(windlass_binary().parent().map(Path::to_owned));
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    vec![
        ("PATH", std::env::join_paths(path).unwrap_or_default()),
        ("PYTHONPATH", python.into()),
        ("CARGO_TARGET_DIR", plugin_build_dir().into()),
        ("XDG_CACHE_HOME", cache_dir().into()),
    ]
}

/// Compiled plugins are kept here, so that not every test compiles them again.
pub fn cache_dir() -> PathBuf {
    tools_dir().join("cache")
}

/// The target triple of static binaries for this machine's engine.
pub fn static_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => project_root().join(dir),
        None => project_root().join("target"),
    }
}

/// The `windlass` under test: `WINDLASS_BIN`, else the one beside the running test
/// or xtask, else the one in the target directory. The file may not exist yet.
pub fn windlass_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WINDLASS_BIN") {
        return PathBuf::from(path);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| {
        let dir = exe.parent()?;
        let dir = if dir.ends_with("deps") {
            dir.parent()?
        } else {
            dir
        };
        Some(dir.join("windlass")).filter(|file| file.is_file())
    });
    beside.unwrap_or_else(|| target_dir().join("debug/windlass"))
}
