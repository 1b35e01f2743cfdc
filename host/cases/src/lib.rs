//! Test cases for steps and pipelines: TOML files that say what a step is
//! given, which calls it is to make, what each answers, and how it ends.
//!
//! A call is a value, so a case is a backend: [`windlass_layers::Scripted`]
//! stands in the place of live, under the same guard and redact layers, and
//! guests of every language run unmodified. `docs/testing.md` is the guide.

mod answer;
mod asserts;
mod bench;
mod case;
mod expectation;
mod format;
mod mess;
mod reader;
mod record;
mod report;
mod runner;
mod update;
mod verdict;
mod write;

pub use bench::{Actual, Line, Pipeline, PipelineRun, Tested, run};
pub use case::{Assert, Case, CaseError, Inputs, Subject};
pub use format::{Ending, FaultKind, Phase, RawFault};
pub use mess::Mess;
pub use reader::{is_case, parse, read};
pub use record::{Past, RecordError, Recorded, Recording, Wanted, instances, record};
pub use report::{Format, Report, Summary, case_json};
pub use runner::{Done, Failing, Options, Verdict, discover, run_all};
pub use update::{Proposal, propose};
pub use verdict::{Problem, judge, judge_fault};
