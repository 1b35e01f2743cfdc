//! `windlass resume` where no journal tells of the run: from the release records on
//! the targets, as a new run.

use jiff::Timestamp;
use windlass_manifest::Outputs;
use windlass_model::{RunId, StepKey, TargetName};
use windlass_report::Tone;
use windlass_report::table::Table;
use windlass_report::text;

use super::{Difference, ResumeArgs, begin_anew, confirm, decide, refuse};
use crate::cli::opened::Opened;
use crate::cli::releases;
use crate::cli::session::{self, Backends, Session};
use crate::cli::terminal::Terminal;
use crate::engine::resume::records::{Known, Rebuilt, Seen, Trace, called, passed, traces};
use crate::engine::{self, Earlier};
use crate::exit::Exit;
use crate::project::{Options, Recorded};

/// `why`: no journal tells of the run.
pub(super) async fn go_on(args: &ResumeArgs, why: &str, terminal: &Terminal) -> Result<Exit, Exit> {
    let options = Options {
        file: args.which.file.clone(),
        environment: args.env.clone(),
        vars: args.vars.iter().cloned().collect(),
        tag: None,
        only: Vec::new(),
        from: None,
        recorded: None,
    };
    // Tag and time are the run's once it is known; where its releases are, is known before.
    let looking = session::open(terminal, &options).await?;
    let backends = looking.backends(terminal).await?;
    let (session, options, earlier) =
        match prepare(args, options, &looking, &backends, why, terminal).await {
            Ok(prepared) => prepared,
            Err(exit) => {
                backends.close().await;
                return Err(exit);
            }
        };
    let opened = Opened::with(backends, &session, &args.which.state, terminal).await?;
    let (show, reused) = (&args.which.show, Outputs::default());
    begin_anew(opened, &session, &options, show, reused, earlier, terminal).await
}

/// What there is to run: nothing was changed so far.
async fn prepare(
    args: &ResumeArgs,
    mut options: Options,
    looking: &Session,
    backends: &Backends,
    why: &str,
    terminal: &Terminal,
) -> Result<(Session, Options, Earlier), Exit> {
    let seen = look(looking, backends, why, terminal).await?;
    let trace = choose(args, looking, &seen, why, terminal)?;
    options.tag = Some(trace.tag.clone());
    options.recorded = Some(recorded(looking, trace.run));
    let session = session::open(terminal, &options).await?;
    let nature = |step: &StepKey| engine::nature_of(&session.graph, &session.plugins, step);
    let mut rebuilt = Rebuilt::of(&session.graph, &seen, &trace, &nature);
    show(&trace, &seen, &rebuilt, terminal);
    refuse_unsure(&trace, &seen, terminal)?;
    let changed = compare(args, &trace, &session, &seen, terminal).await?;
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    confirm(&session, args.which.yes, terminal)?;
    settle(args, &trace, &mut rebuilt, terminal)?;
    let mut earlier = rebuilt.into_earlier();
    earlier.notice = Some(notice(&trace, &changed));
    Ok((session, options, earlier))
}

/// Asks every place where the pipeline puts releases.
async fn look(
    session: &Session,
    backends: &Backends,
    why: &str,
    terminal: &Terminal,
) -> Result<Vec<Seen>, Exit> {
    let steps = engine::release_directories(&session.graph, &session.plugins);
    if steps.is_empty() {
        terminal.error(
            why,
            Some(
                "`windlass runs` lists what is recorded, --state names another directory. No step \
                 of this pipeline puts releases on a target, so no records there tell of its \
                 runs either",
            ),
        );
        return Err(Exit::Invalid);
    }
    let mut places: Vec<(TargetName, String)> = steps
        .iter()
        .map(|(_, target, dir)| (target.clone(), dir.clone()))
        .collect();
    places.sort();
    places.dedup();
    let answers = releases::look(&places, session, backends).await;
    let seen = steps.into_iter().filter_map(|(step, target, dir)| {
        let same = |(place, _): &(&(TargetName, String), _)| place.0 == target && place.1 == dir;
        let (_, releases) = places.iter().zip(&answers).find(same)?;
        let releases = releases.clone();
        Some(Seen {
            step,
            target,
            dir,
            releases,
        })
    });
    Ok(seen.collect())
}

