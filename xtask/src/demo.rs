//! `cargo xtask demo`: the observer example for real, on this machine alone.

use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use windlass_tests::{Rig, docker, process, tools};

use crate::failure::Failure;
use crate::{run, setup};

/// How long the service may take to answer after a run that succeeded.
const HEALTH: Duration = Duration::from_secs(10);

/// Runs the demo; its exit code is that of `windlass run`.
pub(crate) fn run() -> Result<ExitCode, Failure> {
    if let Some(problem) = docker::problem() {
        return Err(Failure::new(
            "find a Docker engine, which the demo builds, pushes and deploys with",
            problem,
            "start the engine, then run `cargo xtask demo` again",
        ));
    }
    eprintln!(
        "This demo builds windlass, starts a registry and an SSH server on loopback, runs\n\
         `windlass run` in a copy of examples/observer (build, verify, push, deploy, check)\n\
         against them and this machine's Docker engine, and takes everything down again."
    );
    setup::run(setup::For::Demo)?;
    step("building windlass; the first time takes minutes");
    let binary = run::build_windlass()?;

    // From here on something is there to be taken down: Ctrl-C is for windlass, which
    // is in the same foreground group; this process outlives it and cleans up.
    let interrupted = Arc::new(AtomicBool::new(false));
    let terminated = Arc::new(AtomicBool::new(false));
    for (signal, flag) in [(SIGINT, &interrupted), (SIGTERM, &terminated)] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .map_err(|error| Failure::new("listen for signals", error, "run the demo on Linux"))?;
    }

    step("starting a registry and an SSH server on loopback");
    let rig = Rig::start()?;
    eprintln!(
        "    registry {} (login {})",
        rig.registry.address(),
        rig.registry.user()
    );
    eprintln!(
        "    server   {}, deploying into {}",
        rig.sshd.destination(),
        rig.dir()
    );
    eprintln!("    project  {}", rig.workspace.path().display());
    if interrupted.load(Ordering::SeqCst) || terminated.load(Ordering::SeqCst) {
        return Ok(take_down(rig, 130));
    }

    step("windlass run --env prod");
    let status = windlass(&rig, &binary, &terminated)?;
    let code = u8::try_from(status.code().unwrap_or(130)).unwrap_or(1);
    if status.success() {
        step(&format!("curl http://127.0.0.1:{}/health", rig.port()));
        let answer = rig.wait_until_healthy(HEALTH)?;
        eprintln!("{}", answer.body.trim_end());
        eprintln!(
            "    tags in the registry: {}",
            rig.registry.tags("observer")?.join(", ")
        );
    } else {
        eprintln!("windlass ended with {status}");
    }
    Ok(take_down(rig, code))
}

/// Runs windlass with this terminal; a SIGTERM for this process is passed on.
fn windlass(
    rig: &Rig,
    binary: &std::path::Path,
    terminated: &AtomicBool,
) -> Result<ExitStatus, Failure> {
    let mut command: Command = rig
        .windlass(["run", "--env", "prod"])
        .envs(std::env::vars_os().filter(|(name, _)| {
            ["TERM", "COLORTERM", "CLICOLOR_FORCE", "LANG"]
                .iter()
                .any(|kept| name == kept)
        }))
        .command();
    if std::env::var_os("NO_COLOR").is_none() {
        command.env_remove("NO_COLOR");
    }
    let failed = |error: std::io::Error| {
        Failure::new(
            format!("run {}", binary.display()),
            error,
            "run `cargo build`",
        )
    };
    let mut child: Child = command.spawn().map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if terminated.swap(false, Ordering::SeqCst) {
            process::signal("TERM", &[child.id()]);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the parts, then looks whether something stayed.
fn take_down(rig: Rig, code: u8) -> ExitCode {
    step("taking everything down");
    let (project, address) = (rig.name().to_owned(), rig.registry.address());
    drop(rig);
    let containers = docker::containers(&format!("label=com.docker.compose.project={project}"));
    let images = docker::run([
        "image",
        "ls",
        "--quiet",
        "--filter",
        &format!("reference={address}/*/*"),
    ]);
    let left = containers.map_or(0, |ids| ids.len()) + images.map_or(0, |ids| ids.lines().count());
    if left == 0 {
        eprintln!(
            "    nothing is left but the build in {}",
            tools::target_dir().display()
        );
    } else {
        eprintln!("    {left} containers or images stayed; the next run removes them");
    }
    ExitCode::from(code)
}

fn step(text: &str) {
    eprintln!("\n==> {text}");
}
