//! Which lines of a step's log a call printed.

use jiff::Timestamp;
use windlass_journal::RecordedCall;
use windlass_model::{LogStream, Reply};
use windlass_report::clean_line;

use crate::answer;

/// A line that a command printed.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at: Timestamp,
    pub(super) stream: LogStream,
    pub(super) text: String,
}

/// For each call, in order. A call's answer has the end of what it printed, so lines
/// that agree with it are its own; of calls at once, or that printed more than an answer
/// holds, those that came before it ended.
pub(super) fn assign(calls: &[&RecordedCall], lines: Vec<Line>) -> Vec<Vec<Line>> {
    let mut rest = lines.as_slice();
    let mut assigned = Vec::new();
    for call in calls {
        if !answer::has_exit(&call.name) {
            assigned.push(Vec::new());
            continue;
        }
        let result = call.answer.as_ref().and_then(|answer| answer.result.here());
        let tail = match result {
            Some(Ok(Reply::Exit(exit))) => Some(exit.tail.as_str()),
            _ => None,
        };
        let exact = tail.and_then(|tail| {
            let tail: Vec<_> = tail.lines().map(clean_line).collect();
            // The first line of a long one may be a piece.
            ends(rest, &tail).or_else(|| ends(rest, tail.get(1..).filter(|more| !more.is_empty())?))
        });
        let count = exact.unwrap_or_else(|| {
            let ended = call.answer.as_ref().map(|answer| answer.at);
            rest.iter()
                .take_while(|line| ended.is_none_or(|ended| line.at <= ended))
                .count()
        });
        let (own, more) = rest.split_at(count);
        assigned.push(own.to_vec());
        rest = more;
    }
    assigned
}

/// How many lines there are up to the end of the first place that reads like `tail`.
fn ends(lines: &[Line], tail: &[std::borrow::Cow<'_, str>]) -> Option<usize> {
    if tail.is_empty() {
        return Some(0);
    }
    let place = lines.windows(tail.len()).position(|window| {
        window
            .iter()
            .zip(tail)
            .all(|(line, tail)| line.text == *tail)
    })?;
    Some(place + tail.len())
}

#[cfg(test)]
mod tests {
    use windlass_journal::{Answer, Stored};
    use windlass_model::reply::Exit;
    use windlass_model::{CallId, Class, RunId, StepKey};

    use super::*;

    fn exec(tail: Option<&str>, ended: i64) -> RecordedCall {
        let exit = |tail: &str| {
            Reply::Exit(Exit {
                tail: tail.to_owned(),
                ..Exit::default()
            })
        };
        RecordedCall {
            id: CallId {
                run: RunId(Default::default()),
                step: StepKey::new("a", None),
                attempt: 1,
                seq: 1,
            },
            name: "ssh.exec".to_owned(),
            class: Class::Once,
            asked: Timestamp::UNIX_EPOCH,
            call: Stored::Withheld,
            answer: Some(Answer {
                at: Timestamp::from_millisecond(ended).expect("a time"),
                result: tail.map_or(Stored::Withheld, |tail| Stored::Here(Ok(exit(tail)))),
            }),
        }
    }

    fn texts(calls: &[RecordedCall], lines: &[(i64, &str)]) -> Vec<Vec<String>> {
        let lines = lines.iter().map(|(at, text)| Line {
            at: Timestamp::from_millisecond(*at).expect("a time"),
            stream: LogStream::Stdout,
            text: (*text).to_owned(),
        });
        let calls: Vec<&RecordedCall> = calls.iter().collect();
        let texts = |lines: Vec<Line>| lines.into_iter().map(|line| line.text).collect();
        let assigned = assign(&calls, lines.collect());
        assigned.into_iter().map(texts).collect()
    }

    #[test]
    fn lines_go_to_the_call_that_printed_them() {
        // Events are stamped after the answers that they came before.
        let late = [(9, "a"), (9, "b"), (9, "c")];
        let by_tail = texts(&[exec(Some("a\nb"), 1), exec(Some("c"), 2)], &late);
        assert_eq!(by_tail, [vec!["a", "b"], vec!["c"]]);
        let long = texts(&[exec(Some("ece\nb"), 1), exec(Some(""), 2)], &late);
        assert_eq!(long, [vec!["a", "b"], vec![]]);
        let by_time = texts(&[exec(None, 5), exec(None, 9)], &[(4, "a"), (6, "b")]);
        assert_eq!(by_time, [["a"], ["b"]]);
    }
}
