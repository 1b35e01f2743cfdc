//! `ssh-run`: a command or a script of the project on a target.
//! `docs/plugins/ssh-run.md` is its page.

mod shebang;

use std::collections::BTreeMap;

use windlass_sdk::blobs::{self, Blob};
use windlass_sdk::ssh::{self, ExecSpec};
use windlass_sdk::{Error, OutputSpec, Part, Plugin, Text, facts, output, plain};

/// Bytes of a script in which its first line must end.
const FIRST_LINE: u32 = 256;

/// Runs a command, or a script of the project, on the step's target.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The command and its arguments. No shell reads them. Either this or
    /// `script`.
    #[serde(default)]
    argv: Vec<Text>,
    /// A script, relative to the project's root. It is sent to the shell's
    /// standard input; nothing is left on the target.
    script: Option<String>,
    /// Arguments of the script.
    #[serde(default)]
    args: Vec<Text>,
    /// Environment of the command. Secrets belong here.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// The directory to work in; the login's when absent.
    dir: Option<String>,
}

pub struct SshRun;

impl Plugin for SshRun {
    type Config = Config;
    const NAME: &'static str = "ssh-run";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Run a command, or a script of the project, on a target";

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::number("exit_code", "The exit code of the command"),
            OutputSpec::text(
                "stdout_tail",
                "The end of what it printed, up to 16 KiB, without the last line break",
            ),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "ssh.exec {{ target }}",
            "file.read {{ script }}",
            "secret.send {{ env }} to env:{{ target }}",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        check(&config)?;
        let facts = facts();
        let target = facts.target.as_deref().ok_or_else(|| {
            Error::invalid("ssh-run.no-target", "the step has no target to run on")
                .with_hint("add on = [\"NAME\"]; `local` is this machine")
        })?;
        let (what, interpreter, script) = match &config.script {
            Some(path) => {
                let (interpreter, blob) = open(path)?;
                (path.clone(), interpreter, Some(blob))
            }
            None => (config.argv[0].to_string(), Vec::new(), None),
        };
        let mut argv: Vec<Vec<Part<'_>>> = interpreter.iter().map(|word| plain(word)).collect();
        let words = if script.is_some() {
            &config.args
        } else {
            &config.argv
        };
        argv.extend(words.iter().map(Text::parts));

        let exit = ssh::exec(
            target,
            &ExecSpec {
                argv,
                env: config
                    .env
                    .iter()
                    .map(|(name, value)| (name.clone(), value.parts()))
                    .collect(),
                stdin: script.as_ref(),
                dir: config.dir.clone(),
            },
        )?
        .wait()?;
        output::json("exit_code", &exit.code)?;
        // As in a shell's $(…): the value is the line, not its end.
        output::string("stdout_tail", exit.tail.trim_end_matches(['\r', '\n']))?;
        match exit.code {
            0 => Ok(()),
            127 => Err(exit
                .error("ssh-run.exit", &format!("{what} on {target}"))
                .with_hint("127 is the shell's way to say that a command was not found there")),
            _ => Err(exit.error("ssh-run.exit", &format!("{what} on {target}"))),
        }
    }
}

/// One of `argv` and `script`, and no secret where other users could see it.
fn check(config: &Config) -> Result<(), Error> {
    match (&config.script, config.argv.is_empty()) {
        (Some(_), false) => Err(Error::invalid(
            "ssh-run.both",
            "`argv` and `script` are both given",
        )
        .with_hint("keep one of them; arguments of a script go into `args`")),
        (None, true) => Err(Error::invalid(
            "ssh-run.nothing",
            "neither `argv` nor `script` is given",
        )
        .with_hint(
            "write argv = [\"systemctl\", \"status\", \"app\"] or script = \"deploy/migrate.sh\"",
        )),
        (None, false) if !config.args.is_empty() => Err(Error::invalid(
            "ssh-run.args",
            "`args` are the arguments of a `script`, and there is none",
        )
        .with_hint("append them to `argv`")),
        _ => Ok(()),
    }?;
    match config
        .argv
        .iter()
        .chain(&config.args)
        .find(|argument| argument.is_secret())
    {
        Some(secret) => Err(Error::invalid(
            "ssh-run.secret-in-argv",
            format!("{secret} may not be an argument: every user of the target could read it"),
        )
        .with_hint("pass it with `env`")),
        None => Ok(()),
    }
}

/// A script, and the words of the shell that reads it from standard input.
fn open(path: &str) -> Result<(Vec<String>, Blob), Error> {
    let blob = blobs::open(path)?;
    let start = blob.read(0, FIRST_LINE)?;
    let mut words = shebang::shell(path, &String::from_utf8_lossy(&start))?;
    words.extend(["-s".to_owned(), "--".to_owned()]);
    Ok((words, blob))
}

#[cfg(test)]
mod tests {
    use super::{Config, check};

    fn code(json: &str) -> Option<String> {
        let config: Config = serde_json::from_str(json).unwrap();
        check(&config).err().map(|error| error.code)
    }

    #[test]
    fn one_of_argv_and_script() {
        assert_eq!(code(r#"{"argv": ["true"]}"#), None);
        assert_eq!(code(r#"{"script": "a.sh", "args": ["1"]}"#), None);
        assert_eq!(code("{}").as_deref(), Some("ssh-run.nothing"));
        assert_eq!(
            code(r#"{"script": "a.sh", "argv": ["1"]}"#).as_deref(),
            Some("ssh-run.both")
        );
        assert_eq!(
            code(r#"{"argv": ["a"], "args": ["1"]}"#).as_deref(),
            Some("ssh-run.args")
        );
    }
}

windlass_sdk::plugin!(SshRun);
