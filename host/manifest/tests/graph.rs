//! What manifests become.

mod support;

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::{Value, json};
use support::{catalog, graph, inputs};
use windlass_manifest::expression::secrets_in;
use windlass_manifest::graph::PluginSource;
use windlass_manifest::manifest::{RollbackMode, SecretSource};
use windlass_manifest::{Graph, Inputs, Manifest, Outputs};
use windlass_model::target::{Address, KeySource, KnownHosts};
use windlass_model::{StepKey, TargetName};

const OBSERVER: &str = include_str!("observer.toml");
/// The one that people read.
const EXAMPLE: &str = include_str!("../../../examples/observer/windlass.toml");

fn key(step: &str, target: Option<&str>) -> StepKey {
    StepKey::new(step, target.map(TargetName::from))
}

fn given(pairs: &[(&str, Value)]) -> IndexMap<String, Value> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn built(text: &str, inputs: &Inputs) -> Graph {
    graph(text, inputs).unwrap_or_else(|found| panic!("{}", found.render(false, 100)))
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.steps.iter().map(|step| step.name.as_str()).collect()
}

#[test]
fn the_example_is_what_it_says() {
    let graph = built(OBSERVER, &inputs());
    assert_eq!(graph.check(&catalog()).render(false, 100), "");
    assert_eq!(
        names(&graph),
        ["build", "verify", "push", "deploy", "health"]
    );
    assert_eq!(graph.tag, "20260124-014658");
    assert_eq!(graph.rollback, RollbackMode::Failure);
    let environment = graph.environment.as_ref().expect("an environment");
    assert_eq!(environment.name, "prod");
    assert_eq!(environment.values["dir"], "/srv/observer");
    assert_eq!(graph.active, [TargetName::from("prod_1")]);
    let Address::Ssh(ssh) = &graph.targets[0].address else {
        panic!("{:?}", graph.targets);
    };
    assert_eq!(
        (ssh.user.as_deref(), ssh.host.as_str()),
        (Some("deploy"), "observer.example")
    );
    assert!(matches!(&ssh.key, KeySource::Text(text) if text.to_string() == "secret:SSH_KEY"));
    assert!(matches!(&ssh.known_hosts, KnownHosts::File(path) if path.ends_with("known_hosts")));
    assert_eq!(
        graph.registries[0].password.to_string(),
        "secret:GHCR_TOKEN"
    );
    let secrets: Vec<&str> = graph
        .secrets
        .iter()
        .map(|found| found.name.as_str())
        .collect();
    assert_eq!(secrets, ["GHCR_TOKEN", "SSH_KEY"]);
    assert_eq!(
        graph.secrets[0].source,
        SecretSource::Env("GHCR_TOKEN".into())
    );
    assert_eq!(
        graph.dependencies(&key("health", Some("prod_1"))),
        [key("deploy", Some("prod_1"))]
    );
    assert_eq!(
        graph.dependencies(&key("deploy", Some("prod_1"))),
        [key("push", None)]
    );
}

#[test]
fn the_example_builds() {
    let graph = built(EXAMPLE, &inputs());
    assert!(graph.warnings.is_empty(), "{}", graph.warnings);
    assert!(graph.step("deploy").is_some());
}

#[test]
fn configurations_follow_outputs() {
    let graph = built(OBSERVER, &inputs());
    let push = graph.step("push").expect("push");
    let mut outputs = Outputs::default();

    let scope = graph.preview_scope(&key("push", None), &outputs);
    let config = push.config(&scope).expect("config");
    assert_eq!(
        config.value["image"],
        json!({"$unknown": "steps.build.image"})
    );
    assert_eq!(
        config.value["tags"][0],
        "ghcr.io/acme/observer:20260124-014658"
    );
    assert_eq!(config.tainted, BTreeSet::from(["image".to_owned()]));

    let scope = graph.scope(&key("push", None), &outputs);
    let error = push.config(&scope).expect_err("no output");
    assert_eq!(error.code, "manifest.missing-output");
    assert!(error.to_string().starts_with("windlass.toml:"), "{error}");

    outputs.insert(&key("build", None), given(&[("image", "sha256:0".into())]));
    let scope = graph.scope(&key("push", None), &outputs);
    assert_eq!(
        push.config(&scope).expect("config").value["image"],
        "sha256:0"
    );
}

