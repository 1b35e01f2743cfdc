//! What reporters write for a canned run, and what they must never write.

#[allow(dead_code, reason = "shared with the other tests")]
mod canned;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use windlass_model::event::{Envelope, Event, Level, Outcome, StepState};
use windlass_model::reply::{Release, ReleaseState};
use windlass_model::{CallError, RunId, TargetName};
use windlass_report::{
    Annotations, Json, Options, Plain, Reporter, Summary, Theme, Verbosity, graph, render_svg,
    report_json, table,
};

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("lock").clone()).expect("UTF-8")
    }
}

fn feed(mut reporter: impl Reporter, events: &[Envelope]) {
    for envelope in events {
        reporter.event(envelope).expect("written");
    }
    reporter.finish().expect("finished");
}

fn plain(events: &[Envelope], options: Options) -> String {
    let buffer = Buffer::default();
    feed(Plain::new(buffer.clone(), options), events);
    buffer.text()
}

const ASCII: Theme = Theme {
    color: false,
    unicode: false,
};

#[test]
fn plain_good() {
    insta::assert_snapshot!(plain(&canned::good(), Options::default()));
}

#[test]
fn plain_bad() {
    insta::assert_snapshot!(plain(&canned::bad(), Options::default()));
}

#[test]
fn plain_verbose_without_summary() {
    let options = Options {
        verbosity: Verbosity::Verbose,
        summary: false,
        ..Options::default()
    };
    insta::assert_snapshot!(plain(&canned::bad(), options));
}

#[test]
fn plain_quiet() {
    let options = Options {
        verbosity: Verbosity::Quiet,
        ..Options::default()
    };
    insta::assert_snapshot!(plain(&canned::bad(), options));
    let good = plain(&canned::good(), options);
    assert_eq!(good.lines().count(), 1, "{good}");
}

#[test]
fn plain_ascii_is_ascii() {
    let options = Options {
        theme: ASCII,
        ..Options::default()
    };
    let text = plain(&canned::bad(), options);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn colours_are_all_that_a_colour_theme_adds() {
    let options = Options {
        theme: Theme {
            color: true,
            unicode: true,
        },
        ..Options::default()
    };
    let coloured = plain(&canned::bad(), options);
    assert!(coloured.contains("\x1b[32m✓\x1b[39m") || coloured.contains("\x1b[32m✓\x1b[0m"));
    assert_eq!(
        windlass_report::clean(&coloured),
        plain(&canned::bad(), Options::default())
    );
}

#[test]
fn json_lines_are_the_envelopes() {
    let buffer = Buffer::default();
    let events = canned::bad();
    feed(Json::new(buffer.clone()), &events);
    let text = buffer.text();
    let back: Vec<Envelope> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(back, events);
    let first: Vec<&str> = text.lines().take(4).collect();
    insta::assert_snapshot!(first.join("\n"));
}

#[test]
fn annotations() {
    let buffer = Buffer::default();
    feed(Annotations::new(buffer.clone(), true), &canned::bad());
    insta::assert_snapshot!(buffer.text());
}

/// What a hostile guest or server may say, anywhere.
const HOSTILE: [&str; 8] = [
    "::error title=forged::pwned",
    "   ::set-env name=PATH::/evil",
    "fine\n::add-mask::x",
    "fine\r::stop-commands::t",
    "\u{1b}[2K::warning::x",
    "##[add-path]/evil",
    "##vso[task.setvariable variable=a]b",
    "\u{feff}::notice::x",
];

fn hostile_events() -> Vec<Envelope> {
    let step = canned::step("build");
    let mut events = vec![(0, canned::started()), (1, canned::start(&step))];
    for (index, text) in HOSTILE.into_iter().enumerate() {
        let ms = index as u64 + 2;
        events.push((ms, canned::log(&step, text)));
        let error = CallError::invalid("x", text).hint(text);
        events.push((
            ms,
            Event::Notice {
                level: Level::Warning,
                message: text.into(),
                hint: Some(text.into()),
            },
        ));
        events.push((
            ms,
            Event::Finding {
                step: step.clone(),
                severity: windlass_model::event::Severity::Problem,
                message: text.into(),
                hint: Some(text.into()),
            },
        ));
        for (name, state) in [
            ("lint", StepState::Failed),
            ("verify", StepState::Tolerated),
        ] {
            events.push((ms, canned::log(&canned::step(name), text)));
            let mut finished =
                canned::finished_step(canned::step(name), state, 5, &[(text, text.into())]);
            if let Event::StepFinished { error: field, .. } = &mut finished {
                *field = Some(error.clone());
            }
            events.push((ms, finished));
        }
        let outputs = [(text, serde_json::json!(text))];
        let good = canned::finished_step(canned::step("push"), StepState::Succeeded, 5, &outputs);
        events.push((ms, good));
    }
    canned::envelopes(events)
}

#[test]
fn nobody_forges_a_workflow_command() {
    let events = hostile_events();
    for verbosity in [Verbosity::Quiet, Verbosity::Normal, Verbosity::Verbose] {
        for theme in [
            Theme::PLAIN,
            ASCII,
            Theme {
                color: true,
                unicode: true,
            },
        ] {
            let options = Options {
                verbosity,
                theme,
                ..Options::default()
            };
            let text = plain(&events, options);
            for line in text.split(['\n', '\r']) {
                let bare = windlass_report::clean(line).into_owned();
                assert!(!bare.trim_start().starts_with("::"), "{line:?}");
                assert!(!line.contains("##["), "{line:?}");
                assert!(!line.contains("##vso["), "{line:?}");
            }
        }
    }
    let buffer = Buffer::default();
    feed(Annotations::new(buffer.clone(), true), &events);
    let ours = [
        "::error title=",
        "::warning title=",
        "::group::log of ",
        "::endgroup::",
    ];
    let text = buffer.text();
    for line in text.split(['\n', '\r']) {
        let command = line.trim_start().starts_with("::");
        assert!(
            !command || ours.iter().any(|known| line.starts_with(known)),
            "{line:?}"
        );
        assert!(!line.contains("##["), "{line:?}");
    }
    let errors = text.lines().filter(|line| line.starts_with("::error"));
    assert_eq!(errors.count(), 10, "as many as GitHub shows");
}

#[test]
fn nothing_reaches_a_terminal_raw() {
    let step = canned::step("build");
    let nasty = "\u{1b}]0;t\u{7}\u{1b}[2J\u{9b}1mx\u{202e}y\rz\u{7f}\u{0}";
    let mut events = vec![(0, canned::started())];
    let mut failed =
        canned::finished_step(step.clone(), StepState::Failed, 1, &[(nasty, nasty.into())]);
    if let Event::StepFinished { error, .. } = &mut failed {
        *error = Some(CallError::invalid("x", nasty).hint(nasty));
    }
    events.push((1, canned::log(&step, nasty)));
    events.push((2, failed));
    events.push((
        3,
        canned::finished_step(
            canned::step(nasty),
            StepState::Succeeded,
            1,
            &[(nasty, nasty.into())],
        ),
    ));
    events.push((
        4,
        Event::LeaseWaiting {
            target: TargetName::from(nasty),
            owner: nasty.into(),
            run: nasty.into(),
            since: nasty.into(),
            remaining_ms: Some(5),
            reason: nasty.into(),
            waited_ms: 0,
        },
    ));
    let events = canned::envelopes(events);
    let summary = Summary::of(&events);
    for text in [
        plain(&events, Options::default()),
        summary.render_text(80, Theme::PLAIN),
        summary.render_markdown(),
    ] {
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains("xy"), "{text}");
    }
}

