//! What a person reads: a line a case, then each failure in full with what was
//! expected beside what came, then one line for the whole.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};
use similar::{ChangeTag, TextDiff};
use windlass_model::Reply;
use windlass_report::{Theme, Tone};

use crate::case::Case;
use crate::runner::Verdict;
use crate::verdict::Problem;

/// Lines of a text that a failure shows.
const MAX_LINES: usize = 40;
/// Calls of a failing case's transcript that are shown.
const MAX_CALLS: usize = 60;
/// Faults that are shown of one case.
const MAX_FAULTS: usize = 50;

/// How it looks.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub theme: Theme,
    /// Columns.
    pub width: usize,
    pub quiet: bool,
}

/// The whole, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    pub faults: usize,
    pub took: Duration,
}

impl Summary {
    pub fn json(&self) -> Json {
        json!({
            "summary": {
                "passed": self.passed, "failed": self.failed, "faults": self.faults,
                "duration_ms": self.took.as_secs_f64() * 1000.0, "per_second": self.rate(),
            }
        })
    }

    /// Cases and faults a second.
    fn rate(&self) -> u64 {
        let runs = (self.passed + self.failed + self.faults) as f64;
        (runs / self.took.as_secs_f64().max(0.001)) as u64
    }
}

/// Collects verdicts and shows them.
#[derive(Debug)]
pub struct Report {
    format: Format,
    verdicts: Vec<Option<Verdict>>,
}

impl Report {
    pub fn new(format: Format, cases: usize) -> Self {
        Self {
            format,
            verdicts: std::iter::repeat_with(|| None).take(cases).collect(),
        }
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        self.format.theme.paint(tone, text).to_string()
    }

    /// The line of a case that has ended.
    pub fn case(&mut self, index: usize, case: &Case, verdict: Verdict) -> String {
        let line = if verdict.passed() && self.format.quiet {
            String::new()
        } else {
            self.line(case, &verdict)
        };
        if let Some(slot) = self.verdicts.get_mut(index) {
            *slot = Some(verdict);
        }
        line
    }

    fn line(&self, case: &Case, verdict: &Verdict) -> String {
        let state = if verdict.passed() {
            self.paint(Tone::Good, "PASS")
        } else {
            self.paint(Tone::Bad, "FAIL")
        };
        let mut extra = String::new();
        if verdict.tried > 0 {
            let _ = write!(extra, " ({} faults", verdict.tried);
            if !verdict.faults.is_empty() {
                let _ = write!(extra, ", {} leave a mess", verdict.faults.len());
            }
            extra.push(')');
        }
        let took = format!("[{:>8.3}s]", verdict.took.as_secs_f64());
        format!(
            "  {state} {} {}{extra}\n",
            self.paint(Tone::Faint, &took),
            case.name
        )
    }

    /// Every failure, in the order of the cases, and the last line.
    pub fn finish(&self, cases: &[Case], took: Duration) -> (String, Summary) {
        let mut text = String::new();
        let mut summary = Summary {
            took,
            ..Summary::default()
        };
        for (case, verdict) in cases.iter().zip(&self.verdicts) {
            let Some(verdict) = verdict else { continue };
            summary.faults += verdict.tried;
            if verdict.passed() {
                summary.passed += 1;
            } else {
                summary.failed += 1;
                self.failure(&mut text, case, verdict);
            }
        }
        let state = if summary.failed == 0 {
            self.paint(Tone::Good, "passed")
        } else {
            self.paint(Tone::Bad, "failed")
        };
        let faults = match summary.faults {
            0 => String::new(),
            faults => format!(", {faults} faults"),
        };
        let _ = writeln!(
            text,
            "\n{state}: {} passed, {} failed{faults} in {:.3}s ({} a second)",
            summary.passed,
            summary.failed,
            took.as_secs_f64(),
            summary.rate()
        );
        if summary.failed > 0 {
            for (case, verdict) in cases.iter().zip(&self.verdicts) {
                if let Some(verdict) = verdict
                    && !verdict.passed()
                {
                    text.push_str(&self.line(case, verdict));
                }
            }
        }
        (text, summary)
    }

