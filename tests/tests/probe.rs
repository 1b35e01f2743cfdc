//! `resume` finds out by itself what became of a command or a container whose answer the
//! journal does not have, and asks only about what nobody there knows.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use windlass_tests::deploys::{Commands, wait_until};
use windlass_tests::killed::Killer;
use windlass_tests::scratch::unique_name;
use windlass_tests::windlass::{Outcome, Windlass};
use windlass_tests::{Relay, Workspace, docker, require};

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "correct-horse-battery";

/// A command that waits for the file `go`, and says something to the next one.
const STEPS: &str = r#"[step.migrate]
uses = "ssh-run"
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo begun >> log; until [ -e go ]; do sleep 0.05; done; echo with $TOKEN; echo seven; echo ended >> log"], env = { TOKEN = { secret = "TOKEN" } } }
[step.after]
uses = "ssh-run"
needs = ["migrate"]
on = "{{ environment.targets }}"
with = { dir = "{{ environment.dir }}", argv = ["sh", "-c", "echo after: $SAID | tr '\n' ' ' >> log"], env = { SAID = "{{ steps.migrate.stdout_tail }}" } }"#;

fn project() -> Commands {
    let mut project = Commands::start("", STEPS).unwrap();
    project.workspace.set_env("TOKEN", TOKEN);
    project
}

fn resume(project: &Commands, words: &[&str]) -> Windlass {
    let words = ["resume", "--json"].iter().chain(words).copied();
    project.workspace.windlass(words)
}

/// The engine is killed while the command runs, which goes on without it.
fn killed_meanwhile(project: &Commands) {
    let mut run = project.run(&["--json"]).spawn().unwrap();
    let begun = wait_until(LIMIT, || {
        !run.is_running() || project.log().contains("begun")
    });
    assert!(begun && run.is_running(), "{}", run.stderr());
    run.signal("KILL");
    run.wait().unwrap();
}

