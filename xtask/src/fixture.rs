//! `cargo xtask fixture`: a component that was built for one version of the
//! interface, kept for good, so that tests show that later hosts run it.
//!
//! `docs/decisions/0007-plugins-keep-running.md` has the rule.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use windlass_tests::tools;

use crate::failure::Failure;
use crate::{run, setup};

/// Builds the fixture of the interface's version. With `release` it is recorded, and
/// from then on nobody builds it again.
pub(crate) fn run(release: bool) -> Result<(), Failure> {
    setup::run(setup::For::Everything)?;
    let root = tools::project_root();
    let version = version()?;
    let fixtures = root.join("tests/fixtures");
    let record = fixtures.join("released.txt");
    let file = format!("{version}/guest.wasm");
    let recorded = fs::read_to_string(&record).map_err(failed(&record))?;
    if recorded
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(&file))
    {
        return Err(Failure::new(
            format!("build the fixture of windlass:plugin {version}"),
            "this version is released: plugins out there were built for it",
            "raise the version in wit/types.wit before you \
             change the interface",
        ));
    }
    let place = fixtures.join(&file);
    fs::create_dir_all(fixtures.join(&version)).map_err(failed(&place))?;
    let mut build = Command::new(root.join("examples/plugin-c/build.sh"));
    build
        .envs(tools::plugin_env(&tools::python_dir()))
        .env("WORLD", "plugin-full")
        .env("SOURCE", fixtures.join("guest.c"))
        .env("BUILD", tools::plugin_build_dir().join("fixture"))
        .env("OUT", &place)
        .env("KEEP_ALL", "1");
    run::shown(&mut build, "mend what the compiler says above")?;
    eprintln!("{}", place.display());
    if release {
        let sum = run::quiet(
            Command::new("sha256sum").arg(&file).current_dir(&fixtures),
            "install coreutils",
        )?;
        fs::write(&record, recorded + &sum).map_err(failed(&record))?;
        eprintln!("recorded in {}; commit both", record.display());
    }
    Ok(())
}

/// Of `package windlass:plugin@0.1.0;`.
fn version() -> Result<String, Failure> {
    let path = tools::project_root().join("wit/types.wit");
    let text = fs::read_to_string(&path).map_err(failed(&path))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("package windlass:plugin@")?
                .strip_suffix(';')
        })
        .map(str::to_owned)
        .ok_or_else(|| {
            Failure::new(
                format!("read the interface's version from {}", path.display()),
                "no line `package windlass:plugin@VERSION;`",
                "write one",
            )
        })
}

fn failed(path: &std::path::Path) -> impl Fn(std::io::Error) -> Failure {
    let path: PathBuf = path.to_owned();
    move |error| {
        Failure::new(
            format!("use {}", path.display()),
            error,
            "see that the directory can be written",
        )
    }
}
