//! Panics in `describe`.

guests::describing!({
    if std::hint::black_box(true) {
        panic!("no description today");
    }
    guests::sound()
});
