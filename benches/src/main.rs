//! Side-by-side benchmarks: each number of Windlass next to that of a peer that was
//! measured in the same process, in turns, so that a slow moment hits both.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml -- [NAME ...]` runs them;
//! `cargo xtask bench` first sets up and builds the binary as it is released. The parts
//! (registry, sshd, relay, projects) are those of the tests. Nothing here passes or
//! fails on a time: it prints ratios, and `docs/performance.md` keeps them.

mod cases;
mod guests;
mod machine;
mod memory;
mod noop;
mod peers;
mod pipeline;
mod project;
mod sample;
mod steps;
mod table;
mod trips;
mod upload;

use std::path::PathBuf;
use std::process::ExitCode;

use table::Table;
use windlass_tests::tools;

/// What goes wrong is told and ends the run: nobody handles it.
pub(crate) type Error = Box<dyn std::error::Error>;
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A benchmark's name, what it shows, and itself.
type Bench = (
    &'static str,
    &'static str,
    fn(&Context, &mut Table) -> Result<()>,
);

const ALL: [Bench; 7] = [
    ("noop", "a run of one step that does nothing", noop::run),
    ("steps", "one more step that does nothing", steps::run),
    ("cases", "a thousand small test cases", cases::run),
    (
        "memory",
        "peak memory of the observer pipeline",
        memory::run,
    ),
    (
        "trips",
        "round trips of a deploy that changes nothing",
        trips::run,
    ),
    (
        "pipeline",
        "the observer pipeline against a shell script",
        pipeline::run,
    ),
    ("upload", "an upload of 1 GiB", upload::run),
];

/// What every benchmark is given.
pub(crate) struct Context {
    /// The released binary.
    pub(crate) windlass: PathBuf,
    /// Multiplies rounds: 1 unless BENCH_ROUNDS says otherwise.
    pub(crate) rounds: f64,
}

impl Context {
    /// At least three, so that there is a median.
    pub(crate) fn rounds(&self, usual: u32) -> usize {
        let wanted = (f64::from(usual) * self.rounds).round();
        (wanted as usize).max(3)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: failed to {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for name in &wanted {
        if !ALL.iter().any(|(known, ..)| known == name) {
            let known: Vec<String> = ALL
                .iter()
                .map(|(name, what, _)| format!("  {name:<9} {what}"))
                .collect();
            return Err(format!(
                "find the benchmark `{name}`; there are\n{}",
                known.join("\n")
            )
            .into());
        }
    }
    let context = Context {
        windlass: binary()?,
        rounds: std::env::var("BENCH_ROUNDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(1.0),
    };
    println!("{}", machine::describe(&context.windlass));
    let mut table = Table::default();
    for (name, what, bench) in ALL {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("==> {name}: {what}");
            bench(&context, &mut table)?;
        }
    }
    println!("\n{table}");
    Ok(())
}

/// `WINDLASS_BIN`, else what `cargo xtask dist` made.
fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("WINDLASS_BIN").map_or_else(
        || {
            tools::target_dir()
                .join("dist")
                .join(format!("windlass-{}", tools::static_target()))
        },
        PathBuf::from,
    );
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "find the released binary at {}: run `cargo xtask dist`, or set WINDLASS_BIN",
        path.display()
    )
    .into())
}
