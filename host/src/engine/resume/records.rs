//! Going on with a run of which no journal tells: what the release records on the
//! targets say of it, and what follows from that by the graph. No effect, no clock.
//!
//! A step that a release needs had ended well before that release could be staged; a
//! release that is current shows its own step; one that never got so far shows that
//! nothing after it had begun; and one that is good shows that the run ended well. Of
//! all else nothing is known: what may be done twice is done, and about the rest a
//! person has to say.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde_json::Value as Json;
use windlass_manifest::{Graph, Outputs};
use windlass_model::reply::{Release, ReleaseState};
use windlass_model::{CallError, InheritedRelease, RunId, StepKey, TargetName};

use super::{Decision, Earlier, SAID};
use crate::engine::step::Done;

/// The digits of a run's id that lists show.
const SHORT_DIGITS: usize = 8;

/// A place where a step puts releases, and what its target said of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub step: StepKey,
    pub target: TargetName,
    pub dir: String,
    /// Newest first; else why nobody knows.
    pub releases: Result<Vec<Release>, CallError>,
}

impl Seen {
    fn of_run(&self, run: RunId) -> impl Iterator<Item = &Release> {
        let releases = self.releases.iter().flatten();
        releases.filter(move |release| is_of(release, run))
    }

    /// What a run left here last.
    pub fn left(&self, run: RunId) -> Option<&Release> {
        self.of_run(run).next()
    }

    fn current(&self) -> Option<&Release> {
        self.releases
            .iter()
            .flatten()
            .find(|release| release.is_current)
    }
}

fn is_of(release: &Release, run: RunId) -> bool {
    release.run.parse() == Ok(run)
}

/// A run, as records tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub run: RunId,
    pub tag: String,
    pub commit: String,
    pub who: String,
    /// Whether it said somewhere that it had ended well.
    pub ended_well: bool,
    /// Whether it said so wherever it left something.
    pub is_whole: bool,
    /// When it staged its last release.
    created: String,
}

fn is_good(release: &Release) -> bool {
    matches!(release.state, ReleaseState::Good | ReleaseState::Superseded)
}

/// The runs of this pipeline and environment, the one that staged last first.
pub fn traces(graph: &Graph, seen: &[Seen]) -> Vec<Trace> {
    let environment = graph.environment.as_ref();
    let environment = environment.map_or("", |environment| environment.name.as_str());
    let mut found: BTreeMap<RunId, Trace> = BTreeMap::new();
    for place in seen {
        // Only the newest of each run counts: those before it are earlier attempts.
        let mut here = BTreeSet::new();
        for release in place.releases.iter().flatten() {
            let ours = release.pipeline == graph.pipeline && release.environment == environment;
            let Some(run) = release.run.parse().ok().filter(|_| ours) else {
                continue;
            };
            if !here.insert(run) {
                continue;
            }
            let good = is_good(release);
            let trace = found.entry(run).or_insert_with(|| Trace {
                run,
                tag: release.tag.clone(),
                commit: release.commit.clone(),
                who: release.who.clone(),
                ended_well: false,
                is_whole: true,
                created: String::new(),
            });
            trace.ended_well |= good;
            trace.is_whole &= good;
            if release.created > trace.created {
                trace.created.clone_from(&release.created);
            }
        }
    }
    let mut found: Vec<Trace> = found.into_values().collect();
    found.sort_by(|a, b| (&b.created, b.run).cmp(&(&a.created, a.run)));
    found
}

/// The runs that a person may mean: by the beginning of an id, or by its last eight
/// digits.
pub fn called<'a>(traces: &'a [Trace], wanted: &str) -> Vec<&'a Trace> {
    let digits = wanted.replace('-', "").to_ascii_lowercase();
    let named = |trace: &&Trace| {
        let id = trace.run.0.simple().to_string();
        let short = digits.len() == SHORT_DIGITS && id.ends_with(&digits);
        !digits.is_empty() && (id.starts_with(&digits) || short)
    };
    traces.iter().filter(named).collect()
}

/// Where another release has become current since the run, by whose run.
pub fn passed(seen: &[Seen], run: RunId) -> Option<(&Seen, &Release)> {
    seen.iter().find_map(|place| {
        let current = place.current().filter(|current| !is_of(current, run))?;
        let later = current.run.parse::<RunId>().is_ok_and(|other| other > run);
        let over = place
            .left(run)
            .is_some_and(|left| left.state == ReleaseState::Superseded || current.id > left.id);
        (later || over).then_some((place, current))
    })
}

/// What is known of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// With what shows it.
    Done(String),
    /// It runs; with the reason where that is not plain.
    ToDo(String),
    /// Nobody knows, and it must not happen twice.
    Open(String),
}

