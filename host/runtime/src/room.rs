//! Room for guests: the memories, tables and stacks that one guest leaves are given to
//! the next. Mapping and unmapping them anew costs more than a small step does.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Component;
use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::{self, Limits};

/// Of a memory or table that a guest leaves, as much is cleared and stays with the
/// process; the rest goes back to the system. A small plugin uses less.
const KEPT_BYTES: usize = 256 * 1024;
/// Memories of a guest, on average; most have one. As many tables.
const MEMORIES: usize = 4;

/// Where guests wait until there is room. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    guests: Arc<Semaphore>,
    memories: Arc<Semaphore>,
}

/// A guest's room, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _guest: OwnedSemaphorePermit,
    _memories: OwnedSemaphorePermit,
}

impl Room {
    /// For as many guests at once.
    pub(crate) fn new(guests: usize) -> Self {
        // The largest guest finds room, too.
        let memories = guests * MEMORIES + limits::MAX_MEMORIES;
        Self {
            guests: Arc::new(Semaphore::new(guests)),
            memories: Arc::new(Semaphore::new(memories)),
        }
    }

    /// How wasmtime is to keep it, while all of it is there. Address space is reserved
    /// for all guests, memory used by those that run.
    pub(crate) fn pool(&self, limits: &Limits) -> InstanceAllocationStrategy {
        let count = |semaphore: &Semaphore| {
            u32::try_from(semaphore.available_permits()).unwrap_or(u32::MAX)
        };
        let (guests, memories) = (count(&self.guests), count(&self.memories));
        let mut pool = PoolingAllocationConfig::new();
        pool.total_stacks(guests)
            .total_component_instances(guests)
            .total_memories(memories)
            .total_tables(memories)
            // Counted, not reserved; the limits of a store are stricter.
            .total_core_instances(u32::MAX)
            .max_core_instance_size(limits::MAX_COMPONENT_BYTES)
            .max_component_instance_size(limits::MAX_COMPONENT_BYTES)
            .max_memories_per_module(memories)
            .max_tables_per_module(memories)
            .max_memory_size(limits.memory_bytes)
            .table_elements(limits::MAX_TABLE_ELEMENTS)
            .linear_memory_keep_resident(KEPT_BYTES)
            .table_keep_resident(KEPT_BYTES)
            // Where the kernel tells which pages were used, only those are cleared.
            .pagemap_scan(Enabled::Auto);
        InstanceAllocationStrategy::Pooling(pool)
    }

    /// What each guest of a component takes: its memories or tables, whichever are more.
    pub(crate) fn of(component: &Component) -> u32 {
        // Unknown only for a component that imports core modules, which none here can.
        let needs = component.resources_required();
        let parts = needs.map_or(1, |needs| needs.num_memories.max(needs.num_tables));
        // One with more is refused when it starts.
        parts.min(limits::MAX_MEMORIES as u32)
    }

    /// Waits until there is as much.
    pub(crate) async fn take(&self, memories: u32) -> wasmtime::Result<Taken> {
        Ok(Taken {
            _guest: Arc::clone(&self.guests).acquire_owned().await?,
            _memories: Arc::clone(&self.memories)
                .acquire_many_owned(memories)
                .await?,
        })
    }
}
