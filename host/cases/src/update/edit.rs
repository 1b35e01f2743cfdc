//! Edits the TOML of one case: comments, order and spelling of everything else stay.

use serde_json::{Map, Value as Json};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};
use windlass_layers::scripted::{Expectation, Matcher, Mismatch};

use crate::write;

/// An expectation that was taken out: it may come back elsewhere, with its answer.
pub(super) struct Taken {
    pub(super) expectation: Expectation,
    pub(super) item: Taking,
}

/// As it was written.
pub(super) enum Taking {
    Table(Table),
    Value(Value),
}

/// A file, and which of its cases is edited.
pub(super) struct Edit {
    document: DocumentMut,
    /// Of `[[case]]`; nothing when the file is one case.
    case: Option<usize>,
}

impl Edit {
    /// The case of this number in the file.
    pub(super) fn new(text: &str, index: usize) -> Result<Self, String> {
        let document: DocumentMut = text
            .parse()
            .map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
        let several = document.contains_key("case");
        Ok(Self {
            document,
            case: several.then_some(index),
        })
    }

    pub(super) fn text(&self) -> String {
        self.document.to_string()
    }

    fn case(&mut self) -> Option<&mut dyn TableLike> {
        let Some(index) = self.case else {
            return Some(self.document.as_table_mut());
        };
        match self.document.get_mut("case")? {
            Item::ArrayOfTables(cases) => {
                cases.get_mut(index).map(|case| case as &mut dyn TableLike)
            }
            Item::Value(Value::Array(cases)) => {
                let case = cases.get_mut(index)?.as_inline_table_mut()?;
                Some(case)
            }
            _ => None,
        }
    }

    /// `expect` or `assert` of the case. What it has from the head of its file becomes its
    /// own first: the other cases are not to change with it.
    fn own(&mut self, key: &str) -> Option<&mut Item> {
        let missing = !self.case()?.contains_key(key);
        if missing
            && self.case.is_some()
            && let Some(mut shared) = self.document.get(key).cloned()
        {
            let inline = self
                .document
                .get("case")
                .is_some_and(|cases| cases.is_value());
            if inline {
                shared.make_value();
            }
            unplace(&mut shared);
            self.case()?.insert(key, shared);
        }
        self.case()?.get_mut(key)
    }

    /// The assertions; made when there are none.
    pub(super) fn asserts(&mut self) -> Option<&mut dyn TableLike> {
        if self.own("assert").is_none() {
            self.case()?
                .insert("assert", Item::Value(InlineTable::new().into()));
        }
        self.own("assert")?.as_table_like_mut()
    }

    fn expectation(&mut self, index: usize) -> Option<&mut dyn TableLike> {
        match self.own("expect")? {
            Item::ArrayOfTables(list) => list.get_mut(index).map(|one| one as &mut dyn TableLike),
            Item::Value(Value::Array(list)) => {
                let one = list.get_mut(index)?.as_inline_table_mut()?;
                Some(one)
            }
            _ => None,
        }
    }

    pub(super) fn set_times(&mut self, index: usize, times: &Json) {
        if let Some(expectation) = self.expectation(index) {
            if *times == 1 {
                expectation.remove("times");
            } else {
                put(expectation, "times", times);
            }
        }
    }

    /// Each argument that differs.
    pub(super) fn set_arguments(
        &mut self,
        index: usize,
        mismatches: &[Mismatch],
        got: &Json,
        pattern: &Json,
    ) {
        let Some(expectation) = self.expectation(index) else {
            return;
        };
        for mismatch in mismatches {
            if mismatch.path.is_empty() {
                put(expectation, "with", pattern);
            } else if let Some(with) = expectation
                .get_mut("with")
                .and_then(Item::as_table_like_mut)
            {
                set(with, &mismatch.path, got, pattern);
            }
        }
    }

