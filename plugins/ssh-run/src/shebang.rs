//! Which shell reads a script from its standard input.

use windlass_sdk::Error;

/// Shells that take a script with `-s`.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"];

/// The shell and its options by the script's first line; `sh` without one.
pub(crate) fn shell(path: &str, start: &str) -> Result<Vec<String>, Error> {
    let Some(line) = start.strip_prefix("#!") else {
        return Ok(vec!["sh".to_owned()]);
    };
    let line = line.lines().next().unwrap_or_default();
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let is_env = words
        .first()
        .is_some_and(|word| *word == "env" || word.ends_with("/env"));
    if is_env {
        words.remove(0);
        if words.first() == Some(&"-S") {
            words.remove(0);
        }
    }
    let name = words.first().and_then(|word| word.rsplit('/').next());
    if name.is_some_and(|name| SHELLS.contains(&name)) {
        return Ok(words.into_iter().map(str::to_owned).collect());
    }
    Err(Error::invalid(
        "ssh-run.interpreter",
        format!("{path} is for {line:?}, which is no shell that reads a script from its input"),
    )
    .with_hint("write it for sh or bash, or put it on the target and run it there with `argv`"))
}

#[cfg(test)]
mod tests {
    use super::shell;

    #[test]
    fn the_first_line_chooses() {
        for (start, words) in [
            ("echo", vec!["sh"]),
            ("", vec!["sh"]),
            ("#!/bin/sh\necho", vec!["/bin/sh"]),
            ("#!/bin/bash -eu\r\n", vec!["/bin/bash", "-eu"]),
            ("#! /usr/bin/env bash\n", vec!["bash"]),
            ("#!/usr/bin/env -S bash -e\n", vec!["bash", "-e"]),
        ] {
            assert_eq!(shell("a", start).unwrap(), words, "{start}");
        }
    }

    #[test]
    fn other_interpreters_are_refused() {
        for start in ["#!/usr/bin/env python3\n", "#!", "#!/usr/bin/env\n"] {
            assert_eq!(shell("a", start).unwrap_err().code, "ssh-run.interpreter");
        }
    }
}