    fn failure(&self, text: &mut String, case: &Case, verdict: &Verdict) {
        let rule = self.format.theme.glyph("─", "-");
        let head = format!(
            "{} {} ({}:{}) ",
            rule.repeat(2),
            case.name,
            case.path,
            case.line
        );
        let fill = self.format.width.saturating_sub(head.chars().count());
        let _ = writeln!(
            text,
            "\n{}",
            self.paint(Tone::Bad, &format!("{head}{}", rule.repeat(fill)))
        );
        for problem in &verdict.problems {
            self.problem(text, problem, "  ");
        }
        for failing in verdict.faults.iter().take(MAX_FAULTS) {
            let _ = writeln!(
                text,
                "  {} at call {}, {}:",
                self.paint(Tone::Bad, failing.fault.kind.name()),
                failing.fault.call,
                failing.call
            );
            for problem in &failing.problems {
                self.problem(text, problem, "      ");
            }
        }
        if verdict.faults.len() > MAX_FAULTS {
            let _ = writeln!(text, "  and {} more", verdict.faults.len() - MAX_FAULTS);
        }
        if !verdict.problems.is_empty() {
            self.transcript(text, verdict);
        }
        let _ = writeln!(
            text,
            "  {}",
            self.paint(
                Tone::Faint,
                &format!("seed {0}: again with --seed {0}", verdict.seed)
            )
        );
    }

    fn problem(&self, text: &mut String, problem: &Problem, indent: &str) {
        let cross = self.format.theme.glyph("✗", "x");
        let _ = writeln!(
            text,
            "{indent}{} {}",
            self.paint(Tone::Bad, cross),
            problem.what
        );
        let (Some(expected), Some(got)) = (&problem.expected, &problem.got) else {
            return;
        };
        let inner = format!("{indent}  ");
        let (expected, got) = (cut(expected), cut(got));
        let several = |text: &str| text.contains('\n');
        if several(&expected) && several(&got) {
            self.diff(text, &expected, &got, &inner);
        } else {
            self.beside(text, &expected, &got, &inner);
        }
    }

    /// Both in columns where they fit, else one below the other.
    fn beside(&self, text: &mut String, expected: &str, got: &str, indent: &str) {
        let column = self.format.width.saturating_sub(indent.len() + 3) / 2;
        let longest = |text: &str| {
            text.lines()
                .map(|line| line.chars().count())
                .max()
                .unwrap_or_default()
        };
        if longest(expected).max(8) <= column && longest(got) <= column {
            let bar = self.format.theme.glyph("│", "|");
            let width = longest(expected).max(8);
            let row = |left: &str, right: &str, text: &mut String| {
                let pad = " ".repeat(width.saturating_sub(left.chars().count()));
                let left = if left == "expected" {
                    self.paint(Tone::Faint, left)
                } else {
                    self.paint(Tone::Good, left)
                };
                let right = if right == "got" {
                    self.paint(Tone::Faint, right)
                } else {
                    self.paint(Tone::Bad, right)
                };
                let line = format!("{indent}{left}{pad} {bar} {right}");
                let _ = writeln!(text, "{}", line.trim_end());
            };
            row("expected", "got", text);
            let (mut left, mut right) = (expected.lines(), got.lines());
            loop {
                let (one, other) = (left.next(), right.next());
                if one.is_none() && other.is_none() {
                    break;
                }
                row(one.unwrap_or_default(), other.unwrap_or_default(), text);
            }
            return;
        }
        for (head, tone, body) in [("expected", Tone::Good, expected), ("got", Tone::Bad, got)] {
            let _ = writeln!(text, "{indent}{}", self.paint(Tone::Faint, head));
            for line in body.lines() {
                let _ = writeln!(text, "{indent}  {}", self.paint(tone, line));
            }
        }
    }

    /// Two longer texts, line by line.
    fn diff(&self, text: &mut String, expected: &str, got: &str, indent: &str) {
        let diff = TextDiff::from_lines(expected, got);
        let _ = writeln!(
            text,
            "{indent}{}",
            self.paint(Tone::Faint, "- expected, + got")
        );
        for change in diff.iter_all_changes() {
            let line = change.value().trim_end_matches('\n');
            let line = match change.tag() {
                ChangeTag::Equal => format!("  {line}"),
                ChangeTag::Delete => self.paint(Tone::Good, &format!("- {line}")),
                ChangeTag::Insert => self.paint(Tone::Bad, &format!("+ {line}")),
            };
            let _ = writeln!(text, "{indent}{line}");
        }
    }

