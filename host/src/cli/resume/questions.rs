//! What only a person can say, and how it is asked.

use windlass_model::Call;
use windlass_model::call::{SshOp, TargetOp};

use super::OnAmbiguous;
use crate::cli::terminal::Terminal;
use crate::engine::resume::{Decision, Question};
use crate::exit::Exit;

/// Asks what only a person can say. One answer a question.
pub(super) fn decide(
    questions: &[String],
    told: Option<OnAmbiguous>,
    id: &str,
    terminal: &Terminal,
) -> Result<Vec<Decision>, Exit> {
    let mut decisions = Vec::new();
    let mut open = false;
    for question in questions {
        let said = match told {
            Some(said) => said,
            None => {
                terminal.say(&windlass_report::clean(question));
                if !terminal.asks() {
                    open = true;
                    continue;
                }
                ask(terminal)
            }
        };
        decisions.push(match said {
            OnAmbiguous::Redo => Decision::Redo,
            OnAmbiguous::Skip => Decision::Skip,
            OnAmbiguous::Abort => {
                terminal.say("nothing was done");
                return Err(Exit::NeedsPerson);
            }
        });
    }
    if !open {
        return Ok(decisions);
    }
    terminal.error(
        &format!("run {id} cannot go on by itself: nobody knows what took place"),
        Some(&format!(
            "look there, then `windlass resume {id} --on-ambiguous redo` does it again, and \
             `--on-ambiguous skip` counts it as done"
        )),
    );
    Err(Exit::NeedsPerson)
}

fn ask(terminal: &Terminal) -> OnAmbiguous {
    let question = "Redo it, skip it (count it as done), or abort?";
    match terminal.choose(question, &["redo", "skip", "abort"]) {
        "redo" => OnAmbiguous::Redo,
        "skip" => OnAmbiguous::Skip,
        _ => OnAmbiguous::Abort,
    }
}

pub(super) fn describe(question: &Question) -> String {
    let call = &question.call;
    let what = call.call.here().map_or_else(|| call.name.clone(), text);
    let begun = call.asked.strftime("%Y-%m-%d %H:%M:%S UTC");
    let mut text = match &question.whole {
        None => format!(
            "step {} was cut short in {what}\n  begun {begun}, no answer recorded: it may have \
             taken place, wholly or in part",
            question.step
        ),
        Some(why) => format!(
            "step {} would do {what} again\n  begun {begun}; the step cannot go on from the \
             middle: {why}",
            question.step
        ),
    };
    match &question.found {
        Some(found) => {
            text.push_str("\n  ");
            text.push_str(found);
        }
        None if question.whole.is_none() => text.push_str(", and may be going on still"),
        None => {}
    }
    text
}

/// A call in a line, secrets by name.
fn text(call: &Call) -> String {
    let name = call.name();
    let words = match call {
        Call::Ssh(ssh) => match &ssh.op {
            SshOp::Exec { argv, .. } => argv.iter().map(ToString::to_string).collect(),
            SshOp::Upload { path, .. } | SshOp::Download { path } => vec![path.clone()],
            SshOp::Trace { .. } | SshOp::Rejoin { .. } => Vec::new(),
        },
        Call::Http(http) => vec![http.url.to_string()],
        Call::Target(target) => match &target.op {
            TargetOp::Apply { ops } => vec![format!("({} operations)", ops.len())],
            TargetOp::Inspect => Vec::new(),
        },
        _ => Vec::new(),
    };
    let on = call
        .target()
        .map_or_else(String::new, |target| format!(" on {target}"));
    let mut line = words.join(" ");
    if line.len() > 200 {
        line.truncate(line.floor_char_boundary(200));
        line.push_str(" […]");
    }
    if line.is_empty() {
        format!("{name}{on}")
    } else {
        format!("{name} `{line}`{on}")
    }
}