/// What the engine knows of a step's plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nature {
    /// It may make calls that must not happen twice.
    pub once: bool,
    /// Its table `services` is what releases record as images, and its outputs are what
    /// `compose-deploy` gives.
    pub composes: bool,
}

/// A run, as far as records and graph give it back.
#[derive(Clone, Debug)]
pub struct Rebuilt<'a> {
    graph: &'a Graph,
    seen: &'a [Seen],
    run: RunId,
    nature: BTreeMap<StepKey, Nature>,
    known: BTreeMap<StepKey, Known>,
    outputs: Outputs,
    /// Of which somebody said that they count as done.
    skipped: BTreeSet<StepKey>,
}

impl<'a> Rebuilt<'a> {
    pub fn of(
        graph: &'a Graph,
        seen: &'a [Seen],
        trace: &Trace,
        nature: &dyn Fn(&StepKey) -> Nature,
    ) -> Self {
        let steps = graph.instances().into_iter();
        let mut rebuilt = Self {
            graph,
            seen,
            run: trace.run,
            nature: steps.map(|step| (step.clone(), nature(&step))).collect(),
            known: BTreeMap::new(),
            outputs: Outputs::default(),
            skipped: BTreeSet::new(),
        };
        rebuilt.read_back();
        rebuilt.judge(trace.ended_well);
        rebuilt.settle();
        rebuilt
    }

    /// Every instance with what is known of it, in the graph's order.
    pub fn steps(&self) -> Vec<(StepKey, &Known)> {
        let steps = self.graph.instances().into_iter();
        steps
            .filter_map(|step| {
                let known = self.known.get(&step)?;
                Some((step, known))
            })
            .collect()
    }

    /// What somebody has to say.
    pub fn questions(&self) -> Vec<(StepKey, String)> {
        let steps = self.steps().into_iter();
        let open = steps.filter_map(|(step, known)| match known {
            Known::Open(why) => Some((step, why.clone())),
            _ => None,
        });
        open.collect()
    }

    /// What somebody said; that may raise further questions.
    pub fn decide(&mut self, step: &StepKey, decision: Decision) {
        let known = match decision {
            Decision::Redo => Known::ToDo("runs again, as somebody said".to_owned()),
            Decision::Skip => {
                self.skipped.insert(step.clone());
                Known::Done(SAID.to_owned())
            }
        };
        self.known.insert(step.clone(), known);
        self.settle();
    }

    /// Outputs that steps to run need and that no record has, of steps that somebody
    /// wants left out: who needs it, the step, the output.
    pub fn lacking(&self) -> Vec<(StepKey, StepKey, String)> {
        self.unknown_outputs()
            .into_iter()
            .filter(|(_, step, _)| self.skipped.contains(step))
            .collect()
    }

    /// What the engine goes on from, once nothing is open.
    pub fn into_earlier(self) -> Earlier {
        let releases = self.current_ones();
        let ended = self.known.iter().filter_map(|(step, known)| {
            let Known::Done(why) = known else {
                return None;
            };
            let outputs = self.outputs.get(step).cloned().unwrap_or_default();
            Some((step.clone(), Done::reused(outputs, why)))
        });
        Earlier {
            ended: ended.collect(),
            releases,
            seen: self.seen.to_vec(),
            ..Earlier::default()
        }
    }

