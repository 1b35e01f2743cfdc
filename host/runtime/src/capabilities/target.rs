//! `target`: facts, and typed operations in one round trip.

use windlass_model::call::{Call, Compose, Content, FileOp, TargetCall, TargetOp};
use windlass_model::{Reply, TargetName};

use super::convert::reply;
use crate::bindings::windlass::plugin::{target, types};
use crate::guest::{Guest, Trapped};

type Answer<T> = Trapped<Result<T, types::Error>>;

fn compose(compose: target::Compose) -> Compose {
    Compose {
        project: compose.project,
        dir: compose.dir,
        files: compose.files,
        env_file: compose.env_file,
    }
}

impl Guest {
    fn file_op(&mut self, op: target::Op) -> Trapped<FileOp> {
        Ok(match op {
            target::Op::MakeDirectory(directory) => FileOp::MakeDirectory {
                path: directory.path,
                mode: directory.mode,
            },
            target::Op::PutFile(file) => FileOp::PutFile {
                path: file.path,
                content: match file.content {
                    target::Content::Blob(blob) => Content::Blob(self.blob_reference(&blob)?),
                    target::Content::Text(parts) => Content::Text(self.text(parts)?),
                },
                mode: file.mode,
            },
            target::Op::ReadFile(read) => FileOp::ReadFile {
                path: read.path,
                max: read.max,
            },
            target::Op::SwitchLink(link) => FileOp::SwitchLink {
                path: link.path,
                to: link.to,
            },
            target::Op::Remove(path) => FileOp::Remove { path },
            target::Op::ComposeConfig(spec) => FileOp::ComposeConfig(compose(spec)),
            target::Op::ComposePull(spec) => FileOp::ComposePull(compose(spec)),
            target::Op::ComposeUp(spec) => FileOp::ComposeUp(compose(spec)),
            target::Op::ComposePs(spec) => FileOp::ComposePs(compose(spec)),
            target::Op::RunScript(script) => {
                let mut env = Vec::new();
                for (name, value) in script.env {
                    env.push((name, self.text(value)?));
                }
                FileOp::RunScript {
                    body: script.body,
                    args: self.texts(script.args)?,
                    env,
                }
            }
        })
    }
}

impl target::Host for Guest {
    async fn inspect(&mut self, name: String) -> Answer<target::Facts> {
        let call = Call::Target(TargetCall {
            target: TargetName::new(name.as_str()),
            op: TargetOp::Inspect,
        });
        let answer = self.invoke(call).await?;
        Ok(
            reply!(answer, "target.inspect", Reply::Facts(facts) => target::Facts {
                name,
                os: facts.os,
                architecture: facts.architecture,
                user: facts.user,
                compose: facts.compose,
                docker_problem: facts.docker_problem,
                docker_version: facts.docker_version,
            }),
        )
    }

    async fn apply(&mut self, name: String, ops: Vec<target::Op>) -> Answer<Vec<target::Outcome>> {
        let ops = ops
            .into_iter()
            .map(|op| self.file_op(op))
            .collect::<Trapped<Vec<_>>>()?;
        let call = Call::Target(TargetCall {
            target: TargetName::new(name),
            op: TargetOp::Apply { ops },
        });
        let answer = self.invoke(call).await?;
        Ok(
            reply!(answer, "target.apply", Reply::Outcomes(outcomes) => outcomes
            .into_iter()
            .map(|outcome| target::Outcome {
                ok: outcome.ok,
                changed: outcome.changed,
                output: outcome.output,
                exit_code: outcome.exit_code,
            })
            .collect()),
        )
    }
}
