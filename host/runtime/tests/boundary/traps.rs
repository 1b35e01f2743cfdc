//! A trap is the plugin's bug, and shown as one.

use windlass_model::ErrorKind;
use windlass_model::event::Level;
use windlass_tests::require;

use crate::support::{failure, run};

#[tokio::test]
async fn a_panic_gives_its_message_and_place() {
    require!(Guests);
    let (finished, seen) = run("panic").await;
    let error = failure(&finished);
    assert_eq!(error.kind, ErrorKind::Internal);
    assert_eq!(error.code, "plugin.trapped");
    let said = error
        .message
        .strip_prefix("plugin guest trapped: panicked at examples/guest.rs:")
        .unwrap_or_else(|| panic!("{}", error.message));
    let (line, message) = said.split_once(": ").expect("a line, then the message");
    assert!(line.parse::<u32>().is_ok(), "{line}");
    assert_eq!(message, "on purpose: 7");
    assert!(
        error
            .hint
            .as_ref()
            .is_some_and(|hint| hint.contains("bug of the plugin"))
    );
    // The log has what was printed, and the way there, line by line.
    let log = seen.log();
    assert!(
        log.iter()
            .any(|(level, line)| *level == Level::Error && line.contains("on purpose: 7"))
    );
    assert!(
        log.iter().any(|(level, line)| *level == Level::Debug
            && line.contains(&format!(
                "examples/guest.rs:{line_number}",
                line_number = said.split(':').next().unwrap_or_default()
            ))),
        "{log:#?}"
    );
}

#[tokio::test]
async fn other_traps_say_what_happened() {
    require!(Guests);
    let (finished, _) = run("trap").await;
    let error = failure(&finished);
    assert_eq!(error.code, "plugin.trapped");
    assert!(error.message.contains("unreachable"), "{}", error.message);
    let (finished, _) = run("exit").await;
    assert_eq!(
        failure(&finished).message,
        "plugin guest trapped: it ended its process instead of returning"
    );
}

#[tokio::test]
async fn a_long_panic_is_cut() {
    require!(Guests);
    let (finished, _) = run("panic_long").await;
    let message = &failure(&finished).message;
    assert!(message.contains("long long"));
    assert!(message.len() < 20_000, "{}", message.len());
}

#[tokio::test]
async fn what_a_guest_prints_is_in_its_log() {
    require!(Guests);
    let (finished, seen) = run("print").await;
    assert_eq!(finished.result, Ok(()));
    assert_eq!(
        seen.log(),
        [
            (Level::Info, "to stdout".to_owned()),
            (Level::Info, "\u{fffd}\u{fffd} not text".to_owned()),
            (Level::Info, "to stderr".to_owned()),
        ]
    );
}