    /// Places of which one step alone is in charge: of others nobody knows whose the
    /// releases are.
    fn own_places(&self) -> impl Iterator<Item = &'a Seen> {
        let seen = self.seen;
        seen.iter().filter(move |place| {
            let same = |other: &&Seen| (&other.target, &other.dir) == (&place.target, &place.dir);
            seen.iter().filter(same).count() == 1
        })
    }

    /// Outputs that the records have.
    fn read_back(&mut self) {
        let mut found: BTreeMap<(StepKey, String), Vec<String>> = BTreeMap::new();
        for place in self.own_places().filter(|place| self.composes(&place.step)) {
            let Some(left) = place.left(self.run) else {
                continue;
            };
            let Some(node) = self.graph.step(place.step.name.as_str()) else {
                continue;
            };
            let dependencies = self.graph.dependencies(&place.step);
            for (service, step, output) in node.outputs_in("services") {
                let mut givers = dependencies.iter().filter(|key| key.name.as_str() == step);
                let image = left.images.iter().find(|(name, _)| name == service);
                // Several instances give a table, which is no image.
                if let (Some(giver), None, Some((_, image))) = (givers.next(), givers.next(), image)
                    && !image.contains("[secret:")
                {
                    let key = (giver.clone(), output.to_owned());
                    found.entry(key).or_default().push(image.clone());
                }
            }
        }
        let mut outputs: BTreeMap<StepKey, IndexMap<String, Json>> = BTreeMap::new();
        for ((step, output), mut images) in found {
            images.dedup();
            // Two that differ are no record of one output.
            if let [image] = images.as_slice() {
                let of_step = outputs.entry(step).or_default();
                of_step.insert(output, image.clone().into());
            }
        }
        for place in self.own_places().filter(|place| self.composes(&place.step)) {
            if let Some(release) = self.standing(place) {
                let of_step = outputs.entry(place.step.clone()).or_default();
                let previous = previous(place, self.run).unwrap_or_default();
                of_step.insert("release".to_owned(), release.id.clone().into());
                of_step.insert("changed".to_owned(), true.into());
                of_step.insert("previous".to_owned(), previous.into());
            }
        }
        for (step, outputs) in outputs {
            self.outputs.insert(&step, outputs);
        }
    }

    fn composes(&self, step: &StepKey) -> bool {
        self.nature.get(step).is_some_and(|nature| nature.composes)
    }

    /// The run's release, where it is what the place serves.
    fn standing(&self, place: &'a Seen) -> Option<&'a Release> {
        let up = |release: &&Release| {
            matches!(release.state, ReleaseState::Current | ReleaseState::Good)
        };
        place
            .left(self.run)
            .filter(|release| release.is_current)
            .filter(up)
    }

    /// What follows from the records alone.
    fn judge(&mut self, ended_well: bool) {
        let mut shown: BTreeMap<StepKey, String> = BTreeMap::new();
        let mut deploys: BTreeMap<StepKey, String> = BTreeMap::new();
        let mut not_begun: BTreeMap<StepKey, String> = BTreeMap::new();
        let mut away: BTreeMap<StepKey, String> = BTreeMap::new();
        for place in self.seen {
            if place.releases.is_err() {
                let why = format!("{} does not answer", place.target);
                away.insert(place.step.clone(), why);
            }
            // Nothing had changed where a run that ended well left nothing.
            let unchanged = ended_well && place.left(self.run).is_none();
            if !(unchanged && self.is_required(&place.step)) {
                deploys.insert(place.step.clone(), self.told_of(place));
            }
        }
        for place in self.own_places() {
            let Some(left) = place.left(self.run) else {
                continue;
            };
            for step in before(self.graph, &place.step) {
                let why = || format!("the release on {} needed it", place.target);
                shown.entry(step).or_insert_with(why);
            }
            if self.standing(place).is_some() {
                let why = match left.state {
                    ReleaseState::Good => "good",
                    _ => "it is current there",
                };
                shown.insert(place.step.clone(), why.to_owned());
            }
            let never_up = |release: &Release| {
                matches!(
                    release.state,
                    ReleaseState::Staged | ReleaseState::Activating
                )
            };
            if self.is_required(&place.step) && place.of_run(self.run).all(never_up) {
                let why = format!("comes after {}", place.step);
                for step in after(self.graph, &place.step) {
                    not_begun.entry(step).or_insert_with(|| why.clone());
                }
            }
        }
        let to_do: Vec<&StepKey> = deploys
            .keys()
            .filter(|step| !shown.contains_key(*step))
            .collect();
        for (node, step) in self.graph.steps.iter().flat_map(|node| {
            let instances = node.instances().into_iter();
            instances.map(move |step| (node, step))
        }) {
            let needs = before(self.graph, &step);
            let known = if node.cleanup {
                Known::ToDo("runs at the end of every run".to_owned())
            } else if let Some(why) = shown.remove(&step) {
                Known::Done(why)
            } else if let Some(why) = away.remove(&step) {
                Known::Open(why)
            } else if let Some(why) = deploys.get(&step) {
                Known::ToDo(why.clone())
            } else if ended_well && !to_do.iter().any(|deploy| needs.contains(*deploy)) {
                Known::Done("the run had ended well".to_owned())
            } else if let Some(why) = not_begun.remove(&step) {
                Known::ToDo(why)
            } else if self.nature[&step].once && !self.is_left_out(&step) {
                Known::Open("what it does leaves no record".to_owned())
            } else {
                Known::ToDo(String::new())
            };
            self.known.insert(step, known);
        }
    }

    /// Whether what comes after a step begins only when that ended well.
    fn is_required(&self, step: &StepKey) -> bool {
        let node = self.graph.step(step.name.as_str());
        node.is_some_and(|node| !node.continue_on_error)
    }

    /// What a place says of the run's release, where that is not served.
    fn told_of(&self, place: &Seen) -> String {
        let told = match place.left(self.run).map(|left| left.state) {
            None => "nothing of it there",
            Some(ReleaseState::Staged) => "staged, and not begun",
            Some(ReleaseState::Activating) => "cut short while it came up",
            Some(ReleaseState::Failed) => "did not come up, or was put back",
            Some(_) => "another step puts releases there, too",
        };
        told.to_owned()
    }

    /// Whether its condition says so, as far as that is known without outputs.
    fn is_left_out(&self, step: &StepKey) -> bool {
        let scope = self.graph.preview_scope(step, &self.outputs);
        let node = self.graph.step(step.name.as_str());
        node.is_some_and(|node| node.when(&scope) == Ok(Some(false)))
    }

    /// Has what gives a missing output run again, and what follows what runs again;
    /// what must not happen twice is asked about instead.
    fn settle(&mut self) {
        loop {
            let mut again: BTreeMap<StepKey, String> = BTreeMap::new();
            for (needs, step, output) in self.unknown_outputs() {
                let why = format!("its output {output}, which {needs} needs, is in no record");
                again.entry(step).or_insert(why);
            }
            for (step, known) in &self.known {
                if !matches!(known, Known::Done(_)) {
                    continue;
                }
                let runs = |need: &StepKey| matches!(self.known.get(need), Some(Known::ToDo(_)));
                let dependencies = self.graph.dependencies(step).into_iter();
                if let Some(need) = dependencies.into_iter().find(runs) {
                    let why = format!("{need} runs again");
                    again.entry(step.clone()).or_insert(why);
                }
            }
            again.retain(|step, _| !self.skipped.contains(step));
            if again.is_empty() {
                return;
            }
            for (step, why) in again {
                let known = match self.nature[&step].once {
                    true => Known::Open(format!("it ran already; {why}")),
                    false => Known::ToDo(why),
                };
                self.known.insert(step, known);
            }
        }
    }

    /// Outputs of steps that count as done which steps to run use, and which no record
    /// has: who uses it, the step, the output.
    fn unknown_outputs(&self) -> Vec<(StepKey, StepKey, String)> {
        let mut missing = Vec::new();
        for (step, known) in &self.known {
            let node = self.graph.step(step.name.as_str());
            let Some(node) = node.filter(|_| matches!(known, Known::ToDo(_))) else {
                continue;
            };
            let dependencies = self.graph.dependencies(step);
            for (name, output) in node.outputs_used() {
                for giver in dependencies.iter().filter(|key| key.name.as_str() == name) {
                    let done = matches!(self.known.get(giver), Some(Known::Done(_)));
                    let given = output.zip(self.outputs.get(giver));
                    let given = given.is_some_and(|(output, given)| given.contains_key(output));
                    if done && !given {
                        let output = output.unwrap_or("as a whole").to_owned();
                        missing.push((step.clone(), giver.clone(), output));
                    }
                }
            }
        }
        missing
    }

    /// Releases that the run that goes on has to mark as good, or to put back; also where
    /// the step runs again, so that it is known what was there before.
    fn current_ones(&self) -> Vec<InheritedRelease> {
        let standing = self.own_places().filter_map(|place| {
            let release = self.standing(place)?;
            // What is good already is not this run's to take back.
            (release.state == ReleaseState::Current).then_some((place, release))
        });
        standing
            .map(|(place, release)| InheritedRelease {
                step: place.step.clone(),
                target: place.target.clone(),
                dir: place.dir.clone(),
                release: release.id.clone(),
                previous: previous(place, self.run),
                changed: true,
            })
            .collect()
    }
}

