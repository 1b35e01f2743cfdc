//! Imports what no Windlass has.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package acme:sockets@1.0.0;

            interface raw {
                open: func(address: string);
            }

            world plugin {
                import raw;
                export run: func();
            }
        ",
    });
}

struct Exports;

impl bindings::Guest for Exports {
    fn run() {
        bindings::acme::sockets::raw::open("0.0.0.0");
    }
}

bindings::export!(Exports with_types_in bindings);
