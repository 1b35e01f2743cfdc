//! The example plugins, as their authors would build, test and run them.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use windlass_tests::recorder::Reply;
use windlass_tests::windlass::Outcome;
use windlass_tests::{HttpRecorder, Windlass, process, require, tools};

/// A copy of an example, so that what it builds is not left in the project. What it
/// names outside itself lies at the same place.
struct Example {
    scratch: TempDir,
    name: &'static str,
}

impl Example {
    fn copy(name: &'static str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let example = Self { scratch, name };
        copy(
            &tools::project_root().join("examples").join(name),
            &example.dir(),
        );
        for outside in ["wit", "plugins"] {
            let from = tools::project_root().join(outside);
            std::os::unix::fs::symlink(from, example.scratch.path().join(outside)).unwrap();
        }
        example
    }

    fn dir(&self) -> std::path::PathBuf {
        self.scratch.path().join("examples").join(self.name)
    }

    /// Another program, with the tools on its path.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir())
            .envs(tools::plugin_env(&tools::python_dir()));
        process::capture(&mut command).unwrap()
    }

    fn windlass(&self, args: &[&str]) -> Windlass {
        let kept = ["HOME", "CARGO_HOME", "RUSTUP_HOME"]
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        Windlass::new(&self.dir(), args)
            .envs(kept)
            .envs(tools::plugin_env(&tools::python_dir()))
            .limit(std::time::Duration::from_secs(420))
    }

    fn succeeds(&self, args: &[&str]) -> Outcome {
        let outcome = self.windlass(args).run().unwrap();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        outcome
    }
}

/// Files that are the example's own, and not what somebody built there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if ["target", "build", "wit", ".windlass", "__pycache__"]
            .contains(&&*name.to_string_lossy())
            || Path::new(&name)
                .extension()
                .is_some_and(|found| found == "wasm")
        {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn slack_custom_says_it_in_the_teams_words() {
    require!(Windlass);
    let example = Example::copy("slack-custom");
    example.run("cargo", &["test", "--locked", "--quiet"]);
    example.succeeds(&["plugin", "build"]);
    example.succeeds(&["plugin", "test"]);
    example.succeeds(&["plugin", "lock"]);

    let server = HttpRecorder::answering(|_| Reply::new(200, "ok")).unwrap();
    let outcome = example
        .windlass(&["run", "--tag", "20260124-014658"])
        .env("HEALTH_URL", server.url("/health"))
        .env(
            "SLACK_WEBHOOK",
            server.url("/services/T0/B0/s3cr3t-of-the-test"),
        )
        .run()
        .unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let requests = server.requests();
    let told = requests.last().unwrap();
    assert_eq!(told.path, "/services/T0/B0/s3cr3t-of-the-test");
    assert_eq!(
        told.json()["text"],
        ":ship: slack-custom 20260124-014658 succeeded "
    );
    let printed = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!printed.contains("s3cr3t"), "{outcome}");
}

#[test]
fn plugin_python_reads_the_change_log() {
    require!(Windlass, PluginTools);
    let example = Example::copy("plugin-python");
    example.run("python3", &["-m", "unittest"]);
    example.succeeds(&["plugin", "wit"]);
    example.succeeds(&["plugin", "build"]);
    example.succeeds(&["plugin", "test"]);
    example.succeeds(&["plugin", "lock"]);
    let outcome = example.succeeds(&["run"]);
    assert!(
        format!("{}{}", outcome.stdout, outcome.stderr).contains("count 2"),
        "{outcome}"
    );
    // A release that nobody described is refused, and no traceback is shown.
    let manifest = example.dir().join("windlass.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("1.1.0", "9.9.9")).unwrap();
    let outcome = example.windlass(&["run"]).run().unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("CHANGELOG.md says nothing of 9.9.9"),
        "{outcome}"
    );
    assert!(!outcome.stderr.contains("Traceback"), "{outcome}");
}

#[test]
fn plugin_c_knows_its_file() {
    require!(Windlass, PluginTools);
    let example = Example::copy("plugin-c");
    example.run("./build.sh", &[]);
    let size = fs::metadata(example.dir().join("file_digest.wasm"))
        .unwrap()
        .len();
    assert!(size < 64 * 1024, "the guide says some KB: {size}");
    example.succeeds(&["plugin", "test"]);
    example.succeeds(&["plugin", "lock"]);
    example.succeeds(&["run"]);
    fs::write(example.dir().join("terms.txt"), "others\n").unwrap();
    let outcome = example.windlass(&["run"]).run().unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(
        outcome.stderr.contains("terms.txt has another digest"),
        "{outcome}"
    );
}
