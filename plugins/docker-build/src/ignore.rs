//! The lines of a `.dockerignore`, cleaned as Docker's own client does
//! (moby/patternmatcher, `ignorefile.ReadAll`). Matching is the host's.

/// The patterns in their order; `!` in front brings files back.
pub(crate) fn patterns(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| match line.strip_prefix('!') {
            Some(pattern) => format!("!{}", clean(pattern.trim())),
            None => clean(line),
        })
        .collect()
}

/// As Go's `filepath.Clean`, and without a slash in front.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if pattern.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return if pattern.is_empty() {
            String::new()
        } else {
            ".".to_owned()
        };
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::patterns;

    #[test]
    fn lines_become_patterns() {
        let text = "\u{feff}# comment\n\n  target/  \r\n/docs\n!docs/./a.md\n! keep\na/../b\n*.log\n#x\n **/tmp\n";
        assert_eq!(
            patterns(text),
            [
                "target",
                "docs",
                "!docs/a.md",
                "!keep",
                "b",
                "*.log",
                "**/tmp"
            ]
        );
    }

    #[test]
    fn a_comment_begins_in_the_first_column() {
        assert_eq!(patterns(" #a\n#b"), ["#a"]);
        assert_eq!(patterns("*\n!src"), ["*", "!src"]);
    }
}
