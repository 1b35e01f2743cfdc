//! `secrets`, `log`, `progress`, `clock` and `context`: the step and its host.

use serde_json::Value as Json;
use wasmtime::component::Resource;
use windlass_model::call::{Call, ClockCall};
use windlass_model::event::Level;
use windlass_model::{CallError, Segment, Text};

use super::convert::done;
use crate::bindings::windlass::plugin::values::Part;
use crate::bindings::windlass::plugin::{clock, context, log, progress, secrets, types};
use crate::guest::{Guest, Trapped, ValueEntry};
use crate::limits;

type Answer<T> = Trapped<Result<T, types::Error>>;

impl secrets::Host for Guest {
    async fn get(&mut self, name: String) -> Answer<Resource<ValueEntry>> {
        let named = self
            .values
            .iter()
            .any(|text| matches!(text.segments(), [Segment::Secret { secret }] if *secret == name));
        if !named {
            return Ok(Err(CallError::denied(
                "secret.not-named",
                format!("this step's configuration does not name secret {name}"),
            )
            .hint(format!(
                "write {{ secret = \"{name}\" }} at the key of `with` that wants it"
            ))
            .into()));
        }
        Ok(Ok(self.push_value(Text::secret(name))?))
    }
}

impl log::Host for Guest {
    async fn write(&mut self, level: log::Level, message: String) -> Trapped<()> {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warning,
            log::Level::Error => Level::Error,
        };
        self.write_log(level, &message)
    }
}

impl progress::Host for Guest {
    async fn report(&mut self, message: String, done: u64, total: u64) -> Trapped<()> {
        let end = message.floor_char_boundary(1024);
        self.setup.sink.progress(&message[..end], done, total);
        Ok(())
    }
}

impl clock::Host for Guest {
    async fn now(&mut self) -> Trapped<u64> {
        Ok(self.now.get())
    }

    async fn sleep(&mut self, ms: u64) -> Answer<()> {
        let call = Call::Clock(ClockCall::Sleep { ms });
        Ok(done("clock.sleep", self.invoke(call).await?))
    }
}

impl Guest {
    fn set_output(&mut self, name: String, value: Json) -> Result<(), types::Error> {
        let invalid = |message: String| CallError::invalid("context.output", message).into();
        if name.is_empty()
            || name.len() > 64
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            return Err(invalid(format!(
                "{name:?} is no name for an output: use [a-z][a-z0-9_]*"
            )));
        }
        if !self.outputs.contains_key(&name) && self.outputs.len() >= limits::MAX_OUTPUTS {
            return Err(invalid(format!(
                "a step has at most {} outputs",
                limits::MAX_OUTPUTS
            )));
        }
        self.outputs.insert(name, value);
        Ok(())
    }
}

/// Another step's configuration would take it for a handle.
fn is_reserved(value: &Json) -> bool {
    match value {
        Json::Object(table) => table
            .iter()
            .any(|(key, value)| key.starts_with('$') || is_reserved(value)),
        Json::Array(list) => list.iter().any(is_reserved),
        _ => false,
    }
}

impl context::Host for Guest {
    async fn facts(&mut self) -> Trapped<context::RunFacts> {
        let facts = &self.setup.facts;
        Ok(context::RunFacts {
            run: self.setup.run.to_string(),
            pipeline: facts.pipeline.clone(),
            step: self.setup.step.name.to_string(),
            target: self.setup.step.target.as_ref().map(ToString::to_string),
            environment: facts.environment.clone(),
            tag: facts.tag.clone(),
            commit: facts.commit.clone(),
            branch: facts.branch.clone(),
            attempt: self.setup.attempt,
            link: facts.link.clone(),
            started: facts.started.clone(),
        })
    }

    async fn config(&mut self) -> Trapped<String> {
        Ok(self.config.clone())
    }

    async fn config_value(&mut self, index: u32) -> Answer<Resource<ValueEntry>> {
        match self.values.get(index as usize).cloned() {
            Some(text) => Ok(Ok(self.push_value(text)?)),
            None => Ok(Err(CallError::not_found(
                "context.value",
                format!("the configuration has no value {index}"),
            )
            .into())),
        }
    }

    async fn output(&mut self, name: String, value: Vec<Part>) -> Answer<()> {
        let text = self.text(value)?;
        if !text.is_known() && text.secrets().next().is_none() {
            let unknown = serde_json::json!({ "$unknown": text.to_string() });
            return Ok(self.set_output(name, unknown));
        }
        let Some(plain) = text.as_plain() else {
            return Ok(Err(CallError::denied(
                "context.secret-output",
                format!("output {name} holds a secret"),
            )
            .hint("outputs are stored and shown; pass the secret on in the manifest instead")
            .into()));
        };
        if plain.len() > limits::MAX_OUTPUT_BYTES {
            return Ok(Err(CallError::exhausted(
                "limit.output",
                format!(
                    "output {name} is larger than {} KiB",
                    limits::MAX_OUTPUT_BYTES / 1024
                ),
            )
            .into()));
        }
        Ok(self.set_output(name, Json::String(plain.to_owned())))
    }

    async fn output_json(&mut self, name: String, json: String) -> Answer<()> {
        if json.len() > limits::MAX_OUTPUT_BYTES {
            return Ok(Err(CallError::exhausted(
                "limit.output",
                format!(
                    "output {name} is larger than {} KiB",
                    limits::MAX_OUTPUT_BYTES / 1024
                ),
            )
            .into()));
        }
        match serde_json::from_str(&json) {
            Ok(value) if is_reserved(&value) => Ok(Err(CallError::invalid(
                "context.output",
                format!("output {name} has a key that begins with `$`"),
            )
            .hint("such keys stand for secrets and unknown values")
            .into())),
            Ok(value) => Ok(self.set_output(name, value)),
            Err(error) => Ok(Err(CallError::invalid(
                "context.output",
                format!("output {name} is not JSON: {error}"),
            )
            .into())),
        }
    }

    async fn report(&mut self) -> Trapped<Option<String>> {
        Ok(self.setup.report.clone())
    }
}
