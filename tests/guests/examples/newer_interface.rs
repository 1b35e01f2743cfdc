//! Built against an interface of a later host.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package windlass:plugin@0.3.0;

            interface log {
                write: func(message: string);
            }

            interface step {
                run: func();
            }

            world plugin {
                import log;
                export step;
            }
        ",
    });
}

struct Exports;

impl bindings::exports::windlass::plugin::step::Guest for Exports {
    fn run() {
        bindings::windlass::plugin::log::write("hello from the future");
    }
}

bindings::export!(Exports with_types_in bindings);
