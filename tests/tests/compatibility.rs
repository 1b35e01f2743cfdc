//! A plugin that was built for a released interface keeps running: the components in
//! `tests/fixtures/` against today's host.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use windlass_tests::windlass::Outcome;
use windlass_tests::{Windlass, require, tools};

fn fixtures() -> PathBuf {
    tools::project_root().join("tests/fixtures")
}

/// Version and component, oldest first.
fn components() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("guest.wasm").is_file())
        .map(|path| {
            let version = path.file_name().unwrap().to_string_lossy().into_owned();
            (version, path.join("guest.wasm"))
        })
        .collect();
    found.sort();
    found
}

/// Of `package windlass:plugin@0.1.0;`.
fn version_today() -> String {
    let text = fs::read_to_string(tools::project_root().join("wit/types.wit")).unwrap();
    let line = text.lines().next().unwrap();
    line.strip_prefix("package windlass:plugin@")
        .and_then(|rest| rest.strip_suffix(';'))
        .unwrap()
        .to_owned()
}

fn windlass(dir: &Path, args: &[&str]) -> Outcome {
    Windlass::new(dir, args).env("HOME", dir).run().unwrap()
}

#[test]
fn every_interface_has_its_fixture() {
    let versions: Vec<String> = components()
        .into_iter()
        .map(|(version, _)| version)
        .collect();
    let today = version_today();
    assert!(
        versions.contains(&today),
        "there is no fixture for windlass:plugin {today}: run `cargo xtask fixture`"
    );
}

#[test]
fn what_is_released_does_not_change() {
    let record = fs::read_to_string(fixtures().join("released.txt")).unwrap();
    for line in record.lines() {
        let (digest, file) = line.split_once("  ").unwrap();
        let bytes = fs::read(fixtures().join(file)).unwrap();
        let found: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, digest, "{file} is not what was released");
    }
}

#[test]
fn a_fixture_imports_all_that_its_version_had() {
    require!(Windlass);
    let scratch = tempfile::tempdir().unwrap();
    for (version, component) in components() {
        let path = component.display().to_string();
        let outcome = windlass(scratch.path(), &["plugin", "inspect", &path, "--json"]);
        assert_eq!(outcome.code, Some(0), "{version}: {outcome}");
        let said: Json = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(said["interface"], version.as_str());
        assert_eq!(said["has_preflight"], true);
        assert_eq!(said["has_rollback"], true);
        if version != version_today() {
            continue;
        }
        let imported: BTreeSet<&str> = said["imports"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Json::as_str)
            .filter_map(|name| name.strip_prefix("windlass:plugin/")?.split('@').next())
            .collect();
        let wit = fs::read_to_string(tools::project_root().join("wit/plugin.wit")).unwrap();
        let there: BTreeSet<&str> = wit
            .lines()
            .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'))
            .collect();
        assert_eq!(imported, there, "run `cargo xtask fixture`");
    }
}

#[test]
fn todays_host_runs_them() {
    require!(Windlass);
    let scratch = tempfile::tempdir().unwrap();
    for (version, component) in components() {
        let cases = component.with_file_name("tests");
        let outcome = windlass(scratch.path(), &["test", &cases.display().to_string()]);
        assert_eq!(outcome.code, Some(0), "{version}: {outcome}");
    }
}
