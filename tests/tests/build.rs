//! Images on a real engine: built, checked and run, and what is said when that fails.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::path::Path;

use serde_json::Value;
use windlass_tests::scratch;
use windlass_tests::windlass::Outcome;
use windlass_tests::{Sshd, Workspace, docker, process, require, tools};

/// A project whose images are its own, and go with it.
struct Project {
    workspace: Workspace,
    label: String,
}

impl Project {
    /// `steps` with `IMAGE` for a repository name, `LABEL` for the project's label.
    fn new(dockerfile: &str, steps: &str) -> Self {
        let label = scratch::unique_name();
        let steps = steps.replace("IMAGE", &label).replace("LABEL", &label);
        let manifest = format!("[pipeline]\nname = \"{label}\"\n\n[run]\ntag = \"1\"\n{steps}");
        let workspace = Workspace::with_manifest(&manifest).unwrap();
        workspace.write("Dockerfile", dockerfile).unwrap();
        let project = Self { workspace, label };
        project.commit();
        project
    }

    /// The same with the service of the example as `bin/observer`.
    fn observer(dockerfile: &str, steps: &str) -> Self {
        let project = Self::new(dockerfile, steps);
        project
            .workspace
            .copy(&tools::observer_binary(), "bin/observer")
            .unwrap();
        project.commit();
        project
    }

    /// An image with a shell, made of this machine's own programs.
    fn with_shell(dockerfile: &str, steps: &str) -> Self {
        let project = Self::new(
            &format!("FROM scratch\nCOPY rootfs /\nENV PATH=/bin\n{dockerfile}\n"),
            steps,
        );
        for program in ["sh", "cat", "wc", "hostname"] {
            let file = process::find_program(program).unwrap();
            project
                .workspace
                .copy(&file, &format!("rootfs/bin/{program}"))
                .unwrap();
            let libraries = process::capture(std::process::Command::new("ldd").arg(&file)).unwrap();
            for library in libraries
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
            {
                project
                    .workspace
                    .copy(Path::new(library), &format!("rootfs{library}"))
                    .unwrap();
            }
        }
        project.commit();
        project
    }

    fn commit(&self) {
        self.workspace.git(["add", "--all"]).unwrap();
        self.workspace
            .git(["commit", "--quiet", "--allow-empty", "--message", "Go on"])
            .unwrap();
    }

    fn run(&self) -> Outcome {
        self.workspace.windlass(["run", "--verbose"]).run().unwrap()
    }

    #[track_caller]
    fn assert_runs(&self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        outcome
    }

    /// Ends with this code and says all of these.
    #[track_caller]
    fn assert_fails(&self, code: i32, says: &[&str]) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(code), "{outcome}");
        for text in says {
            assert!(unfolded(&outcome).contains(text), "no {text:?}: {outcome}");
        }
        outcome
    }

    fn image(&self, tag: &str) -> Value {
        let name = format!("{}:{tag}", self.label);
        let text = docker::run(["image", "inspect", &name]).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    }

    /// The files of an image, by name.
    fn files(&self, tag: &str) -> Vec<String> {
        let name = format!("{}:{tag}", self.label);
        let container = docker::run(["create", &name, "/none"]).unwrap();
        let listed = process::capture(
            std::process::Command::new("sh")
                .env("DOCKER_HOST", docker::host())
                .args(["-c", &format!("docker export {container} | tar -t")]),
        );
        docker::run(["rm", "--force", &container]).unwrap();
        // The engine's own mount points are not the image's.
        listed
            .unwrap()
            .lines()
            .filter(|name| !name.ends_with('/') && !name.starts_with("etc/"))
            .filter(|name| !name.starts_with("dev/") && *name != ".dockerenv")
            .map(str::to_owned)
            .collect()
    }

    /// Containers of this project's images, running or not.
    fn containers(&self) -> Vec<String> {
        docker::containers(&format!("label=rig={}", self.label)).unwrap()
    }

    fn journal(&self) -> String {
        let dir = self.workspace.path().join(".windlass");
        texts(&dir)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let filter = format!("label=rig={}", self.label);
        for id in self.containers() {
            let _ = docker::run(["rm", "--force", &id]);
        }
        let images = docker::run(["image", "ls", "--quiet", "--filter", &filter]);
        for id in images.unwrap_or_default().lines() {
            let _ = docker::run(["rmi", "--force", id]);
        }
    }
}

fn texts(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&texts(&path));
        } else {
            text.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
    text
}

/// What was said, with long lines put together again.
fn unfolded(outcome: &Outcome) -> String {
    let words: Vec<&str> = outcome
        .stderr
        .split_whitespace()
        .chain(outcome.stdout.split_whitespace())
        .filter(|word| *word != "│")
        .collect();
    words.join(" ")
}

