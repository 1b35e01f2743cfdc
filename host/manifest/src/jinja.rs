//! What expressions have from minijinja: an environment with bounds, the time,
//! values to and fro.

use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use minijinja::value::ValueKind;
use minijinja::{Environment, UndefinedBehavior, Value as Jinja};
use serde_json::{Map, Value};

use crate::expression::MAX_TEXT;

/// What an expression may spend: stops `range(…)` and filters over filters,
/// which plugins' request templates could bring.
const FUEL: u64 = 200_000;
/// Elements and depth of a value that an expression gives: a plugin's output
/// must not exhaust the host.
const MAX_ELEMENTS: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// A minijinja environment without anything that reads or prints.
pub(crate) fn jinja(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(false);
    environment.set_recursion_limit(50);
    for name in ["debug", "lipsum", "namespace"] {
        environment.remove_global(name);
    }
    environment
}

pub(crate) fn strict() -> &'static Environment<'static> {
    static STRICT: OnceLock<Environment<'static>> = OnceLock::new();
    STRICT.get_or_init(|| jinja(UndefinedBehavior::Strict))
}

/// What a minijinja error says, without its position in a text of one line.
pub(crate) fn jinja_message(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    }
}

pub(crate) fn format_time(
    now: Timestamp,
    format: &str,
    zone: Option<&str>,
) -> Result<String, minijinja::Error> {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    let invalid =
        |message: String| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message);
    let zone = match zone {
        None => TimeZone::UTC,
        // The bundled database: a static binary in an empty image has no other.
        Some(name) => ZONES
            .get_or_init(TimeZoneDatabase::bundled)
            .get(name)
            .map_err(|_| {
                invalid(format!(
                    "there is no time zone {name:?}; names are like 'Europe/Berlin'"
                ))
            })?,
    };
    jiff::fmt::strtime::format(format, &now.to_zoned_datetime(zone))
        .map_err(|error| invalid(format!("invalid time format {format:?}: {error}")))
}

pub(crate) fn map_to_jinja(map: &Map<String, Value>) -> Jinja {
    Jinja::from_pairs(
        map.iter()
            .map(|(key, value)| (key.clone(), to_jinja(value))),
    )
}

pub(crate) fn to_jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(flag) => Jinja::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Jinja::from(integer),
            (None, Some(integer)) => Jinja::from(integer),
            (None, None) => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Array(items) => Jinja::from(items.iter().map(to_jinja).collect::<Vec<_>>()),
        Value::Object(entries) => map_to_jinja(entries),
    }
}

/// The error is a fragment.
pub(crate) fn from_jinja(value: &Jinja) -> Result<Value, String> {
    fn convert(value: &Jinja, depth: usize, budget: &mut usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the value is nested deeper than {MAX_DEPTH}"));
        }
        *budget = budget
            .checked_sub(1)
            .ok_or_else(|| format!("the value has more than {MAX_ELEMENTS} elements"))?;
        Ok(match value.kind() {
            ValueKind::Undefined => return Err("the value is undefined".to_owned()),
            ValueKind::None => Value::Null,
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::Number => {
                if let Ok(integer) = i64::try_from(value.clone())
                    && value.is_integer()
                {
                    return Ok(integer.into());
                }
                if let Some(integer) = value
                    .is_integer()
                    .then(|| u64::try_from(value.clone()).ok())
                    .flatten()
                {
                    return Ok(integer.into());
                }
                let float = f64::try_from(value.clone()).unwrap_or(f64::NAN);
                serde_json::Number::from_f64(float)
                    .map(Value::Number)
                    .ok_or_else(|| "the value is not a finite number".to_owned())?
            }
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                if text.len() > MAX_TEXT {
                    return Err(format!("the text is longer than {MAX_TEXT} bytes"));
                }
                Value::String(text.to_owned())
            }
            ValueKind::Seq | ValueKind::Iterable => Value::Array(
                value
                    .try_iter()
                    .map_err(|error| jinja_message(&error))?
                    .map(|item| convert(&item, depth + 1, budget))
                    .collect::<Result<_, _>>()?,
            ),
            ValueKind::Map => {
                let mut entries = Map::new();
                for key in value.try_iter().map_err(|error| jinja_message(&error))? {
                    let name = key
                        .as_str()
                        .ok_or_else(|| "a table has a key that is no string".to_owned())?;
                    if name.starts_with('$') {
                        // Reserved: an output must not pass for a secret.
                        return Err(format!("the key {name:?} begins with $"));
                    }
                    let item = value
                        .get_item(&key)
                        .map_err(|error| jinja_message(&error))?;
                    entries.insert(name.to_owned(), convert(&item, depth + 1, budget)?);
                }
                Value::Object(entries)
            }
            kind => return Err(format!("the value is no data, but a {kind}")),
        })
    }
    let mut budget = MAX_ELEMENTS;
    convert(value, 0, &mut budget)
}
