//! The two steps of a C plugin's build that a C compiler does not know: from the
//! interface to C, and from the module to a component.
//!
//! What `wit-bindgen c` and `wasm-tools component new` do, without installing them.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;
use wit_component::ComponentEncoder;

const USAGE: &str = "\
usage: c-component bindings WIT WORLD DIR     writes WORLD.h, WORLD.c and WORLD_component_type.o
       c-component component MODULE FILE      makes a component of a module that has these";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["bindings", wit, world, dir] => bindings(Path::new(wit), world, Path::new(dir)),
        ["component", module, file] => component(Path::new(module), Path::new(file)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn bindings(wit: &Path, world: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(dir)?;
    for (name, bytes) in files.iter() {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

fn component(module: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = ComponentEncoder::default()
        .validate(true)
        .module(&fs::read(module)?)?
        .encode()?;
    Ok(fs::write(file, bytes)?)
}