    /// Gives what it removed.
    pub(super) fn remove(&mut self, index: usize) -> Option<Taking> {
        let removed = match self.own("expect")? {
            Item::ArrayOfTables(list) => {
                if index >= list.len() {
                    return None;
                }
                let heading = split_heading(list.get(index)?).0;
                let removed = list.remove(index);
                // What stands over a group is not this one's alone.
                if let (Some(next), false) = (list.get_mut(index), heading.is_empty()) {
                    let own = prefix(next);
                    next.decor_mut().set_prefix(format!("{heading}{own}"));
                }
                if list.is_empty() {
                    self.case()?.remove("expect");
                }
                Taking::Table(removed)
            }
            Item::Value(Value::Array(list)) => {
                if index >= list.len() {
                    return None;
                }
                Taking::Value(remove_item(list, index))
            }
            _ => return None,
        };
        Some(removed)
    }

    pub(super) fn put_back(&mut self, index: usize, taken: Taken) {
        match (self.own("expect"), taken.item) {
            (Some(Item::ArrayOfTables(list)), Taking::Table(mut table)) => {
                let own = split_heading(&table).1;
                table
                    .decor_mut()
                    .set_prefix(format!("\n{}", own.trim_start_matches('\n')));
                place(list, index, table);
            }
            (Some(Item::Value(Value::Array(list))), Taking::Value(value)) => {
                insert_item(list, index, value);
            }
            (None, Taking::Table(mut table)) => {
                table.set_position(None);
                let list: ArrayOfTables = std::iter::once(table).collect();
                if let Some(case) = self.case() {
                    case.insert("expect", Item::ArrayOfTables(list));
                }
            }
            _ => {}
        }
    }

    /// A new expectation, in the form that its neighbours have.
    pub(super) fn insert(&mut self, index: usize, new: &Map<String, Json>) {
        let inline = self.case.is_some() && self.document.get("case").is_some_and(Item::is_value);
        match self.own("expect") {
            Some(Item::ArrayOfTables(list)) => {
                if let Some(table) = table(new) {
                    place(list, index, table);
                }
            }
            Some(Item::Value(Value::Array(list))) => {
                insert_item(list, index, value(&Json::Object(new.clone())));
            }
            _ => {
                let (Some(table), Some(case)) = (table(new), self.case()) else {
                    return;
                };
                let list: ArrayOfTables = std::iter::once(table).collect();
                let mut item = Item::ArrayOfTables(list);
                if inline {
                    item.make_value();
                }
                case.insert("expect", item);
            }
        }
    }
}

/// Takes out an element with the comments over it and beside it. In what stands before
/// an element the first line is beside the one before.
fn remove_item(list: &mut Array, index: usize) -> Value {
    let mut removed = list.remove(index);
    let before = removed.decor().prefix().and_then(|prefix| prefix.as_str());
    let beside = first_line(before.unwrap_or_default()).0.to_owned();
    match list.get_mut(index) {
        Some(next) => {
            let own = next.decor().prefix().and_then(|prefix| prefix.as_str());
            let rest = first_line(own.unwrap_or_default()).1;
            let prefix = format!("{beside}{rest}");
            next.decor_mut().set_prefix(prefix);
        }
        None => {
            let own = list.trailing().as_str().unwrap_or_default();
            let trailing = format!("{beside}{}", first_line(own).1);
            list.set_trailing(trailing);
        }
    }
    removed.decor_mut().clear();
    removed
}

/// Puts an element in, on a line of its own where the others have one.
fn insert_item(list: &mut Array, index: usize, mut new: Value) {
    let index = index.min(list.len());
    let last = index == list.len();
    let before = match list.get(index) {
        Some(next) => next.decor().prefix().and_then(|prefix| prefix.as_str()),
        None => list.trailing().as_str(),
    };
    let (beside, rest) = first_line(before.unwrap_or_default());
    let (beside, rest) = (beside.to_owned(), rest.to_owned());
    let neighbour = list
        .get(index)
        .or(list.get(index.saturating_sub(1)))
        .and_then(|value| value.decor().prefix()?.as_str());
    let indent = match neighbour {
        Some(prefix) => prefix.rfind('\n').map(|end| prefix[end..].to_owned()),
        None if list.is_empty() => Some("\n  ".to_owned()),
        None => None,
    };
    let indent = indent.unwrap_or_else(|| if index == 0 { "" } else { " " }.to_owned());
    new.decor_mut().set_prefix(format!("{beside}{indent}"));
    if last {
        if list.is_empty() {
            list.set_trailing_comma(true);
            list.set_trailing("\n");
        } else {
            list.set_trailing(rest);
        }
    } else if let Some(next) = list.get_mut(index) {
        let rest = if rest.is_empty() {
            " ".to_owned()
        } else {
            rest
        };
        next.decor_mut().set_prefix(rest);
    }
    list.insert_formatted(index, new);
}

