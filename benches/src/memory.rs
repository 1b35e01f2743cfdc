//! Peak memory of the whole observer pipeline, against what the peers need before
//! their first connection.

use std::process::Command;

use windlass_tests::scratch::Scratch;
use windlass_tests::{Rig, Workspace, process};

use crate::sample::{Peak, Sample, megabytes, peak, timed};
use crate::table::Table;
use crate::{Context, Result, peers, project};

/// What `kamal config` needs to have something to say.
const KAMAL: &str = "service: observer\nimage: acme/observer\nservers: [192.0.2.1]\n\
                     builder: {arch: amd64}\nregistry: {username: acme, password: [TOKEN]}\n";

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let programs = peers::programs()?;
    let rig = Rig::start()?;
    let scratch = Scratch::new()?;
    scratch.write("config/deploy.yml", KAMAL)?;
    scratch.write(".kamal/secrets", "TOKEN=0123456789\n")?;
    // It takes its version from git.
    for words in [
        &["init", "--quiet"][..],
        &["add", "--all"][..],
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@example.invalid",
            "commit",
            "--quiet",
            "--message=x",
        ][..],
    ] {
        process::capture(Command::new("git").args(words).current_dir(scratch.path()))?;
    }
    let peer = |program: &str, args: &[&str]| {
        let mut command = Command::new(programs.join(program));
        command.args(args).current_dir(scratch.path());
        command
    };
    let commands: [(&str, &str, &[&str]); 4] = [
        ("`kamal version`", "kamal", &["version"]),
        ("`kamal config`", "kamal", &["config"]),
        ("`pyinfra --version`", "pyinfra", &["--version"]),
        (
            "`ansible-playbook --version`",
            "ansible-playbook",
            &["--version"],
        ),
    ];
    let rounds = context.rounds(5);
    let mut pipeline = Vec::new();
    let mut theirs = vec![Vec::new(); commands.len()];
    for round in 0..rounds {
        let tag = format!("20260124-{round:06}");
        let mut command = rig
            .windlass(["run", "--tag", &tag])
            .program(&context.windlass)
            .command();
        pipeline.push(peak(&mut command)?);
        for ((_, program, args), theirs) in commands.iter().zip(&mut theirs) {
            theirs.push(peak(&mut peer(program, args))?);
        }
    }
    let (own, tree) = middle(&pipeline);
    eprintln!("    windlass with its ssh and git: {}", megabytes(tree));
    for ((name, ..), theirs) in commands.iter().zip(&theirs) {
        let (_, their_tree) = middle(theirs);
        table.row(
            "peak memory of the whole observer pipeline",
            megabytes(own),
            format!("{name}, no deploy"),
            megabytes(their_tree),
            own as f64 / their_tree as f64,
            "60 MB",
        );
    }
    start_up(context, table, &commands, &peer)
}

/// What each needs until it has read its project.
fn start_up(
    context: &Context,
    table: &mut Table,
    commands: &[(&str, &str, &[&str])],
    peer: &dyn Fn(&str, &[&str]) -> Command,
) -> Result<()> {
    let workspace = Workspace::observer()?;
    let mut times = vec![Vec::new(); commands.len() + 1];
    for _ in 0..context.rounds(7) {
        times[0].push(timed(&mut project::windlass(
            context,
            &workspace,
            &["check"],
        ))?);
        for ((_, program, args), times) in commands.iter().zip(&mut times[1..]) {
            times.push(timed(&mut peer(program, args))?);
        }
    }
    let samples: Vec<Sample> = times.into_iter().map(Sample::new).collect();
    for ((name, ..), theirs) in commands.iter().zip(&samples[1..]) {
        table.row(
            "start-up: `windlass check` of the observer manifest",
            samples[0].text(),
            *name,
            theirs.text(),
            samples[0].seconds() / theirs.seconds(),
            "none",
        );
    }
    Ok(())
}

/// Medians of the process's own peak and of the whole tree's.
fn middle(peaks: &[Peak]) -> (u64, u64) {
    let median = |of: fn(&Peak) -> u64| {
        let mut all: Vec<u64> = peaks.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    (median(|peak| peak.own), median(|peak| peak.tree))
}