#[test]
fn summary_at_widths() {
    let summary = Summary::of(&canned::bad());
    for width in [120, 80, 50] {
        let text = summary.render_text(width, Theme::PLAIN);
        insta::assert_snapshot!(format!("summary_{width}"), text);
    }
}

#[test]
fn summary_of_a_run_that_was_killed() {
    let events = &canned::good()[..12];
    insta::assert_snapshot!(Summary::of(events).render_text(80, Theme::PLAIN));
    let nothing = Summary::new().render_text(80, Theme::PLAIN);
    assert!(nothing.contains("unfinished"), "{nothing}");
}

#[test]
fn markdown() {
    insta::assert_snapshot!(
        "markdown_good",
        Summary::of(&canned::good()).render_markdown()
    );
    insta::assert_snapshot!(
        "markdown_bad",
        Summary::of(&canned::bad()).render_markdown()
    );
}

#[test]
fn markdown_tables_hold_hostile_text() {
    let text = Summary::of(&hostile_events()).render_markdown();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells = line.replace("\\|", "").matches('|').count();
        assert_eq!(cells, 6, "{line}");
    }
}

#[test]
fn notification_report() {
    insta::assert_json_snapshot!("report_bad", report_json(&canned::bad()));
    let good = report_json(&canned::good());
    assert_eq!(good["outcome"], "succeeded");
    assert_eq!(good["release"], "20260124-014658");
    assert!(good["rollback"].is_null());
    assert!(good["error"].is_null());
    let early = report_json(&canned::good()[..3]);
    assert_eq!(early["outcome"], "running");
    assert!(early["steps"][0]["state"].is_null());
}

#[test]
fn graphs() {
    insta::assert_snapshot!("graph_text", graph::text(&canned::steps(), Theme::PLAIN));
    insta::assert_snapshot!("graph_ascii", graph::text(&canned::steps(), ASCII));
    insta::assert_snapshot!("graph_dot", graph::dot("observer \"x\"", &canned::steps()));
}

