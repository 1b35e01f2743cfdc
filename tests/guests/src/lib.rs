//! Guests that misbehave, for the tests of the boundary between host and guests.
//!
//! `examples/guest.rs` does what its configuration says; the others misbehave where
//! no configuration reaches: in `describe`, or in what they import.

/// Exports a component whose `describe` is the given expression, and which does
/// nothing else.
#[macro_export]
macro_rules! describing {
    ($describe:expr) => {
        use windlass_sdk::bindings::exports::windlass::plugin as exports;
        use windlass_sdk::{Error, Finding};

        struct Exports;

        impl exports::step::Guest for Exports {
            fn describe() -> exports::step::Description {
                $describe
            }

            fn run() -> Result<(), Error> {
                Ok(())
            }
        }

        impl exports::preflight::Guest for Exports {
            fn check() -> Result<Vec<Finding>, Error> {
                Ok(Vec::new())
            }
        }

        impl exports::rollback::Guest for Exports {
            fn undo() -> Result<(), Error> {
                Ok(())
            }
        }

        windlass_sdk::bindings::export!(Exports with_types_in windlass_sdk::bindings);
    };
}

/// A description that is fine.
pub fn sound() -> windlass_sdk::bindings::exports::windlass::plugin::step::Description {
    windlass_sdk::bindings::exports::windlass::plugin::step::Description {
        name: "sound".to_owned(),
        version: "0.1.0".to_owned(),
        summary: "Nothing".to_owned(),
        config_schema: r#"{"type":"object"}"#.to_owned(),
        outputs: Vec::new(),
        requests: Vec::new(),
        has_preflight: false,
        has_rollback: false,
    }
}