const FLEET: &str = r#"
[pipeline]
name = "fleet"
[vars]
port = 8000
debug = { env = "DEBUG", default = false }
[target.a]
ssh = "deploy@a.example:2222"
[target.b]
ssh = "b.example"
[target.other]
ssh = { env = "OTHER_HOST" }
[environment.prod]
targets = ["a", "b"]
vars = { port = 9000 }
[environment.staging]
targets = ["other"]
[step.deploy]
uses = "compose-deploy"
on = "{{ environment.targets }}"
with = { file = "c.yml", dir = "/srv/{{ target.name }}" }
[step.probe]
uses = "http-probe"
on = ["b", "a"]
with = { url = "http://{{ target.host }}:{{ vars.port }}/{{ steps.deploy.release }}", attempts = "{{ vars.port }}" }
[step.report]
uses = "docker-build"
when = "steps.deploy.release.a == 'r1' and not vars.debug"
with = { context = ".", args = "{{ steps.deploy.release }}", secrets = { npm = { secret = "NPM" } } }
"#;

fn prod() -> Inputs {
    Inputs {
        environment: Some("prod".into()),
        ..inputs()
    }
}

#[test]
fn steps_on_the_same_targets_pair_up() {
    let graph = built(FLEET, &prod());
    assert_eq!(
        graph.dependencies(&key("probe", Some("b"))),
        [key("deploy", Some("b"))]
    );
    assert_eq!(
        graph.dependencies(&key("report", None)),
        [key("deploy", Some("a")), key("deploy", Some("b"))]
    );
    let mut outputs = Outputs::default();
    outputs.insert(
        &key("deploy", Some("a")),
        given(&[("release", "r1".into())]),
    );

    // One target has ended: its instance is known, the whole is not.
    let config = |step: &str, target: Option<&str>, outputs: &Outputs| {
        let scope = graph.preview_scope(&key(step, target), outputs);
        graph
            .step(step)
            .expect(step)
            .config(&scope)
            .expect(step)
            .value
    };
    assert_eq!(
        config("probe", Some("a"), &outputs)["url"],
        "http://a.example:9000/r1"
    );
    assert_eq!(config("probe", Some("a"), &outputs)["attempts"], 9000);
    assert_eq!(
        config("probe", Some("b"), &outputs)["url"],
        json!({"$unknown": "steps.deploy.release"})
    );
    assert_eq!(
        config("report", None, &outputs)["args"],
        json!({"$unknown": "steps.deploy.release"})
    );
    let report = graph.step("report").expect("report");
    let scope = graph.preview_scope(&key("report", None), &outputs);
    assert_eq!(report.when(&scope), Ok(Some(true)));
    let nothing = graph.preview_scope(&key("report", None), &Outputs::default());
    assert_eq!(report.when(&nothing), Ok(None));

    outputs.insert(
        &key("deploy", Some("b")),
        given(&[("release", "r2".into())]),
    );
    let value = config("report", None, &outputs);
    assert_eq!(value["args"], json!({"a": "r1", "b": "r2"}));
    assert_eq!(secrets_in(&value), ["NPM"]);
}

#[test]
fn what_is_not_asked_for_needs_no_value() {
    // OTHER_HOST is of the other environment.
    let graph = built(FLEET, &prod());
    let targets: Vec<&str> = graph
        .targets
        .iter()
        .map(|target| target.name.as_str())
        .collect();
    assert_eq!(targets, ["a", "b"]);
    let staging = Inputs {
        environment: Some("staging".into()),
        ..inputs()
    };
    let found = graph_err(FLEET, &staging);
    assert!(found.contains("OTHER_HOST"), "{found}");
}

fn graph_err(text: &str, inputs: &Inputs) -> String {
    graph(text, inputs).expect_err("an error").to_string()
}

