//! Clears away the containers of runs that were killed.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::json;
use windlass_model::{CallContext, CallError, TargetName};

use super::Docker;
use super::container::{LABEL_CALL, LABEL_RUN, check_id, delete};
use super::query::Query;

/// What became of containers of runs that are over.
#[derive(Debug, Default)]
pub struct Swept {
    /// Names.
    pub removed: Vec<String>,
    /// Ids of those that stay, by the stamps of their calls.
    pub kept: BTreeMap<String, String>,
}

impl Docker {
    /// Removes the containers of runs that are over but were not there to do
    /// it themselves. `is_run_alive` must say yes to every run that it does
    /// not know to be over: another machine's runs use the same engine.
    /// `is_wanted` says of a call's stamp whether its container stays, if it was
    /// started.
    pub async fn sweep(
        &self,
        context: &CallContext,
        engine: &TargetName,
        is_run_alive: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Swept, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            id: String,
            names: Option<Vec<String>>,
            labels: Option<HashMap<String, String>>,
            #[serde(default)]
            state: String,
        }
        let engine = self.engine(context, engine).await?;
        let query = Query::new("/containers/json")
            .with("all", "1")
            .with("filters", json!({ "label": [LABEL_RUN] }).to_string());
        let listed: Vec<Listed> = self
            .bounded(context, async {
                engine
                    .get(&query)
                    .await
                    .map_err(|failure| failure.into_error("the containers cannot be listed"))
            })
            .await?;
        let mut swept = Swept::default();
        for container in listed {
            let mut labels = container.labels.unwrap_or_default();
            let alive = labels.get(LABEL_RUN).is_none_or(|run| is_run_alive(run));
            if alive || check_id(&container.id).is_err() {
                continue;
            }
            let started = matches!(container.state.as_str(), "running" | "paused" | "exited");
            if let Some(call) = labels.remove(LABEL_CALL)
                && started
                && is_wanted(&call)
            {
                swept.kept.insert(call, container.id);
                continue;
            }
            self.bounded(context, delete(&engine, &container.id))
                .await?;
            self.containers().there.remove(&container.id);
            let name = container
                .names
                .and_then(|names| names.into_iter().next())
                .map(|name| name.trim_start_matches('/').to_owned());
            swept.removed.push(name.unwrap_or(container.id));
        }
        Ok(swept)
    }
}
