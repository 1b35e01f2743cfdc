//! What is left on a target of a command that an earlier process began there.

use std::fmt::Write as _;

use windlass_model::reply::Trace;
use windlass_model::{CallContext, CallError, Reply, TargetName};
use zeroize::Zeroizing;

use super::Connections;
use super::durable::{FIND, LIVES, control};
use super::exec::{Output, Ran, Reading, Request};
use super::shell::quote;
use crate::target::bad_answer;

/// One that has just begun may have no process yet, and one that has just ended no
/// code: looked at for two seconds.
const LOOK: &str = r#"w_i=0
while :; do
  if [ -f "$W/code" ]; then
    w_code=; read -r w_code < "$W/code"
    echo "$S ended $w_code" >&2; exit 0
  fi
  [ -d "$W" ] || { echo "$S none" >&2; exit 0; }
  if w_lives; then echo "$S running" >&2; exit 0; fi
  w_i=$((w_i + 1))
  [ $w_i -lt 10 ] || { echo "$S died" >&2; exit 0; }
  sleep 0.2 2>/dev/null || sleep 1
done
"#;

/// Looks for the command with this stamp; changes nothing.
pub(super) async fn look(
    connections: &Connections,
    context: &CallContext,
    target: &TargetName,
    stamp: &str,
) -> Result<Reply, CallError> {
    let word = control(&context.id.stamp());
    let mut script = Zeroizing::new(String::new());
    let _ = write!(
        script,
        "D={} S={}\n{FIND}[ -n \"$W\" ] || {{ echo \"$S none\" >&2; exit 0; }}\n{LIVES}{LOOK}",
        quote(stamp)?,
        quote(&word)?,
    );
    let mut reading = Reading::with_control(word);
    let request = Request::script(script, Output::Log, false);
    let ran = connections.run_with(context, target, request, &mut reading);
    let ran = ran.await;
    reading.end(Ran::default(), context.log.as_ref());
    ran?;
    let said = reading.take_control().unwrap_or_default();
    parse(&said)
        .map(Reply::Trace)
        .ok_or_else(|| bad_answer(target))
}

fn parse(said: &str) -> Option<Trace> {
    match said.split_once(' ').unwrap_or((said, "")) {
        ("none", "") => Some(Trace::None),
        ("running", "") => Some(Trace::Running),
        ("died", "") => Some(Trace::Died),
        // A machine that lost its power may keep the file without what was in it.
        ("ended", "") => Some(Trace::Died),
        ("ended", code) => Some(Trace::Ended {
            code: code.parse().ok()?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_one_of_four_things() {
        assert_eq!(parse("none"), Some(Trace::None));
        assert_eq!(parse("running"), Some(Trace::Running));
        assert_eq!(parse("died"), Some(Trace::Died));
        assert_eq!(parse("ended 7"), Some(Trace::Ended { code: 7 }));
        assert_eq!(parse("ended "), Some(Trace::Died));
        for odd in ["", "ended x", "ended 99999999999", "none 1", "gone"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
