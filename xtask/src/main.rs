//! `cargo xtask`: what a command of the README calls.
//!
//! `setup` finds and installs what is missing, `demo` runs the observer example on
//! real parts, `test` runs every test, `dist` makes the binary that is released, `bench`
//! measures it, `fixture` makes the component that keeps an interface's promise.
//! Parts are started by the rig (`windlass-tests`), so demo and tests share them.

#![allow(
    clippy::print_stderr,
    reason = "xtask talks to the person who called it; there is no reporter here"
)]

mod bench;
mod demo;
mod dist;
mod failure;
mod fixture;
mod missing;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use failure::Failure;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  setup             install what the demo and the tests need; says so first
  demo              run examples/observer for real, on loopback, and clean up
  test [ARGS]       run every test; ARGS go to `cargo nextest run` or `cargo test`
  dist              build the static release binary and its checksum
  bench [NAME ...]  measure it beside its peers; docs/performance.md has the names
  fixture [--release]
                    build the plugin that shows that hosts run this interface's version";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let done = match (command.as_deref(), rest.as_slice()) {
        (Some("setup"), []) => setup::run(setup::For::Everything).map(|()| ExitCode::SUCCESS),
        (Some("demo"), []) => demo::run(),
        (Some("test"), rest) => test::run(rest),
        (Some("bench"), names) => bench::run(names),
        (Some("fixture"), []) => fixture::run(false).map(|()| ExitCode::SUCCESS),
        (Some("fixture"), [flag]) if flag == "--release" => {
            fixture::run(true).map(|()| ExitCode::SUCCESS)
        }
        (Some("dist"), []) => dist::run().map(|()| ExitCode::SUCCESS),
        (Some("help" | "--help" | "-h"), _) => {
            eprintln!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        (None, _) => Err(Failure::usage("no command is given", USAGE)),
        (Some(other), _) => Err(Failure::usage(
            format!("`{other}` with these arguments is no command"),
            USAGE,
        )),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("{failure}");
        failure.exit_code()
    })
}
