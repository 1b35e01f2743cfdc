//! Makes a case that fails say what happens now: the calls that are made, and how it
//! ends. The text is edited in place, and only where it differs.
//!
//! It goes by rounds: run, mend the first thing that is wrong, run again, since after a
//! call that the script does not have a guest does something else. What must never be
//! accepted by itself stays wrong: a denied call, a secret that came out, a mess.

mod asserts;
mod edit;

use std::path::Path;

use serde_json::{Map, Value as Json, json};
use windlass_layers::scripted::{Asked, Expectation, Matcher, is_empty};

use crate::bench::{self, Actual, Tested};
use crate::case::{Case, CaseError, Subject};
use crate::format::Unused;
use crate::reader::parse;
use crate::record::stable::Stable;
use crate::verdict::{Problem, judge};
use edit::{Edit, Taken};

/// A round mends one call: a case of more is not meant to be read.
const MAX_ROUNDS: usize = 2000;

/// What the file would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub text: String,
    /// What would still be wrong with the case.
    pub left: Vec<Problem>,
}

/// Changes the case of this name until it passes, or nothing more can be done.
pub fn propose(
    path: &Path,
    text: &str,
    name: &str,
    tested: &Tested,
    seed: u64,
) -> Result<Proposal, CaseError> {
    let mut text = text.to_owned();
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let cases = parse(path, &text)?;
        let Some(index) = cases.iter().position(|case| case.name == name) else {
            break;
        };
        let case = &cases[index];
        let seed = case.seed.unwrap_or(seed);
        let actual = bench::run(case, tested, seed, &case.faults, false);
        left = judge(case, &actual);
        if left.is_empty() || actual.refused.is_some() {
            break;
        }
        let mut edit = Edit::new(&text, index).map_err(|message| CaseError {
            path: case.path.clone(),
            line: Some(case.line),
            message,
        })?;
        mend(&mut edit, case, &actual, &mut taken);
        let mended = edit.text();
        if mended == text {
            break;
        }
        text = mended;
    }
    Ok(Proposal { text, left })
}

/// The first thing that is wrong.
fn mend(edit: &mut Edit, case: &Case, actual: &Actual, taken: &mut Vec<Taken>) {
    if let Some(unexpected) = actual.unexpected.first() {
        if let Some(asked) = actual.transcript.get(unexpected.call) {
            Calls { case, actual }.mend(edit, asked, taken);
        }
        return;
    }
    if case.assert.unused == Unused::Fail
        && let Some(unused) = actual.unused.first()
    {
        shorten(edit, &unused.expectation, unused.used, taken);
        return;
    }
    asserts::mend(edit, case, actual);
}

/// One that was used less often than it says.
fn shorten(edit: &mut Edit, expectation: &Expectation, used: u32, taken: &mut Vec<Taken>) {
    if used > 0 {
        edit.set_times(expectation.index, &used.into());
    } else if let Some(item) = edit.remove(expectation.index) {
        taken.push(Taken {
            expectation: expectation.clone(),
            item,
        });
    }
}

struct Calls<'a> {
    case: &'a Case,
    actual: &'a Actual,
}

