//! A registry that refuses is found out before anything is built, and the error says
//! which refusal it is and what helps.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use windlass_tests::recorder::{Received, Reply};
use windlass_tests::scratch::{self, Scratch};
use windlass_tests::windlass::Outcome;
use windlass_tests::{HttpRecorder, Registry, Workspace, docker, require};

const LOGIN: &str = r#"
[registry.it]
host = "{{ vars.registry }}"
username = "acme"
password = { secret = "PASSWORD" }
"#;

/// A project that builds and pushes one tiny image.
struct Project {
    workspace: Workspace,
    /// On each image of this project, and on no other.
    label: String,
}

impl Project {
    fn new(registry: &str, repository: &str, password: Option<&str>) -> Self {
        let label = scratch::unique_name();
        let login = if password.is_some() { LOGIN } else { "" };
        let manifest = format!(
            r#"
[pipeline]
name = "{label}"

[vars]
registry = {{ env = "REGISTRY" }}
repository = {{ env = "REPOSITORY" }}

[run]
tag = "1"
{login}
[step.build]
uses = "docker-build"
with = {{ labels = {{ rig = "{label}" }} }}

[step.push]
uses = "docker-push"
with = {{ image = "{{{{ steps.build.image }}}}", tags = ["{{{{ vars.repository }}}}:1", "{{{{ vars.repository }}}}:latest"] }}
"#
        );
        let mut workspace = Workspace::with_manifest(&manifest).unwrap();
        workspace
            .write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
            .unwrap();
        workspace.commit("Add an image").unwrap();
        workspace.set_env("REGISTRY", registry);
        workspace.set_env("REPOSITORY", repository);
        if let Some(password) = password {
            workspace.set_env("PASSWORD", password);
        }
        Self { workspace, label }
    }

    fn run(&self) -> Outcome {
        self.workspace.windlass(["run", "--verbose"]).run().unwrap()
    }

    fn images(&self) -> String {
        let filter = format!("label=rig={}", self.label);
        docker::run(["image", "ls", "--all", "--quiet", "--filter", &filter]).unwrap()
    }