const SCRATCH: &str = "FROM scratch\nCOPY . /\n";

#[test]
fn the_ignore_file_is_honoured_and_git_stays_out() {
    require!(Docker, Git, Windlass);
    let project = Project::new(
        SCRATCH,
        r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" } }
"#,
    );
    for name in [
        "kept.txt",
        "secret.env",
        "deep/kept.txt",
        "deep/secret.env",
        "logs/one.log",
        "logs/keep.log",
    ] {
        project.workspace.write(name, "x").unwrap();
    }
    let ignore = "# what stays here\n**/*.env\n/logs/*\n!logs/keep.log\nwindlass.toml\nDockerfile\n.dockerignore\n";
    project.workspace.write(".dockerignore", ignore).unwrap();
    project.commit();
    project.assert_runs();
    let mut files = project.files("1");
    files.sort_unstable();
    // The Dockerfile is always sent.
    let kept = ["Dockerfile", "deep/kept.txt", "kept.txt", "logs/keep.log"];
    assert_eq!(files, kept);
}

#[test]
fn dockerfile_stage_arguments_labels_and_tags() {
    require!(Docker, Git, Windlass);
    let project = Project::new(
        "FROM broken-on-purpose\n",
        r#"
[step.build]
uses = "docker-build"
with = { context = "app", dockerfile = "app/deploy/image.Dockerfile", stage = "wanted", args = { WORD = "said" }, tags = ["IMAGE:1", "IMAGE:latest"], labels = { rig = "LABEL", "org.opencontainers.image.title" = "Test" } }
"#,
    );
    let dockerfile = "FROM scratch AS wanted\nARG WORD=default\nENV WORD=$WORD\nCOPY a.txt /\n\nFROM scratch\nCOPY no-such-file /\n";
    project
        .workspace
        .write("app/deploy/image.Dockerfile", dockerfile)
        .unwrap();
    project.workspace.write("app/a.txt", "a").unwrap();
    project
        .workspace
        .git([
            "remote",
            "set-url",
            "origin",
            "https://me:tok3n-in-url@example.org/acme/app.git",
        ])
        .unwrap();
    project.commit();
    let outcome = project.assert_runs();
    let image = project.image("1");
    assert_eq!(image["Id"], project.image("latest")["Id"]);
    assert_eq!(project.files("1"), ["a.txt"]);
    assert!(
        image["Config"]["Env"]
            .as_array()
            .unwrap()
            .contains(&"WORD=said".into())
    );
    let labels = &image["Config"]["Labels"];
    let commit = project.workspace.git(["rev-parse", "HEAD"]).unwrap();
    assert_eq!(labels["org.opencontainers.image.revision"], commit);
    assert_eq!(labels["org.opencontainers.image.title"], "Test");
    let source = labels["org.opencontainers.image.source"].as_str().unwrap();
    assert!(
        source.starts_with("https://example.org/acme/app"),
        "{source}"
    );
    assert!(!outcome.says("tok3n-in-url") && !image.to_string().contains("tok3n-in-url"));
}

