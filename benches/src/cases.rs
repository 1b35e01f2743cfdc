//! Small test cases: how many a second. Each runs a plugin's own bytes in a guest of its
//! own, with one scripted call; a test of the peer calls one function with a mock in place
//! of the network. Both as whole processes, with what it takes to find the tests.

use std::fmt::Write as _;
use std::process::Command;

use windlass_tests::Workspace;
use windlass_tests::scratch::Scratch;

use crate::sample::{Sample, Way, in_turns, timed};
use crate::table::Table;
use crate::{Context, Result, peers, project};

const CASES: u32 = 1000;

/// What all cases of the file begin with.
const HEAD: &str = "plugin = \"http-probe\"\nconfig = { url = \"http://localhost:8000/health\" }\n\
                    expect = [{ call = \"http.GET\", reply = 200 }]\n\
                    assert = { outputs = { status = 200 } }\n";

const PEER_HEAD: &str = "from unittest.mock import Mock\n\nURL = 'http://localhost:8000/health'\n\n\
                         def probe(get):\n    return get(URL).status\n";

const PEER_CASE: &str = "    get = Mock(return_value=Mock(status=200))\n    assert probe(get) == 200\n    \
                         get.assert_called_once_with(URL)\n";

pub(crate) fn run(context: &Context, table: &mut Table) -> Result<()> {
    let programs = peers::programs()?;
    let workspace = Workspace::empty()?;
    let (mut cases, mut tests) = (String::from(HEAD), String::from(PEER_HEAD));
    for number in 0..CASES {
        write!(cases, "\n[[case]]\nname = \"case {number}\"\n")?;
        write!(tests, "\n\ndef test_{number}():\n{PEER_CASE}")?;
    }
    workspace.write("tests/cases.toml", cases)?;
    let scratch = Scratch::new()?;
    scratch.write("test_cases.py", &tests)?;
    let pytest = || {
        let mut command = Command::new(programs.join("pytest"));
        command
            .args(["--quiet", "-p", "no:cacheprovider", "test_cases.py"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(scratch.path());
        command
    };
    let ways: [Way<'_>; 2] = [
        Box::new(|| {
            let args = ["test", "--quiet", "tests/cases.toml"];
            timed(&mut project::windlass(context, &workspace, &args))
        }),
        Box::new(|| timed(&mut pytest())),
    ];
    let [windlass, peer] = in_turns(context.rounds(11), ways)?;
    table.row(
        format!("{CASES} small test cases, whole process"),
        shown(&windlass),
        "`pytest`, as many small tests",
        shown(&peer),
        windlass.seconds() / peer.seconds(),
        "500 a second",
    );
    Ok(())
}

/// `1.23 s (1.20 to 1.30): 813 a second`.
fn shown(sample: &Sample) -> String {
    let rate = f64::from(CASES) / sample.seconds();
    format!("{}: {rate:.0} a second", sample.text())
}
