//! `.dockerignore`, as moby's `patternmatcher` reads it: anchored at the root,
//! the last match wins, a match of a directory covers what is below it.
//!
//! Rules: <https://docs.docker.com/build/concepts/context/#dockerignore-files>

use windlass_model::CallError;

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: one character, no `/`.
    One,
    /// `*`: any characters, no `/`.
    Some,
    /// `**/` or `**` before more: nothing, or anything that ends with `/`.
    Directories,
    /// `**` at the end.
    All,
    /// `[a-z]`, `[^a]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

#[derive(Debug)]
struct Pattern {
    tokens: Vec<Token>,
    keeps: bool,
}

/// The patterns of a `.dockerignore`.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

impl Ignore {
    /// Of the file's lines, in order; comments and empty lines may be among them.
    pub(super) fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, CallError> {
        let mut patterns = Vec::new();
        for line in lines {
            let line = line.trim_start_matches('\u{feff}');
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (keeps, text) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if text.is_empty() {
                if keeps {
                    return Err(bad(line));
                }
                continue;
            }
            let text = clean(text);
            if text.is_empty() || text == "." {
                // The root itself is never left out.
                continue;
            }
            patterns.push(Pattern {
                tokens: tokens(&text).ok_or_else(|| bad(line))?,
                keeps,
            });
        }
        Ok(Self { patterns })
    }

    /// Whether anything below an ignored directory may be kept after all.
    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.keeps)
    }

    /// Whether a path (relative, with `/`) stays out.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            // Only a pattern that would change the outcome is looked at.
            if pattern.keeps == ignored && pattern.covers(path) {
                ignored = !pattern.keeps;
            }
        }
        ignored
    }
}

impl Pattern {
    /// Whether the pattern matches the path or a directory above it.
    fn covers(&self, path: &str) -> bool {
        path.char_indices()
            .filter(|(_, character)| *character == '/')
            .map(|(index, _)| &path[..index])
            .chain(std::iter::once(path))
            .any(|part| matches(&self.tokens, part))
    }
}

fn bad(line: &str) -> CallError {
    CallError::invalid(
        "file.ignore-pattern",
        format!("{line:?} is no pattern of a .dockerignore"),
    )
}

/// Go's `filepath.Clean`, then without a leading slash.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                if parts.last().is_some_and(|last| *last != "..") {
                    parts.pop();
                } else if !text.starts_with('/') {
                    parts.push("..");
                }
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        tokens.push(match character {
            '*' if rest.peek() == Some(&'*') => {
                rest.next();
                if rest.peek() == Some(&'/') {
                    rest.next();
                }
                if rest.peek().is_none() {
                    Token::All
                } else {
                    Token::Directories
                }
            }
            '*' => Token::Some,
            '?' => Token::One,
            '\\' => Token::Literal(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut low = rest.next()?;
                    if low == ']' && !ranges.is_empty() {
                        break;
                    }
                    if low == '\\' {
                        low = rest.next()?;
                    }
                    let mut high = low;
                    if rest.next_if_eq(&'-').is_some() {
                        high = rest.next()?;
                        if high == '\\' {
                            high = rest.next()?;
                        }
                    }
                    ranges.push((low, high));
                }
                Token::Class { negated, ranges }
            }
            other => Token::Literal(other),
        });
    }
    Some(tokens)
}

/// In time proportional to pattern × path, whatever the pattern: `reached[i]`
/// says whether the tokens so far can match the first `i` characters.
fn matches(tokens: &[Token], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; path.len() + 1];
        match token {
            Token::Some => {
                let mut open = false;
                for index in 0..=path.len() {
                    open |= reached[index];
                    next[index] = open;
                    open &= path.get(index) != Some(&'/');
                }
            }
            Token::All => {
                let mut open = false;
                for index in 0..=path.len() {
                    open |= reached[index];
                    next[index] = open;
                }
            }
            Token::Directories => {
                let mut open = false;
                for index in 0..=path.len() {
                    next[index] = reached[index] || (open && index > 0 && path[index - 1] == '/');
                    open |= reached[index];
                }
            }
            single => {
                for (index, character) in path.iter().enumerate() {
                    next[index + 1] = reached[index] && single.takes(*character);
                }
            }
        }
        reached = next;
    }
    reached[path.len()]
}

