//! The result: one line for each comparison.

use std::fmt;

struct Row([String; 6]);

/// Lines in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// `ratio` is Windlass's number over the peer's; `bound` is that of the design.
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        windlass: impl Into<String>,
        peer: impl Into<String>,
        peers: impl Into<String>,
        ratio: f64,
        bound: impl Into<String>,
    ) {
        let ratio = if ratio < 0.1 {
            format!("{ratio:.4}")
        } else {
            format!("{ratio:.2}")
        };
        let row = Row([
            what.into(),
            windlass.into(),
            peer.into(),
            peers.into(),
            ratio,
            bound.into(),
        ]);
        eprintln!("    {}", row.0.join(" | "));
        self.0.push(row);
    }
}

const HEAD: [&str; 6] = ["what", "windlass", "peer", "peer's", "ratio", "bound"];

/// A Markdown table, so that it can be copied into the documentation as it is.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..HEAD.len())
            .map(|column| {
                let cells = self.0.iter().map(|row| row.0[column].chars().count());
                cells.chain([HEAD[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &[&str]| {
            for (cell, width) in cells.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")
        };
        line(f, &HEAD)?;
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        line(f, &rule.iter().map(String::as_str).collect::<Vec<_>>())?;
        for row in &self.0 {
            line(f, &row.0.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
