//! Plays a canned run in this terminal: `cargo run --example play -- [good|bad]
//! [plain] [verbose] [ascii] [fast] [svg FILE]`.

#[path = "../tests/canned/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod canned;

use std::io::{self, IsTerminal};
use std::time::Duration;

use windlass_report::{
    ColorChoice, Live, Options, Plain, Reporter, Size, Summary, Theme, Verbosity, render_svg,
    shows_unicode,
};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let events = if has("bad") {
        canned::bad()
    } else {
        canned::good()
    };
    let terminal = io::stdout().is_terminal();
    let variable = |name: &str| std::env::var(name).ok();
    let theme = Theme {
        color: ColorChoice::Auto.resolve(terminal, variable),
        unicode: shows_unicode(variable) && !has("ascii"),
    };
    if let Some(at) = arguments.iter().position(|argument| argument == "svg") {
        let theme = Theme {
            color: true,
            unicode: true,
        };
        let text = Summary::of(&events).render_text(92, theme);
        let file = arguments.get(at + 1).map_or("run.svg", String::as_str);
        return std::fs::write(file, render_svg("windlass run", &text));
    }
    let size = || {
        let (columns, rows) =
            terminal_size::terminal_size().map_or((100, 40), |(columns, rows)| (columns.0, rows.0));
        Size {
            columns: columns.into(),
            rows: rows.into(),
        }
    };
    let options = Options {
        theme,
        verbosity: if has("verbose") {
            Verbosity::Verbose
        } else {
            Verbosity::Normal
        },
        width: size().columns.min(120),
        summary: true,
    };
    let mut reporter: Box<dyn Reporter> = if terminal && !has("plain") {
        Box::new(Live::new(io::stdout(), options, size))
    } else {
        Box::new(Plain::new(io::stdout(), options))
    };
    let mut now = events[0].at;
    let step = jiff::SignedDuration::from_millis(80);
    for envelope in &events {
        while now < envelope.at {
            if !has("fast") {
                std::thread::sleep(Duration::from_millis(80));
            }
            now = now.saturating_add(step).map_err(io::Error::other)?;
            reporter.tick(now)?;
        }
        reporter.event(envelope)?;
    }
    reporter.finish()
}
