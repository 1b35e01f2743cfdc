//! `observer`: the service that the Windlass example deploys.
//!
//! It answers `GET /` with a greeting and `GET /health` with its state and
//! version. `observer health` asks the running service for its health and is the
//! image's HEALTHCHECK, because an image `FROM scratch` has no curl.
//!
//! `settings` reads the environment, `server` answers requests, `probe` asks,
//! `signals` turns SIGTERM into an orderly end.

mod probe;
mod server;
mod settings;
mod signals;

use std::process::ExitCode;

use settings::Settings;

fn main() -> ExitCode {
    let settings = match Settings::from_env(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("observer: {problem}");
            return ExitCode::from(2);
        }
    };
    match std::env::args().nth(1).as_deref() {
        None | Some("serve") => serve(settings),
        Some("health") => health(&settings),
        Some("--version") => {
            println!("observer {}", settings.version);
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("observer: unknown command `{other}`, known are serve, health, --version");
            ExitCode::from(2)
        }
    }
}

fn serve(settings: Settings) -> ExitCode {
    if let Some(code) = settings.exit {
        eprintln!("observer: ends at once with {code} because OBSERVER_EXIT says so");
        return ExitCode::from(code);
    }
    // Before any thread exists, so that every thread inherits the blocked mask.
    let signals = signals::Termination::block();
    match server::run(settings, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("observer: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Docker stores what this prints with the probe's exit code.
fn health(settings: &Settings) -> ExitCode {
    match probe::ask(settings.port) {
        Ok(answer) if answer.status == 200 => {
            println!("{}", answer.body.trim_end());
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            println!(
                "GET /health answered {}: {}",
                answer.status,
                answer.body.trim_end()
            );
            ExitCode::FAILURE
        }
        Err(problem) => {
            println!("GET /health on port {} failed: {problem}", settings.port);
            ExitCode::FAILURE
        }
    }
}