#[test]
fn tables() {
    let now: Timestamp = "2026-01-24T12:00:00Z".parse().expect("time");
    let run = |number: u128, started: &str, outcome, tag: &str| table::Run {
        run: RunId(uuid::Uuid::from_u128(0x0190 << 96 | number)),
        started: started.parse().expect("time"),
        pipeline: "observer".into(),
        environment: "prod".into(),
        tag: tag.into(),
        commit: "c0ffee1234567890".into(),
        outcome,
        duration_ms: outcome.map(|_| 63_000),
    };
    let runs = [
        run(3, "2026-01-24T11:59:30Z", None, "20260124-205930"),
        run(
            2,
            "2026-01-24T09:00:00Z",
            Some(Outcome::Failed),
            "20260124-180000",
        ),
        run(
            1,
            "2026-01-20T09:00:00Z",
            Some(Outcome::Succeeded),
            "v1\u{1b}[31m",
        ),
    ];
    insta::assert_snapshot!("runs", table::runs(&runs, now, 100, Theme::PLAIN));
    insta::assert_snapshot!("runs_narrow", table::runs(&runs, now, 60, Theme::PLAIN));
    let release = |id: &str, state, is_current| Release {
        id: id.into(),
        state,
        created: "2026-01-24T01:47:10Z".into(),
        run: "0190".into(),
        tag: id.into(),
        commit: "c0ffee1".into(),
        who: "ann@laptop".into(),
        images: vec![(
            "observer".into(),
            format!("ghcr.io/acme/observer@sha256:{}", canned::digest("99aa")),
        )],
        is_current,
        pipeline: "observer".into(),
        environment: "prod".into(),
        compose_sha256: canned::digest("c0"),
    };
    let targets = [(
        TargetName::from("prod_1"),
        vec![
            release("20260124-014658", ReleaseState::Failed, false),
            release("20260123-181500", ReleaseState::Good, true),
        ],
    )];
    insta::assert_snapshot!("releases", table::releases(&targets, 140, Theme::PLAIN));
    let plugins = [table::Plugin {
        name: "docker-build".into(),
        version: "0.1.0".into(),
        origin: "built in".into(),
        summary: "builds an image from a Dockerfile, with BuildKit where there is one".into(),
    }];
    insta::assert_snapshot!("plugins", table::plugins(&plugins, 72, Theme::PLAIN));
    assert_eq!(table::runs(&[], now, 80, Theme::PLAIN), "");
    let line = table::log_line(
        now,
        now,
        &canned::at("deploy", "prod_1"),
        14,
        Level::Info,
        "a\r\n::error::b",
        Theme::PLAIN,
    );
    assert_eq!(
        line,
        "   0.0 s  deploy@prod_1   a\n   0.0 s  deploy@prod_1   ::error::b\n"
    );
}

#[test]
fn a_picture_is_well_formed_and_holds_the_text() {
    let theme = Theme {
        color: true,
        unicode: true,
    };
    let svg = render_svg(
        "windlass <run>",
        &Summary::of(&canned::bad()).render_text(80, theme),
    );
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    // Spaces that cannot be dropped: columns stand by them.
    assert!(svg.contains("windlass\u{a0}&lt;run&gt;"));
    assert!(!svg.contains('\u{1b}'));
    assert!(svg.contains("fill=\"#ff7b72\""));
    assert_eq!(
        svg.matches("<text ").count(),
        svg.matches("</text>").count()
    );
}

/// CI systems end jobs that say nothing: a step that is silent says that it runs.
#[test]
fn a_silent_step_says_what_it_waits_for() {
    let step = canned::step("health");
    let at = |ms| canned::envelopes(vec![(ms, canned::start(&step))])[0].at;
    let events = canned::envelopes(vec![
        (0, canned::started()),
        (1000, canned::start(&step)),
        (
            20_000,
            Event::StepProgress {
                step: step.clone(),
                message: "attempt 4/12: 503".into(),
                done: 4,
                total: 12,
            },
        ),
    ]);
    let options = |verbosity| Options {
        verbosity,
        theme: ASCII,
        ..Options::default()
    };
    let said = |verbosity| {
        let buffer = Buffer::default();
        let mut plain = Plain::new(buffer.clone(), options(verbosity));
        for event in &events {
            plain.event(event).expect("written");
        }
        for second in 2..70 {
            plain.tick(at(second * 1000)).expect("written");
        }
        let text = buffer.text();
        let lines: Vec<String> = text.lines().skip(2).map(str::to_owned).collect();
        lines
    };
    assert_eq!(
        said(Verbosity::Normal),
        [
            "  31.0 s  - health         running for 30.0 s: attempt 4/12: 503",
            "1 m 01 s  - health         running for 1 m 00 s: attempt 4/12: 503",
        ]
    );
    assert_eq!(said(Verbosity::Quiet), Vec::<String>::new());
}
