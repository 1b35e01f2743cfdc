//! The capability `git`: the project's repository, through the `git` program.
//!
//! It brings the user's credentials and configuration, but no hooks, no
//! prompts, and no transports that run commands.

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use windlass_model::call::GitCall;
use windlass_model::reply::{GitFacts, TagCommits};
use windlass_model::{CallContext, CallError, Reply};

use crate::Config;
use crate::ssh::lines::excerpt;

/// Of what git prints: a status of a huge dirty tree ends here.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// Transports that git may use. `ext` runs commands; `git` and `http` are open
/// to anybody in between.
const PROTOCOLS: &str = "https:ssh:file";

/// Answers calls of the capability `git`.
#[derive(Debug)]
pub struct Git {
    config: Arc<Config>,
}

struct Ran {
    ok: bool,
    stdout: String,
    stderr: String,
}

impl Git {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config }
    }

    pub async fn call(&self, context: &CallContext, call: GitCall) -> Result<Reply, CallError> {
        match call {
            GitCall::Inspect => self
                .inspect(context)
                .await
                .map(|facts| Reply::Git(Box::new(facts))),
            GitCall::TagState { remote, tag } => {
                self.tag_state(context, &remote, &tag).await.map(Reply::Tag)
            }
            GitCall::CreateTag { tag, message } => {
                self.create_tag(context, &tag, message.as_deref()).await?;
                Ok(Reply::Done)
            }
            GitCall::PushTag { remote, tag } => {
                self.push_tag(context, &remote, &tag).await?;
                Ok(Reply::Done)
            }
        }
    }

    async fn inspect(&self, context: &CallContext) -> Result<GitFacts, CallError> {
        let (status, tags, origin, shallow) = tokio::join!(
            self.run(
                context,
                &[
                    "status",
                    "--porcelain=v2",
                    "--branch",
                    "-z",
                    "--untracked-files=normal"
                ]
            ),
            self.run(context, &["tag", "--points-at", "HEAD"]),
            self.run(context, &["config", "--get", "remote.origin.url"]),
            self.run(context, &["rev-parse", "--is-shallow-repository"]),
        );
        let status = status?;
        if !status.ok {
            return Err(self.no_repository(&status.stderr));
        }
        let mut facts = GitFacts::default();
        let mut entries = status.stdout.split('\0');
        while let Some(entry) = entries.next() {
            if let Some(header) = entry.strip_prefix("# ") {
                match header.split_once(' ') {
                    Some(("branch.oid", oid)) => facts.commit = oid.to_owned(),
                    Some(("branch.head", head)) if head != "(detached)" => {
                        facts.branch = Some(head.to_owned());
                    }
                    _ => {}
                }
            } else if !entry.is_empty() {
                // A rename's second path is an entry of its own.
                if entry.starts_with("2 ") {
                    entries.next();
                }
                let ours = entry
                    .strip_prefix("? ")
                    .is_some_and(|path| path.split('/').any(|part| part == ".windlass"));
                facts.dirty |= !ours;
            }
        }
        if facts.commit.is_empty() || facts.commit == "(initial)" {
            return Err(CallError::not_found(
                "git.no-commit",
                format!(
                    "the repository in {} has no commit yet",
                    self.config.root.display()
                ),
            )
            .hint("commit the project first"));
        }
        let (tags, origin, shallow) = (tags?, origin?, shallow?);
        facts.tags = tags.stdout.lines().map(str::to_owned).collect();
        facts.shallow = shallow.stdout.trim() == "true";
        facts.origin = Some(web_address(origin.stdout.trim())).filter(|text| !text.is_empty());
        Ok(facts)
    }

    async fn tag_state(
        &self,
        context: &CallContext,
        remote: &str,
        tag: &str,
    ) -> Result<TagCommits, CallError> {
        self.check_tag(context, tag).await?;
        check_word("remote", remote)?;
        let name = format!("refs/tags/{tag}");
        let peeled = format!("{name}^{{}}");
        let list = ["ls-remote", "--", remote, &name, &peeled];
        let (local, listed) = tokio::join!(self.local_tag(context, tag), self.run(context, &list),);
        let listed = listed?;
        if !listed.ok {
            return Err(remote_error(remote, &listed.stderr));
        }
        let find = |wanted: &str| {
            listed
                .stdout
                .lines()
                .filter_map(|line| line.split_once('\t'))
                .find(|(_, found)| *found == wanted)
                .map(|(commit, _)| commit.to_owned())
        };
        Ok(TagCommits {
            local: local?,
            // An annotated tag is an object of its own; `^{}` is its commit.
            remote: find(&peeled).or_else(|| find(&name)),
        })
    }

    async fn create_tag(
        &self,
        context: &CallContext,
        tag: &str,
        message: Option<&str>,
    ) -> Result<(), CallError> {
        self.check_tag(context, tag).await?;
        let head = self
            .run(context, &["rev-parse", "--verify", "-q", "HEAD^{commit}"])
            .await?;
        if !head.ok {
            return Err(self.no_repository(&head.stderr));
        }
        let head = head.stdout.trim();
        match self.local_tag(context, tag).await? {
            Some(commit) if commit == head => return Ok(()),
            Some(commit) => return Err(elsewhere(tag, "here", &commit, head)),
            None => {}
        }
        let mut args = Vec::new();
        if let Some(message) = message {
            let known = self.run(context, &["var", "GIT_COMMITTER_IDENT"]).await?;
            if !known.ok {
                // CI machines often have no name.
                args.extend([
                    "-c",
                    "user.name=windlass",
                    "-c",
                    "user.email=windlass@localhost",
                ]);
            }
            args.extend(["tag", "--no-sign", "-a", "-m", message, "--", tag, head]);
        } else {
            args.extend(["-c", "tag.gpgSign=false", "tag", "--", tag, head]);
        }
        let made = self.run(context, &args).await?;
        if made.ok {
            return Ok(());
        }
        // Somebody else may have made it in between.
        if self.local_tag(context, tag).await?.as_deref() == Some(head) {
            return Ok(());
        }
        Err(CallError::unavailable(
            "git.tag-failed",
            format!("the tag {tag} cannot be made: {}", excerpt(&made.stderr)),
        ))
    }

    async fn push_tag(
        &self,
        context: &CallContext,
        remote: &str,
        tag: &str,
    ) -> Result<(), CallError> {
        self.check_tag(context, tag).await?;
        check_word("remote", remote)?;
        let Some(local) = self.local_tag(context, tag).await? else {
            return Err(
                CallError::not_found("git.no-tag", format!("there is no tag {tag} here"))
                    .hint("create it first"),
            );
        };
        let name = format!("refs/tags/{tag}:refs/tags/{tag}");
        let pushed = self
            .run(
                context,
                &["push", "--no-verify", "--porcelain", "--", remote, &name],
            )
            .await?;
        if pushed.ok {
            return Ok(());
        }
        let said = format!("{}\n{}", pushed.stdout, pushed.stderr);
        if said.contains("[rejected]") || said.contains("already exists") {
            let state = self.tag_state(context, remote, tag).await?;
            return match state.remote {
                Some(commit) if commit == local => Ok(()),
                Some(commit) => Err(elsewhere(
                    tag,
                    &format!("on {}", without_login(remote)),
                    &commit,
                    &local,
                )),
                None => Err(remote_error(remote, &said)),
            };
        }
        Err(remote_error(remote, &said))
    }

    async fn local_tag(
        &self,
        context: &CallContext,
        tag: &str,
    ) -> Result<Option<String>, CallError> {
        let name = format!("refs/tags/{tag}^{{commit}}");
        let found = self
            .run(context, &["rev-parse", "--verify", "-q", &name])
            .await?;
        Ok(found.ok.then(|| found.stdout.trim().to_owned()))
    }

    async fn check_tag(&self, context: &CallContext, tag: &str) -> Result<(), CallError> {
        check_word("tag", tag)?;
        let checked = self
            .run(context, &["check-ref-format", &format!("refs/tags/{tag}")])
            .await?;
        if checked.ok {
            return Ok(());
        }
        Err(
            CallError::invalid("git.tag-name", format!("{tag:?} is no name for a tag"))
                .hint("`git help check-ref-format` has the rules"),
        )
    }

    fn no_repository(&self, said: &str) -> CallError {
        let root = self.config.root.display();
        if said.contains("dubious ownership") {
            return CallError::denied(
                "git.dubious-ownership",
                format!("git does not trust {root}: it belongs to another user"),
            )
            .hint(format!(
                "run `git config --global --add safe.directory {root}`"
            ));
        }
        if said.contains("not a git repository") {
            return CallError::not_found(
                "git.no-repository",
                format!("{root} is in no git repository"),
            )
            .hint("run `git init` and commit, or give what git would tell: `--tag`");
        }
        CallError::unavailable(
            "git.failed",
            format!("git fails in {root}: {}", excerpt(said)),
        )
    }

    /// Runs git in the project. Stopped with the call.
    async fn run(&self, context: &CallContext, args: &[&str]) -> Result<Ran, CallError> {
        let mut git = tokio::process::Command::new("git");
        git.arg("-C")
            .arg(&self.config.root)
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.fsmonitor=false",
            ])
            .args([
                "-c",
                "protocol.ext.allow=never",
                "-c",
                "core.quotePath=false",
            ])
            .args(args)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("SSH_ASKPASS_REQUIRE", "never")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // Of a hook or another tool that runs us in its own repository.
        for name in [
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_OBJECT_DIRECTORY",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
        ] {
            git.env_remove(name);
        }
        let mut child = git.spawn().map_err(|error| {
            CallError::unavailable("git.missing", format!("`git` cannot be started: {error}"))
                .hint("install git")
        })?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
            let status = child.wait().await;
            (stdout, stderr, status)
        };
        let stopped = tokio::select! {
            biased;
            (stdout, stderr, status) = work => {
                let ok = status.is_ok_and(|status| status.success());
                return Ok(Ran { ok, stdout, stderr });
            }
            () = context.cancel.cancelled() => CallError::cancelled(),
            () = tokio::time::sleep_until(context.deadline) => CallError::timeout(
                "git.deadline",
                format!("git {} did not end in time", args.first().unwrap_or(&"")),
            ),
        };
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        Err(stopped)
    }
}