    fn transcript(&self, text: &mut String, verdict: &Verdict) {
        let calls = &verdict.actual.transcript;
        if calls.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "  {}",
            self.paint(Tone::Faint, "calls that were made")
        );
        for (index, asked) in calls.iter().take(MAX_CALLS).enumerate() {
            let answer = match &asked.answer {
                None => "no answer".to_owned(),
                Some(Err(error)) => format!("error {}", error.code),
                Some(Ok(Reply::Response(response))) => response.status.to_string(),
                Some(Ok(Reply::Exit(exit))) => format!("exit {}", exit.code),
                Some(Ok(reply)) => reply.kind().to_owned(),
            };
            let arrow = self.format.theme.glyph("→", "->");
            let line = format!(
                "{:>5}  +{:.1}s  {}  {} {arrow} {answer}",
                index + 1,
                asked.at.as_secs_f64(),
                asked.id.step,
                asked.name
            );
            let _ = writeln!(text, "{}", self.paint(Tone::Faint, &line));
        }
        if calls.len() > MAX_CALLS {
            let _ = writeln!(text, "       and {} more", calls.len() - MAX_CALLS);
        }
    }

    /// The report that CI systems read: JUnit's XML, as Jenkins' schema has it
    /// (`junit-10.xsd` of its xunit plugin).
    pub fn junit(&self, cases: &[Case]) -> String {
        let ended = || {
            cases
                .iter()
                .zip(&self.verdicts)
                .filter_map(|(case, verdict)| Some((case, verdict.as_ref()?)))
        };
        let failed = ended().filter(|(_, verdict)| !verdict.passed()).count();
        let time: f64 = ended().map(|(_, verdict)| verdict.took.as_secs_f64()).sum();
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite \
             name=\"windlass test\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" \
             time=\"{time:.3}\">\n",
            ended().count()
        );
        let plain = Self {
            format: Format {
                theme: Theme {
                    color: false,
                    unicode: false,
                },
                ..self.format
            },
            verdicts: Vec::new(),
        };
        for (case, verdict) in ended() {
            let (class, name) = case
                .name
                .split_once("::")
                .unwrap_or((&case.name, &case.name));
            let _ = write!(
                xml,
                "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" time=\"{:.3}\"",
                escape(class),
                escape(name),
                escape(&case.path),
                verdict.took.as_secs_f64()
            );
            if verdict.passed() {
                xml.push_str("/>\n");
                continue;
            }
            let mut body = String::new();
            plain.failure(&mut body, case, verdict);
            let first = verdict
                .problems
                .first()
                .or_else(|| {
                    verdict
                        .faults
                        .first()
                        .and_then(|failing| failing.problems.first())
                })
                .map_or("", |problem| problem.what.as_str());
            let _ = write!(
                xml,
                ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
                escape(first),
                escape(body.trim_start())
            );
        }
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }
}

fn cut(text: &str) -> String {
    let count = text.lines().count();
    if count <= MAX_LINES {
        return text.to_owned();
    }
    let mut short: Vec<&str> = text.lines().take(MAX_LINES).collect();
    let more = format!("and {} more lines", count - MAX_LINES);
    short.push(&more);
    short.join("\n")
}

/// For XML 1.0, which has no control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(char),
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// A case as JSON, on a line.
pub fn case_json(case: &Case, verdict: &Verdict) -> Json {
    let faults: Vec<Json> = verdict
        .faults
        .iter()
        .map(|failing| {
            json!({
                "call": failing.fault.call, "name": failing.call,
                "kind": failing.fault.kind.name(), "problems": failing.problems,
            })
        })
        .collect();
    json!({
        "case": case.name, "file": case.path, "line": case.line,
        "passed": verdict.passed(), "seed": verdict.seed,
        "duration_ms": verdict.took.as_secs_f64() * 1000.0,
        "problems": verdict.problems, "faults_tried": verdict.tried, "faults": faults,
    })
}
