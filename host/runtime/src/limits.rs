//! What one guest may use. Each constant names the attack that it stops.

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
/// Stops runaway recursion before it reaches the host's stack.
pub const MAX_WASM_STACK_BYTES: usize = 1024 * 1024;
/// The fiber on which a guest and the host functions it calls run.
pub const ASYNC_STACK_BYTES: usize = 2 * 1024 * 1024;
/// Stops a component that takes minutes to compile.
pub const MAX_COMPONENT_BYTES: usize = 64 * 1024 * 1024;
/// How often the epoch moves, and a computing guest yields.
pub const EPOCH: std::time::Duration = std::time::Duration::from_millis(10);
/// Stops an endless loop: time that a guest spends computing, in epochs. Time
/// spent waiting for a call does not count.
pub const MAX_COMPUTE_EPOCHS: u64 = 60 * 100;
/// Stops a guest that opens handles without end.
pub const MAX_HANDLES: usize = 4096;
/// Stops a guest that starts jobs without end.
pub const MAX_JOBS: usize = 64;
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
/// Parts of one text, and its plain bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// How long a cancelled guest may take to end by itself.
pub const CANCEL_GRACE: std::time::Duration = std::time::Duration::from_secs(2);
/// How long the host's clean-up after a step may take: CI kills 7.5 s after
/// its first signal.
pub const CLEANUP: std::time::Duration = std::time::Duration::from_secs(7);
/// `describe` has no capability to wait for.
pub const MAX_DESCRIBE: std::time::Duration = std::time::Duration::from_secs(10);

/// Counts what a store uses, and remembers which limit was reached: the trap
/// that follows in the guest says only that an allocation failed.
#[derive(Debug, Default)]
pub struct Limiter {
    pub memory_bytes: usize,
    pub peak_memory_bytes: usize,
    pub reached: Option<String>,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired - current);
        if total > MAX_MEMORY_BYTES {
            self.reached = Some(format!(
                "its memory limit of {} MiB",
                MAX_MEMORY_BYTES / (1024 * 1024)
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
