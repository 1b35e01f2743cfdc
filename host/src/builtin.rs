//! The plugins that are part of this program.

use sha2::{Digest as _, Sha256};
use windlass_runtime::{Plugin, PluginError, Runtime};

pub(crate) struct BuiltIn {
    pub(crate) name: &'static str,
    pub(crate) component: &'static [u8],
    /// Compiled for this machine's kind by `cargo xtask dist`.
    pub(crate) native: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// The names, in the order of a pipeline.
pub fn names() -> Vec<String> {
    BUILT_IN
        .iter()
        .map(|plugin| plugin.name.to_owned())
        .collect()
}

/// The component's bytes.
pub fn component(name: &str) -> Option<&'static [u8]> {
    find(name).map(|plugin| plugin.component)
}

fn find(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|plugin| plugin.name == name)
}

/// Loads one: precompiled where it is, else from the cache or the compiler.
pub(crate) async fn load(runtime: &Runtime, name: &str) -> Option<Result<Plugin, PluginError>> {
    let plugin = find(name)?;
    if let Some(native) = plugin.native {
        let digest = hex::encode(Sha256::digest(plugin.component));
        // Another kind of processor: compile instead.
        if let Ok(loaded) = runtime.load_embedded(name, native, &digest).await {
            return Some(Ok(loaded));
        }
    }
    Some(runtime.load(name, plugin.component).await)
}

/// Writes precompiled code for every built-in plugin into a directory: what a
/// build with `WINDLASS_PRECOMPILED` then embeds.
pub fn precompile_into(directory: &std::path::Path) -> Result<(), PluginError> {
    for plugin in BUILT_IN {
        let code = Runtime::precompile(plugin.component)?;
        let path = directory.join(format!("{}.cwasm", plugin.name));
        // What did not change stays as old as it is: a build that embeds it looks at that.
        if fs_err::read(&path).is_ok_and(|there| there == code) {
            continue;
        }
        fs_err::write(path, code).map_err(|error| PluginError::Engine(error.to_string()))?;
    }
    Ok(())
}
