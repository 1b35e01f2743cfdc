//! `git`: the project's repository.

use windlass_model::Reply;
use windlass_model::call::{Call, GitCall};

use super::convert::{done, reply};
use crate::bindings::windlass::plugin::{git, types};
use crate::guest::{Guest, Trapped};

type Answer<T> = Trapped<Result<T, types::Error>>;

impl git::Host for Guest {
    async fn inspect(&mut self) -> Answer<git::Facts> {
        let answer = self.invoke(Call::Git(GitCall::Inspect)).await?;
        Ok(
            reply!(answer, "git.inspect", Reply::Git(facts) => git::Facts {
                commit: facts.commit,
                branch: facts.branch,
                tags: facts.tags,
                dirty: facts.dirty,
                shallow: facts.shallow,
                origin: facts.origin,
            }),
        )
    }

    async fn tag_state(&mut self, remote: String, tag: String) -> Answer<git::TagCommits> {
        let answer = self
            .invoke(Call::Git(GitCall::TagState { remote, tag }))
            .await?;
        Ok(
            reply!(answer, "git.tag-state", Reply::Tag(commits) => git::TagCommits {
                local: commits.local,
                remote: commits.remote,
            }),
        )
    }

    async fn create_tag(&mut self, tag: String, message: Option<String>) -> Answer<()> {
        let call = Call::Git(GitCall::CreateTag { tag, message });
        Ok(done("git.create-tag", self.invoke(call).await?))
    }

    async fn push_tag(&mut self, remote: String, tag: String) -> Answer<()> {
        let call = Call::Git(GitCall::PushTag { remote, tag });
        Ok(done("git.push-tag", self.invoke(call).await?))
    }
}
