//! `registry`: what a registry has, and whether this login may push.

use windlass_model::Reply;
use windlass_model::call::{Call, RegistryCall};

use super::convert::{done, reply};
use crate::bindings::windlass::plugin::values::Part;
use crate::bindings::windlass::plugin::{registry, types};
use crate::guest::{Guest, Trapped};

type Answer<T> = Trapped<Result<T, types::Error>>;

impl registry::Host for Guest {
    async fn manifest(&mut self, reference: Vec<Part>) -> Answer<Option<registry::ManifestInfo>> {
        let reference = self.text(reference)?;
        let answer = self
            .invoke(Call::Registry(RegistryCall::Manifest { reference }))
            .await?;
        Ok(
            reply!(answer, "registry.manifest", Reply::Manifest(manifest) => manifest.map(|info| {
                registry::ManifestInfo {
                    digest: info.digest,
                    media_type: info.media_type,
                    platforms: info.platforms,
                }
            })),
        )
    }

    async fn may_push(&mut self, repository: String) -> Answer<()> {
        let call = Call::Registry(RegistryCall::MayPush { repository });
        Ok(done("registry.may-push", self.invoke(call).await?))
    }

    async fn tags(&mut self, repository: String) -> Answer<Vec<String>> {
        let answer = self
            .invoke(Call::Registry(RegistryCall::Tags { repository }))
            .await?;
        Ok(reply!(answer, "registry.tags", Reply::Texts(tags) => tags))
    }
}