/// Up to the end of the line, and the rest with the break. White space alone is not beside
/// anything.
fn first_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
    if line.contains('#') {
        (line, rest)
    } else if rest.is_empty() {
        ("", line)
    } else {
        ("", rest)
    }
}

/// What stands before a table's head.
fn prefix(table: &Table) -> String {
    let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str());
    prefix.unwrap_or("\n").to_owned()
}

/// The comments over a table: those that an empty line sets apart, and its own.
fn split_heading(table: &Table) -> (String, String) {
    let prefix = prefix(table);
    match prefix.rfind("\n\n") {
        Some(end) if prefix[..end].contains('#') => {
            (prefix[..=end].to_owned(), prefix[end + 1..].to_owned())
        }
        _ => (String::new(), prefix),
    }
}

/// Inserts after what stands before it, wherever that is in the file. A heading stays
/// over the first of its group.
fn place(list: &mut ArrayOfTables, index: usize, mut table: Table) {
    if let Some(next) = list.get_mut(index) {
        let (heading, own) = split_heading(next);
        if !heading.is_empty() {
            let before = prefix(&table);
            table.decor_mut().set_prefix(format!("{heading}{before}"));
            next.decor_mut().set_prefix(own);
        }
    }
    // Tables are written by their places: the new one has the one before it.
    let position = list
        .get(index.saturating_sub(1))
        .and_then(|before| before.position());
    table.set_position(position);
    list.insert(index.min(list.len()), table);
}

/// `[[expect]]` with a line for each value.
fn table(values: &Map<String, Json>) -> Option<Table> {
    let mut text = String::from("\n[[expect]]\n");
    for (key, value) in values {
        write::lines(&mut text, &write::key(key), value);
    }
    let document: DocumentMut = text.parse().ok()?;
    let list = document.get("expect")?.as_array_of_tables()?;
    let mut table = list.get(0)?.clone();
    table.set_position(None);
    Some(table)
}

/// Tables that are copied stand where their new parent does.
fn unplace(item: &mut Item) {
    match item {
        Item::Table(table) => {
            table.set_position(None);
            for (_, inner) in table.iter_mut() {
                unplace(inner);
            }
        }
        Item::ArrayOfTables(list) => {
            for table in list.iter_mut() {
                table.set_position(None);
                for (_, inner) in table.iter_mut() {
                    unplace(inner);
                }
            }
        }
        _ => {}
    }
}

/// JSON as a TOML value.
pub(super) fn value(json: &Json) -> Value {
    let text = write::value(json);
    text.parse().unwrap_or_else(|_| Value::from(text))
}

