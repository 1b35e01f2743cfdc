//! A component that is no plugin: it exports something else.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package acme:greeter@1.0.0;

            world greeter {
                export greet: func() -> string;
            }
        ",
    });
}

struct Exports;

impl bindings::Guest for Exports {
    fn greet() -> String {
        "hello".to_owned()
    }
}

bindings::export!(Exports with_types_in bindings);