impl Token {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::One => character != '/',
            Self::Class { negated, ranges } => {
                let inside = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&character));
                inside != *negated && character != '/'
            }
            Self::Some | Self::Directories | Self::All => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(file: &str, paths: &[&str]) -> Vec<String> {
        let ignore = Ignore::new(file.lines()).expect("patterns");
        paths
            .iter()
            .filter(|path| !ignore.matches(path))
            .map(|path| (*path).to_owned())
            .collect()
    }

    /// The examples of Docker's documentation.
    #[test]
    fn the_documented_examples() {
        let file = "# comment\n*/temp*\n*/*/temp*\ntemp?\n";
        let paths = [
            "somedir/temporary.txt",
            "somedir/temp",
            "somedir/subdir/temporary.txt",
            "tempa",
            "tempb",
            "temp",
            "tempab",
            "a/b/c/temp",
            "# comment",
        ];
        assert_eq!(
            kept(file, &paths),
            ["temp", "tempab", "a/b/c/temp", "# comment"]
        );

        assert_eq!(
            kept("**/*.go", &["a.go", "x/y/a.go", "a.go.txt"]),
            ["a.go.txt"]
        );
        assert_eq!(
            kept("*.md\n!README.md", &["a.md", "README.md", "d/b.md"]),
            ["README.md", "d/b.md"]
        );
        let file = "*.md\n!README*.md\nREADME-secret.md";
        assert_eq!(
            kept(file, &["x.md", "README-a.md", "README-secret.md"]),
            ["README-a.md"]
        );
        let file = "*.md\nREADME-secret.md\n!README*.md";
        assert_eq!(
            kept(file, &["x.md", "README-a.md", "README-secret.md"]),
            ["README-a.md", "README-secret.md"]
        );
    }

    #[test]
    fn patterns_are_anchored_and_cleaned() {
        for file in [
            "/foo/bar",
            "foo/bar",
            "foo/bar/",
            "  foo/bar  ",
            "./foo//bar",
            "x/../foo/bar",
        ] {
            assert_eq!(
                kept(file, &["foo/bar", "foo/bar/baz", "a/foo/bar", "foo/barn"]),
                ["a/foo/bar", "foo/barn"],
                "{file}"
            );
        }
        assert_eq!(
            kept("node_modules", &["node_modules/x", "a/node_modules/x"]),
            ["a/node_modules/x"]
        );
        assert_eq!(
            kept("**/node_modules", &["node_modules/x", "a/b/node_modules/x"]),
            [""; 0]
        );
        assert_eq!(kept("/\n.\n", &["a"]), ["a"]);
    }

    #[test]
    fn exceptions_reach_below_ignored_directories() {
        assert_eq!(
            kept(
                "*\n!src\n!Cargo.*",
                &["src/a/b.rs", "Cargo.toml", "x", "y/z"]
            ),
            ["src/a/b.rs", "Cargo.toml"]
        );
        assert_eq!(
            kept("docs\n! docs/README.md", &["docs/a", "docs/README.md"]),
            ["docs/README.md"]
        );
        assert_eq!(
            kept("**\n!**/*.rs", &["a.rs", "b/c.rs", "b/d"]),
            ["a.rs", "b/c.rs"]
        );
    }

    #[test]
    fn special_characters() {
        assert_eq!(
            kept("[a-c]?.t\\*t", &["a1.t*t", "d1.t*t", "a1.txt"]),
            ["d1.t*t", "a1.txt"]
        );
        assert_eq!(kept("[^a]", &["a", "b"]), ["a"]);
        assert_eq!(kept("a(b)+.$", &["a(b)+.$", "ab"]), ["ab"]);
        for bad in ["!", "[a", "a\\"] {
            assert_eq!(
                Ignore::new([bad]).expect_err(bad).code,
                "file.ignore-pattern"
            );
        }
        // Thousands of ways to match take no time.
        let hard = "*a".repeat(40);
        assert_eq!(
            kept(&hard, &[&"a".repeat(200)[..], &"b".repeat(200)]).len(),
            1
        );
    }
}
