//! Gives a configuration schema that is no JSON.

guests::describing!({
    let mut description = guests::sound();
    description.config_schema = "{".to_owned();
    description
});
