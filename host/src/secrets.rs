//! Gets the bytes of the secrets that a run needs: from the environment, a
//! file, or a program. All missing ones are told at once.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use windlass_manifest::graph::SecretUse;
use windlass_manifest::manifest::SecretSource;
use windlass_manifest::{Diagnostic, Diagnostics, Manifest};
use windlass_model::Secrets;

/// A password manager may ask for a touch, not for a coffee.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// A larger "secret" is a mistake.
const MAX_SECRET_BYTES: u64 = 1024 * 1024;

/// Reads them. Nothing that is said about a failure holds the bytes.
pub async fn collect(
    manifest: &Manifest,
    uses: &[SecretUse],
    root: &Path,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
) -> Result<Secrets, Diagnostics> {
    let mut secrets = Secrets::default();
    let mut missing = Diagnostics::default();
    for wanted in uses {
        if secrets.contains(&wanted.name) {
            continue;
        }
        match read(&wanted.source, root, env).await {
            Ok(value) => secrets.insert(wanted.name.clone(), value.into()),
            Err((reason, hint)) => missing.push(
                Diagnostic::new("secret.missing", format!("secret {} {reason}", wanted.name))
                    .at(&manifest.source, wanted.place.span, "needed here")
                    .hint(hint),
            ),
        }
    }
    if missing.is_empty() {
        Ok(secrets)
    } else {
        Err(missing.sorted())
    }
}

async fn read(
    source: &SecretSource,
    root: &Path,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
) -> Result<String, (String, String)> {
    match source {
        SecretSource::Env(name) => match env(name) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err((
                format!("is empty in the environment variable {name}"),
                format!(
                    "set {name}; in CI an empty value usually means that the secret does not exist, or that this job may not see it"
                ),
            )),
            None => Err((
                "is not set".to_owned(),
                format!(
                    "set the environment variable {name}, or say under [secrets] where it comes from"
                ),
            )),
        },
        SecretSource::File(path) => {
            let path = expand_home(path, root, env);
            let shown = path.display().to_string();
            let read = async {
                let meta = tokio::fs::metadata(&path).await?;
                if meta.len() > MAX_SECRET_BYTES {
                    return Err(std::io::Error::other("it is larger than 1 MiB"));
                }
                tokio::fs::read_to_string(&path).await
            };
            read.await.map_err(|error| {
                (
                    format!("could not be read from {shown}: {error}"),
                    "check the path under [secrets] and the file's permissions".to_owned(),
                )
            })
        }
        SecretSource::Command(words) => command(words, root).await,
    }
}

fn expand_home(
    path: &str,
    root: &Path,
    env: &(dyn Fn(&str) -> Option<String> + Sync),
) -> std::path::PathBuf {
    match (path.strip_prefix("~/"), env("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => root.join(path),
    }
}

async fn command(words: &[String], root: &Path) -> Result<String, (String, String)> {
    let program = words.first().map(String::as_str).unwrap_or_default();
    let hint = || format!("run `{}` yourself to see what it says", words.join(" "));
    let child = tokio::process::Command::new(program)
        .args(words.iter().skip(1))
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(COMMAND_TIMEOUT, child).await {
        Err(_) => {
            return Err((
                format!(
                    "did not come from {program} within {} s",
                    COMMAND_TIMEOUT.as_secs()
                ),
                hint(),
            ));
        }
        Ok(Err(error)) => {
            return Err((format!("could not be asked of {program}: {error}"), hint()));
        }
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err((
            format!("was refused by {program} ({})", output.status),
            hint(),
        ));
    }
    let mut text = String::from_utf8(output.stdout)
        .map_err(|_| (format!("that {program} printed is not UTF-8"), hint()))?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err((format!("that {program} printed is empty"), hint()));
    }
    Ok(text)
}