/// Sets a key; a value that is there keeps the comments beside it.
pub(super) fn put(table: &mut dyn TableLike, key: &str, json: &Json) {
    let new = value(json);
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        Some(item) => *item = Item::Value(new),
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

/// Sets what a mismatch's path leads to. `got` is what the whole table came to be, and
/// `pattern` the same as a case writes it.
pub(super) fn set(table: &mut dyn TableLike, path: &str, got: &Json, pattern: &Json) {
    // The matcher for a text that is JSON: its path goes on inside.
    let parsed: Json;
    let inner = match (table.contains_key("json"), got.as_str()) {
        (true, Some(text)) if table.len() == 1 => {
            parsed = serde_json::from_str(text).unwrap_or_default();
            Some(&parsed)
        }
        _ => None,
    };
    if let Some(parsed) = inner {
        let pattern = pattern.get("json").unwrap_or(parsed);
        if let Some(json) = table.get_mut("json").and_then(Item::as_table_like_mut) {
            set(json, path, parsed, pattern);
        }
        return;
    }
    let Some((key, rest)) = split(table, path, got) else {
        return;
    };
    let (Some(got), Some(pattern)) = (got.get(&key), pattern.get(&key)) else {
        // It does not come any more; where it is empty it need not be named.
        table.remove(&key);
        return;
    };
    if rest.is_empty() {
        put(table, &key, pattern);
        return;
    }
    let replaced = match table.get_mut(&key) {
        Some(Item::Value(Value::Array(list))) => set_item(list, &rest, got, pattern),
        Some(item) => {
            let closed = is_matcher(item) && item.get("json").is_none();
            match item.as_table_like_mut() {
                Some(inner) if !closed => {
                    set(inner, &rest, got, pattern);
                    true
                }
                _ => false,
            }
        }
        None => false,
    };
    if !replaced {
        put(table, &key, pattern);
    }
}

/// An element of a list, `0.name`. False when the whole list must be written.
pub(super) fn set_item(list: &mut Array, path: &str, got: &Json, pattern: &Json) -> bool {
    let (index, rest) = path.split_once('.').unwrap_or((path, ""));
    let Ok(index) = index.parse::<usize>() else {
        return false;
    };
    let (Some(old), Some(got), Some(pattern)) =
        (list.get_mut(index), got.get(index), pattern.get(index))
    else {
        return false;
    };
    match old.as_inline_table_mut() {
        Some(table) if !rest.is_empty() => set(table, rest, got, pattern),
        _ => {
            let decor = old.decor().clone();
            *old = value(pattern);
            *old.decor_mut() = decor;
        }
    }
    true
}

fn is_matcher(item: &Item) -> bool {
    let Some(table) = item.as_table_like() else {
        return false;
    };
    let keys: Map<String, Json> = table
        .iter()
        .map(|(key, _)| (key.to_owned(), Json::Null))
        .collect();
    Matcher::is_special(&Json::Object(keys))
}

/// The first key of a path, whose keys may have dots in them, and the rest.
fn split(table: &dyn TableLike, path: &str, got: &Json) -> Option<(String, String)> {
    let given = got.as_object().into_iter().flat_map(Map::keys);
    let written = table.iter().map(|(key, _)| key.to_owned());
    given
        .cloned()
        .chain(written)
        .filter_map(|key| {
            let rest = path.strip_prefix(key.as_str())?;
            let rest = rest.strip_prefix('.').or(rest.is_empty().then_some(rest))?;
            Some((key, rest.to_owned()))
        })
        .max_by_key(|(key, _)| key.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::stable::Stable;

    fn edited(text: &str, index: usize, change: impl FnOnce(&mut Edit)) -> String {
        let mut edit = Edit::new(text, index).expect("TOML");
        change(&mut edit);
        edit.text()
    }

    fn call(name: &str) -> Map<String, Json> {
        json!({ "call": name })
            .as_object()
            .cloned()
            .expect("a table")
    }

    const LIST: &str = "expect = [\n  # over a\n  { call = \"a\" }, # beside a\n  \
                        # over b\n  { call = \"b\" }, # beside b\n]\n";

    #[test]
    fn comments_stay_with_what_they_are_about() {
        let first = edited(LIST, 0, |edit| drop(edit.remove(0)));
        assert_eq!(
            first,
            "expect = [\n  # over b\n  { call = \"b\" }, # beside b\n]\n"
        );
        let last = edited(LIST, 0, |edit| drop(edit.remove(1)));
        assert_eq!(
            last,
            "expect = [\n  # over a\n  { call = \"a\" }, # beside a\n]\n"
        );
        let between = edited(LIST, 0, |edit| edit.insert(1, &call("new")));
        assert_eq!(
            between,
            LIST.replace("  # over b", "  { call = \"new\" },\n  # over b")
        );
        let end = edited(LIST, 0, |edit| edit.insert(2, &call("new")));
        assert_eq!(
            end,
            LIST.replace("# beside b\n", "# beside b\n  { call = \"new\" },\n")
        );
        let short = "expect = [{ call = \"a\" }, { call = \"b\" }]\n";
        let new = edited(short, 0, |edit| edit.insert(1, &call("new")));
        assert_eq!(
            new,
            "expect = [{ call = \"a\" }, { call = \"new\" }, { call = \"b\" }]\n"
        );
    }

    const TABLES: &str = "# build\n\n# over a\n[[expect]]\ncall = \"a\"\n\n\
                          # push\n\n[[expect]]\ncall = \"b\"\n\n[[expect]]\ncall = \"c\"\n";

    #[test]
    fn headings_stay_over_their_group() {
        let gone = edited(TABLES, 0, |edit| drop(edit.remove(1)));
        assert_eq!(gone, TABLES.replace("[[expect]]\ncall = \"b\"\n\n", ""));
        let new = edited(TABLES, 0, |edit| edit.insert(1, &call("new")));
        assert_eq!(
            new,
            TABLES.replace("# push\n\n", "# push\n\n[[expect]]\ncall = \"new\"\n\n")
        );
        let moved = edited(TABLES, 0, |edit| {
            let item = edit.remove(1).expect("b");
            let expectation =
                Expectation::new("b", Matcher::Any, windlass_layers::scripted::Answer::Usual);
            edit.put_back(2, Taken { expectation, item });
        });
        assert_eq!(
            moved,
            "# build\n\n# over a\n[[expect]]\ncall = \"a\"\n\n# push\n\n\
             [[expect]]\ncall = \"c\"\n\n[[expect]]\ncall = \"b\"\n"
        );
    }

    #[test]
    fn only_what_differs_is_set() {
        let text = "[[expect]]\ncall = \"x\"\nwith.url = { glob = \"http*\" }\n\
                    with.labels.\"a.b\" = \"1\" # why\nwith.body.json.deep = { n = [1, 2] }\n\
                    with.gone = 1\n";
        let got = json!({
            "url": "ftp://x", "labels": {"a.b": "2"},
            "body": "{\"deep\":{\"n\":[1,3]}}", "new": {"k": true},
        });
        let pattern = Stable::new(windlass_model::RunId(Default::default())).pattern(got.clone());
        let matcher = json!({
            "url": {"glob": "http*"}, "labels": {"a.b": "1"},
            "body": {"json": {"deep": {"n": [1, 2]}}}, "gone": 1,
        });
        let matcher = Matcher::parse(&matcher).expect("one").closed();
        let mismatches = matcher.mismatches(Some(&got));
        let now = edited(text, 0, |edit| {
            edit.set_arguments(0, &mismatches, &got, &pattern);
        });
        let expected = text
            .replace("{ glob = \"http*\" }", "\"ftp://x\"")
            .replace("\"1\" # why", "\"2\" # why")
            .replace("[1, 2]", "[1, 3]")
            .replace("with.gone = 1\n", "");
        assert_eq!(now.replace("with.new = { k = true }\n", ""), expected);
        assert!(now.contains("with.new = { k = true }\n"), "{now}");
    }

    #[test]
    fn what_comes_from_the_head_becomes_the_cases_own() {
        let text = "[[expect]]\ncall = \"a\"\n\n[[case]]\nname = \"one\"\n\n\
                    [[case]]\nname = \"two\"\n";
        let now = edited(text, 0, |edit| edit.set_times(0, &json!(3)));
        assert!(
            now.starts_with("[[expect]]\ncall = \"a\"\n\n[[case]]\nname = \"one\"\n"),
            "{now}"
        );
        let read: toml::Table = now.parse().expect("TOML");
        let cases = read["case"].as_array().expect("cases");
        assert_eq!(
            cases[0]["expect"][0]["times"].as_integer(),
            Some(3),
            "{now}"
        );
        assert!(cases[1].get("expect").is_none(), "{now}");
    }
}