/// At most [`MAX_OUTPUT`]; the rest is read and dropped, so that git ends.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn check_word(what: &str, word: &str) -> Result<(), CallError> {
    if !word.is_empty() && !word.starts_with('-') && !word.contains(char::is_control) {
        return Ok(());
    }
    Err(
        CallError::invalid("git.argument", format!("{word:?} is no {what}"))
            .hint(format!("a {what} does not begin with `-`")),
    )
}

fn elsewhere(tag: &str, place: &str, commit: &str, head: &str) -> CallError {
    CallError::conflict(
        "git.tag-elsewhere",
        format!("the tag {tag} is on {commit} {place}, not on {head}"),
    )
    .hint("a tag that is out is not moved: take a new one")
}

fn remote_error(remote: &str, said: &str) -> CallError {
    let remote = without_login(remote);
    let reason = excerpt(&without_login(said));
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["not allowed", "transport '"]) {
        return CallError::denied(
            "git.protocol",
            format!("git may not talk to {remote}: {reason}"),
        )
        .hint(format!("allowed are {}", PROTOCOLS.replace(':', ", ")));
    }
    if has(&[
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "Permission denied",
        "403",
        "denied to",
    ]) {
        return CallError::denied("git.denied", format!("{remote} does not accept the login: {reason}"))
            .hint("in a GitHub workflow the job needs `permissions: contents: write`; else check the key or token");
    }
    if has(&[
        "does not appear to be a git repository",
        "No such remote",
        "not found",
    ]) {
        return CallError::not_found(
            "git.no-remote",
            format!("{remote} is no repository: {reason}"),
        )
        .hint("`git remote -v` lists the remotes");
    }
    CallError::unavailable(
        "git.remote-failed",
        format!("git fails at {remote}: {reason}"),
    )
    .retryable()
}

