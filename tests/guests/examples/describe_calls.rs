//! Calls the host in `describe`, where there is no capability.

guests::describing!({
    let mut description = guests::sound();
    if let Err(error) = windlass_sdk::blobs::open("windlass.toml") {
        description.summary = format!("{}: {}", error.code, error.message);
    }
    description
});