/// What calls keep on the server.
fn markers(project: &Commands) -> Vec<PathBuf> {
    let said = project.sshd.exec("echo $HOME").unwrap().stdout;
    let home = PathBuf::from(String::from_utf8(said).unwrap().trim());
    let entries = fs::read_dir(home.join(".windlass/calls"));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The command ran once, what it said is known whole, and nothing secret was kept.
fn check(project: &Commands, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let log = project.log();
    let expected = "begun\nended\nafter: with [secret:TOKEN] seven ";
    assert_eq!(log, expected, "{outcome}");
    assert_eq!(outcome.finished()["outcome"], "succeeded", "{outcome}");
    let printed: Vec<String> = outcome
        .events_of("step-log")
        .iter()
        .filter(|event| event["step"]["name"] == "migrate")
        .map(|event| event["text"].as_str().unwrap_or_default().to_owned())
        .collect();
    for line in ["with [secret:TOKEN]", "seven"] {
        assert!(printed.iter().any(|text| text == line), "{printed:?}");
    }
    assert!(!outcome.says(TOKEN), "{outcome}");
    for entry in fs::read_dir(project.workspace.path().join(".windlass")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let mut parts = bytes.windows(TOKEN.len());
            let found = parts.any(|part| part == TOKEN.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    assert_eq!(markers(project), Vec::<PathBuf>::new(), "{outcome}");
    assert!(!project.is_leased(), "{outcome}");
}

#[test]
fn a_command_that_ended_while_nobody_listened_is_not_asked_about() {
    require!(Sshd, Git, Windlass);
    let project = project();
    killed_meanwhile(&project);
    project.open_gate().unwrap();
    let ended = wait_until(LIMIT, || {
        markers(&project)
            .iter()
            .any(|dir| dir.join("code").exists())
    });
    assert!(ended, "{:?}", markers(&project));
    let outcome = resume(&project, &[]).run().unwrap();
    assert!(
        outcome.says(
            "step migrate@prod_1 goes on with ssh.exec on prod_1: it ended there with code 0"
        ),
        "{outcome}"
    );
    check(&project, &outcome);
}

#[test]
fn a_command_that_runs_still_is_waited_for() {
    require!(Sshd, Git, Windlass);
    let project = project();
    killed_meanwhile(&project);
    let mut run = resume(&project, &[]).spawn().unwrap();
    let found = run.wait_for(
        "goes on with ssh.exec on prod_1: it runs there still",
        LIMIT,
    );
    assert!(found, "{}", run.stderr());
    // A second kill changes nothing.
    let starts = |text: &str| text.matches("\"step-started\"").count();
    assert!(wait_until(LIMIT, || starts(&run.stdout()) > 0));
    run.signal("KILL");
    run.wait().unwrap();
    let mut run = resume(&project, &[]).spawn().unwrap();
    let found = run.wait_for(
        "goes on with ssh.exec on prod_1: it runs there still",
        LIMIT,
    );
    assert!(found, "{}", run.stderr());
    project.open_gate().unwrap();
    check(&project, &run.wait().unwrap());
}

/// The kill comes in the middle of the record of each answer and each intent: the
/// journal has it not, whatever the server has.
#[test]
fn killed_in_the_middle_of_every_record() {
    require!(Sshd, Git, Windlass);
    let killer = Killer::build().unwrap();
    let project = project();
    project.open_gate().unwrap();
    let (mut found, mut asked) = (0, 0);
    for commit in 1.. {
        let state = format!(".windlass/{commit}");
        let _ = fs::remove_file(project.dir().join("log"));
        let run = project.run(&["--state", &state]);
        let killed = run.envs(killer.within(commit)).run().unwrap();
        if killed.code == Some(0) {
            assert!(commit > 12, "{killed}");
            break;
        }
        assert_eq!(killed.signal(), Some(9), "{killed}");
        let mut outcome = resume(&project, &["--state", &state]).run().unwrap();
        if outcome.code == Some(6) {
            // Of what never began nothing is there; neither is it of what was swept.
            assert!(outcome.says("prod_1 has no marker of it"), "{outcome}");
            asked += 1;
            let words = ["--state", &state, "--on-ambiguous", "redo"];
            outcome = resume(&project, &words).run().unwrap();
        }
        if outcome.code == Some(2) {
            // It had not begun, or had ended.
            continue;
        }
        found += usize::from(outcome.says("goes on with ssh.exec"));
        assert_eq!(outcome.code, Some(0), "commit {commit}: {outcome}");
        let expected = "begun\nended\nafter: with [secret:TOKEN] seven ";
        assert_eq!(project.log(), expected, "commit {commit}: {outcome}");
        // Of an answer that was on disk, one may be left: it goes after a day.
        for marker in markers(&project) {
            fs::remove_dir_all(marker).unwrap();
        }
    }
    assert!(found > 0, "{found} found, {asked} asked about");
}

#[test]
fn a_server_that_cannot_be_reached_is_named_and_the_question_is_asked() {
    require!(Sshd, Git, Windlass);
    let mut project = project();
    let relay = Relay::to(project.sshd.address()).unwrap();
    project.through(&relay).unwrap();
    killed_meanwhile(&project);
    project.open_gate().unwrap();
    relay.cut();
    let asks = resume(&project, &[]).run().unwrap();
    assert_eq!(asks.code, Some(6), "{asks}");
    assert!(asks.says("prod_1 could not be asked: "), "{asks}");
    assert!(asks.says("--on-ambiguous redo"), "{asks}");
    relay.restore();
    check(&project, &resume(&project, &[]).run().unwrap());
}

#[test]
fn a_command_of_which_nothing_is_left_is_asked_about() {
    require!(Sshd, Git, Windlass);
    let project = project();
    killed_meanwhile(&project);
    project.open_gate().unwrap();
    assert!(wait_until(LIMIT, || project.log().contains("ended")));
    let left = markers(&project);
    assert_eq!(left.len(), 1, "{left:?}");
    fs::remove_dir_all(&left[0]).unwrap();
    let asks = resume(&project, &[]).run().unwrap();
    assert_eq!(asks.code, Some(6), "{asks}");
    assert!(
        asks.says("step migrate@prod_1 was cut short in ssh.exec"),
        "{asks}"
    );
    assert!(asks.says("prod_1 has no marker of it"), "{asks}");
    assert!(!asks.says(TOKEN), "{asks}");
    let outcome = resume(&project, &["--on-ambiguous", "skip"]).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(project.log(), "begun\nended\nafter: ", "{outcome}");
}

/// It was killed on the server, too: nobody knows how far it came.
#[test]
fn a_command_that_died_is_asked_about_and_redo_begins_it_again() {
    require!(Sshd, Git, Windlass);
    let project = project();
    killed_meanwhile(&project);
    let left = markers(&project);
    let group = fs::read_to_string(left[0].join("pid")).unwrap();
    let killed = project.sshd.exec(&format!("kill -9 -{}", group.trim()));
    assert!(killed.unwrap().status.success());
    let asks = resume(&project, &[]).run().unwrap();
    assert_eq!(asks.code, Some(6), "{asks}");
    assert!(asks.says("prod_1 says that it was stopped"), "{asks}");
    project.open_gate().unwrap();
    let outcome = resume(&project, &["--on-ambiguous", "redo"]).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let expected = "begun\nbegun\nended\nafter: with [secret:TOKEN] seven ";
    assert_eq!(project.log(), expected, "{outcome}");
    assert_eq!(markers(&project), Vec::<PathBuf>::new(), "{outcome}");
}

/// A project with one step, a container of this machine's own programs that waits for
/// the file `out/go`.
struct Job {
    workspace: Workspace,
    image: String,
}

impl Job {
    fn new() -> Self {
        Self::with("")
    }

    /// With further steps.
    fn with(steps: &str) -> Self {
        let workspace = Workspace::empty().unwrap();
        let image = format!("{}:1", unique_name());
        // An image of its own: containers are looked for by it.
        let dockerfile = format!("# {image}\nFROM scratch\nCOPY Dockerfile /\n");
        workspace.write("Dockerfile", dockerfile).unwrap();
        let context = workspace.path().display().to_string();
        docker::run(["build", "--quiet", "--tag", &image, &context]).unwrap();
        workspace.write("out/log", "").unwrap();
        let mounts: String = ["/usr", "/bin", "/lib", "/lib64"]
            .iter()
            .map(|dir| format!("{{ source = \"{dir}\", target = \"{dir}\", read_only = true }}, "))
            .collect();
        let manifest = format!(
            "[pipeline]\nname = \"app\"\n[run]\ntag = \"1\"\nallow_dirty = true\n\
             [step.job]\nuses = \"docker-run\"\nwith = {{ image = \"{image}\", pull = \"never\", \
             command = [\"sh\", \"-c\", \"echo begun >> /out/log; until [ -e /out/go ]; do sleep 0.05; done; echo said so; echo ended >> /out/log\"], \
             mounts = [{mounts}{{ source = \"{context}/out\", target = \"/out\" }}] }}\n\
             {steps}"
        );
        workspace.write("windlass.toml", manifest).unwrap();
        workspace.write(".gitignore", ".windlass/\nout/\n").unwrap();
        workspace.commit("Start").unwrap();
        Self { workspace, image }
    }

    fn log(&self) -> String {
        self.workspace.read("out/log").unwrap()
    }

    fn windlass(&self, words: &[&str]) -> Windlass {
        self.workspace.windlass(words.iter().copied())
    }

    /// A run that is killed while the container works, which goes on.
    fn killed(&self) -> Vec<String> {
        let mut run = self.windlass(&["run", "--json"]).spawn().unwrap();
        let begun = wait_until(LIMIT, || !run.is_running() || !self.log().is_empty());
        assert!(begun && run.is_running(), "{}", run.stderr());
        run.signal("KILL");
        run.wait().unwrap();
        let containers = self.containers();
        assert_eq!(containers.len(), 1);
        containers
    }

    fn containers(&self) -> Vec<String> {
        docker::containers(&format!("ancestor={}", self.image)).unwrap()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for container in docker::containers(&format!("ancestor={}", self.image)).unwrap_or_default()
        {
            let _ = docker::run(["rm", "--force", &container]);
        }
        let _ = docker::run(["rmi", "--force", &self.image]);
    }
}

#[test]
fn a_container_at_work_is_gone_on_with() {
    require!(Docker, Git, Windlass);
    let job = Job::new();
    let container = job.killed();
    let found = "step job goes on with docker.run on local: its container is there still";
    // A second kill changes nothing.
    let mut run = job.windlass(&["resume", "--json"]).spawn().unwrap();
    assert!(run.wait_for(found, LIMIT), "{}", run.stderr());
    run.signal("KILL");
    run.wait().unwrap();
    assert_eq!(job.containers(), container);
    let mut run = job.windlass(&["resume", "--json"]).spawn().unwrap();
    assert!(run.wait_for(found, LIMIT), "{}", run.stderr());
    job.workspace.write("out/go", "").unwrap();
    let outcome = run.wait().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(job.log(), "begun\nended\n", "{outcome}");
    let logs = outcome.events_of("step-log");
    assert!(
        logs.iter().any(|line| line["text"] == "said so"),
        "{outcome}"
    );
    assert_eq!(job.containers(), Vec::<String>::new(), "{outcome}");
}

#[test]
fn a_container_is_started_once_wherever_the_process_was_killed() {
    require!(Docker, Git, Windlass);
    let killer = Killer::build().unwrap();
    let job = Job::new();
    job.workspace.write("out/go", "").unwrap();
    let mut found = 0;
    for commit in 1.. {
        let state = format!(".windlass/{commit}");
        job.workspace.write("out/log", "").unwrap();
        let run = job.windlass(&["run", "--state", &state]);
        let killed = run.envs(killer.at(commit)).run().unwrap();
        if killed.code == Some(0) {
            break;
        }
        assert_eq!(killed.signal(), Some(9), "{killed}");
        let outcome = job.windlass(&["resume", "--state", &state]).run().unwrap();
        if outcome.code == Some(2) {
            // It had not begun, or had ended.
            continue;
        }
        assert_eq!(outcome.code, Some(0), "commit {commit}: {outcome}");
        found += usize::from(outcome.says("its container is there still"));
        assert_eq!(job.log(), "begun\nended\n", "commit {commit}: {outcome}");
        assert_eq!(
            job.containers(),
            Vec::<String>::new(),
            "commit {commit}: {outcome}"
        );
    }
    assert!(found > 0, "no container was gone on with");
}

/// Whoever does not go on leaves it to the next process: to go on with, or to clear away.
#[test]
fn a_container_that_nobody_goes_on_with_is_removed() {
    require!(Docker, Git, Windlass);
    // A command on this machine ends with its engine, as far as anybody can know.
    let job = Job::with(
        "[step.here]\nuses = \"ssh-run\"\non = [\"local\"]\nwith = { argv = [\"sleep\", \"2\"] }\n",
    );
    let container = job.killed();
    let asks = job.windlass(&["resume"]).run().unwrap();
    assert_eq!(asks.code, Some(6), "{asks}");
    assert!(
        asks.says("step here@local was cut short in ssh.exec"),
        "{asks}"
    );
    assert_eq!(job.containers(), container, "{asks}");
    job.workspace.write("out/go", "").unwrap();
    let words = ["resume", "--on-ambiguous", "skip"];
    let outcome = job.windlass(&words).run().unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert_eq!(job.log(), "begun\nended\n", "{outcome}");
    assert_eq!(job.containers(), Vec::<String>::new(), "{outcome}");

    // Without a lease that the next run would wait for.
    let job = Job::new();
    let container = job.killed();
    job.workspace.write("out/go", "").unwrap();
    let next = job.windlass(&["run"]).run().unwrap();
    assert_eq!(next.code, Some(0), "{next}");
    assert!(
        next.says("removed what an earlier run left on local"),
        "{next}"
    );
    let left = docker::containers(&format!("id={}", container[0])).unwrap();
    assert_eq!(left, Vec::<String>::new(), "{next}");
}
