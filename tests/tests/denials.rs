//! What is not granted does not happen: `tests/denials/`.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

mod cases;

use windlass_tests::require;

#[test]
fn each_case_of_tests_denials() {
    require!(Windlass, Guests, Git);
    cases::run_all("denials");
}
