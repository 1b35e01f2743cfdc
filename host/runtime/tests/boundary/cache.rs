//! The cache of compiled code: used, mended, and not believed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use windlass_runtime::{Plugin, Runtime, RuntimeOptions};
use windlass_tests::scratch::Scratch;
use windlass_tests::{guests, require};

/// A small component.
const ONE: &str = "describe_calls";
/// A component that cannot be loaded, but compiled.
const OTHER: &str = "describe_too_much";

fn runtime(cache: &Path) -> Runtime {
    Runtime::new(RuntimeOptions {
        cache: Some(cache.to_owned()),
        ..RuntimeOptions::default()
    })
    .expect("a runtime")
}

async fn load(cache: &Path) -> Plugin {
    let bytes = guests::guest(ONE).expect(ONE);
    runtime(cache).load("sample", &bytes).await.expect("loads")
}

fn files(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache)
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default()
}

/// The file of the component that is cached alone.
fn only(cache: &Path) -> PathBuf {
    let files = files(cache);
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

#[tokio::test]
async fn compiled_code_is_kept_and_taken() {
    require!(Guests);
    let scratch = Scratch::new().expect("scratch");
    let (cache, elsewhere) = (scratch.join("deep/cache"), scratch.join("other"));
    load(&cache).await;
    assert_eq!(mode(&cache), 0o700);
    assert_eq!(mode(&scratch.join("deep")), 0o700);
    let other = guests::guest(OTHER).expect(OTHER);
    let refused = runtime(&elsewhere).load("other", &other).await;
    assert!(refused.is_err());
    // What is found under the one's name is what runs: so it was taken.
    fs::copy(only(&elsewhere), only(&cache)).expect("copy");
    let bytes = guests::guest(ONE).expect(ONE);
    let taken = runtime(&cache).load("sample", &bytes).await;
    let message = taken.expect_err("the other one").to_string();
    assert!(message.contains("outputs: 1000"), "{message}");
}

#[tokio::test]
async fn torn_and_changed_files_are_compiled_anew() {
    require!(Guests);
    let scratch = Scratch::new().expect("scratch");
    let cache = scratch.join("cache");
    load(&cache).await;
    let path = only(&cache);
    let whole = fs::read(&path).expect("read");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut nonsense = Sha256::digest(b"nonsense").to_vec();
    nonsense.extend_from_slice(b"nonsense");
    for bad in [
        Vec::new(),
        whole[..16].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        flipped,
        nonsense,
    ] {
        fs::write(&path, &bad).expect("write");
        let plugin = load(&cache).await;
        assert_eq!(plugin.description.name, "sound");
        assert!(fs::read(&path).expect("read") == whole, "mended");
    }
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used() {
    require!(Guests);
    let scratch = Scratch::new().expect("scratch");
    let good = scratch.join("good");
    load(&good).await;
    for open in [0o777, 0o770, 0o702] {
        let dir = scratch.dir(format!("{open:o}")).expect("dir");
        fs::set_permissions(&dir, fs::Permissions::from_mode(open)).expect("chmod");
        load(&dir).await;
        assert!(files(&dir).is_empty(), "{open:o}");
    }
    let link = scratch.join("link");
    symlink(scratch.dir("behind").expect("dir"), &link).expect("link");
    load(&link).await;
    assert!(files(&link).is_empty());
}

#[tokio::test]
async fn without_a_directory_it_compiles() {
    require!(Guests);
    let scratch = Scratch::new().expect("scratch");
    let file = scratch.write("file", "").expect("file");
    assert_eq!(load(&file).await.description.name, "sound");
}
