//! Private keys and known hosts: from secrets, as CI systems hand them on, into
//! files that OpenSSH accepts; and why a server did not take a key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use windlass_model::CallError;
use zeroize::Zeroizing;

/// Text that went through a web form or a `.env` file: CRLF, no final newline,
/// newlines written as `\n`.
pub(crate) fn mend(text: &str) -> Zeroizing<String> {
    let text = text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let mut mended = Zeroizing::new(String::with_capacity(text.len() + 1));
    let unescape = !text.contains('\n') && text.contains("\\n");
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = if unescape {
            rest.split_once("\\n").unwrap_or((rest, ""))
        } else {
            rest.split_once('\n').unwrap_or((rest, ""))
        };
        mended.push_str(line.trim_end_matches(['\r', ' ', '\t']));
        mended.push('\n');
        rest = after;
    }
    mended
}

/// A private key's text, or what it is instead.
pub(crate) fn check_text(text: &str, target: &str) -> Result<(), CallError> {
    if text.contains("PRIVATE KEY-----") {
        return Ok(());
    }
    let hint = if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        "this is the public half: give the private key, the file without .pub"
    } else if text.trim().is_empty() {
        "the secret is empty: put the text of the private key file into it"
    } else if text.starts_with("PuTTY-User-Key-File") {
        "this is PuTTY's format: export it in OpenSSH's with puttygen"
    } else {
        "give the whole text of the private key file, from -----BEGIN to END-----"
    };
    Err(CallError::invalid(
        "ssh.bad-key",
        format!("the key for {target} is not the text of a private key"),
    )
    .hint(hint))
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), CallError> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        CallError::internal(
            "ssh.scratch",
            format!("{} cannot be written: {error}", path.display()),
        )
    })
}

/// Why OpenSSH cannot use a key file, if it is the file's fault.
pub(crate) async fn problem(path: PathBuf, target: &str, what: &str) -> Option<CallError> {
    let mut command = tokio::process::Command::new("ssh-keygen");
    command
        .args(["-y", "-P", "", "-f"])
        .arg(&path)
        .env("LC_ALL", "C")
        .env_remove("SSH_ASKPASS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(5), command.output())
        .await
        .ok()?
        .ok()?;
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(if said.contains("incorrect passphrase") {
        CallError::denied(
            "ssh.key-needs-passphrase",
            format!("{what} for {target} has a passphrase, and no agent holds it"),
        )
        .hint("load it with `ssh-add`, or use a key of its own without a passphrase for deploys")
    } else if said.contains("UNPROTECTED") || said.contains("bad permissions") {
        CallError::invalid(
            "ssh.bad-key",
            format!("{what} for {target} can be read by others, so ssh ignores it"),
        )
        .hint("`chmod 600` the key file")
    } else {
        CallError::invalid(
            "ssh.bad-key",
            format!("{what} for {target} is not a private key that ssh can read"),
        )
        .hint("give the whole file, from -----BEGIN to END-----; `ssh-keygen -y -f FILE` tests it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n";

    #[test]
    fn a_mangled_key_is_mended() {
        let crlf = GOOD.replace('\n', "\r\n");
        let escaped = GOOD.trim_end().replace('\n', "\\n");
        for text in [
            GOOD,
            GOOD.trim_end(),
            &crlf,
            &escaped,
            &format!("\u{feff}  {GOOD}\n\n"),
        ] {
            assert_eq!(*mend(text), GOOD, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_private_key_is_told_apart() {
        let hint = |text| {
            check_text(text, "prod")
                .expect_err("bad")
                .hint
                .expect("hint")
        };
        assert!(hint("ssh-ed25519 AAAA me").contains("public"));
        assert!(hint("").contains("empty"));
        assert!(check_text(GOOD, "prod").is_ok());
    }
}
