//! What bad input gets, as far as it needs no server: `tests/bad-input/`.

#![allow(
    clippy::unwrap_used,
    reason = "a test's failed step is the test's failure"
)]

mod cases;

use windlass_tests::require;

#[test]
fn each_case_of_tests_bad_input() {
    require!(Windlass, Guests, Git);
    cases::run_all("bad-input");
}
