//! A guest that runs again hears what was recorded; what no journal has, it may not ask.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use windlass_model::Reply;
use windlass_model::reply::Exit;
use windlass_tests::require;

use crate::support::{Answer, START_MS, failure, guest, in_time, script, setup};

#[tokio::test]
async fn events_of_jobs_are_not_in_the_record() {
    require!(Guests);
    for replaying in [true, false] {
        let exit = Answer::Reply(Reply::Exit(Exit::default()));
        let stack = script([("ssh.exec", exit)]);
        let config = json!({ "mode": "select_many", "machine": "prod_1", "argv": ["true"] });
        let (mut setup, _) = setup(config, stack);
        setup.replaying = Arc::new(AtomicBool::new(replaying));
        let finished = in_time(guest().await.run(setup)).await;
        // Else it gets as far as the limit that the mode is about.
        let code = if replaying {
            "resume.not-replayable"
        } else {
            "plugin.limit"
        };
        assert_eq!(failure(&finished).code, code);
    }
}

#[tokio::test]
async fn the_clock_starts_where_it_started() {
    require!(Guests);
    let (mut setup, _) = setup(json!({ "mode": "clock" }), script([]));
    setup.began_ms = Some(START_MS - 5_000);
    let finished = in_time(guest().await.run(setup)).await;
    assert_eq!(finished.result, Ok(()));
    assert_eq!(finished.outputs["data"][0], START_MS - 5_000);
}
