//! Exit codes: the one table. `docs/cli.md` has the same, and a test compares.

use windlass_model::{CallError, ErrorKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Succeeded,
    StepFailed,
    Invalid,
    Denied,
    LeaseHeld,
    Engine,
    NeedsPerson,
    Changes,
    Cancelled,
}

/// Every code with its meaning.
pub const TABLE: &[(Exit, u8, &str)] = &[
    (Exit::Succeeded, 0, "succeeded"),
    (Exit::StepFailed, 1, "a step failed"),
    (
        Exit::Invalid,
        2,
        "the manifest, the command line or a plugin is invalid",
    ),
    (Exit::Denied, 3, "a call was denied"),
    (Exit::LeaseHeld, 4, "the lease is held by another run"),
    (Exit::Engine, 5, "the engine itself failed"),
    (
        Exit::NeedsPerson,
        6,
        "needs a person: ambiguous effect, diverged replay, stale plan, approval",
    ),
    (Exit::Changes, 10, "`plan`: there is something to do"),
    (Exit::Cancelled, 130, "cancelled"),
];

impl Exit {
    pub fn code(self) -> u8 {
        TABLE
            .iter()
            .find(|(exit, ..)| *exit == self)
            .map_or(5, |(_, code, _)| *code)
    }

    /// What a failed step means for the process.
    pub fn for_error(error: &CallError) -> Self {
        match error.kind {
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Cancelled => Self::Cancelled,
            _ if error.code == "lease.held" || error.code == "lease.lost" => Self::LeaseHeld,
            _ if error.code.starts_with("resume.") => Self::NeedsPerson,
            _ if error.code.starts_with("engine.") || error.code.starts_with("journal.") => {
                Self::Engine
            }
            _ => Self::StepFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let page = include_str!("../../docs/cli.md");
        let (_, rest) = page
            .split_once("| code | meaning |\n|---|---|\n")
            .expect("the table");
        let told: Vec<&str> = rest
            .lines()
            .take_while(|line| line.starts_with('|'))
            .collect();
        let known: Vec<String> = TABLE
            .iter()
            .map(|(_, code, meaning)| format!("| {code} | {meaning} |"))
            .collect();
        assert_eq!(told, known);
    }

    #[test]
    fn each_code_has_one_meaning() {
        for (index, (exit, code, _)) in TABLE.iter().enumerate() {
            assert_eq!(exit.code(), *code);
            let later = &TABLE[index + 1..];
            assert!(
                later
                    .iter()
                    .all(|(other, more, _)| other != exit && more != code)
            );
        }
    }
}
