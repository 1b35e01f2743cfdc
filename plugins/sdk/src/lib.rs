//! Write Windlass plugins in Rust.

/// The interfaces of `windlass:plugin`, as wit-bindgen gives them.
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "plugin-full",
        pub_export_macro: true,
        default_bindings_module: "windlass_sdk::bindings",
        generate_all,
    });
}
