//! What standard libraries find: nothing of this machine.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use windlass_tests::require;

use crate::support::{START_MS, guest, in_time, run, run_with, script, setup};

#[tokio::test]
async fn no_files() {
    require!(Guests);
    let (finished, _) = run("files").await;
    assert_eq!(finished.result, Ok(()));
    assert_eq!(finished.outputs["data"], json!([]));
}

#[tokio::test]
async fn no_environment_arguments_or_stdin() {
    require!(Guests);
    let (finished, _) = run("env").await;
    assert_eq!(finished.result, Ok(()));
    let data = &finished.outputs["data"];
    assert_eq!(data["env"], json!({}));
    assert_eq!(data["args"], json!([]));
    assert_eq!(data["stdin"], 0);
}

#[tokio::test]
async fn no_sockets() {
    require!(Guests);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("an address").to_string();
    let config = json!({ "mode": "socket", "text": address });
    let (finished, _) = run_with(config, script([])).await;
    assert_eq!(finished.result, Ok(()));
    assert_eq!(finished.outputs["data"], json!([]));
    assert!(listener.accept().is_err(), "nobody came");
}

#[tokio::test]
async fn time_is_that_of_the_last_answer() {
    require!(Guests);
    let (finished, _) = run("clock").await;
    assert_eq!(finished.result, Ok(()));
    let seen: Vec<u64> = serde_json::from_value(finished.outputs["data"].clone()).expect("numbers");
    let [
        now,
        wall,
        later,
        wall_later,
        elapsed,
        after,
        wall_after,
        elapsed_after,
    ] = seen[..]
    else {
        panic!("{seen:?}");
    };
    // The clock moves by a second whenever the host looks: at the start, and
    // when the sleep is answered.
    assert_eq!((now, wall), (START_MS, START_MS));
    assert_eq!((later, wall_later, elapsed), (START_MS, START_MS, 0));
    assert_eq!((after, wall_after), (START_MS + 1_000, START_MS + 1_000));
    assert_eq!(elapsed_after, 1_000);
}

async fn random(seed: u64) -> serde_json::Value {
    let (mut setup, _) = setup(json!({ "mode": "random" }), script([]));
    setup.seed = seed;
    let finished = in_time(guest().await.run(setup)).await;
    assert_eq!(finished.result, Ok(()));
    finished.outputs["data"].clone()
}

#[tokio::test]
async fn what_is_random_comes_from_the_seed() {
    require!(Guests);
    let first = random(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(random(1).await, first);
    let other = random(2).await;
    assert_ne!(other["bytes"], first["bytes"]);
    assert_ne!(other["order"], first["order"]);
}
