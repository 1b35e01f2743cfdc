//! The live reporter on a terminal in memory: what a person sees, at several
//! sizes, while it runs and afterwards.

#[allow(dead_code, reason = "shared with the other tests")]
mod canned;

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use windlass_model::event::{Envelope, Event, StepNode, StepState};
use windlass_model::{StepKey, StepName};
use windlass_report::{Live, Options, Reporter, Size, Theme, Verbosity};

/// A terminal, and how often it was written to.
struct Screen {
    parser: vt100::Parser,
    writes: usize,
}

#[derive(Clone)]
struct Terminal(Arc<Mutex<Screen>>, Arc<AtomicUsize>, usize);

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let screen = Screen {
            parser: vt100::Parser::new(rows, columns, 1000),
            writes: 0,
        };
        Self(
            Arc::new(Mutex::new(screen)),
            Arc::new(AtomicUsize::new(columns.into())),
            rows.into(),
        )
    }

    fn live(&self, options: Options) -> Live<Self> {
        let (columns, rows) = (Arc::clone(&self.1), self.2);
        Live::new(self.clone(), options, move || Size {
            columns: columns.load(Ordering::Relaxed),
            rows,
        })
    }

    /// What is on the screen, without the empty rest.
    fn screen(&self) -> String {
        let screen = self.0.lock().expect("lock");
        screen.parser.screen().contents().trim_end().to_owned()
    }

    /// The screen and what scrolled off it.
    fn all(&self) -> String {
        let mut screen = self.0.lock().expect("lock");
        let parser = &mut screen.parser;
        let (rows, columns) = parser.screen().size();
        let mut lines: Vec<String> = Vec::new();
        parser.screen_mut().set_scrollback(usize::MAX);
        let mut back = parser.screen().scrollback();
        while back > 0 {
            parser.screen_mut().set_scrollback(back);
            lines.extend(parser.screen().rows(0, columns).next());
            back -= 1;
        }
        parser.screen_mut().set_scrollback(0);
        lines.extend(parser.screen().rows(0, columns).take(rows.into()));
        lines.join("\n").trim_end().to_owned()
    }

    fn cursor_is_hidden(&self) -> bool {
        self.0.lock().expect("lock").parser.screen().hide_cursor()
    }

    fn writes(&self) -> usize {
        self.0.lock().expect("lock").writes
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut screen = self.0.lock().expect("lock");
        screen.parser.process(bytes);
        screen.writes += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn play(live: &mut Live<Terminal>, events: &[Envelope]) {
    for envelope in events {
        live.event(envelope).expect("written");
    }
}

fn later(at: Timestamp, ms: i64) -> Timestamp {
    at + SignedDuration::from_millis(ms)
}

#[test]
fn a_good_run_ends_with_its_summary() {
    let terminal = Terminal::new(50, 80);
    let mut live = terminal.live(Options::default());
    play(&mut live, &canned::good());
    live.finish().expect("finished");
    assert!(!terminal.cursor_is_hidden());
    insta::assert_snapshot!(terminal.screen());
}

#[test]
fn a_bad_run_shows_the_log_in_full() {
    let terminal = Terminal::new(70, 80);
    let mut live = terminal.live(Options::default());
    play(&mut live, &canned::bad());
    live.finish().expect("finished");
    insta::assert_snapshot!(terminal.screen());
}

#[test]
fn in_the_middle() {
    let terminal = Terminal::new(24, 80);
    let mut live = terminal.live(Options::default());
    let events = canned::good();
    play(&mut live, &events[..7]);
    live.tick(later(events[0].at, 1000)).expect("tick");
    assert!(terminal.cursor_is_hidden());
    insta::assert_snapshot!("middle_early", terminal.screen());
    play(&mut live, &events[7..13]);
    live.tick(later(events[0].at, 5400)).expect("tick");
    insta::assert_snapshot!("middle_progress", terminal.screen());
    play(&mut live, &events[13..17]);
    live.tick(later(events[0].at, 7600)).expect("tick");
    insta::assert_snapshot!("middle_retry", terminal.screen());
    drop(live);
    assert!(!terminal.cursor_is_hidden(), "restored by the drop");
}

#[test]
fn narrow_and_wide_characters() {
    let terminal = Terminal::new(24, 40);
    let mut live = terminal.live(Options::default());
    let build = canned::step("build");
    let events = canned::envelopes(vec![
        (0, canned::started()),
        (10, canned::start(&build)),
        (
            20,
            canned::log(&build, "日本語のとても長いログの行です、画面より長い"),
        ),
    ]);
    play(&mut live, &events);
    for tick in 1..20 {
        live.tick(later(events[0].at, tick * 100)).expect("tick");
    }
    insta::assert_snapshot!(terminal.screen());
}

#[test]
fn a_terminal_that_shrinks_is_not_smeared() {
    let terminal = Terminal::new(30, 100);
    let mut live = terminal.live(Options::default());
    let events = canned::good();
    play(&mut live, &events[..8]);
    live.tick(later(events[0].at, 1000)).expect("tick");
    // vt100 cuts lines where terminals break them; so this one is told to
    // break nothing, and a line fits the narrow width already.
    terminal.1.store(60, Ordering::Relaxed);
    terminal
        .0
        .lock()
        .expect("lock")
        .parser
        .screen_mut()
        .set_size(30, 60);
    for tick in 11..20 {
        live.tick(later(events[0].at, tick * 100)).expect("tick");
    }
    let screen = terminal.screen();
    assert_eq!(screen.matches("COPY observer").count(), 1, "{screen}");
    assert_eq!(screen.matches("after deploy").count(), 2, "{screen}");
}

#[test]
fn a_screen_of_three_rows_is_not_smeared() {
    let terminal = Terminal::new(3, 60);
    let mut live = terminal.live(Options::default());
    let events = canned::good();
    for envelope in &events {
        live.event(envelope).expect("event");
        live.tick(envelope.at).expect("tick");
    }
    let all = terminal.all();
    assert_eq!(
        all.matches("✓ verify").count(),
        2,
        "line and summary\n{all}"
    );
    assert_eq!(all.matches("of 9 steps").count(), 0, "{all}");
}

fn many(count: usize) -> Vec<Envelope> {
    let mut started = canned::started();
    if let Event::RunStarted(started) = &mut started {
        started.steps = (0..count)
            .map(|number| StepNode {
                name: StepName::new(format!("step_{number}")),
                uses: "x".into(),
                needs: Vec::new(),
                targets: Vec::new(),
            })
            .collect();
    }
    let key = |number: usize| StepKey::new(format!("step_{number}"), None);
    let mut events = vec![(0, started)];
    events.extend((0..count / 2).map(|number| (10, canned::start(&key(number)))));
    events.extend((0..count / 4).map(|number| {
        (
            1000,
            canned::finished_step(key(number), StepState::Succeeded, 990, &[]),
        )
    }));
    canned::envelopes(events)
}

#[test]
fn more_steps_than_rows() {
    let terminal = Terminal::new(12, 60);
    let mut live = terminal.live(Options::default());
    let events = many(100);
    for (index, envelope) in events.iter().enumerate() {
        live.event(envelope).expect("event");
        live.tick(later(events[0].at, index as i64 * 10))
            .expect("tick");
    }
    insta::assert_snapshot!("many_screen", terminal.screen());
    let all = terminal.all();
    for number in 0..25 {
        let line = format!("✓ step_{number} ");
        assert_eq!(all.matches(&line).count(), 1, "{line}\n{all}");
    }
    assert_eq!(all.matches("of 100 steps").count(), 1, "no smear\n{all}");
}

#[test]
fn a_log_longer_than_the_screen_is_whole() {
    let terminal = Terminal::new(10, 60);
    let mut live = terminal.live(Options::default());
    let build = canned::step("build");
    let mut events = vec![(0, canned::started()), (1, canned::start(&build))];
    events.extend((0..100).map(|number| (2, canned::log(&build, &format!("line <{number}>")))));
    let mut failed = canned::finished_step(build.clone(), StepState::Failed, 5, &[]);
    if let Event::StepFinished { error, .. } = &mut failed {
        *error = Some(canned::refused());
    }
    events.push((9, failed));
    play(&mut live, &canned::envelopes(events));
    let all = terminal.all();
    for number in 0..100 {
        let line = format!("│ line <{number}>");
        assert_eq!(all.matches(&line).count(), 1, "{line}\n{all}");
    }
}

#[test]
fn a_flood_of_lines_is_not_drawn_one_by_one() {
    let terminal = Terminal::new(24, 80);
    let mut live = terminal.live(Options::default());
    let build = canned::step("build");
    play(
        &mut live,
        &canned::envelopes(vec![(0, canned::started()), (1, canned::start(&build))]),
    );
    let before = terminal.writes();
    for _ in 0..10_000 {
        let line = canned::envelopes(vec![(2, canned::log(&build, "x"))]);
        play(&mut live, &line);
    }
    assert_eq!(terminal.writes(), before);
}

#[test]
fn verbose_shows_lines_above_the_steps() {
    let terminal = Terminal::new(30, 80);
    let mut live = terminal.live(Options {
        verbosity: Verbosity::Verbose,
        ..Options::default()
    });
    let events = canned::good();
    play(&mut live, &events[..8]);
    live.tick(later(events[0].at, 1400)).expect("tick");
    insta::assert_snapshot!(terminal.screen());
}

#[test]
fn a_panic_gives_the_cursor_back() {
    let terminal = Terminal::new(24, 80);
    let inner = terminal.clone();
    let result = std::panic::catch_unwind(move || {
        let mut live = inner.live(Options {
            theme: Theme {
                color: true,
                unicode: false,
            },
            ..Options::default()
        });
        play(&mut live, &canned::good()[..5]);
        assert!(!inner.cursor_is_hidden(), "a bug");
    });
    assert!(result.is_err());
    assert!(!terminal.cursor_is_hidden());
}
