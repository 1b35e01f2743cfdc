//! A guest that traps or hangs leaves no container on a real engine.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use windlass_tests::scratch::unique_name;
use windlass_tests::{Workspace, docker, guests, require, tools};

#[test]
fn no_container_outlives_its_guest() {
    require!(Docker, Observer, Guests, Windlass, Git);
    let workspace = Workspace::empty().unwrap();
    workspace
        .copy(&tools::observer_binary(), "bin/observer")
        .unwrap();
    let dockerfile = "FROM scratch\nCOPY bin/observer /observer\nENTRYPOINT [\"/observer\"]\n";
    workspace.write("Dockerfile", dockerfile).unwrap();
    let image = format!("{}:1", unique_name());
    let context = workspace.path().display().to_string();
    docker::run(["build", "--quiet", "--tag", &image, &context]).unwrap();
    workspace
        .write("guest.wasm", guests::guest("guest").unwrap())
        .unwrap();
    for (mode, code, says) in [
        ("container_trap", 1, "with a container"),
        ("container_hang", 1, "deadline"),
        ("container_left", 0, "succeeded"),
    ] {
        let manifest = format!(
            "[pipeline]\nname = \"app\"\n[run]\nallow_dirty = true\n[step.guest]\n\
             uses = \"./guest.wasm\"\ngrant = [\"docker.run {image}\"]\ntimeout = \"4s\"\n\
             with = {{ mode = \"{mode}\", image = \"{image}\" }}\n"
        );
        workspace.write("windlass.toml", manifest).unwrap();
        let locked = workspace.windlass(["plugin", "lock"]).run().unwrap();
        assert_eq!(locked.code, Some(0), "{locked}");
        let outcome = workspace.windlass(["run"]).run().unwrap();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        assert!(outcome.says(says), "{outcome}");
        let left = docker::containers(&format!("ancestor={image}")).unwrap();
        assert!(left.is_empty(), "{mode} left {left:?}\n{outcome}");
    }
    docker::run(["rmi", "--force", &image]).unwrap();
}
