//! JSON values as the TOML of a case file: a line for each thing that can change, so
//! that a difference of two files reads well.

use std::fmt::Write as _;

use serde_json::Value as Json;
use windlass_layers::scripted::Matcher;

/// A longer list has a line for each of its elements.
const COLUMNS: usize = 90;

/// A text as TOML has it.
pub(crate) fn text(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// A text on one line: JSON's escapes are TOML's, but for one character.
fn escaped(text: &str) -> String {
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A key, quoted where it must be.
pub(crate) fn key(name: &str) -> String {
    toml_edit::Key::new(name).to_string()
}

/// A value; null, which TOML does not have, as a matcher that takes it.
pub(crate) fn value(value: &Json) -> String {
    match value {
        Json::Null => "{ any = true }".to_owned(),
        Json::Bool(yes) => yes.to_string(),
        // Larger ones are not TOML's.
        Json::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            format!("{:?}", number.as_f64().unwrap_or_default())
        }
        Json::Number(number) => number.to_string(),
        // Several lines would tear a list apart.
        Json::String(plain) if plain.contains('\n') => escaped(plain),
        Json::String(plain) => text(plain),
        Json::Array(list) => {
            let items: Vec<String> = list.iter().map(self::value).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(table) if table.is_empty() => "{}".to_owned(),
        Json::Object(table) => {
            let pairs: Vec<String> = table
                .iter()
                .map(|(name, inner)| format!("{} = {}", key(name), self::value(inner)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// `name = value`, each key of a table on a line of its own.
pub(crate) fn lines(out: &mut String, name: &str, given: &Json) {
    let small = |table: &serde_json::Map<String, Json>| {
        Matcher::is_special(given) && table.values().all(|inner| !inner.is_object())
    };
    match given {
        Json::Object(table) if !table.is_empty() && !small(table) => {
            for (inner, given) in table {
                lines(out, &format!("{name}.{}", key(inner)), given);
            }
        }
        Json::Array(items) if items.len() > 1 && value(given).len() + name.len() > COLUMNS => {
            list(out, name, items.iter().map(value));
        }
        // As it reads, a line of it on a line.
        Json::String(plain) => {
            let _ = writeln!(out, "{name} = {}", text(plain));
        }
        plain => {
            let _ = writeln!(out, "{name} = {}", value(plain));
        }
    }
}

/// A list with a line for each element, which is TOML already.
pub(crate) fn list(out: &mut String, name: &str, items: impl IntoIterator<Item = String>) {
    let _ = writeln!(out, "{name} = [");
    for item in items {
        let _ = writeln!(out, "  {item},");
    }
    out.push_str("]\n");
}

/// A time, without what differs from one run to the next.
pub(crate) fn duration(time: std::time::Duration) -> Option<String> {
    let tenths = time.as_millis() / 100;
    let (seconds, rest) = (tenths / 10, tenths % 10 * 100);
    match (seconds, rest) {
        (0, 0) => None,
        (0, rest) => Some(format!("{rest}ms")),
        (seconds, 0) => Some(format!("{seconds}s")),
        (seconds, rest) => Some(format!("{seconds}s{rest}ms")),
    }
}

/// Comment lines, wrapped.
pub(crate) fn comment(out: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.len() + word.len() >= COLUMNS && line.len() > 1 {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let given = json!({
            "plain": "a", "quoted": "say \"hi\"\nand go", "number": 3, "yes": true,
            "list": ["Bearer ", {"secret": "TOKEN"}],
            "table": {"org.example/x": "1", "any": {"any": true}, "none": {}},
            "json": {"json": {"version": "1", "deep": {"a": [1, 2]}}},
            "text": "one\ntwo\n", "texts": ["one\ntwo\u{7f}"],
            "long": ["a".repeat(60), "b".repeat(60)],
        });
        let mut out = String::new();
        lines(&mut out, "with", &given);
        let read: toml::Table = out.parse().expect("TOML");
        let read = crate::reader::to_json(toml::Value::Table(read));
        assert_eq!(read, json!({ "with": given }), "{out}");
        assert!(out.contains("with.json.json.version = \"1\"\n"), "{out}");
        assert!(out.contains("with.table.any = { any = true }\n"), "{out}");
    }

    #[test]
    fn times_are_coarse() {
        for (millis, shown) in [
            (99, None),
            (199, Some("100ms")),
            (2_000, Some("2s")),
            (61_250, Some("61s200ms")),
        ] {
            let shown = shown.map(str::to_owned);
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }
}
