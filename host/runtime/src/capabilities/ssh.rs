//! `ssh`: commands and files on a target.

use wasmtime::component::Resource;
use windlass_model::call::{Call, SshCall, SshOp};
use windlass_model::{Reply, TargetName};

use super::convert::done;
use crate::bindings::windlass::plugin::{ssh, types};
use crate::guest::{BlobEntry, Guest, Trapped};
use crate::job::Job;

type Answer<T> = Trapped<Result<T, types::Error>>;

impl ssh::Host for Guest {
    async fn exec(&mut self, target: String, spec: ssh::ExecSpec) -> Answer<Resource<Job>> {
        let mut env = Vec::new();
        for (name, value) in spec.env {
            env.push((name, self.text(value)?));
        }
        let stdin = match &spec.stdin {
            Some(blob) => Some(self.blob_reference(blob)?),
            None => None,
        };
        let call = Call::Ssh(SshCall {
            target: TargetName::new(target),
            op: SshOp::Exec {
                argv: self.texts(spec.argv)?,
                env,
                stdin,
                dir: spec.dir,
            },
        });
        Ok(self.start(call)?.map_err(Into::into))
    }

    async fn upload(
        &mut self,
        target: String,
        path: String,
        content: Resource<BlobEntry>,
        mode: u32,
    ) -> Answer<()> {
        let call = Call::Ssh(SshCall {
            target: TargetName::new(target),
            op: SshOp::Upload {
                path,
                content: self.blob_reference(&content)?,
                mode,
            },
        });
        Ok(done("ssh.upload", self.invoke(call).await?))
    }

    async fn download(&mut self, target: String, path: String) -> Answer<Resource<BlobEntry>> {
        let call = Call::Ssh(SshCall {
            target: TargetName::new(target),
            op: SshOp::Download { path },
        });
        match self.invoke(call).await? {
            Ok(Reply::Blob(reference)) => self.push_blob(&reference),
            Ok(other) => Ok(Err(windlass_model::CallError::wrong_reply(
                "ssh.download",
                other.kind(),
            )
            .into())),
            Err(error) => Ok(Err(error.into())),
        }
    }
}
