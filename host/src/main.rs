//! The thin binary: everything is in the library.

use std::process::ExitCode;

/// The released binary is static, and musl's own allocator takes one lock for all
/// threads, for which they would wait some twenty times a step.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    windlass::cli::main()
}
