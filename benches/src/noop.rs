//! One step that does nothing: what a run costs before any work. The peers do as
//! little: a static program that prints its version, in a new container and in one
//! that runs already.

use std::process::Command;

use windlass_tests::scratch::{Scratch, unique_name};
use windlass_tests::{Workspace, docker, process, tools};

use crate::sample::{Way, in_turns, timed};
use crate::table::Table;
use crate::{Context, Result, project};

/// An image with a static program, and a container of it that stays up.
pub(crate) struct Container {
    pub(crate) image: String,
    pub(crate) id: String,
}

impl Container {
    pub(crate) fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        std::fs::copy(tools::observer_binary(), scratch.join("observer"))?;
        scratch.write(
            "Dockerfile",
            "FROM scratch\nCOPY observer /observer\nENTRYPOINT [\"/observer\"]\n",
        )?;
        let image = format!("{}/noop", unique_name());
        process::capture(
            docker::command()
                .args(["build", "--quiet", "--tag", &image])
                .arg(scratch.path()),
        )?;
        let id = docker::run(["run", "--detach", &image])?;
        Ok(Self { image, id })
    }

    pub(crate) fn exec(&self) -> Command {
        let mut command = docker::command();
        command.args(["exec", &self.id, "/observer", "--version"]);
        command
    }

    pub(crate) fn run(&self) -> Command {
        let mut command = docker::command();
        command.args(["run", "--rm", &self.image, "--version"]);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker::remove_images(|name| name == self.image);
    }
}

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let workspace = Workspace::empty()?;
    project::add(context, &workspace, "noop", &project::chain(1))?;
    let container = Container::start()?;
    let ways: [Way<'_>; 3] = [
        Box::new(|| timed(&mut project::windlass(context, &workspace, &["run"]))),
        Box::new(|| timed(&mut container.run())),
        Box::new(|| timed(&mut container.exec())),
    ];
    let [windlass, run, exec] = in_turns(context.rounds(31), ways)?;
    for (peer, times) in [("`docker run --rm`", run), ("`docker exec`", exec)] {
        table.row(
            "a run of one no-op step, whole process, warm",
            windlass.text(),
            peer,
            times.text(),
            windlass.seconds() / times.seconds(),
            "30 ms",
        );
    }
    Ok(())
}
