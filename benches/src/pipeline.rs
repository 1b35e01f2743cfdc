//! The whole observer pipeline against a shell script with the same commands, on the
//! same parts; and, from the journal, the time in which no call was under way: the
//! engine's own.

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use windlass_journal::Journal;
use windlass_tests::registry::free_port;
use windlass_tests::{Rig, docker, tools};

use crate::sample::{Sample, Way, in_turns, time, timed};
use crate::table::Table;
use crate::{Context, Result, project};

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let rig = Rig::start()?;
    let script = Script::new(&rig)?;
    let rounds = context.rounds(7);
    let mut own = Vec::new();
    let mut turn = 0;
    let ways: [Way<'_>; 2] = [
        Box::new(|| {
            turn += 1;
            let tag = format!("20260124-{turn:06}");
            let begun = Timestamp::now();
            let took = timed(&mut project::windlass(
                context,
                &rig.workspace,
                &["run", "--tag", &tag],
            ))?;
            own.push(own_time(&rig, begun, took)?);
            Ok(took)
        }),
        Box::new(|| script.run()),
    ];
    let [windlass, shell] = in_turns(rounds, ways)?;
    drop(script);
    table.row(
        "the observer pipeline: build, verify, push, deploy, health",
        windlass.text(),
        "the same commands in a script",
        shell.text(),
        windlass.seconds() / shell.seconds(),
        "1.05",
    );
    let own = Sample::new(own);
    table.row(
        "of that, time in which no call was under way",
        own.text(),
        "the script's whole time",
        time(shell.median()),
        own.seconds() / shell.seconds(),
        "0.05",
    );
    Ok(())
}

/// The run's time less that in which at least one call waited for its answer.
fn own_time(rig: &Rig, begun: Timestamp, took: Duration) -> Result<Duration> {
    let state = rig.workspace.path().join(".windlass");
    let journal = Journal::open_existing(&state)?.ok_or("find the journal")?;
    let run = journal
        .runs(1)?
        .first()
        .map(|run| run.run)
        .ok_or("find the run")?;
    let mut calls: Vec<(Timestamp, Timestamp)> = journal
        .calls(run)?
        .into_iter()
        .filter_map(|call| Some((call.asked, call.answer?.at)))
        .collect();
    calls.sort_unstable();
    let (mut waited, mut until) = (Duration::ZERO, begun);
    for (asked, answered) in calls {
        let from = asked.max(until);
        if answered > from {
            waited += answered.duration_since(from).unsigned_abs();
            until = answered;
        }
    }
    Ok(took.saturating_sub(waited))
}

/// `scripts/deploy.sh` with a server directory, a project and a port of its own.
struct Script<'a> {
    rig: &'a Rig,
    project: String,
    port: u16,
    ssh: String,
    turn: std::cell::Cell<u32>,
}

impl<'a> Script<'a> {
    fn new(rig: &'a Rig) -> Result<Self> {
        // One connection for all commands, as a careful script has it.
        let control = rig.sshd.root().join("c");
        let mut ssh = rig.sshd.ssh();
        let destination = ssh
            .get_args()
            .last()
            .map(|word| word.to_string_lossy().into_owned())
            .unwrap_or_default();
        let shared = ["-o", "ControlMaster=auto", "-o", "ControlPersist=5"];
        ssh.args(shared)
            .arg("-o")
            .arg(format!("ControlPath={}", control.display()));
        let words: Vec<String> = ssh
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let mut words: Vec<String> = words
            .into_iter()
            .filter(|word| *word != destination)
            .collect();
        words.push(destination);
        Ok(Self {
            rig,
            project: format!("{}_script", rig.name()),
            port: free_port(std::net::Ipv4Addr::LOCALHOST.into())?,
            ssh: format!("ssh {}", words.join(" ")),
            turn: std::cell::Cell::new(0),
        })
    }

    fn run(&self) -> Result<Duration> {
        let rig = self.rig;
        self.turn.set(self.turn.get() + 1);
        let mut command = Command::new("/bin/sh");
        command
            .arg(tools::project_root().join("benches/scripts/deploy.sh"))
            .current_dir(rig.workspace.path())
            .envs(rig.workspace.env())
            .env("DOCKER_HOST", docker::host())
            .env("DOCKER_CONFIG", rig.registry.docker_config()?)
            .env("IMAGE", rig.registry.repository("observer"))
            .env("TAG", format!("20260125-{:06}", self.turn.get()))
            .env("DIR", rig.sshd.root().join(&self.project))
            .env("PORT", self.port.to_string())
            .env("REGISTRY", rig.registry.address())
            .env("USERNAME", rig.registry.user())
            .env("PASSWORD", rig.registry.password())
            .env("SSH", &self.ssh);
        timed(&mut command)
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        let _ = docker::remove_project(&self.project);
    }
}
