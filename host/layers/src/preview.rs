//! Lets reads through and turns effects into a list. What only an effect could
//! give stays unknown; a guest that has to know it is stopped there.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use windlass_model::call::{
    Content, DockerCall, DockerOp, FileOp, GitCall, RegistryCall, ReleasesCall, ReleasesOp, SshOp,
    StageSpec, TargetCall, TargetOp, Variables,
};
use windlass_model::reply::{Exit, Outcome, Release, Staged};
use windlass_model::{
    BlobRef, Call, CallContext, CallError, Capability, ErrorKind, Reply, StepKey, TargetName, Text,
};

/// The code of the error that stops a guest in a preview.
pub const UNKNOWN: &str = "value.unknown";
/// Files are shown as differences up to this size.
const MAX_FILE: u32 = 64 * 1024;

/// A text before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    pub name: String,
    /// Absent when there is no such file yet.
    pub old: Option<String>,
    pub new: String,
}

/// One effect that a run would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub step: StepKey,
    /// `docker.push`
    pub call: String,
    pub target: Option<TargetName>,
    /// `push ghcr.io/acme/app:1`
    pub summary: String,
    /// What is there before, where that could be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
    /// What it does cannot be known: a script, a container, a POST.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opaque: bool,
}

/// A read and what it answered: what a saved plan rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub step: StepKey,
    pub call: Call,
    pub reply: Result<Reply, CallError>,
}

#[derive(Clone, Debug, Default)]
pub struct Previewed {
    pub effects: Vec<Effect>,
    pub reads: Vec<Read>,
    /// Why the guest was stopped first, whatever it made of that.
    pub stopped: Option<String>,
}

/// The layer, one for each instance of a step.
pub struct Preview {
    step: StepKey,
    /// Steps before this one have effects: what the network answers now is not
    /// what it will answer then.
    after_effects: bool,
    seen: Mutex<Previewed>,
    next: Arc<dyn Capability>,
}

