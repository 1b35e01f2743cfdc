//! `releases`: what runs put on targets.

use wasmtime::component::Resource;
use windlass_model::call::{Call, ReleasesCall, ReleasesOp, StageSpec, Variables};
use windlass_model::reply::ReleaseState;
use windlass_model::{Reply, TargetName};

use super::convert::reply;
use crate::bindings::windlass::plugin::{releases, types};
use crate::guest::{Guest, Trapped};
use crate::job::Job;

type Answer<T> = Trapped<Result<T, types::Error>>;

impl Guest {
    fn release_variables(&mut self, variables: Vec<releases::Variable>) -> Trapped<Variables> {
        variables
            .into_iter()
            .map(|variable| Ok((variable.name, self.text(variable.value)?)))
            .collect()
    }
}

fn call(target: String, dir: String, op: ReleasesOp) -> Call {
    Call::Releases(ReleasesCall {
        target: TargetName::new(target),
        dir,
        op,
    })
}

impl releases::Host for Guest {
    async fn stage(&mut self, spec: releases::StageSpec) -> Answer<releases::Staged> {
        let mut files = Vec::new();
        for (name, variables) in spec.files {
            files.push((name, self.release_variables(variables)?));
        }
        let image_tag = match spec.image_tag {
            Some(parts) => Some(self.text(parts)?),
            None => None,
        };
        let stage = StageSpec {
            project: spec.project,
            compose: Some(self.blob_reference(&spec.compose)?),
            images: spec
                .images
                .into_iter()
                .map(|image| Ok((image.service, self.text(image.reference)?)))
                .collect::<Trapped<Variables>>()?,
            env: self.release_variables(spec.env)?,
            files,
            directories: spec.directories,
            image_tag,
            pipeline: self.setup.facts.pipeline.clone(),
            environment: self.setup.facts.environment.clone(),
            tag: self.setup.facts.tag.clone(),
            commit: self.setup.facts.commit.clone(),
            who: self.setup.who.clone(),
        };
        let call = call(spec.target, spec.dir, ReleasesOp::Stage(Box::new(stage)));
        let answer = self.invoke(call).await?;
        Ok(
            reply!(answer, "releases.stage", Reply::Staged(staged) => releases::Staged {
                id: staged.id,
                changed: staged.changed,
                previous: staged.previous,
                missing_images: staged.missing_images,
            }),
        )
    }

    async fn activate(&mut self, spec: releases::ActivateSpec) -> Answer<Resource<Job>> {
        let call = call(
            spec.target,
            spec.dir,
            ReleasesOp::Activate {
                id: spec.id,
                timeout_ms: spec.timeout_ms,
                remove_orphans: spec.remove_orphans,
            },
        );
        Ok(self.start(call)?.map_err(Into::into))
    }

    async fn list(&mut self, target: String, dir: String) -> Answer<Vec<releases::Release>> {
        let answer = self.invoke(call(target, dir, ReleasesOp::List)).await?;
        Ok(
            reply!(answer, "releases.list", Reply::Releases(list) => list
            .into_iter()
            .map(|release| releases::Release {
                id: release.id,
                state: match release.state {
                    ReleaseState::Staged => releases::State::Staged,
                    ReleaseState::Activating => releases::State::Activating,
                    ReleaseState::Current => releases::State::Current,
                    ReleaseState::Good => releases::State::Good,
                    ReleaseState::Failed => releases::State::Failed,
                    ReleaseState::Superseded => releases::State::Superseded,
                },
                created: release.created,
                run: release.run,
                tag: release.tag,
                who: release.who,
                images: release.images,
                is_current: release.is_current,
            })
            .collect()),
        )
    }

    async fn restore(&mut self, target: String, dir: String, id: String) -> Answer<Resource<Job>> {
        let call = call(target, dir, ReleasesOp::Restore { id });
        Ok(self.start(call)?.map_err(Into::into))
    }
}