#[test]
fn values_from_outside_keep_the_type() {
    let mut inputs = prod();
    inputs.vars.insert("port".into(), "7".into());
    inputs.env.insert("DEBUG".into(), "true".into());
    let graph = built(FLEET, &inputs);
    let scope = graph.preview_scope(&key("probe", Some("a")), &Outputs::default());
    let config = graph
        .step("probe")
        .expect("probe")
        .config(&scope)
        .expect("config");
    assert_eq!(config.value["attempts"], 7);
    inputs.vars.insert("port".into(), "x".into());
    assert!(graph_err(FLEET, &inputs).contains("must be an integer"));
    inputs.vars.insert("port".into(), "7".into());
    inputs.env.insert("DEBUG".into(), "yes".into());
    assert!(graph_err(FLEET, &inputs).contains("must be true or false"));
    // CI gives an empty one for a setting that does not exist.
    inputs.env.insert("DEBUG".into(), String::new());
    built(FLEET, &inputs);
    let manifest = Manifest::parse("windlass.toml", FLEET).expect("a manifest");
    let wanted: Vec<String> = manifest.wanted_env().into_iter().collect();
    assert_eq!(wanted, ["DEBUG", "OTHER_HOST"]);
}

#[test]
fn only_and_from_choose_steps() {
    let chosen = |only: &[&str], from: Option<&str>| {
        let graph = built(
            OBSERVER,
            &Inputs {
                only: only.iter().map(|name| (*name).to_owned()).collect(),
                from: from.map(str::to_owned),
                ..inputs()
            },
        );
        let chosen = graph.steps.iter().filter(|step| step.selected);
        chosen.map(|step| step.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&["build"], None), ["build"]);
    assert_eq!(chosen(&[], Some("push")), ["push", "deploy", "health"]);
    assert_eq!(chosen(&["health", "build"], Some("push")), ["health"]);
}

#[test]
fn tags_come_from_outside_first() {
    let mut inputs = inputs();
    inputs.run.tag = Some("v1.2.3".into());
    assert_eq!(built(OBSERVER, &inputs).tag, "v1.2.3");
    for bad in ["-v", "a b", ""] {
        inputs.run.tag = Some(bad.into());
        assert!(graph_err(OBSERVER, &inputs).contains("is no tag"), "{bad}");
    }
}

#[test]
fn plugins_are_named_or_files() {
    let text = r#"
[pipeline]
name = "p"
[plugin.cdn-purge]
path = "plugins/cdn.wasm"
[step.a]
uses = "cdn-purge"
grant = ["http.POST https://api.{{ run.pipeline }}.example/**"]
[step.b]
uses = "./x.wasm"
retry = { attempts = 3, delay = "500ms", backoff = 1.5 }
timeout = 90
[step.c]
uses = "git-tag"
retry = 2
"#;
    let graph = built(text, &inputs());
    let plugins: Vec<&PluginSource> = graph.steps.iter().map(|step| &step.plugin).collect();
    assert_eq!(
        plugins,
        [
            &PluginSource::File("plugins/cdn.wasm".into()),
            &PluginSource::File("./x.wasm".into()),
            &PluginSource::BuiltIn("git-tag".into()),
        ]
    );
    assert_eq!(
        graph.steps[0].grants[0].grant.to_string(),
        "http.POST https://api.p.example/**"
    );
    assert_eq!(
        graph.steps[0].grants[0].place.to_string(),
        "windlass.toml:8:10"
    );
    assert_eq!(graph.steps[1].retry.attempts, 3);
    assert_eq!(graph.steps[1].timeout.as_secs(), 90);
    assert_eq!(graph.steps[2].retry.attempts, 2);
    assert_eq!(graph.steps[2].timeout.as_secs(), 900);
}

#[test]
fn a_value_cannot_widen_a_grant() {
    let text = |value: &str| {
        format!(
            "[pipeline]\nname = \"p\"\n[vars]\nrepo = \"{value}\"\n[step.a]\nuses = \"git-tag\"\n\
             grant = [\"docker.push {{{{ vars.repo }}}}:*\"]\n"
        )
    };
    let graph = built(&text("a/**"), &inputs());
    let grant = &graph.steps[0].grants[0].grant;
    assert!(grant.pattern.matches("a/**:1"));
    assert!(!grant.pattern.matches("a/b:1"));
    for bad in ["a b", "a to x", ""] {
        assert!(
            graph_err(&text(bad), &inputs()).contains("invalid grant"),
            "{bad}"
        );
    }
}