/// Every `scheme://user:password@host` in a text, without the middle.
fn without_login(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '\'' || c == '"')
            .unwrap_or(after.len());
        let authority = &after[..end];
        clean.push_str(
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host),
        );
        rest = &after[end..];
    }
    clean.push_str(rest);
    clean
}

/// `https://github.com/acme/observer` of what a remote's address may look like.
fn web_address(url: &str) -> String {
    let trim = |path: &str| {
        path.trim_end_matches('/')
            .trim_end_matches(".git")
            .to_owned()
    };
    let url = without_login(url);
    if let Some(rest) = url.strip_prefix("ssh://") {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.split(':').next().unwrap_or_default();
        return format!("https://{host}/{}", trim(path));
    }
    if url.contains("://") {
        return trim(&url);
    }
    // scp's form: `git@github.com:acme/observer.git`
    match url.split_once(':') {
        Some((login, path)) if !login.contains('/') && !path.is_empty() => {
            let host = login.rsplit('@').next().unwrap_or(login);
            format!("https://{host}/{}", trim(path.trim_start_matches('/')))
        }
        _ => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_become_web_addresses_without_logins() {
        let wanted = "https://github.com/acme/observer";
        for url in [
            "git@github.com:acme/observer.git",
            "https://user:p4ss@github.com/acme/observer.git",
            "https://github.com/acme/observer/",
            "ssh://git@github.com:22/acme/observer.git",
        ] {
            assert_eq!(web_address(url), wanted, "{url}");
        }
        assert_eq!(
            web_address("/srv/git/observer.git"),
            "/srv/git/observer.git"
        );
    }

    #[test]
    fn logins_are_taken_out_of_messages() {
        let text = "fatal: unable to access 'https://me:t0ken@host/x/': 403 see http://a@b";
        assert_eq!(
            without_login(text),
            "fatal: unable to access 'https://host/x/': 403 see http://b"
        );
    }
}
