//! What guests, servers and registries print, made harmless: for a terminal
//! ([`clean`]) and for the log of a CI job ([`defuse`]).

use std::borrow::Cow;

/// A tab's width, once it is spaces: a tab moves by what stands before it, so
/// no width can be told.
const TAB: &str = "    ";

/// Strips escape sequences, control characters, and characters that reorder or
/// hide text. Lines stay lines; a carriage return ends one, so nothing is
/// overprinted.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_special) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => out.push('\n'),
            '\t' => out.push_str(TAB),
            '\r' => {
                // CR LF is one end of a line, and so is CR CR LF.
                while chars.next_if(|(_, next)| *next == '\r').is_some() {}
                if chars.peek().is_some_and(|(_, next)| *next != '\n') {
                    out.push('\n');
                }
            }
            '\x1b' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => {
                let end = at + sequence(&text[at..]);
                while chars.next_if(|(next, _)| *next < end).is_some() {}
            }
            c if is_special(c) => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Like [`clean`], on one line.
pub fn clean_line(text: &str) -> Cow<'_, str> {
    let cleaned = clean(text);
    let trimmed = cleaned.trim_end();
    if trimmed.contains('\n') {
        let joined: Vec<&str> = trimmed.split('\n').map(str::trim).collect();
        return Cow::Owned(joined.join(" "));
    }
    match cleaned {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_end()),
        Cow::Owned(text) => Cow::Owned(text.trim_end().to_owned()),
    }
}

fn is_special(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Bidirectional marks, embeddings, overrides and isolates.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Line and paragraph separators; invisible operators; tags.
            | '\u{2028}' | '\u{2029}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The length of the escape sequence at the start of the text, after ECMA-48:
/// control sequences, control strings, and two-character escapes.
fn sequence(text: &str) -> usize {
    let mut chars = text.char_indices();
    let Some((_, first)) = chars.next() else {
        return 0;
    };
    let (kind, body) = if first == '\x1b' {
        match chars.next() {
            Some((at, kind)) => (kind, at + kind.len_utf8()),
            None => return first.len_utf8(),
        }
    } else {
        // The one-character form of the same: U+009B for ESC [.
        let kind = char::from_u32(u32::from(first) - 0x40).unwrap_or(first);
        (kind, first.len_utf8())
    };
    match kind {
        '[' => {
            let rest = &text[body..];
            let parameters = rest
                .find(|c: char| !matches!(c, '\u{20}'..='\u{3f}'))
                .unwrap_or(rest.len());
            let end = rest[parameters..]
                .chars()
                .next()
                .filter(|c| matches!(c, '\u{40}'..='\u{7e}'))
                .map_or(0, char::len_utf8);
            body + parameters + end
        }
        ']' | 'P' | 'X' | '^' | '_' => {
            let rest = text[body..].split('\n').next().unwrap_or_default();
            let ends = ["\x07", "\x1b\\", "\u{9c}"];
            // A string that never ends must not hide what follows it.
            ends.iter()
                .filter_map(|end| rest.find(end).map(|at| body + at + end.len()))
                .min()
                .unwrap_or(body)
        }
        '\u{20}'..='\u{2f}' => {
            let rest = &text[body..];
            let end = rest.chars().next().filter(|c| !c.is_control());
            body + end.map_or(0, char::len_utf8)
        }
        '\u{30}'..='\u{7e}' => body,
        _ => first.len_utf8(),
    }
}

/// Keeps a line from being taken for a command by the CI system that reads the
/// log: GitHub (`::error::` at the start of a line, `##[…]` anywhere in it),
/// Azure Pipelines (`##vso[`) and TeamCity (`##teamcity[`).
pub fn defuse(line: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(line);
    let start = line.len() - line.trim_start().len();
    if line[start..].starts_with("::") {
        out = Cow::Owned(format!("{}: {}", &line[..start], &line[start + 1..]));
    }
    for opening in ["##[", "##vso[", "##teamcity["] {
        if out.contains(opening) {
            out = Cow::Owned(out.replace(opening, &format!("# {}", &opening[1..])));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_not_touched() {
        assert!(matches!(clean("über 🚀 naïve"), Cow::Borrowed(_)));
        assert!(matches!(clean_line("x"), Cow::Borrowed("x")));
    }

    #[test]
    fn escapes_go_text_stays() {
        for (dirty, expected) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\u{9b}31mred", "red"),
            ("a\x1b[2J\x1b[H\x1b[1;5Hb", "ab"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;https://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]0;never ends", "0;never ends"),
            ("\x1b]0;ends\nlater\x07", "0;ends\nlater"),
            ("\x1bPq#0\x1b\\x", "x"),
            ("\x1b(0lq\x1b(B", "lq"),
            ("\x1bcreset", "reset"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b[31", ""),
            ("\x1b\x1b[31mx", "x"),
            ("bell\x07 nul\0 back\x08 del\x7f", "bell nul back del"),
            ("10%\r20%\r\n30%\r\r\nend\r", "10%\n20%\n30%\nend"),
            ("a\tb", "a    b"),
            ("\u{202e}exe.txt\u{202c}", "exe.txt"),
            ("in\u{200b}vis\u{2066}ible\u{e0041}", "invisible"),
            ("\x1b\u{1f680}rocket", "\u{1f680}rocket"),
        ] {
            assert_eq!(clean(dirty), expected, "{dirty:?}");
        }
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(clean_line("a\r\n  b\n\n"), "a b");
    }

    #[test]
    fn commands_are_defused() {
        for line in [
            "::error::x",
            "  ::set-output name=x::y",
            "##[add-path]/evil",
            "fine ##[set-env name=A]b ##[debug]",
            "##vso[task.setvariable]x",
            "text ##teamcity[x]",
        ] {
            let defused = defuse(line);
            assert!(!defused.trim_start().starts_with("::"), "{defused}");
            assert!(!defused.contains("##["), "{defused}");
            assert!(!defused.contains("##vso["), "{defused}");
            assert!(!defused.contains("##teamcity["), "{defused}");
        }
        assert_eq!(defuse("a :: b ## c"), "a :: b ## c");
        assert_eq!(defuse(":::::x"), ": ::::x");
        assert_eq!(defuse("###[x]"), "## #[x]");
    }
}