/// The run to go on with.
fn choose(
    args: &ResumeArgs,
    session: &Session,
    seen: &[Seen],
    why: &str,
    terminal: &Terminal,
) -> Result<Trace, Exit> {
    let all = traces(&session.graph, seen);
    let trace = match &args.which.run {
        None => all.first(),
        Some(wanted) => match called(&all, wanted).as_slice() {
            [trace, _, ..] => {
                let other = trace.run;
                terminal.error(
                    &format!("more than one run is called `{wanted}`: {other} is one of them"),
                    Some("give more digits of the id"),
                );
                return Err(Exit::Invalid);
            }
            found => found.first().copied(),
        },
    };
    if let Some(trace) = trace.filter(|trace| !trace.is_whole) {
        return Ok(trace.clone());
    }
    let away = tell_away(seen, terminal);
    let environment = session.graph.environment.as_ref();
    let of = environment.map_or_else(String::new, |environment| {
        format!(" to {}", environment.name)
    });
    let pipeline = &session.graph.pipeline;
    match trace {
        Some(trace) => terminal.error(
            &format!(
                "run {} of {pipeline}{of} is good on each target that answers and has a release \
                 of it: there is nothing to go on with",
                trace.run.short()
            ),
            Some("`windlass run` begins another; `windlass releases` lists what is there"),
        ),
        None => {
            let named = args.which.run.as_ref();
            let named = named.map_or_else(|| "a run".to_owned(), |run| format!("run `{run}`"));
            terminal.error(
                &format!(
                    "{why}, and no target that answers has a release of {named} of {pipeline}{of}"
                ),
                Some(
                    "a run that was cut short before its first release leaves none: `windlass \
                     run` begins another",
                ),
            );
        }
    }
    Err(if away {
        Exit::NeedsPerson
    } else {
        Exit::Invalid
    })
}

/// Says which targets do not answer; whether there are some.
fn tell_away(seen: &[Seen], terminal: &Terminal) -> bool {
    let mut told: Vec<&TargetName> = Vec::new();
    for place in seen {
        if let Err(error) = &place.releases
            && !told.contains(&&place.target)
        {
            told.push(&place.target);
            terminal.error(
                &format!(
                    "what is on {} is not known: {}",
                    place.target, error.message
                ),
                error.hint.as_deref(),
            );
        }
    }
    !told.is_empty()
}

/// Time and branch are not in the records; but a run's id has its time.
fn recorded(session: &Session, run: RunId) -> Recorded {
    let project = &session.project;
    let branch = project.git.as_ref().and_then(|git| git.branch.clone());
    Recorded {
        run: Some(session.run),
        started: began(run).unwrap_or(session.started),
        branch: branch
            .or_else(|| project.ci.branch.clone())
            .unwrap_or_default(),
        env: Default::default(),
    }
}

/// RFC 9562, 5.7: the first 48 bits are milliseconds since 1970.
fn began(run: RunId) -> Option<Timestamp> {
    let (seconds, nanoseconds) = run.0.get_timestamp()?.to_unix();
    let nanoseconds = i32::try_from(nanoseconds).ok()?;
    Timestamp::new(i64::try_from(seconds).ok()?, nanoseconds).ok()
}

/// What the records give back of the run.
fn show(trace: &Trace, seen: &[Seen], rebuilt: &Rebuilt<'_>, terminal: &Terminal) {
    terminal.say(&windlass_report::clean(&format!(
        "run {} left no journal here; by the records on the targets it was {} of commit {}, by {}:",
        trace.run.short(),
        trace.tag,
        if trace.commit.is_empty() {
            "none"
        } else {
            text::commit(&trace.commit)
        },
        trace.who
    )));
    let mut places = Table::new(&["target", "release", "state"]);
    for place in seen {
        let (release, tone, state) = match (&place.releases, place.left(trace.run)) {
            (Err(_), _) => ("", Tone::Bad, "does not answer"),
            (Ok(_), None) => ("", Tone::Faint, "nothing of it"),
            (Ok(_), Some(left)) => {
                let (tone, state) = windlass_report::table::release_state(left);
                (left.id.as_str(), tone, state)
            }
        };
        places.row([
            (Tone::Plain, place.target.to_string()),
            (Tone::Strong, release.to_owned()),
            (tone, state.to_owned()),
        ]);
    }
    let mut steps = Table::new(&["step", "", "why"]);
    for (step, known) in rebuilt.steps() {
        let (tone, word, why) = match known {
            Known::Done(why) => (Tone::Good, "done", why),
            Known::ToDo(why) => (Tone::Active, "to do", why),
            Known::Open(why) => (Tone::Warning, "not known", why),
        };
        steps.row([
            (Tone::Plain, step.to_string()),
            (tone, word.to_owned()),
            (Tone::Plain, why.clone()),
        ]);
    }
    for table in [places, steps] {
        let shown = table.render(terminal.width(), terminal.people);
        terminal.say(&format!("\n{}", shown.trim_end()));
    }
    terminal.say("");
}

