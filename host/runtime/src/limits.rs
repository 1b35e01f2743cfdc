//! What one guest may use. Each constant names the attack that it stops; those
//! in [`Limits`] are defaults.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Stops a guest that allocates without end. Interpreters (Python) start with
/// 30 MB, so there is room above that.
pub const MAX_MEMORY_BYTES: usize = 256 * 1024 * 1024;
/// Stops tables that grow without end; Python's have some 20,000 elements.
pub const MAX_TABLE_ELEMENTS: usize = 200_000;
/// Stops components made of thousands of modules; componentize-py makes 25.
pub const MAX_INSTANCES: usize = 100;
/// As above, for memories and tables.
pub const MAX_MEMORIES: usize = 100;
/// Guests at once, unless a caller wants more: each costs address space and a call to the
/// kernel when the engine starts.
pub const GUESTS: usize = 32;
/// Stops runaway recursion before it reaches the host's stack.
pub const MAX_WASM_STACK_BYTES: usize = 1024 * 1024;
/// The fiber on which a guest and the host functions it calls run.
pub const ASYNC_STACK_BYTES: usize = 2 * 1024 * 1024;
/// Stops a component that takes minutes to compile.
pub const MAX_COMPONENT_BYTES: usize = 64 * 1024 * 1024;
/// How often the epoch moves, and a computing guest yields.
pub const EPOCH: Duration = Duration::from_millis(10);
/// Stops an endless loop: time that a guest spends computing. Time spent
/// waiting for a call does not count.
pub const MAX_COMPUTE: Duration = Duration::from_secs(60);
/// Stops a guest that opens handles without end.
pub const MAX_HANDLES: usize = 4096;
/// Stops a guest that starts jobs without end.
pub const MAX_JOBS: usize = 64;
/// Stops a guest that fills an engine with containers.
pub const MAX_CONTAINERS: usize = 64;
/// Stops a log flood: lines and bytes that a step may write by itself.
pub const MAX_LOG_LINES: u64 = 20_000;
pub const MAX_LOG_BYTES: u64 = 8 * 1024 * 1024;
/// One call to `log.write`.
pub const MAX_LOG_CALL_BYTES: usize = 64 * 1024;
/// What a guest may print on stdout and stderr, each; the rest is dropped.
pub const MAX_OUTPUT_STREAM_BYTES: usize = 256 * 1024;
/// Outputs of a step: how many, and how large each.
pub const MAX_OUTPUTS: usize = 64;
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;
/// Calls that a step may make; a probe every 100 ms for a day is less.
pub const MAX_CALLS: u64 = 1_000_000;
/// Bytes that a guest may hold in blobs that it made itself.
pub const MAX_GUEST_BLOB_BYTES: u64 = 64 * 1024 * 1024;
/// What the host keeps of an HTTP body at most.
pub const MAX_HTTP_BODY: u32 = 1024 * 1024;
/// One text, with the values in it: a guest may name one large value in a
/// million parts.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// Stops a guest that fills the host's memory through handles: bytes of its
/// values and of requests that it prepares.
pub const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;
/// What a guest says about a failure goes to the journal and to every
/// reporter: the rest is cut off.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// As above, for codes, names and versions.
pub const MAX_NAME_BYTES: usize = 128;
/// Findings of one preflight.
pub const MAX_FINDINGS: usize = 100;
/// Requests and configuration schema of one `describe`.
pub const MAX_REQUESTS: usize = 1000;
pub const MAX_SCHEMA_BYTES: usize = 1024 * 1024;
/// How long a cancelled guest may take to end by itself.
pub const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// How long the host's clean-up after a step may take: CI kills 7.5 s after
/// its first signal.
pub const CLEANUP: Duration = Duration::from_secs(7);
/// `describe` has no capability to wait for.
pub const MAX_DESCRIBE: Duration = Duration::from_secs(10);

/// The limits that differ between uses: a test is not to wait for a minute, an
/// interpreter may need more memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: usize,
    /// Time spent computing.
    pub compute: Duration,
    pub calls: u64,
    /// For `describe`.
    pub describe: Duration,
    pub cancel_grace: Duration,
    pub cleanup: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MAX_MEMORY_BYTES,
            compute: MAX_COMPUTE,
            calls: MAX_CALLS,
            describe: MAX_DESCRIBE,
            cancel_grace: CANCEL_GRACE,
            cleanup: CLEANUP,
        }
    }
}

/// Counts what a store uses, and remembers which limit was reached: the trap
/// that follows in the guest says only that an allocation failed.
#[derive(Debug)]
pub struct Limiter {
    max_memory_bytes: usize,
    pub memory_bytes: usize,
    pub peak_memory_bytes: usize,
    pub reached: Option<String>,
}

impl Limiter {
    pub fn new(max_memory_bytes: usize) -> Self {
        Self {
            max_memory_bytes,
            memory_bytes: 0,
            peak_memory_bytes: 0,
            reached: None,
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        if total > self.max_memory_bytes {
            self.reached = Some(format!(
                "its memory limit of {} MiB",
                self.max_memory_bytes / (1024 * 1024)
            ));
            return Ok(false);
        }
        self.memory_bytes = total;
        self.peak_memory_bytes = self.peak_memory_bytes.max(total);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > MAX_TABLE_ELEMENTS {
            self.reached = Some(format!("its limit of {MAX_TABLE_ELEMENTS} table elements"));
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_MEMORIES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}
