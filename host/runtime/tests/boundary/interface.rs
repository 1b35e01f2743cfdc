//! What is no plugin for this host is refused before it runs, with the reason.

use windlass_runtime::PluginError;
use windlass_tests::{guests, require};

use crate::support::{in_time, limits, runtime};

async fn refused(bytes: &[u8]) -> (String, Option<&'static str>) {
    let error: PluginError = in_time(runtime(limits()).load("sample", bytes))
        .await
        .expect_err("it has to be refused");
    (error.to_string(), error.hint())
}

async fn refused_guest(name: &str) -> (String, Option<&'static str>) {
    refused(&guests::guest(name).expect(name)).await
}

#[tokio::test]
async fn what_is_no_component() {
    let core_module = b"\0asm\x01\0\0\0";
    for (bytes, reason) in [
        (&b""[..], "the file is empty"),
        (
            b"#!/bin/sh\necho no\n",
            "it does not begin as WebAssembly does",
        ),
        (core_module, "it is a core WebAssembly module"),
        (&core_module[..6], "it does not begin as WebAssembly does"),
    ] {
        let (message, hint) = refused(bytes).await;
        assert_eq!(
            message,
            format!("plugin sample is no WebAssembly component: {reason}")
        );
        assert!(hint.is_some_and(|hint| hint.contains("wasm32-wasip2")));
    }
}

#[tokio::test]
async fn a_component_that_is_cut_short() {
    require!(Guests);
    let bytes = guests::guest("no_step").expect("no_step");
    let (message, _) = refused(&bytes[..bytes.len() / 2]).await;
    assert!(
        message.starts_with("plugin sample cannot be used: "),
        "{message}"
    );
}

#[tokio::test]
async fn a_newer_interface() {
    require!(Guests);
    let (message, hint) = refused_guest("newer_interface").await;
    assert_eq!(
        message,
        "plugin sample needs windlass:plugin 0.3.0, this host has 0.1"
    );
    assert!(hint.is_some_and(|hint| hint.contains("newer windlass")));
}

#[tokio::test]
async fn another_interface() {
    require!(Guests);
    let (message, _) = refused_guest("other_interface").await;
    assert_eq!(
        message,
        "plugin sample needs the interface acme:sockets/raw@1.0.0, this host has windlass:plugin \
         and WASI 0.2 only"
    );
}

#[tokio::test]
async fn a_component_that_is_no_plugin() {
    require!(Guests);
    let (message, _) = refused_guest("no_step").await;
    assert_eq!(
        message,
        "plugin sample cannot be used: it does not export windlass:plugin/step"
    );
}

#[tokio::test]
async fn a_description_that_does_not_end() {
    require!(Guests);
    let (message, _) = refused_guest("describe_loops").await;
    assert_eq!(
        message,
        "plugin sample could not describe itself: it did not end by its deadline"
    );
}

#[tokio::test]
async fn a_description_that_panics() {
    require!(Guests);
    let (message, _) = refused_guest("describe_panics").await;
    let start = "plugin sample could not describe itself: it trapped: ";
    let reason = message
        .strip_prefix(start)
        .unwrap_or_else(|| panic!("{message}"));
    assert!(
        reason.starts_with("panicked at examples/describe_panics.rs:"),
        "{reason}"
    );
    assert!(reason.ends_with("no description today"), "{reason}");
}

#[tokio::test]
async fn a_description_that_is_too_much() {
    require!(Guests);
    let (message, _) = refused_guest("describe_too_much").await;
    assert_eq!(
        message,
        "plugin sample could not describe itself: outputs: 1000, where 64 is the limit"
    );
}

#[tokio::test]
async fn a_schema_that_is_none() {
    require!(Guests);
    let (message, _) = refused_guest("describe_bad_schema").await;
    let start = "plugin sample could not describe itself: its configuration schema is not JSON: ";
    assert!(message.starts_with(start), "{message}");
}

#[tokio::test]
async fn a_description_has_no_capability() {
    require!(Guests);
    let bytes = guests::guest("describe_calls").expect("describe_calls");
    let plugin = runtime(limits())
        .load("sample", &bytes)
        .await
        .expect("loads");
    assert_eq!(
        plugin.description.summary,
        "describe.call: `describe` called file.open"
    );
}
