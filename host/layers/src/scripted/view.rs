//! A call as people write it in a test case: without its name, tables where
//! the model has lists of pairs, blobs with what is in them.

use serde_json::{Map, Value as Json, json};
use windlass_model::{Blob, BlobRef, Blobs, Call};

/// A larger blob is shown by its digest alone.
const MAX_TEXT: u64 = 64 * 1024;
/// Names of an archive that are listed.
const MAX_NAMES: usize = 10_000;
const BLOCK: u64 = 512;

/// The arguments of a call.
pub fn view(call: &Call, blobs: &Blobs) -> Json {
    let Ok(Json::Object(mut table)) = serde_json::to_value(call) else {
        return Json::Null;
    };
    table.shift_remove("capability");
    table.shift_remove("op");
    let build = matches!(call, Call::Docker(call) if matches!(call.op, windlass_model::call::DockerOp::Build(_)));
    if matches!(call, Call::Http(_)) {
        table.shift_remove("method");
        let body = table.get("body").cloned();
        match body {
            Some(Json::Object(body)) => {
                if let Some((_, value)) = body.into_iter().next() {
                    table.insert("body".to_owned(), value);
                }
            }
            _ => {
                table.shift_remove("body");
            }
        }
    }
    tidy(Json::Object(table), build, blobs)
}

fn tidy(value: Json, build: bool, blobs: &Blobs) -> Json {
    match value {
        Json::Object(table) => {
            if let Some(blob) = blob(&table, blobs) {
                return blob;
            }
            table
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| {
                    let pairs = matches!(
                        key.as_str(),
                        "env" | "labels" | "headers" | "images" | "secrets" | "files"
                    ) || (build && key == "args");
                    let value = if pairs { from_pairs(value) } else { value };
                    (key, tidy(value, build, blobs))
                })
                .collect::<Map<_, _>>()
                .into()
        }
        Json::Array(list) => list
            .into_iter()
            .map(|item| tidy(item, build, blobs))
            .collect(),
        plain => plain,
    }
}

/// A list of pairs with different names as a table, whatever else as it is.
fn from_pairs(value: Json) -> Json {
    let Json::Array(list) = &value else {
        return value;
    };
    let mut table = Map::new();
    for item in list {
        let Some([Json::String(name), inner]) = item.as_array().map(Vec::as_slice) else {
            return value;
        };
        let nested = inner.as_array().is_some_and(|inner| {
            !inner.is_empty()
                && inner.iter().all(|pair| {
                    matches!(
                        pair.as_array().map(Vec::as_slice),
                        Some([Json::String(_), _])
                    )
                })
        });
        let inner = if nested {
            from_pairs(inner.clone())
        } else {
            inner.clone()
        };
        if table.insert(name.clone(), inner).is_some() {
            return value;
        }
    }
    Json::Object(table)
}

fn blob(table: &Map<String, Json>, blobs: &Blobs) -> Option<Json> {
    if table.len() != 2 {
        return None;
    }
    let reference: BlobRef = serde_json::from_value(Json::Object(table.clone())).ok()?;
    let mut shown = json!({ "sha256": reference.sha256, "size": reference.size });
    if let Some(blob) = blobs.get(&reference) {
        if let Some(names) = archive_names(&blob) {
            shown["files"] = names.into();
        } else if reference.size <= MAX_TEXT
            && let Ok(bytes) = blob.read(0, u32::try_from(reference.size).unwrap_or(u32::MAX))
            && let Ok(text) = String::from_utf8(bytes)
        {
            shown["text"] = text.into();
        }
    }
    Some(shown)
}

/// Names in a tar archive (POSIX.1-2001, ustar), in its order; nothing when it
/// is none.
fn archive_names(blob: &Blob) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at + BLOCK <= blob.reference.size && names.len() < MAX_NAMES {
        let header = blob.read(at, 512).ok()?;
        if header.len() != 512 {
            return None;
        }
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        if &header[257..262] != b"ustar" {
            return None;
        }
        let text = |range: std::ops::Range<usize>| {
            let field = &header[range];
            let end = field.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&field[..end.unwrap_or(field.len())]).into_owned()
        };
        let size = u64::from_str_radix(text(124..136).trim(), 8).ok()?;
        // Regular files and links; directories say nothing that their files
        // do not.
        if matches!(header[156], b'0' | 0 | b'1' | b'2') {
            let (name, prefix) = (text(0..100), text(345..500));
            names.push(if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            });
        }
        at += BLOCK + size.div_ceil(BLOCK) * BLOCK;
    }
    (!names.is_empty() || blob.reference.size >= 2 * BLOCK && at == 0).then_some(names)
}

#[cfg(test)]
mod tests {
    use windlass_model::call::{HttpBody, HttpCall};
    use windlass_model::{Blob, Text};

    use super::*;

    #[test]
    fn pairs_become_tables() {
        let call = Call::Http(HttpCall {
            method: "POST".into(),
            url: Text::secret("HOOK"),
            headers: vec![("a".into(), "b".into())],
            body: HttpBody::Text("x".into()),
            timeout_ms: 1,
            max_redirects: 0,
            via: None,
            max_body: 1,
        });
        assert_eq!(
            view(&call, &Blobs::default()),
            json!({
                "url": [{"secret": "HOOK"}], "headers": {"a": "b"}, "body": "x",
                "timeout_ms": 1, "max_redirects": 0, "max_body": 1
            })
        );
    }

    #[test]
    fn blobs_show_what_they_hold() {
        let blobs = Blobs::default();
        let reference = blobs.add(Blob::from_bytes("hello".into()));
        let shown = tidy(
            serde_json::to_value(&reference).expect("json"),
            false,
            &blobs,
        );
        assert_eq!(shown["text"], "hello");
    }
}
