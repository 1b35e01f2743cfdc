//! What the environment says; the only place that reads it.

use std::time::Duration;

/// How this process is to behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `PORT`, 8000 unless given.
    pub port: u16,
    /// `VERSION`, set by the image's build argument; `dev` unless given.
    pub version: String,
    /// `OBSERVER_UNHEALTHY=1`: `/health` answers 503 for ever.
    pub unhealthy: bool,
    /// `OBSERVER_READY_AFTER=SECONDS`: until then `/health` answers 503.
    pub ready_after: Duration,
    /// `OBSERVER_EXIT=CODE`: the service ends at once with this code.
    pub exit: Option<u8>,
}

impl Settings {
    /// Reads the settings through `lookup`; an empty variable counts as unset.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        Ok(Self {
            port: number(&get, "PORT")?.unwrap_or(8000),
            version: get("VERSION").unwrap_or_else(|| "dev".to_owned()),
            unhealthy: get("OBSERVER_UNHEALTHY").is_some_and(|value| value != "0"),
            ready_after: Duration::from_secs(number(&get, "OBSERVER_READY_AFTER")?.unwrap_or(0)),
            exit: number(&get, "OBSERVER_EXIT")?,
        })
    }
}

fn number<T: std::str::FromStr>(
    get: &impl Fn(&str) -> Option<String>,
    name: &str,
) -> Result<Option<T>, String> {
    get(name)
        .map(|text| {
            text.parse()
                .map_err(|_| format!("{name} is `{text}`, which is no number here"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::from_env(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let settings = read(&[("PORT", ""), ("VERSION", "")]).expect("settings");
        assert_eq!((settings.port, settings.version.as_str()), (8000, "dev"));
    }

    #[test]
    fn a_port_that_is_no_number_is_named() {
        let problem = read(&[("PORT", "http")]).expect_err("must be refused");
        assert!(problem.contains("PORT is `http`"), "{problem}");
    }

    #[test]
    fn zero_means_healthy() {
        assert!(
            !read(&[("OBSERVER_UNHEALTHY", "0")])
                .expect("settings")
                .unhealthy
        );
        assert!(
            read(&[("OBSERVER_UNHEALTHY", "1")])
                .expect("settings")
                .unhealthy
        );
    }
}