/// Nothing is guessed about a target that is away, nor is a release put over a later one.
fn refuse_unsure(trace: &Trace, seen: &[Seen], terminal: &Terminal) -> Result<(), Exit> {
    let id = trace.run.short();
    if tell_away(seen, terminal) {
        terminal.error(
            &format!("run {id} is not gone on with while a target does not answer"),
            Some(
                "resume when all of them do, or take the target out of the environment and pass \
                 --allow-changed",
            ),
        );
        return Err(Exit::NeedsPerson);
    }
    if let Some((place, current)) = passed(seen, trace.run) {
        terminal.error(
            &windlass_report::clean(&format!(
                "release {} of {} became current on {} after run {id}",
                current.id, current.who, place.target
            )),
            Some(&format!(
                "`windlass run --tag {}` deploys this one all the same; `windlass rollback` goes \
                 back to an earlier one",
                trace.tag
            )),
        );
        return Err(Exit::NeedsPerson);
    }
    Ok(())
}

/// Refuses what is not as the records have it, or gives the places where it differs.
async fn compare(
    args: &ResumeArgs,
    trace: &Trace,
    session: &Session,
    seen: &[Seen],
    terminal: &Terminal,
) -> Result<Vec<String>, Exit> {
    let mut differences = Vec::new();
    let git = session.project.git.clone().unwrap_or_default();
    let or_none = |text: &str| match text {
        "" => "none".to_owned(),
        text => text.to_owned(),
    };
    if trace.commit != git.commit {
        differences.push(Difference {
            place: "the commit".into(),
            then: or_none(&trace.commit),
            now: or_none(&git.commit),
        });
    }
    if git.dirty && !session.graph.settings.allow_dirty {
        differences.push(Difference {
            place: "the working tree".into(),
            then: "not recorded".into(),
            now: "with changes".into(),
        });
    }
    for place in seen {
        let Some(left) = place.left(trace.run) else {
            continue;
        };
        if let Some(now) = compose_file(session, &place.step).await
            && !left.compose_sha256.is_empty()
            && now != left.compose_sha256
        {
            differences.push(Difference {
                place: format!("the compose file of {}", place.step),
                then: left.compose_sha256.clone(),
                now,
            });
        }
    }
    terminal.say(
        "not compared, as no record has them: the manifest, plugins, variables, and changes in \
         no commit",
    );
    if differences.is_empty() || args.which.allow_changed {
        return Ok(differences.into_iter().map(|one| one.place).collect());
    }
    Err(refuse(&trace.run.short(), differences, terminal))
}

/// The digest of the one file that a step which deploys reads; nothing where that is
/// not known.
async fn compose_file(session: &Session, step: &StepKey) -> Option<String> {
    use sha2::Digest as _;
    let (graph, plugins) = (&session.graph, &session.plugins);
    if !engine::nature_of(graph, plugins, step).composes {
        return None;
    }
    let requests = engine::requests_of(graph, plugins, step, &Outputs::default(), true).ok()?;
    let file = requests
        .iter()
        .find(|request| request.grant.verb == "file.read" && request.grant.pattern.is_literal())?;
    let path = session.project.root.join(file.grant.pattern.to_subject());
    let bytes = tokio::fs::read(path).await.unwrap_or_default();
    Some(hex::encode(sha2::Sha256::digest(bytes)))
}

/// Asks until nothing is open.
fn settle(
    args: &ResumeArgs,
    trace: &Trace,
    rebuilt: &mut Rebuilt<'_>,
    terminal: &Terminal,
) -> Result<(), Exit> {
    let id = trace.run.short();
    loop {
        let open = rebuilt.questions();
        if open.is_empty() {
            break;
        }
        let asked: Vec<String> = open
            .iter()
            .map(|(step, why)| format!("step {step} may have run, wholly or in part\n  {why}"))
            .collect();
        let decisions = decide(&asked, args.on_ambiguous, &id, terminal)?;
        for ((step, _), decision) in open.iter().zip(decisions) {
            rebuilt.decide(step, decision);
        }
    }
    let lacking = rebuilt.lacking();
    let Some((needs, step, output)) = lacking.first() else {
        return Ok(());
    };
    terminal.error(
        &format!("step {step} cannot be skipped: {needs} needs its output {output}, which is in no record"),
        Some(&format!(
            "`windlass resume {id} --on-ambiguous redo` does it again; `windlass run --tag {}` \
             does everything again",
            trace.tag
        )),
    );
    Err(Exit::NeedsPerson)
}

/// For the journal of the new run, and for whoever watches.
fn notice(trace: &Trace, changed: &[String]) -> String {
    let mut notice = format!(
        "goes on with run {} of {}, from the records on the targets",
        trace.run.short(),
        trace.who
    );
    if !changed.is_empty() {
        notice.push_str(&format!("; changed since: {}", changed.join(", ")));
    }
    notice
}