#[test]
fn a_build_secret_reaches_the_build_and_nothing_else() {
    require!(Docker, Git, Windlass);
    let mut project = Project::with_shell(
        "RUN --mount=type=secret,id=token,target=/token echo got $(cat /token | wc -c) bytes, which are $(cat /token)",
        r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" }, no_cache = true, secrets = { token = { secret = "BUILD_TOKEN" } } }
"#,
    );
    let secret = "build/t0ken+of-32-characters-here";
    project.workspace.set_env("BUILD_TOKEN", secret);
    let outcome = project.assert_runs();
    let got = format!("got {} bytes, which are ", secret.len());
    assert!(outcome.says(&got), "{outcome}");
    let history = docker::run(["history", "--no-trunc", &format!("{}:1", project.label)]).unwrap();
    let image = project.image("1").to_string();
    for text in [&outcome.to_string(), &project.journal(), &history, &image] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn a_failing_build_shows_its_log() {
    require!(Docker, Git, Windlass);
    let project = Project::with_shell(
        "RUN echo this goes well\nRUN echo this does not >&2; exit 9",
        r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" } }

[step.after]
uses = "image-check"
with = { image = "{{ steps.build.image }}" }
"#,
    );
    project.assert_fails(1, &["this goes well", "this does not", "exit code: 9"]);
    // Not verbose, the log of what failed is shown all the same.
    let outcome = project.workspace.windlass(["run"]).run().unwrap();
    assert!(outcome.says("this does not"), "{outcome}");
    assert!(
        outcome.says("build failed"),
        "what needs it is skipped: {outcome}"
    );
}

#[test]
fn mistakes_in_a_build_are_told_apart() {
    require!(Docker, Git, Windlass);
    for (with, says) in [
        ("dockerfile = \"None\"", "None"),
        (
            "context = \"none\", dockerfile = \"none/Dockerfile\"",
            "none",
        ),
        ("context = \"app\"", "is not within the context"),
        ("stage = \"none\"", "none"),
        ("platform = \"amd64\"", "linux/amd64"),
    ] {
        let project = Project::new(
            "FROM scratch\nCOPY Dockerfile /\n",
            &format!(
                "[step.build]\nuses = \"docker-build\"\nwith = {{ labels = {{ rig = \"LABEL\" }}, {with} }}\n"
            ),
        );
        project.assert_fails(1, &[says]);
    }
}

#[test]
fn the_classic_builder_serves() {
    require!(Docker, Git, Windlass);
    let mut project = Project::new(
        "FROM scratch AS wanted\nARG WORD\nENV WORD=$WORD\nCOPY kept.txt /\nFROM scratch\nCOPY none /\n",
        r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1", "IMAGE:2"], labels = { rig = "LABEL" }, args = { WORD = "said" }, stage = "wanted" }
"#,
    );
    project.workspace.write("kept.txt", "").unwrap();
    project.commit();
    project.workspace.set_env("DOCKER_BUILDKIT", "0");
    let outcome = project.assert_runs();
    assert!(
        outcome.says("Step 1/"),
        "the classic builder's own words: {outcome}"
    );
    assert_eq!(project.image("1")["Id"], project.image("2")["Id"]);
    assert_eq!(project.files("1"), ["kept.txt"]);
}

#[test]
fn an_image_for_another_machine_is_refused_before_it_is_built() {
    require!(Docker, Git, Windlass);
    let (other, here) = match std::env::consts::ARCH {
        "aarch64" => ("amd64", "arm64"),
        _ => ("arm64", "amd64"),
    };
    let steps = r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" }, platform = "linux/OTHER" }

[step.deploy]
uses = "ssh-run"
needs = ["build"]
on = ["local"]
with = { argv = ["echo", "deployed all the same"] }
"#
    .replace("OTHER", other);
    let project = Project::new("FROM scratch\nCOPY Dockerfile /\n", &steps);
    let says = format!("the image is for {other}, and target local runs {here}");
    let outcome = project.assert_fails(1, &[&says, &format!("platform = \"linux/{here}\"")]);
    assert!(!outcome.says("deployed all the same"), "{outcome}");
    let images = docker::run(["image", "ls", "--quiet", &project.label]).unwrap();
    assert_eq!(images, "", "nothing was built in vain");
}

const CHECK: &str = r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" } }

[step.verify]
uses = "image-check"
with = { image = "{{ steps.build.image }}", timeout = "20s", env = { ENV } }
"#;

const HEALTHY: &str = r#"FROM scratch
COPY bin/observer /observer
HEALTHCHECK --interval=1s --timeout=2s --retries=2 CMD ["/observer", "health"]
ENTRYPOINT ["/observer"]
"#;

#[test]
fn an_image_that_turns_healthy_passes() {
    require!(Docker, Git, Windlass, Observer);
    let project = Project::observer(HEALTHY, &CHECK.replace("{ ENV }", "{ VERSION = \"7\" }"));
    let outcome = project.assert_runs();
    assert!(outcome.says("healthy"), "{outcome}");
    assert_eq!(project.containers(), [""; 0]);
}

#[test]
fn an_image_without_a_healthcheck_is_an_error() {
    require!(Docker, Git, Windlass, Observer);
    let dockerfile = "FROM scratch\nCOPY bin/observer /observer\nENTRYPOINT [\"/observer\"]\n";
    let project = Project::observer(dockerfile, &CHECK.replace("{ ENV }", "{}"));
    project.assert_fails(1, &["no HEALTHCHECK", "HEALTHCHECK --interval=", "CMD ["]);
    assert_eq!(project.containers(), [""; 0]);
}

#[test]
fn an_unhealthy_image_shows_what_its_probe_printed() {
    require!(Docker, Git, Windlass, Observer);
    let env = "{ OBSERVER_UNHEALTHY = \"1\" }";
    let project = Project::observer(HEALTHY, &CHECK.replace("{ ENV }", env));
    project.assert_fails(1, &["answered 503", "unhealthy"]);
    assert_eq!(project.containers(), [""; 0]);
}

#[test]
fn a_container_that_ends_at_once_shows_code_and_log() {
    require!(Docker, Git, Windlass, Observer);
    let env = "{ OBSERVER_EXIT = \"3\" }";
    let project = Project::observer(HEALTHY, &CHECK.replace("{ ENV }", env));
    project.assert_fails(
        1,
        &["3", "ends at once with 3 because OBSERVER_EXIT says so"],
    );
    assert_eq!(project.containers(), [""; 0]);
}

const RUN: &str = r#"
[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" }, for_targets = [] }

[step.job]
uses = "docker-run"
needs = ["build"]
ON
with = { image = "{{ steps.build.image }}", command = ["sh", "-c", "echo $WORD from $(hostname) as $0; exit ${CODE:-0}", "{{ run.tag }}"], pull = "never", env = { WORD = "hello", TOKEN = { secret = "TOKEN" } } }
"#;

#[test]
fn a_command_runs_in_a_container() {
    require!(Docker, Git, Windlass);
    let mut project = Project::with_shell("", &RUN.replace("ON\n", ""));
    project.workspace.set_env("TOKEN", "a-token-of-some-length");
    let outcome = project.assert_runs();
    assert!(
        outcome.says("hello from ") && outcome.says(" as 1"),
        "{outcome}"
    );
    assert_eq!(project.containers(), [""; 0]);
    let failing = project.workspace.read("windlass.toml").unwrap();
    project
        .workspace
        .write(
            "windlass.toml",
            failing.replace("WORD = ", "CODE = \"5\", WORD = "),
        )
        .unwrap();
    project.commit();
    project.assert_fails(1, &["5", "hello from"]);
    assert_eq!(project.containers(), [""; 0]);
}

#[test]
fn a_command_runs_in_a_container_of_the_target() {
    require!(Docker, Sshd, Git, Windlass);
    let target = r#"
[vars]
host = { env = "DEPLOY_HOST" }

[target.box]
ssh = "{{ vars.host }}"
key = { secret = "SSH_KEY" }
known_hosts = { secret = "KNOWN_HOSTS" }
"#;
    let sshd = Sshd::start().unwrap();
    let steps = target.to_owned() + &RUN.replace("ON\n", "on = [\"box\"]\n");
    let mut project = Project::with_shell("", &steps);
    for (name, value) in [
        ("TOKEN", "a-token-of-some-length"),
        ("DEPLOY_HOST", &sshd.destination()),
        ("SSH_KEY", sshd.private_key()),
        ("KNOWN_HOSTS", &sshd.known_hosts()),
    ] {
        project.workspace.set_env(name, value);
    }
    let outcome = project.assert_runs();
    assert!(outcome.says("hello from "), "{outcome}");
    assert!(sshd.logins() == 1, "{}", sshd.log());
    assert_eq!(project.containers(), [""; 0]);
}

#[test]
fn an_operator_can_forbid_what_a_manifest_allows() {
    require!(Docker, Git, Windlass);
    for (with, needed) in [
        ("privileged = true", "docker.privileged IMAGE:1"),
        (
            "mounts = [{ source = \"/\", target = \"/host\" }]",
            "docker.mount /",
        ),
        ("network = \"host\"", "docker.network host"),
    ] {
        let steps = format!(
            r#"
[step.build]
uses = "docker-build"
with = {{ tags = ["IMAGE:1"], labels = {{ rig = "LABEL" }} }}

[step.job]
uses = "docker-run"
needs = ["build"]
with = {{ image = "IMAGE:1", pull = "never", command = ["true"], {with} }}
"#
        );
        let mut project = Project::with_shell("", &steps);
        let needed = needed.replace("IMAGE", &project.label);
        let policy = "# what this machine is for\ndocker.build *\ndocker.run *\ndocker.inspect *\nfile.read **\ngit.read *\n";
        let file = project.workspace.home().join("policy");
        fs::write(&file, policy).unwrap();
        project
            .workspace
            .set_env("WINDLASS_POLICY", file.to_str().unwrap());
        project.assert_fails(3, &["operator's policy does not allow", &needed]);
        assert_eq!(project.containers(), [""; 0]);
    }
}

#[test]
fn another_step_cannot_give_a_container_rights() {
    require!(Docker, Git, Windlass);
    let steps = r#"
[step.choose]
uses = "ssh-run"
on = ["local"]
with = { argv = ["printf", "host"] }

[step.build]
uses = "docker-build"
with = { tags = ["IMAGE:1"], labels = { rig = "LABEL" }, for_targets = [] }

[step.job]
uses = "docker-run"
needs = ["build"]
with = { image = "IMAGE:1", pull = "never", command = ["true"], network = "{{ steps.choose.stdout_tail.local }}" }
"#;
    let project = Project::with_shell("", steps);
    project.assert_fails(
        3,
        &[
            "docker.network (steps.choose.stdout_tail)",
            "add under [step.job], with what may come out",
            "grant = [\"docker.network PATTERN\"]",
        ],
    );
    assert_eq!(project.containers(), [""; 0]);
}