impl Preview {
    pub fn new(step: StepKey, after_effects: bool, next: Arc<dyn Capability>) -> Self {
        Self {
            step,
            after_effects,
            seen: Mutex::default(),
            next,
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Previewed {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Previewed> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn effect(&self, call: &Call, summary: String) -> Effect {
        Effect {
            step: self.step.clone(),
            call: call.name(),
            target: call.target().cloned(),
            summary,
            now: None,
            files: Vec::new(),
            opaque: false,
        }
    }

    fn note(&self, effect: Effect) {
        self.lock().effects.push(effect);
    }

    fn unknown(&self, what: &str) -> Text {
        Text::unknown(format!("{what} of step {}", self.step))
    }

    fn stop(&self, what: &str) -> CallError {
        let reason = format!("{what} of step {} is not known before it ran", self.step);
        self.lock().stopped.get_or_insert_with(|| reason.clone());
        CallError::unavailable(UNKNOWN, reason)
    }

    /// An answer of the world as it is; its failure only leaves a gap.
    async fn look(&self, context: &CallContext, call: Call) -> Option<Reply> {
        let reply = self.next.call(context, call.clone()).await;
        let known = reply.clone().ok();
        self.lock().reads.push(Read {
            step: self.step.clone(),
            call,
            reply,
        });
        known
    }

    async fn answer(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        match &call {
            Call::Docker(docker) => self.docker(context, &call, docker).await,
            Call::Target(TargetCall {
                target,
                op: TargetOp::Apply { ops },
            }) => self.apply(context, &call, target, ops).await,
            Call::Ssh(ssh) => match &ssh.op {
                SshOp::Upload { path, content, .. } => {
                    self.note(self.effect(&call, format!("write {path} ({} bytes)", content.size)));
                    Ok(Reply::Done)
                }
                SshOp::Exec { argv, .. } => {
                    let words: Vec<String> = argv.iter().map(ToString::to_string).collect();
                    self.opaque(&call, format!("run `{}`", words.join(" ")));
                    Err(self.stop("the outcome of a command"))
                }
                SshOp::Download { .. } => Err(self.stop("a download")),
                SshOp::Trace { .. } | SshOp::Rejoin { .. } => {
                    Err(self.stop("what became of a command"))
                }
            },
            Call::Releases(releases) => self.releases(context, &call, releases).await,
            Call::Http(http) => {
                self.opaque(&call, format!("{} {}", http.method, http.url));
                Err(self.stop("the answer to a request"))
            }
            Call::Git(git) => {
                let summary = match git {
                    GitCall::CreateTag { tag, .. } => format!("create tag {tag}"),
                    GitCall::PushTag { remote, tag } => format!("push tag {tag} to {remote}"),
                    GitCall::Inspect | GitCall::TagState { .. } => call.name(),
                };
                self.note(self.effect(&call, summary));
                Ok(Reply::Done)
            }
            Call::Lease(_)
            | Call::Registry(_)
            | Call::File(_)
            | Call::Clock(_)
            | Call::Secret(_)
            | Call::Target(_) => {
                self.opaque(&call, call.name());
                Err(self.stop("the answer to a call"))
            }
        }
    }

    fn opaque(&self, call: &Call, summary: String) {
        let mut effect = self.effect(call, summary);
        effect.opaque = true;
        self.note(effect);
    }

    async fn docker(
        &self,
        context: &CallContext,
        call: &Call,
        docker: &DockerCall,
    ) -> Result<Reply, CallError> {
        let exit = |names: &[&str]| {
            Ok(Reply::Exit(Exit {
                code: 0,
                tail: String::new(),
                values: names
                    .iter()
                    .map(|name| ((*name).to_owned(), self.unknown(name)))
                    .collect(),
            }))
        };
        match &docker.op {
            DockerOp::Build(spec) => {
                let size = spec.context.as_ref().map_or(0, |context| context.size);
                let tags = match spec.tags.as_slice() {
                    [] => "an image".to_owned(),
                    tags => tags.join(", "),
                };
                self.note(self.effect(
                    call,
                    format!(
                        "build {tags} from {} ({size} bytes of context)",
                        spec.dockerfile
                    ),
                ));
                exit(&["image"])
            }
            DockerOp::Tag { image, new_tag } => {
                self.note(self.effect(call, format!("tag {image} as {new_tag}")));
                Ok(Reply::Done)
            }
            DockerOp::Push { image } => {
                let mut effect = self.effect(call, format!("push {image}"));
                if image.is_known() {
                    let asked = Call::Registry(RegistryCall::Manifest {
                        reference: image.clone(),
                    });
                    effect.now = match self.look(context, asked).await {
                        Some(Reply::Manifest(Some(manifest))) => {
                            Some(format!("the registry has {}", manifest.digest))
                        }
                        Some(Reply::Manifest(None)) => Some("a new tag".to_owned()),
                        _ => None,
                    };
                }
                self.note(effect);
                exit(&["digest", "ref"])
            }
            DockerOp::Pull { image } => {
                self.note(self.effect(call, format!("pull {image}")));
                exit(&["image"])
            }
            DockerOp::RemoveImage { image } => {
                self.note(self.effect(call, format!("remove image {image}")));
                Ok(Reply::Done)
            }
            DockerOp::Run(spec) => {
                self.opaque(call, format!("run a container of {}", spec.image));
                Err(self.stop("the container"))
            }
            // Of containers that a preview never starts.
            DockerOp::RemoveContainer { .. } => Ok(Reply::Done),
            _ => Err(self.stop("the answer to a call")),
        }
    }

    /// Effects of a batch are listed; what it reads is read.
    async fn apply(
        &self,
        context: &CallContext,
        call: &Call,
        target: &TargetName,
        ops: &[FileOp],
    ) -> Result<Reply, CallError> {
        let done = |changed| Outcome {
            ok: true,
            changed,
            ..Outcome::default()
        };
        let mut outcomes = Vec::new();
        for op in ops {
            match op {
                FileOp::MakeDirectory { path, .. } => {
                    self.note(self.effect(call, format!("make directory {path} where it is not")));
                    outcomes.push(done(true));
                }
                FileOp::PutFile { path, content, .. } => {
                    let new = self.content(context, content);
                    let old = self.read_file(context, target, path).await;
                    let changed = old.as_deref() != new.as_deref();
                    if changed {
                        let mut effect = self.effect(call, format!("write {path}"));
                        effect.files.extend(new.map(|new| FileChange {
                            name: path.clone(),
                            old,
                            new,
                        }));
                        self.note(effect);
                    }
                    outcomes.push(done(changed));
                }
                FileOp::SwitchLink { path, to } => {
                    self.note(self.effect(call, format!("point {path} to {to}")));
                    outcomes.push(done(true));
                }
                FileOp::Remove { path } => {
                    self.note(self.effect(call, format!("remove {path}")));
                    outcomes.push(done(true));
                }
                FileOp::ComposePull(compose) => {
                    self.note(self.effect(call, format!("pull images of {}", compose.project)));
                    outcomes.push(done(true));
                }
                FileOp::ComposeUp(compose) => {
                    self.note(self.effect(call, format!("bring up {}", compose.project)));
                    outcomes.push(done(true));
                }
                FileOp::RunScript { .. } => {
                    self.opaque(call, format!("run a script on {target}"));
                    return Err(self.stop("the outcome of a script"));
                }
                // Reads after effects would read what is not there yet.
                FileOp::ReadFile { .. } | FileOp::ComposeConfig(_) | FileOp::ComposePs(_)
                    if !outcomes.is_empty() =>
                {
                    return Err(self.stop("what a batch reads after its effects"));
                }
                FileOp::ReadFile { .. } | FileOp::ComposeConfig(_) | FileOp::ComposePs(_) => {
                    let one = Call::Target(TargetCall {
                        target: target.clone(),
                        op: TargetOp::Apply {
                            ops: vec![op.clone()],
                        },
                    });
                    match self.next.call(context, one).await? {
                        Reply::Outcomes(mut one) => outcomes.append(&mut one),
                        other => {
                            return Err(CallError::wrong_reply("target.apply", other.kind()));
                        }
                    }
                }
            }
        }
        Ok(Reply::Outcomes(outcomes))
    }

    fn content(&self, context: &CallContext, content: &Content) -> Option<String> {
        match content {
            Content::Blob(blob) => text_of(context, blob),
            Content::Text(text) => Some(text.to_string()),
        }
    }

    async fn read_file(
        &self,
        context: &CallContext,
        target: &TargetName,
        path: &str,
    ) -> Option<String> {
        let read = Call::Target(TargetCall {
            target: target.clone(),
            op: TargetOp::Apply {
                ops: vec![FileOp::ReadFile {
                    path: path.to_owned(),
                    max: MAX_FILE,
                }],
            },
        });
        match self.look(context, read).await? {
            Reply::Outcomes(outcomes) => outcomes
                .into_iter()
                .next()
                .filter(|outcome| outcome.ok)
                .map(|outcome| outcome.output),
            _ => None,
        }
    }

    async fn releases(
        &self,
        context: &CallContext,
        call: &Call,
        releases: &ReleasesCall,
    ) -> Result<Reply, CallError> {
        let ReleasesCall { target, dir, op } = releases;
        match op {
            ReleasesOp::Stage(spec) => self.stage(context, call, target, dir, spec).await,
            ReleasesOp::Activate { .. } => {
                self.note(self.effect(
                    call,
                    format!("bring the release up in {dir}, check its images, switch to it"),
                ));
                Ok(Reply::Exit(Exit {
                    values: vec![("release".to_owned(), self.unknown("the release"))],
                    ..Exit::default()
                }))
            }
            ReleasesOp::Restore { id } => {
                self.note(self.effect(call, format!("put release {id} back in {dir}")));
                Ok(Reply::Exit(Exit::default()))
            }
            ReleasesOp::MarkGood { .. } | ReleasesOp::Prune { .. } | ReleasesOp::List => {
                Ok(Reply::Done)
            }
        }
    }

    /// Compares what would be staged with what is current.
    async fn stage(
        &self,
        context: &CallContext,
        call: &Call,
        target: &TargetName,
        dir: &str,
        spec: &StageSpec,
    ) -> Result<Reply, CallError> {
        let listed = Call::Releases(ReleasesCall {
            target: target.clone(),
            dir: dir.to_owned(),
            op: ReleasesOp::List,
        });
        // A target that cannot be asked is no reason to guess.
        let answer = self.next.call(context, listed.clone()).await;
        self.lock().reads.push(Read {
            step: self.step.clone(),
            call: listed,
            reply: answer.clone(),
        });
        let current = match answer? {
            Reply::Releases(list) => list.into_iter().find(|release| release.is_current),
            other => return Err(CallError::wrong_reply("releases.list", other.kind())),
        };
        let compose = spec
            .compose
            .as_ref()
            .and_then(|blob| text_of(context, blob));
        let mut files = Vec::new();
        if let Some(new) = compose {
            let old = self
                .read_file(context, target, &format!("{dir}/current/compose.yml"))
                .await;
            files.push(FileChange {
                name: "compose.yml".to_owned(),
                old,
                new,
            });
        }
        files.push(FileChange {
            name: "images".to_owned(),
            old: current.as_ref().map(images_of),
            new: lines(&spec.images, " = "),
        });
        let mut env = spec.env.clone();
        if let Some(tag) = &spec.image_tag {
            env.retain(|(name, _)| name != "IMAGE_TAG");
            env.push(("IMAGE_TAG".to_owned(), tag.clone()));
        }
        let named = std::iter::once((".env", &env)).chain(
            spec.files
                .iter()
                .map(|(name, variables)| (name.as_str(), variables)),
        );
        for (name, variables) in named {
            let old = self
                .read_file(context, target, &format!("{dir}/current/{name}"))
                .await;
            files.push(FileChange {
                name: name.to_owned(),
                old: old.map(|old| masked(&old, variables)),
                new: masked(&lines(variables, "="), variables),
            });
        }
        files.retain(|file| file.old.as_deref().map(sorted) != Some(sorted(&file.new)));
        let changed = !files.is_empty();
        let previous = current.map(|release| release.id);
        if changed {
            let what = match &previous {
                Some(previous) => format!("a new release in {dir}, after {previous}"),
                None => format!("the first release in {dir}"),
            };
            let mut effect = self.effect(call, what);
            effect.files = files;
            self.note(effect);
        }
        Ok(Reply::Staged(Staged {
            id: previous.clone().filter(|_| !changed).unwrap_or_default(),
            changed,
            previous,
            missing_images: Vec::new(),
        }))
    }
}

fn text_of(context: &CallContext, blob: &BlobRef) -> Option<String> {
    let bytes = context.blobs.get(blob)?.read(0, MAX_FILE).ok()?;
    String::from_utf8(bytes).ok()
}

fn images_of(release: &Release) -> String {
    release
        .images
        .iter()
        .map(|(service, image)| format!("{service} = {image}\n"))
        .collect()
}

fn lines(variables: &Variables, between: &str) -> String {
    variables
        .iter()
        .map(|(name, value)| format!("{name}{between}{value}\n"))
        .collect()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.sort_unstable();
    lines
}

/// Variables as they may be shown: of a value that is a secret now, or that is
/// not written any more and might have been one, only that it is there.
fn masked(text: &str, variables: &Variables) -> String {
    text.lines()
        .map(|line| match line.split_once('=') {
            Some((name, value)) => {
                let plain = variables
                    .iter()
                    .any(|(known, value)| known == name && value.secrets().next().is_none());
                let value = value.trim_matches('\'');
                if plain {
                    format!("{name}={value}\n")
                } else {
                    format!("{name}=(hidden)\n")
                }
            }
            None => format!("{line}\n"),
        })
        .collect()
}

#[async_trait]
impl Capability for Preview {
    async fn call(&self, context: &CallContext, call: Call) -> Result<Reply, CallError> {
        if call.class().is_effect() {
            return self.answer(context, call).await;
        }
        match &call {
            // Time does not pass in a preview.
            Call::Clock(_) => return Ok(Reply::Done),
            // What a service answers now is not what it will answer then.
            Call::Http(_) if self.after_effects => return Err(self.stop("the service's answer")),
            Call::Docker(docker) => {
                let image = match &docker.op {
                    DockerOp::InspectImage { image } => Some(image),
                    _ => None,
                };
                if image.is_some_and(|image| !image.is_known()) {
                    return Err(self.stop("the image"));
                }
            }
            Call::Registry(RegistryCall::Manifest { reference }) if !reference.is_known() => {
                return Err(self.stop("the image"));
            }
            _ => {}
        }
        let reply = self.next.call(context, call.clone()).await;
        let kept = !matches!(call, Call::Secret(_));
        let cancelled = reply
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::Cancelled);
        if kept && !cancelled {
            self.lock().reads.push(Read {
                step: self.step.clone(),
                call,
                reply: reply.clone(),
            });
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_what_may_have_been_one_are_hidden() {
        let variables: Variables = vec![
            ("PORT".to_owned(), "80".into()),
            ("TOKEN".to_owned(), Text::secret("TOKEN")),
        ];
        assert_eq!(
            masked(
                "PORT='81'\nTOKEN=old-secret\nGONE=was-a-secret\n",
                &variables
            ),
            "PORT=81\nTOKEN=(hidden)\nGONE=(hidden)\n"
        );
    }

    #[test]
    fn the_order_of_lines_is_no_change() {
        assert_eq!(sorted("b\na\n\n"), sorted("a\nb"));
    }
}
