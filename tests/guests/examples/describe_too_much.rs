//! Declares more outputs than a step may have.

guests::describing!({
    let mut description = guests::sound();
    description.outputs = (0..1_000)
        .map(|number| windlass_sdk::OutputSpec::text(&format!("output_{number}"), "One of many"))
        .collect();
    description
});
