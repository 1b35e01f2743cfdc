//! Shell text for the far side: quoting, and the few words that start a script
//! there whatever the login shell is.
//!
//! POSIX `sh` only: dash, busybox and bash read the same text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_model::CallError;

/// The environment variable that marks every process of a call on the far side,
/// so that all of them are found again when the call is cancelled.
pub(crate) const MARK: &str = "WINDLASS_CALL";

/// Longer ones do not fit into one argument of a Linux process (128 KiB).
const MAX_ARGUMENT_SCRIPT: usize = 90 * 1024;

/// One word of `sh`, whatever is in it.
pub(crate) fn quote(text: &str) -> Result<String, CallError> {
    if text.contains('\0') {
        return Err(CallError::invalid(
            "ssh.nul-byte",
            "a NUL byte cannot be part of a command, a path or a variable",
        ));
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for (index, part) in text.split('\'').enumerate() {
        if index > 0 {
            quoted.push_str("'\\''");
        }
        quoted.push_str(part);
    }
    quoted.push('\'');
    Ok(quoted)
}

/// Whether `sh` takes it as the name of a variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(crate) fn check_variable_name(name: &str) -> Result<(), CallError> {
    if is_variable_name(name) {
        return Ok(());
    }
    Err(CallError::invalid(
        "ssh.variable-name",
        format!("{name:?} is not a name of an environment variable"),
    )
    .hint("use letters, digits and underscores, beginning with no digit"))
}

/// How a script reaches the shell that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// All of stdin is the script.
    Stdin,
    /// The first line of stdin is the script in base64; the rest is the
    /// script's own stdin.
    FirstLine,
    /// An argument: everybody on the far side can read it, so it holds no
    /// secrets. All of stdin is the script's own.
    Argument,
}

/// What the login shell is asked to run. It may be any shell (fish, csh), so
/// only words that all of them read alike are used.
pub(crate) struct Launch<'a> {
    pub(crate) stamp: &'a str,
    pub(crate) carrier: Carrier,
    pub(crate) sudo: bool,
    /// Messages in English, lengths in bytes: for scripts of ours.
    pub(crate) plain_locale: bool,
}

impl Launch<'_> {
    pub(crate) fn command(&self, script: &str) -> Result<String, CallError> {
        let sudo = if self.sudo { "sudo -n " } else { "" };
        // The login's home stays the home, whatever sudo's policy sets.
        let home = if self.sudo { " HOME=\"$HOME\"" } else { "" };
        let locale = if self.plain_locale { " LC_ALL=C" } else { "" };
        let body = match self.carrier {
            Carrier::Stdin => "eval \"$(cat)\"".to_owned(),
            Carrier::FirstLine => "IFS= read -r w && eval \"$(echo $w | base64 -d)\"".to_owned(),
            Carrier::Argument => {
                if script.len() > MAX_ARGUMENT_SCRIPT {
                    return Err(CallError::invalid(
                        "ssh.command-too-long",
                        format!("the command is longer than {MAX_ARGUMENT_SCRIPT} bytes"),
                    )
                    .hint("pass the bulk of it on stdin"));
                }
                format!("eval \"$(echo {} | base64 -d)\"", STANDARD.encode(script))
            }
        };
        Ok(format!(
            "exec {sudo}env {MARK}={}{home}{locale} sh -c '{body}'",
            mark(self.stamp)
        ))
    }
}

/// With an end of its own: `…-1` must not match `…-12`.
fn mark(stamp: &str) -> String {
    format!("{stamp}:")
}

/// Ends every process of a call: asks, waits two seconds, then kills. By the mark
/// in their environment, and by the process group, for those that have another.
/// What the call keeps for a cut connection goes, too.
pub(crate) fn kill_script(stamp: &str) -> String {
    format!(
        r#"w_u=$(id -u)
w_gs=
for w_d in {places}; do
  {{ read -r w_g < "$w_d/{stamp}/pid"; }} 2>/dev/null || continue
  ! grep -qFs {MARK}={mark} "/proc/$w_g/environ" || w_gs="$w_gs -$w_g"
done
f() {{ grep -lFs {MARK}={mark} /proc/[0-9]*/environ | while IFS=/ read -r a b p c; do echo "$p"; done; }}
alive() {{
  p=$(f); [ -z "$p" ] || return 0
  for w_g in $w_gs; do ! kill -0 "$w_g" 2>/dev/null || return 0; done
  return 1
}}
trap 'for w_d in {places}; do rm -rf "$w_d/{stamp}"; done 2>/dev/null' EXIT
alive || exit 0
for w_g in $w_gs $p; do kill -TERM "$w_g" 2>/dev/null; done
i=0
while [ $i -lt 20 ]; do
  alive || exit 0
  sleep 0.1 2>/dev/null || sleep 1
  i=$((i + 1))
done
for w_g in $w_gs $p; do kill -KILL "$w_g" 2>/dev/null; done
exit 0
"#,
        places = super::durable::PLACES,
        mark = mark(stamp),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn echo(shell: &str, text: &str) -> String {
        let script = format!("printf %s {}", quote(text).expect("quoted"));
        let output = Command::new(shell)
            .args(["-c", &script])
            .output()
            .expect("shell");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn a_quoted_word_comes_back_as_it_was() {
        for text in [
            "",
            "a b",
            "'",
            "''",
            "a'b\\'c",
            "$HOME `id` $(id) \"x\"",
            "a\nb\n",
            "-n",
            "ü*?[x]",
        ] {
            assert_eq!(echo("sh", text), text);
        }
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert_eq!(quote("a\0b").expect_err("refused").code, "ssh.nul-byte");
    }

    #[test]
    fn names_of_variables() {
        assert!(is_variable_name("_A1"));
        for name in ["", "1A", "A-B", "A=B", "A B", "É"] {
            assert!(!is_variable_name(name), "{name}");
        }
    }

    #[test]
    fn a_launch_has_only_words_that_every_shell_reads_alike() {
        for carrier in [Carrier::Stdin, Carrier::FirstLine, Carrier::Argument] {
            let command = Launch {
                stamp: "0-a-1-1",
                carrier,
                sudo: true,
                plain_locale: true,
            }
            .command("echo 'x'!\\")
            .expect("command");
            let quotes = command.matches('\'').count();
            assert_eq!(quotes, 2, "{command}");
            assert!(!command.contains(['!', '\\', '\n']), "{command}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_is_quoted(text in "[^\0]{0,40}") {
            proptest::prop_assert_eq!(echo("sh", &text), text);
        }
    }
}
