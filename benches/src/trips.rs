//! Round trips of a deploy that finds nothing to change, counted by a relay in front of
//! the server, and found again from the time that they cost when the server is far.

use std::time::Duration;

use windlass_journal::Journal;
use windlass_tests::{Relay, Rig, process};

use crate::sample::timed;
use crate::table::Table;
use crate::{Context, Result, project};

/// Each way; a round trip is twice that.
const FAR: Duration = Duration::from_millis(50);

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let mut rig = Rig::start()?;
    let relay = Relay::to(rig.sshd.address())?;
    rig.through(&relay)?;
    let windlass = |args: &[&str]| project::windlass(context, &rig.workspace, args);
    process::capture(&mut windlass(&["run", "--tag", "20260124-014658"]))?;
    only_deploy(&rig)?;
    let run = || windlass(&["run", "--tag", "20260124-014658", "--file", "deploy.toml"]);
    process::capture(&mut run())?;

    // Some messages of OpenSSH's cross on the way: a far server keeps their order.
    relay.set_latency(FAR);
    let counted = |work: &mut dyn FnMut() -> Result<Duration>| {
        let mut counts = Vec::new();
        for _ in 0..context.rounds(5) {
            let before = relay.round_trips();
            let took = work()?;
            counts.push((relay.round_trips() - before, took));
        }
        counts.sort_unstable();
        Ok::<_, crate::Error>(counts[counts.len() / 2])
    };
    let known_hosts = rig.workspace.path().join("deploy/known_hosts");
    let ssh = |script: &str| {
        let mut command =
            rig.sshd
                .ssh_with(&rig.sshd.private_key_file(), &known_hosts, relay.port());
        command.arg(script);
        command
    };
    let (connected, ssh_took) = counted(&mut || timed(&mut ssh("true")))?;
    let (deployed, windlass_took) = counted(&mut || timed(&mut run()))?;
    calls(&rig)?;
    let dir = rig.dir();
    // What a script does at the least: each file, then compose, one connection each.
    let (scripted, script_took) = counted(&mut || {
        let mut took = timed(&mut ssh(&format!("mkdir -p {dir}/script")))?;
        took += timed(&mut ssh(&format!("echo > {dir}/script/docker-compose.yml")))?;
        took += timed(&mut ssh(&format!("echo > {dir}/script/.env")))?;
        Ok(took
            + timed(&mut ssh(&format!(
                "cd {dir}/current && docker compose ps --quiet"
            )))?)
    })?;
    // A plain `ssh HOST true` connects and runs one command: two round trips of it.
    let connecting = connected.saturating_sub(2);
    eprintln!(
        "    `ssh true`: {connected} ({ssh_took:?}); windlass: {deployed} ({windlass_took:?}); \
         script: {scripted} ({script_took:?})"
    );
    table.row(
        "round trips of a deploy that changes nothing, after connecting",
        deployed.saturating_sub(connecting).to_string(),
        "a script with ssh, four commands",
        scripted.to_string(),
        deployed.saturating_sub(connecting) as f64 / scripted as f64,
        "5",
    );
    table.row(
        "the same, time at 100 ms a round trip, connecting included",
        format!("{:.2} s", windlass_took.as_secs_f64()),
        "the same script",
        format!("{:.2} s", script_took.as_secs_f64()),
        windlass_took.as_secs_f64() / script_took.as_secs_f64(),
        "none",
    );
    Ok(())
}

/// Says where the last run's time went.
fn calls(rig: &Rig) -> Result<()> {
    let journal = Journal::open_existing(&rig.workspace.path().join(".windlass"))?
        .ok_or("find the journal")?;
    let run = journal.runs(1)?.first().ok_or("find the run")?.run;
    for call in journal.calls(run)? {
        let took = call
            .answer
            .map(|answer| answer.at.duration_since(call.asked));
        eprintln!("    {} {}: {took:?}", call.id.step, call.name);
    }
    Ok(())
}

/// A manifest of the same project with nothing but its deploy, of the image that is
/// there already.
fn only_deploy(rig: &Rig) -> Result<()> {
    let digest = rig
        .registry
        .digest("observer", "20260124-014658")?
        .ok_or("find the image that was pushed")?;
    let reference = format!("{}@{digest}", rig.registry.repository("observer"));
    let text = rig.workspace.read("windlass.toml")?;
    let (head, _) = text
        .split_once("[step.build]")
        .ok_or("find the first step")?;
    let step = format!(
        "[step.deploy]\nuses = \"compose-deploy\"\non = \"{{{{ environment.targets }}}}\"\n\
         with = {{ file = \"docker-compose.server.yml\", services = {{ observer = \"{reference}\" }}, \
         dir = \"{{{{ environment.dir }}}}\", env = {{ OBSERVER_PORT = \"{{{{ vars.port }}}}\" }} }}\n"
    );
    rig.workspace
        .write("deploy.toml", format!("{head}{step}"))?;
    rig.workspace.commit("Deploy only")?;
    Ok(())
}
