//! What each bad manifest gets: line, column, caret, hint.

mod support;

use support::{inputs, problems};
use windlass_manifest::{Inputs, Manifest};

/// A manifest that is fine but for what a case adds or says wrongly.
const START: &str = "[pipeline]\nname = \"app\"\n";

fn shown(rest: &str) -> String {
    problems(&format!("{START}{rest}"), &inputs())
}

macro_rules! case {
    ($name:ident, $text:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), shown($text));
        }
    };
}

case!(
    unknown_key,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\nneed = [\"x\"]\n"
);
case!(unknown_section, "[steps.build]\nuses = \"docker-build\"\n");
case!(
    wrong_type,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\ntimeout = true\nneeds = \"x\"\n"
);
case!(no_toml, "[step.build\nuses = \"docker-build\"\n");
case!(
    duplicate_key,
    "[step.build]\nuses = \"docker-build\"\nuses = \"docker-push\"\nwith = { context = \".\" }\n"
);
case!(
    bad_names,
    "[step.Build-It]\nuses = \"docker-build\"\nwith = { context = \".\", args = { \"$secret\" = \"X\" } }\n"
);
case!(
    cycle,
    "[step.a]\nuses = \"docker-build\"\nneeds = [\"b\"]\nwith = { context = \".\" }\n\
     [step.b]\nuses = \"docker-build\"\nwith = { context = \"{{ steps.c.image }}\" }\n\
     [step.c]\nuses = \"docker-build\"\nneeds = [\"a\"]\nwith = { context = \".\" }\n"
);
case!(
    needs_cleanup,
    "[step.a]\nuses = \"docker-build\"\nwith = { context = \".\" }\ncleanup = true\n\
     [step.b]\nuses = \"docker-build\"\nneeds = [\"a\"]\nwith = { context = \".\" }\n"
);
case!(
    cycle_of_variables,
    "[vars]\na = \"{{ vars.b }}\"\nb = \"x{{ vars.a }}\"\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = \"{{ vars.a }}\" }\n"
);
case!(
    missing_variable,
    "[vars]\nhost = { env = \"DEPLOY_HOST\" }\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = \"{{ vars.host }}\" }\n"
);
case!(
    unknown_variable,
    "[vars]\nimage = \"a/b\"\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = \".\", tags = [\"{{ vars.imag }}:1\"] }\n"
);
case!(
    unknown_plugin,
    "[step.build]\nuses = \"docker-biuld\"\nwith = { context = \".\" }\n"
);
case!(
    bad_grant,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n\
     grant = [\"docker.psuh ghcr.io/acme/*\", \"secret.send TOKEN\"]\n"
);
case!(
    unknown_output,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n\
     [step.push]\nuses = \"docker-push\"\nwith = { image = \"{{ steps.build.imag }}\", tags = [] }\n"
);
case!(
    unknown_step,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n\
     [step.push]\nuses = \"docker-push\"\nneeds = [\"biuld\"]\n\
     with = { image = \"{{ steps.bild.image }}\", tags = [] }\n"
);
case!(
    no_environment,
    "[target.one]\nssh = \"a@one\"\n[environment.prod]\ntargets = [\"one\"]\n\
     [environment.staging]\ntargets = [\"one\"]\n\
     [step.probe]\nuses = \"http-probe\"\non = \"{{ environment.targets }}\"\nwith = { url = \"http://x/\" }\n"
);
case!(
    unknown_target,
    "[target.prod_1]\nssh = \"a@one\"\n[environment.prod]\ntargets = [\"prod1\"]\n\
     [step.probe]\nuses = \"http-probe\"\non = [\"prod_1\", \"prod_2\"]\nwith = { url = \"http://x/\" }\n"
);
case!(
    bad_address,
    "[target.one]\nssh = \"-oProxyCommand=evil\"\n\
     [step.probe]\nuses = \"http-probe\"\non = \"one\"\nwith = { url = \"http://{{ target.hots }}/\" }\n"
);
case!(
    bad_address_of_a_target_that_is_not_used,
    "[vars]\nhost = { env = \"HOST\", default = \"\" }\n\
     [target.other]\nssh = \"\"\n[target.spare]\nssh = \"a@h:0\"\n\
     [target.unset]\nssh = \"{{ vars.host }}\"\n\
     [environment.prod]\ntargets = [\"local\"]\n[environment.stage]\ntargets = [\"other\"]\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n"
);
case!(
    wrong_configuration,
    "[vars]\nport = \"8000\"\n[step.build]\nuses = \"docker-build\"\n\
     with = { contxt = \".\", tags = [\"a\", 3], pull = \"alway\", jobs = \"{{ vars.port }}\", cache = { mode = \"mid\" } }\n"
);
case!(
    output_of_another_type,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n\
     [step.again]\nuses = \"docker-build\"\nwith = { context = \"{{ steps.build.size }}\", jobs = \"{{ steps.build.image }}\" }\n"
);
case!(
    secret_where_none_is_taken,
    "[vars]\ntoken = { secret = \"TOKEN\" }\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = { secret = \"WHERE\" }, secrets = { npm = { secret = \"NPM\" } } }\n"
);
case!(
    plain_password,
    "[registry.ghcr.io]\nusername = \"acme\"\npassword = { secret = \"T\" }\n\
     [registry.\"ghcr.io\"]\nusername = \"acme\"\npassword = { env = \"T\" }\n\
     [step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n"
);
case!(
    bad_expressions,
    "[step.a]\nuses = \"docker-build\"\nwith = { context = \"{{ run.tag\" }\n\
     [step.b]\nuses = \"docker-build\"\nwith = { context = \"{{ run.tag | }}\" }\n\
     [step.c]\nuses = \"docker-build\"\nwhen = \"run.tag == \"\nwith = { context = \"{{.Names}}\" }\n"
);
case!(
    expressions_that_fail,
    "[run]\ntag = \"{{ now('%Y', 'Asia/Soul') }}\"\n[vars]\nlist = [\"a\"]\n\
     [step.a]\nuses = \"docker-build\"\nwhen = \"run.branch\"\n\
     with = { context = \"x{{ vars.list }}\", tags = \"{{ vars.list | nofilter }}\" }\n"
);
case!(
    unknown_roots,
    "[vars]\nimage = \"x\"\n[step.a]\nuses = \"docker-build\"\n\
     with = { context = \"{{ image }}\", tags = [\"{{ env.HOME }}\", \"{{ vars }}\", \"{{ target.name }}\", \"{{ run.comit }}\"] }\n"
);
case!(
    bad_notification,
    "[step.build]\nuses = \"docker-build\"\nwith = { context = \".\" }\n\
     [notify.slack]\nuses = \"slack-notify\"\nevents = [\"faild\"]\nwith = { webhook = { secret = \"HOOK\" }, channel = \"{{ steps.build.image }}\" }\n"
);
case!(
    several_at_once,
    "[vars]\nimage = \"a/b\"\n[run]\nmax_parallel = 0\ntimout = \"1h\"\n\
     [target.prod]\nssh = 22\nkey = \"~/.ssh/id\"\n\
     [step.build]\nwith = { context = \"{{ vars.image\" }\n\
     [rollback]\non = \"failed\"\n"
);
case!(empty, "");

#[test]
fn unknown_environment() {
    let text = format!(
        "{START}[environment.prod]\n[step.build]\nuses = \"docker-build\"\nwith = {{ context = \".\" }}\n"
    );
    let inputs = Inputs {
        environment: Some("prd".into()),
        only: vec!["biuld".into()],
        vars: [("imag".to_owned(), "x".to_owned())].into(),
        ..inputs()
    };
    insta::assert_snapshot!("unknown_environment", problems(&text, &inputs));
}

#[test]
fn as_json() {
    let text = format!("{START}[step.build]\nuses = \"docker-build\"\nneed = []\n");
    let found = Manifest::parse("windlass.toml", &text).expect_err("a problem");
    insta::assert_json_snapshot!("as_json", found.to_json());
}

#[test]
fn in_color() {
    let text = format!("{START}[step.build]\nuses = \"docker-build\"\nneed = []\n");
    let found = Manifest::parse("windlass.toml", &text).expect_err("a problem");
    assert!(found.render(true, 80).contains("\u{1b}["));
    assert!(!found.render(false, 80).contains('\u{1b}'));
}

/// No text makes the reader panic, and a cut anywhere is an error or a manifest.
#[test]
fn broken_texts_do_not_panic() {
    let whole = include_str!("observer.toml");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let text = &whole[..end];
        if let Err(found) = Manifest::parse("windlass.toml", text) {
            assert!(found.has_errors());
            if end % 97 == 0 {
                assert!(!found.render(false, 80).is_empty());
            }
        }
    }
}
