//! `values`: text that a guest may pass on without reading it.

use wasmtime::component::Resource;
use windlass_model::call::{Call, SecretCall};
use windlass_model::{CallError, Segment, Text};

use super::convert::reply;
use crate::bindings::windlass::plugin::{types, values};
use crate::guest::{Guest, Trapped, ValueEntry, size};

impl types::Host for Guest {}
impl values::Host for Guest {}

impl values::HostValue for Guest {
    async fn from_text(&mut self, text: String) -> Trapped<Resource<ValueEntry>> {
        self.push_value(text.into())
    }

    async fn text(&mut self, value: Resource<ValueEntry>) -> Trapped<Result<String, types::Error>> {
        let text: Text = self.table.get(&value)?.0.clone();
        let mut plain = String::new();
        for segment in text.segments() {
            match segment {
                Segment::Plain(text) => plain.push_str(text),
                Segment::Secret { secret } => {
                    let call = Call::Secret(SecretCall::Reveal {
                        name: secret.clone(),
                    });
                    let answer = self.invoke(call).await?;
                    match reply!(answer, "secret.reveal", windlass_model::Reply::Text(text) => text)
                    {
                        Ok(text) => plain.push_str(&text),
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Segment::Unknown { unknown } => {
                    return Ok(Err(CallError::unavailable(
                        "value.unknown",
                        format!("{unknown} is not known before it ran"),
                    )
                    .into()));
                }
            }
        }
        Ok(Ok(plain))
    }

    async fn label(&mut self, value: Resource<ValueEntry>) -> Trapped<String> {
        Ok(self.table.get(&value)?.0.to_string())
    }

    async fn is_secret(&mut self, value: Resource<ValueEntry>) -> Trapped<bool> {
        Ok(self.table.get(&value)?.0.secrets().next().is_some())
    }

    async fn drop(&mut self, value: Resource<ValueEntry>) -> Trapped<()> {
        let entry = self.table.delete(value)?;
        self.let_go(size(&entry.0));
        Ok(())
    }
}
