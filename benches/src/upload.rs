//! 1 GiB to a target, against `ssh host 'cat > file'` with the same file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use windlass_journal::Journal;
use windlass_tests::{Sshd, Workspace, process};

use crate::sample::{Sample, Way, in_turns, megabytes, peak, time, timed};
use crate::table::Table;
use crate::{Context, Result, project};

const GIBIBYTE: u64 = 1 << 30;

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let sshd = Sshd::start()?;
    let mut workspace = Workspace::empty()?;
    workspace.set_env("SSH_KEY", sshd.private_key());
    workspace.write("known_hosts", sshd.known_hosts())?;
    std::fs::create_dir_all(sshd.root())?;
    let (ours, theirs) = (sshd.root().join("ours"), sshd.root().join("theirs"));
    project::add(context, &workspace, "upload", &manifest(&sshd, &ours))?;
    let large = workspace.path().join("large");
    fill(&large, GIBIBYTE)?;

    let mut calls = Vec::new();
    let ways: [Way<'_>; 3] = [
        Box::new(|| {
            let took = timed(&mut project::windlass(context, &workspace, &["run"]))?;
            calls.push(call_time(&workspace)?);
            Ok(took)
        }),
        Box::new(|| {
            let command = format!(
                "cat > {0}.part && sync {0}.part && mv {0}.part {0}",
                theirs.display()
            );
            cat(&sshd, &large, &command)
        }),
        Box::new(|| cat(&sshd, &large, &format!("cat > {}", theirs.display()))),
    ];
    let [whole, synced, plain] = in_turns(context.rounds(5), ways)?;
    if std::fs::metadata(&ours)?.len() != GIBIBYTE {
        return Err("find the whole file on the target".into());
    }
    let speed = |took: Duration| {
        format!(
            "{:.0} MB/s ({})",
            GIBIBYTE as f64 / took.as_secs_f64() / 1e6,
            time(took)
        )
    };
    let call = Sample::new(calls);
    let rows = [
        (
            "upload of 1 GiB: the call",
            &call,
            "`ssh HOST 'cat > file'`",
            &plain,
            "0.95",
        ),
        (
            "upload of 1 GiB: the call, synced",
            &call,
            "the same with `sync` and `mv`",
            &synced,
            "none",
        ),
        (
            "upload of 1 GiB: the whole run, with SHA-256",
            &whole,
            "`ssh HOST 'cat > file'`",
            &plain,
            "none",
        ),
    ];
    for (what, ours, peer, theirs, bound) in rows {
        table.row(
            format!("{what} (ratio of speeds)"),
            speed(ours.median()),
            peer,
            speed(theirs.median()),
            theirs.seconds() / ours.seconds(),
            bound,
        );
    }
    memory(context, table, &workspace, &large)
}

/// Flat: as much for 1 GiB as for 1 MiB.
fn memory(context: &Context, table: &mut Table, workspace: &Workspace, large: &Path) -> Result<()> {
    let measure =
        || peak(&mut project::windlass(context, workspace, &["run"])).map(|peak| peak.own);
    let much = measure()?;
    fill(large, 1 << 20)?;
    let little = measure()?;
    table.row(
        "peak memory of an upload of 1 GiB",
        megabytes(much),
        "windlass itself with 1 MiB",
        megabytes(little),
        much as f64 / little as f64,
        "flat",
    );
    Ok(())
}

fn manifest(sshd: &Sshd, path: &Path) -> String {
    let (ssh, path) = (sshd.destination(), path.display());
    format!(
        "[pipeline]\nname = \"upload\"\n\n[plugin.upload]\npath = \"plugins/upload.wasm\"\n\n\
         [target.box]\nssh = \"{ssh}\"\nkey = {{ secret = \"SSH_KEY\" }}\nknown_hosts = \"known_hosts\"\n\n\
         [step.upload]\nuses = \"upload\"\n\
         with = {{ file = \"large\", to = \"box\", path = \"{path}\" }}\n\
         grant = [\"file.read large\", \"ssh.upload box:{path}\"]\n"
    )
}

/// Bytes that do not compress, so that no layer below can shine.
fn fill(path: &Path, size: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let (mut state, mut block) = (0x9E37_79B9_7F4A_7C15_u64, vec![0_u8; 1 << 20]);
    for _ in 0..size >> 20 {
        for word in block.chunks_exact_mut(8) {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}

fn cat(sshd: &Sshd, file: &Path, script: &str) -> Result<Duration> {
    let mut command: Command = sshd.ssh();
    command
        .arg(script)
        .stdin(File::open(file)?)
        .stdout(Stdio::null());
    let begun = Instant::now();
    let status = command.status()?;
    if status.success() {
        return Ok(begun.elapsed());
    }
    Err(format!("run `{}`: {status}", process::display(&command)).into())
}

/// From the intent to the answer of the last run's upload.
fn call_time(workspace: &Workspace) -> Result<Duration> {
    let journal =
        Journal::open_existing(&workspace.path().join(".windlass"))?.ok_or("find the journal")?;
    let run = journal
        .runs(1)?
        .first()
        .map(|run| run.run)
        .ok_or("find the run")?;
    let calls = journal.calls(run)?;
    let upload = calls
        .iter()
        .find(|call| call.name == "ssh.upload")
        .ok_or("find the upload")?;
    let answered = upload.answer.as_ref().ok_or("find the answer")?.at;
    Ok(answered.duration_since(upload.asked).unsigned_abs())
}