    /// Both `run` and `plan` say it, and nothing was built for it.
    #[track_caller]
    fn assert_refused(&self, code: i32, says: &[&str]) {
        let run = self.run();
        assert_eq!(run.code, Some(code), "{run}");
        let plan = self.workspace.windlass(["plan"]).run().unwrap();
        assert_ne!(plan.code, Some(0), "{plan}");
        for outcome in [&run, &plan] {
            for text in says {
                assert!(unfolded(outcome).contains(text), "no {text:?}: {outcome}");
            }
            assert!(!outcome.says("step build started"), "{outcome}");
        }
        assert_eq!(self.images(), "", "nothing was built: {run}");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        for image in self.images().lines() {
            let _ = docker::run(["rmi", "--force", image]);
        }
    }
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

#[test]
fn without_a_login() {
    require!(Docker, Registry, Git, Windlass);
    let registry = Registry::start().unwrap();
    let project = Project::new(&registry.address(), &registry.repository("app"), None);
    let login = format!("docker login {}", registry.address());
    project.assert_refused(3, &["needs a login", &login, "[registry."]);
    assert_eq!(registry.tags("app").unwrap(), [""; 0]);
}

#[test]
fn with_a_wrong_password() {
    require!(Docker, Registry, Git, Windlass);
    let registry = Registry::start().unwrap();
    let project = Project::new(
        &registry.address(),
        &registry.repository("app"),
        Some("wrong/pass+word-2"),
    );
    project.assert_refused(
        3,
        &["does not accept the login", "check user name and password"],
    );
    let outcome = project.run();
    assert!(!outcome.says("wrong/pass+word-2"), "{outcome}");
}

#[test]
fn with_an_uppercase_name() {
    require!(Docker, Registry, Git, Windlass);
    let registry = Registry::start().unwrap();
    let project = Project::new(
        &registry.address(),
        &registry.repository("Observer"),
        Some(registry.password()),
    );
    project.assert_refused(1, &["Observer", "upper-case letters", "lower case only"]);
}

#[test]
fn where_no_registry_is() {
    require!(Docker, Git, Windlass);
    let port = windlass_tests::registry::free_port([127, 0, 0, 1].into()).unwrap();
    let address = format!("127.0.0.1:{port}");
    let project = Project::new(&address, &format!("{address}/acme/app"), Some("a-password"));
    project.assert_refused(
        1,
        &[&address, "cannot be reached", "check the registry's name"],
    );

    // An HTTP server that is no registry.
    let web = HttpRecorder::answering(|_| Reply::new(404, "<html>no such page</html>")).unwrap();
    let project = Project::new(
        &web.address(),
        &format!("{}/acme/app", web.address()),
        Some("a-password"),
    );
    project.assert_refused(1, &[&web.address(), "does not exist"]);
}

/// A registry with a token server, as GHCR has it: an upload is answered with `refusal`.
fn like_ghcr(refusal: (u16, &'static str)) -> HttpRecorder {
    HttpRecorder::answering(move |request: &Received| {
        let host = request.header("host").unwrap_or_default().to_owned();
        if request.path.starts_with("/token") {
            return Reply::new(200, r#"{"token":"good"}"#);
        }
        if request.header("authorization") == Some("Bearer good") {
            let (status, body) = refusal;
            return Reply::new(status, body);
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:acme/app:pull\""
        );
        Reply::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        )
        .header("www-authenticate", &challenge)
    })
    .unwrap()
}

#[test]
fn refusals_of_a_hosted_registry_are_told_apart() {
    require!(Docker, Git, Windlass);
    for (refusal, says) in [
        (
            r#"{"errors":[{"code":"DENIED","message":"permission_denied: The token provided does not match expected scopes."}]}"#,
            ["may not push to", "may write to this repository"],
        ),
        (
            r#"{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}"#,
            ["does not accept this repository", "Manage Actions access"],
        ),
        (
            r#"{"errors":[{"code":"DENIED","message":"installation not allowed to Create organization package"}]}"#,
            [
                "does not let this login create a package",
                "packages: write",
            ],
        ),
        (
            r#"{"errors":[{"code":"DENIED","message":"Resource protected by organization SAML enforcement. You must grant your Personal Access token access to this organization."}]}"#,
            ["wants single sign-on", "Configure SSO"],
        ),
    ] {
        let server = like_ghcr((403, refusal));
        let project = Project::new(
            &server.address(),
            &format!("{}/acme/app", server.address()),
            Some("a-token-of-acme"),
        );
        project.assert_refused(3, &says);
        // Its words are shown too: they are what a search engine knows.
        assert!(unfolded(&project.run()).contains("(it says: denied: "));
        // Asked, not pushed.
        let uploads = server.requests();
        assert!(
            uploads
                .iter()
                .all(|asked| asked.method != "PUT" && asked.method != "PATCH"),
            "{uploads:?}"
        );
    }
}

#[test]
fn the_users_docker_login_serves() {
    require!(Docker, Registry, Git, Windlass);
    let registry = Registry::start().unwrap();
    let mut project = Project::new(&registry.address(), &registry.repository("app"), None);
    let config = registry.docker_config().unwrap();
    project
        .workspace
        .set_env("DOCKER_CONFIG", config.to_str().unwrap());
    let outcome = project.run();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(registry.tags("app").unwrap(), ["1", "latest"]);
    assert!(!outcome.says(registry.password()), "{outcome}");
}

#[test]
fn a_credential_helper_serves() {
    require!(Docker, Registry, Git, Windlass);
    let registry = Registry::start().unwrap();
    let mut project = Project::new(&registry.address(), &registry.repository("app"), None);
    let files = Scratch::new().unwrap();
    let answer = serde_json::json!({
        "ServerURL": registry.address(),
        "Username": registry.user(),
        "Secret": registry.password(),
    });
    let asked = files.join("asked");
    let helper = files
        .write(
            "bin/docker-credential-rig",
            format!(
                "#!/bin/sh\nread server\necho \"$1 $server\" >> {}\ncat <<'END'\n{answer}\nEND\n",
                asked.display()
            ),
        )
        .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = serde_json::json!({ "credHelpers": { registry.address(): "rig" } });
    files
        .write("docker/config.json", config.to_string())
        .unwrap();
    let docker = files.join("docker");
    project
        .workspace
        .set_env("DOCKER_CONFIG", docker.to_str().unwrap());
    let path = format!(
        "{}:{}",
        files.join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    project.workspace.set_env("PATH", path);
    let outcome = project.run();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(registry.tags("app").unwrap(), ["1", "latest"]);
    assert!(
        fs::read_to_string(&asked)
            .unwrap()
            .contains(&format!("get {}", registry.address()))
    );
    // The user's configuration was read, and is as it was.
    assert_eq!(
        fs::read_to_string(docker.join("config.json")).unwrap(),
        config.to_string()
    );
}