/// The good release before the run's first one.
fn previous(place: &Seen, run: RunId) -> Option<String> {
    let releases = place.releases.as_deref().ok()?;
    let first = releases.iter().rposition(|release| is_of(release, run))?;
    let older = &releases[first + 1..];
    let good = older.iter().find(|release| is_good(release))?;
    Some(good.id.clone())
}

/// All that an instance needs, directly or not.
fn before(graph: &Graph, step: &StepKey) -> BTreeSet<StepKey> {
    let mut found = BTreeSet::new();
    let mut open = graph.dependencies(step);
    while let Some(step) = open.pop() {
        if found.insert(step.clone()) {
            open.extend(graph.dependencies(&step));
        }
    }
    found
}

/// All that needs an instance, directly or not.
fn after(graph: &Graph, step: &StepKey) -> Vec<StepKey> {
    let all = graph.instances().into_iter();
    all.filter(|other| before(graph, other).contains(step))
        .collect()
}

/// What of the records is not as it was seen: a place, as `TARGET:DIR`.
pub(in crate::engine) fn moved(then: &Seen, now: &[Release]) -> Option<String> {
    let same = then.releases.as_deref().is_ok_and(|then| then == now);
    (!same).then(|| format!("{}:{}", then.target, then.dir))
}

#[cfg(test)]
mod tests;