#[test]
fn an_output_cannot_pass_for_a_secret() {
    let graph = built(OBSERVER, &inputs());
    let mut outputs = Outputs::default();
    let fake = json!({"$secret": "GHCR_TOKEN"});
    outputs.insert(&key("build", None), given(&[("image", fake)]));
    let scope = graph.scope(&key("push", None), &outputs);
    let error = graph.step("push").expect("push").config(&scope);
    assert!(error.is_err(), "{error:?}");
    outputs.insert(
        &key("build", None),
        given(&[(
            "image",
            json!({"deep": [{"$unknown": "x"}, {"$secret": "GHCR_TOKEN"}]}),
        )]),
    );
    let scope = graph.scope(&key("push", None), &outputs);
    let config = graph
        .step("push")
        .expect("push")
        .config(&scope)
        .expect("config");
    assert!(secrets_in(&config.value).is_empty());
}

#[test]
fn the_local_target_needs_no_table() {
    let text =
        "[pipeline]\nname = \"p\"\n[step.a]\nuses = \"git-tag\"\non = \"local\"\nwhen = true\n";
    let graph = built(text, &inputs());
    assert_eq!(graph.instances(), [key("a", Some("local"))]);
    assert_eq!(graph.targets[0].address, Address::Local);
    assert_eq!(graph.tag, "20260123-164658");
}

#[test]
fn resources_are_bounded() {
    for expression in [
        "range(100000) | list | length ~ (range(100000) | list)",
        "'x' * 100000000",
        "now('%!')",
    ] {
        let text = format!(
            "[pipeline]\nname = \"p\"\n[vars]\na = \"{{{{ {expression} }}}}\"\n\
             [step.a]\nuses = \"git-tag\"\nwith = {{ x = \"{{{{ vars.a }}}}\" }}\n"
        );
        assert!(graph(&text, &inputs()).is_err(), "{expression}");
    }
    // Doubling by variables.
    let mut text = String::from("[pipeline]\nname = \"p\"\n[vars]\nv0 = \"0123456789\"\n");
    for index in 1..40 {
        let before = index - 1;
        text += &format!("v{index} = \"{{{{ vars.v{before} }}}}{{{{ vars.v{before} }}}}\"\n");
    }
    text += "[step.a]\nuses = \"git-tag\"\nwith = { x = \"{{ vars.v39 }}\" }\n";
    assert!(graph_err(&text, &inputs()).contains("grows past"));
}

#[test]
fn what_does_not_run_needs_no_environment() {
    let mut inputs = inputs();
    assert!(graph_err(FLEET, &inputs).contains("no environment was chosen"));
    let when = "when = \"steps.deploy.release.a == 'r1' and not vars.debug\"";
    let args = "args = \"{{ steps.deploy.release }}\", ";
    assert!(FLEET.contains(when) && FLEET.contains(args));
    let text = FLEET.replace(when, "").replace(args, "");
    inputs.only = vec!["report".into()];
    let graph = built(&text, &inputs);
    assert!(graph.active.is_empty());
    // A wrong name is one all the same.
    let text = text.replace("vars.port", "vars.prot");
    assert!(graph_err(&text, &inputs).contains("no variable `prot`"));
}

#[test]
fn missing_secrets_have_a_place() {
    let graph = built(OBSERVER, &inputs());
    let missing = graph.secrets[1].missing();
    let place = missing.place().expect("a place");
    assert_eq!(place.source.slice(place.span), "\"SSH_KEY\"");
    assert!(missing.hint.expect("a hint").contains("variable SSH_KEY"));
}

#[test]
fn deep_texts_do_not_overflow() {
    for text in [
        format!("x = {}", "[".repeat(20_000)),
        format!("{} = 1", ["a"; 20_000].join(".")),
        format!("[vars]\nx = \"{{{{ {}1 }}}}\"", "(".repeat(20_000)),
        format!("[vars]\nx = \"{{{{ {}1 }}}}\"", "not ".repeat(20_000)),
        format!("[vars]\nx = \"{{{{ 1{} }}}}\"", " + 1".repeat(20_000)),
        format!("[vars]\nx = \"{{{{ a{} }}}}\"", ".a".repeat(20_000)),
        format!("[vars]\nx = \"{{{{ 1{} }}}}\"", " + 1".repeat(500)),
        format!("[vars]\nx = \"{{{{ a{} }}}}\"", ".a".repeat(1000)),
    ] {
        let (_, found) = Manifest::examine("windlass.toml", &text);
        assert!(found.has_errors());
    }
}
