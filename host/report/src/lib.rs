//! What people and machines see of a run. A reporter is given events and
//! something to write to, and nothing else; the engine's journal feeds the
//! same reporters when a stored run is shown again.
//!
//! | reporter | for |
//! |---|---|
//! | [`Live`] | a terminal: a line a step, running times |
//! | [`Plain`] | everything else that people read: a line a happening |
//! | [`Json`] | programs: a line an event |
//! | [`Annotations`] | GitHub Actions |
//!
//! Beside them: [`Summary`] at the end of a run, [`report_json`] for
//! notification plugins, [`table`] and [`graph`] for the other commands.
//! Nothing that a guest or a server printed goes out before [`clean`].

mod annotations;
mod clean;
mod failure;
pub mod graph;
mod happening;
mod json;
mod live;
mod logs;
mod markdown;
mod notification;
mod plain;
mod reporter;
mod summary;
mod summary_text;
mod svg;
pub mod table;
pub mod text;
mod theme;

pub use annotations::Annotations;
pub use clean::{clean, clean_line, defuse};
pub use json::Json;
pub use live::{Live, RESTORE_TERMINAL, Size};
pub use notification::report_json;
pub use plain::Plain;
pub use reporter::{Options, Reporter, ReporterFailure, Reporters, Verbosity};
pub use summary::Summary;
pub use svg::render_svg;
pub use theme::{ColorChoice, Line, Theme, Tone, shows_unicode, state_word};
