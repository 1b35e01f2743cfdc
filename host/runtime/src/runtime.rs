//! The WebAssembly engine, set up once for a process.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine};
use windlass_model::PluginDigest;

use crate::bindings;
use crate::cache::Cache;
use crate::guest::Guest;
use crate::limits::{self, Limits};
use crate::plugin::{Plugin, PluginError};
use crate::room::Room;

#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Where compiled code is kept; nowhere when absent.
    pub cache: Option<PathBuf>,
    pub limits: Limits,
    /// How many guests may run at once; more wait for their turn.
    pub guests: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            cache: None,
            limits: Limits::default(),
            guests: limits::GUESTS,
        }
    }
}

/// Loads plugins. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    engine: Engine,
    linker: Arc<Linker<Guest>>,
    cache: Cache,
    limits: Arc<Limits>,
    room: Room,
    ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// Moves the epoch while a runtime or one of its plugins lives: without it,
/// nothing stops a busy guest.
pub(crate) struct Ticker(Arc<std::sync::atomic::AtomicBool>);

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What a plugin needs of its runtime for as long as it may be run.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) limits: Arc<Limits>,
    pub(crate) room: Room,
    _ticker: Arc<Ticker>,
}

fn ticker(engine: &Engine) -> Result<Ticker, PluginError> {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let weak = engine.weak();
    let stopped = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("windlass-epoch".into())
        .spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(limits::EPOCH);
                match weak.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })
        .map_err(|error| PluginError::Engine(format!("start the epoch thread: {error}")))?;
    Ok(Ticker(stop))
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(limits::MAX_WASM_STACK_BYTES)
        .async_stack_size(limits::ASYNC_STACK_BYTES)
        // The same guest with the same answers does the same, on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable);
    config
}

impl Runtime {
    pub fn new(options: RuntimeOptions) -> Result<Self, PluginError> {
        let failed = |error: wasmtime::Error| PluginError::Engine(format!("{error:#}"));
        let room = Room::new(options.guests.max(1));
        let mut pooled = config();
        pooled.allocation_strategy(room.pool(&options.limits));
        // Some machines lack the address space, or forbid to reserve as much.
        let engine = Engine::new(&pooled)
            .or_else(|_| Engine::new(&config()))
            .map_err(failed)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(failed)?;
        bindings::PluginFull::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)
            .map_err(failed)?;
        Ok(Self {
            cache: Cache::new(options.cache, &engine),
            limits: Arc::new(options.limits),
            room,
            ticker: Arc::new(ticker(&engine)?),
            linker: Arc::new(linker),
            engine,
        })
    }

    /// Compiles a component, or takes the compiled code from the cache; checks
    /// what it imports; asks it to describe itself.
    pub async fn load(&self, name: &str, bytes: &[u8]) -> Result<Plugin, PluginError> {
        if bytes.len() > limits::MAX_COMPONENT_BYTES {
            return Err(PluginError::TooLarge {
                name: name.to_owned(),
                bytes: bytes.len(),
            });
        }
        let digest = hex::encode(Sha256::digest(bytes));
        let (engine, cache) = (self.engine.clone(), self.cache.clone());
        let (owned, key, plugin) = (bytes.to_vec(), digest.clone(), name.to_owned());
        let component =
            tokio::task::spawn_blocking(move || compile(&engine, &cache, &key, &plugin, &owned))
                .await
                .map_err(|error| {
                    PluginError::Engine(format!("compile plugin {name}: {error}"))
                })??;
        self.finish(name, component, digest).await
    }

    /// Takes code that [`Self::precompile`] made and that is part of this
    /// program; `digest` is that of the component it was made from.
    pub async fn load_embedded(
        &self,
        name: &str,
        code: &'static [u8],
        digest: &str,
    ) -> Result<Plugin, PluginError> {
        let component = trusted(&self.engine, code)
            .map_err(|error| PluginError::Engine(format!("embedded plugin {name}: {error:#}")))?;
        self.finish(name, component, digest.to_owned()).await
    }

    async fn finish(
        &self,
        name: &str,
        component: Component,
        digest: String,
    ) -> Result<Plugin, PluginError> {
        Plugin::new(
            Host {
                engine: self.engine.clone(),
                limits: Arc::clone(&self.limits),
                room: self.room.clone(),
                _ticker: Arc::clone(&self.ticker),
            },
            &self.linker,
            name,
            component,
            PluginDigest::new(digest),
        )
        .await
    }

    /// Native code for [`Self::load_embedded`], for this version on this kind
    /// of machine.
    pub fn precompile(bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
        let failed = |error: wasmtime::Error| PluginError::Engine(format!("{error:#}"));
        let mut config = config();
        if cfg!(target_os = "linux") {
            // A target that is named is taken without what this processor has
            // beyond it: the code is for machines that lack some of that.
            let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            config.target(&target).map_err(failed)?;
        }
        let engine = Engine::new(&config).map_err(failed)?;
        engine.precompile_component(bytes).map_err(failed)
    }
}

fn compile(
    engine: &Engine,
    cache: &Cache,
    key: &str,
    name: &str,
    bytes: &[u8],
) -> Result<Component, PluginError> {
    if let Some(code) = cache.load(key)
        && let Ok(component) = trusted(engine, &code)
    {
        return Ok(component);
    }
    PluginError::check_preamble(name, bytes)?;
    let component = Component::new(engine, bytes).map_err(|error| PluginError::Invalid {
        name: name.to_owned(),
        reason: format!("{error:#}"),
    })?;
    if let Ok(code) = component.serialize() {
        cache.store(key, &code);
    }
    Ok(component)
}

/// The one place where bytes become native code unchecked.
#[allow(
    unsafe_code,
    reason = "compiled code comes from this program or from the user's own 0700 cache, whose \
              files carry a digest; wasmtime checks version and settings itself"
)]
fn trusted(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the callers pass code that `serialize` or `precompile_component`
    // of this very wasmtime made, kept where only this user can write.
    unsafe { Component::deserialize(engine, code) }
}
