//! Terminal output as a picture for documents: text with colours becomes SVG.

use unicode_width::UnicodeWidthChar;

/// Pixels.
const CELL: f64 = 8.4;
const LINE: f64 = 19.0;
const MARGIN: f64 = 20.0;
const TITLE: f64 = 34.0;

/// Normal colours of the terminal, 30 to 37; the bright ones are the same.
const COLORS: [&str; 8] = [
    "#484f58", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#c9d1d9",
];

#[derive(Clone, Copy, Default, PartialEq)]
struct Look {
    color: Option<usize>,
    bold: bool,
    faint: bool,
}

/// A window with the text in it. Knows the colours that [`Theme`] uses:
/// `\x1b[…m` with 0, 1, 2, 22, 30 to 37, 39 and 90 to 97; drops all else.
///
/// [`Theme`]: crate::Theme
pub fn render_svg(title: &str, text: &str) -> String {
    let lines: Vec<Vec<(Look, String)>> = runs(text);
    let columns = lines
        .iter()
        .map(|line| line.iter().map(|(_, text)| width(text)).sum::<usize>())
        .max()
        .unwrap_or(0)
        .max(40);
    let wide = columns as f64 * CELL + 2.0 * MARGIN;
    let high = lines.len() as f64 * LINE + TITLE + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide:.0}\" height=\"{high:.0}\" \
         viewBox=\"0 0 {wide:.0} {high:.0}\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n",
        title = escape(title)
    );
    for (index, color) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = MARGIN + index as f64 * 18.0;
        out.push_str(&format!(
            "<circle cx=\"{x:.0}\" cy=\"17\" r=\"5\" fill=\"{color}\"/>\n"
        ));
    }
    out.push_str(
        "<g font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" \
         font-size=\"14\" fill=\"#c9d1d9\" xml:space=\"preserve\">\n",
    );
    for (row, line) in lines.iter().enumerate() {
        let y = TITLE + (row as f64 + 0.8) * LINE;
        let mut column = 0;
        for (look, text) in line {
            let cells = width(text);
            if !text.trim().is_empty() {
                let x = MARGIN + column as f64 * CELL;
                let length = cells as f64 * CELL;
                out.push_str(&format!(
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\"{}>{}</text>\n",
                    attributes(*look),
                    escape(text)
                ));
            }
            column += cells;
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn attributes(look: Look) -> String {
    let mut out = String::new();
    if let Some(color) = look.color.and_then(|color| COLORS.get(color)) {
        out.push_str(&format!(" fill=\"{color}\""));
    }
    if look.bold {
        out.push_str(" font-weight=\"bold\"");
    }
    if look.faint {
        out.push_str(" opacity=\"0.6\"");
    }
    out
}

/// Lines of pieces that look alike.
fn runs(text: &str) -> Vec<Vec<(Look, String)>> {
    let mut look = Look::default();
    let mut lines = Vec::new();
    for line in text.trim_end().split('\n') {
        let mut pieces: Vec<(Look, String)> = Vec::new();
        for (index, part) in line.split("\x1b[").enumerate() {
            let text = if index == 0 {
                part
            } else {
                let end = part
                    .find(|c: char| matches!(c, '\u{40}'..='\u{7e}'))
                    .unwrap_or(part.len());
                let (parameters, rest) = part.split_at(end);
                if rest.starts_with('m') {
                    look = looked(look, parameters);
                }
                rest.get(1..).unwrap_or_default()
            };
            let text = crate::clean::clean(text);
            if !text.is_empty() {
                pieces.push((look, text.into_owned()));
            }
        }
        lines.push(pieces);
    }
    lines
}

fn looked(mut look: Look, parameters: &str) -> Look {
    for parameter in parameters.split(';') {
        match parameter.parse::<usize>().unwrap_or(0) {
            0 => look = Look::default(),
            1 => look.bold = true,
            2 => look.faint = true,
            22 => (look.bold, look.faint) = (false, false),
            color @ 30..=37 => look.color = Some(color - 30),
            color @ 90..=97 => look.color = Some(color - 90),
            39 => look.color = None,
            _ => {}
        }
    }
    look
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        // Browsers let `xml:space` of a group go, and then drop spaces at the
        // ends, by which the columns stand.
        .replace(' ', "\u{a0}")
}
