//! Guests use the same memory one after the other, and wait for it.

use std::time::Duration;

use serde_json::json;
use windlass_model::CallError;
use windlass_runtime::{Plugin, Runtime, RuntimeOptions};
use windlass_tests::{guests, require, tools};

use crate::support::{Answer, exec, failure, in_time, limits, script, setup};

/// The guest, in a runtime that has room for so many at once.
async fn guest_of(guests: usize) -> Plugin {
    let options = RuntimeOptions {
        cache: Some(tools::cache_dir().join("boundary")),
        limits: limits(),
        guests,
    };
    let runtime = Runtime::new(options).expect("a runtime");
    let bytes = guests::guest("guest").expect("the guest");
    runtime.load("guest", &bytes).await.expect("loads")
}

#[tokio::test]
async fn nothing_of_a_guest_is_left_to_the_next() {
    require!(Guests);
    let guest = guest_of(1).await;
    for mode in ["stain", "allocate", "recurse", "panic", "stain"] {
        let (setup, _) = setup(json!({ "mode": mode }), script([]));
        let finished = in_time(guest.run(setup)).await;
        if mode == "stain" {
            assert_eq!(finished.result, Ok(()));
            assert_eq!(finished.outputs["text"], "0 guests, 0 bytes");
        } else {
            failure(&finished);
        }
    }
}

#[tokio::test]
async fn guests_wait_until_there_is_room() {
    require!(Guests);
    let guest = guest_of(2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let stack = script([("ssh.exec", Answer::Hang)]);
        let (setup, _) = setup(exec("exec"), stack.clone());
        let cancel = setup.cancel.clone();
        let guest = guest.clone();
        let running = tokio::spawn(async move { guest.run(setup).await });
        in_time(async {
            while stack.count("ssh.exec") == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        held.push((running, cancel));
    }

    let (third, _) = setup(json!({ "mode": "echo" }), script([]));
    let waits = tokio::spawn({
        let guest = guest.clone();
        async move { guest.run(third).await }
    });
    // One that waits can be cancelled.
    let (fourth, _) = setup(json!({ "mode": "echo" }), script([]));
    fourth.cancel.cancel();
    let finished = in_time(guest.run(fourth)).await;
    assert_eq!(failure(&finished), &CallError::cancelled());
    assert!(!waits.is_finished(), "there was room for a third");

    let (running, cancel) = held.remove(0);
    cancel.cancel();
    in_time(running).await.expect("joined");
    assert_eq!(in_time(waits).await.expect("joined").result, Ok(()));
    let (running, cancel) = held.remove(0);
    cancel.cancel();
    in_time(running).await.expect("joined");
}