impl Calls<'_> {
    /// Expectations that the step's calls may use, in their order.
    fn of_step(&self, asked: &Asked) -> impl Iterator<Item = &Expectation> {
        let step = asked.id.step.to_string();
        self.case
            .expect
            .iter()
            .enumerate()
            .filter(move |(_, one)| one.step.as_ref().is_none_or(|of| *of == step))
            .map(|(_, one)| one)
    }

    fn used(&self, expectation: &Expectation) -> u32 {
        let index = self.index(expectation);
        self.actual.used.get(index).copied().unwrap_or(0)
    }

    fn index(&self, expectation: &Expectation) -> usize {
        self.case
            .expect
            .iter()
            .position(|one| std::ptr::eq(one, expectation))
            .unwrap_or(expectation.index)
    }

    fn mend(&self, edit: &mut Edit, asked: &Asked, taken: &mut Vec<Taken>) {
        let fits = |one: &&Expectation| one.call == asked.name && one.with.matches(&asked.with);
        let open: Vec<&Expectation> = self
            .of_step(asked)
            .filter(|one| self.used(one) < one.at_most)
            .collect();
        let Some(first) = open
            .iter()
            .find(|one| self.used(one) < one.at_least)
            .or(open.first())
        else {
            return self.one_more(edit, asked, taken, None);
        };
        let named = |one: &Expectation| !matches!(one.with, Matcher::Any);
        if open.iter().any(|one| fits(one) && named(one)) {
            // It comes later: what stands before it is not called any more.
            return self.drop(edit, first, taken);
        }
        let last = self.of_step(asked).filter(|one| self.used(one) > 0).last();
        if last.as_ref().is_some_and(fits) {
            return self.one_more(edit, asked, taken, Some(first));
        }
        if first.call == asked.name {
            let mismatches = first.with.mismatches(Some(&asked.with));
            let pattern = self.arguments(asked);
            edit.set_arguments(self.index(first), &mismatches, &asked.with, &pattern);
        } else if open.iter().any(|one| one.call == asked.name) {
            self.drop(edit, first, taken);
        } else {
            self.one_more(edit, asked, taken, Some(first));
        }
    }

    fn drop(&self, edit: &mut Edit, expectation: &Expectation, taken: &mut Vec<Taken>) {
        let mut gone = expectation.clone();
        gone.index = self.index(expectation);
        shorten(edit, &gone, self.used(expectation), taken);
    }

    /// A call more: as the one before it, as one that stood elsewhere, or a new one.
    fn one_more(
        &self,
        edit: &mut Edit,
        asked: &Asked,
        taken: &mut Vec<Taken>,
        before: Option<&Expectation>,
    ) {
        let fits = |one: &Expectation| one.call == asked.name && one.with.matches(&asked.with);
        let last = self.of_step(asked).filter(|one| self.used(one) > 0).last();
        if let Some(last) = last.filter(|last| fits(last)) {
            let used = self.used(last) + 1;
            let times = match last.at_least {
                least if least == last.at_most => json!(used),
                least => json!(format!("{least}..{used}")),
            };
            return edit.set_times(self.index(last), &times);
        }
        let place = match before {
            Some(before) => self.index(before),
            None => {
                let last = self.of_step(asked).last();
                last.map_or(self.case.expect.len(), |last| self.index(last) + 1)
            }
        };
        if let Some(index) = taken.iter().position(|taken| fits(&taken.expectation)) {
            return edit.put_back(place, taken.remove(index));
        }
        let mut new = Map::new();
        if matches!(self.case.subject, Subject::Pipeline(_)) {
            new.insert("step".to_owned(), asked.id.step.to_string().into());
        }
        new.insert("call".to_owned(), asked.name.as_str().into());
        let with = self.arguments(asked);
        new.insert("with".to_owned(), with);
        if let Some(reply) = plain_reply(&asked.name) {
            new.insert("reply".to_owned(), reply);
        }
        edit.insert(place, &new);
    }

    /// What a case has of a call's arguments: those that are not empty.
    fn arguments(&self, asked: &Asked) -> Json {
        let stable = Stable::new(asked.id.run);
        let mut with = stable.pattern(asked.with.clone());
        if let Some(with) = with.as_object_mut() {
            with.retain(|_, value| !is_empty(value));
            if asked.name == "releases.stage" {
                with.insert("who".to_owned(), json!({ "any": true }));
            }
        }
        with
    }
}

/// The answer of a call that has no usual one; a person looks at it.
fn plain_reply(call: &str) -> Option<Json> {
    match call {
        "docker.inspect-image"
        | "docker.inspect-container"
        | "registry.manifest"
        | "target.inspect"
        | "releases.stage"
        | "git.inspect"
        | "git.tag-state" => Some(json!({})),
        "ssh.download" | "file.open" | "file.archive" => Some("".into()),
        call if call.starts_with("http.") => Some(200.into()),
        _ => None,
    }
}
