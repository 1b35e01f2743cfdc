//! A project as its owner has it: a git repository with a manifest and a remote.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::scratch::{self, Scratch};
use crate::windlass::Windlass;
use crate::{docker, process, sweep, tools};

/// A repository in a directory of its own, with a bare repository as `origin`.
#[derive(Debug)]
pub struct Workspace {
    scratch: Scratch,
    env: BTreeMap<String, String>,
}

impl Workspace {
    /// A repository without a commit and without files.
    pub fn empty() -> Result<Self> {
        sweep::once();
        let scratch = Scratch::new()?;
        let home = scratch.dir("home")?;
        scratch.dir("project")?;
        scratch.write(
            "home/.gitconfig",
            "[user]\n\tname = Rig\n\temail = rig@example.invalid\n[init]\n\tdefaultBranch = main\n",
        )?;
        let env = [
            ("HOME", home.display().to_string()),
            ("DOCKER_HOST", docker::host().to_owned()),
            (
                "DOCKER_CONFIG",
                tools::docker_config_dir().display().to_string(),
            ),
            // What the user has set up for git is no part of a test.
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ];
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let workspace = Self { scratch, env };
        workspace.git(["init", "--quiet"])?;
        let origin = workspace.origin();
        let bare = origin.display().to_string();
        workspace.git(["init", "--quiet", "--bare", &bare])?;
        workspace.git(["remote", "add", "origin", &bare])?;
        Ok(workspace)
    }

    /// A repository whose first commit, pushed, holds this manifest.
    pub fn with_manifest(manifest: &str) -> Result<Self> {
        let workspace = Self::empty()?;
        workspace.write("windlass.toml", manifest)?;
        workspace.commit("Say what is deployed")?;
        workspace.git(["push", "--quiet", "--set-upstream", "origin", "main"])?;
        Ok(workspace)
    }

    /// A copy of `examples/observer` with the built binary, committed and pushed.
    pub fn observer() -> Result<Self> {
        let workspace = Self::empty()?;
        let example = tools::project_root().join("examples/observer");
        for name in [
            "Dockerfile",
            ".dockerignore",
            ".gitignore",
            "deploy/known_hosts",
            "docker-compose.server.yml",
            "windlass.toml",
        ] {
            workspace.copy(&example.join(name), name)?;
        }
        workspace.copy(&tools::observer_binary(), "bin/observer")?;
        workspace.commit("Start from the example")?;
        workspace.git(["push", "--quiet", "--set-upstream", "origin", "main"])?;
        Ok(workspace)
    }

    /// Root of the project.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("project")
    }

    /// The bare repository that is the remote `origin`.
    pub fn origin(&self) -> PathBuf {
        self.scratch.join("origin.git")
    }

    /// The home directory of what runs here.
    pub fn home(&self) -> PathBuf {
        self.scratch.join("home")
    }

    /// Sets a variable for everything that runs here from now on.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.env.insert(name.to_owned(), value.into());
    }

    /// Leaves a variable out from now on.
    pub fn remove_env(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// The variables that are set for what runs here.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Writes a file of the project.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        scratch::write(&self.path().join(name), bytes)
    }

    /// Reads a file of the project.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<String> {
        let path = self.path().join(name);
        fs::read_to_string(&path).map_err(Error::file("read", &path))
    }

    /// Rewrites a file of the project.
    pub fn edit(&self, name: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        self.write(name, change(self.read(name)?))
    }

    /// Copies a file into the project, with its mode.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.path().join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        }
        fs::copy(from, &to)
            .map(drop)
            .map_err(Error::file("copy", from))
    }

    /// Runs git in the project and gives its stdout, trimmed.
    pub fn git<I>(&self, args: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut command = Command::new("git");
        command
            .args(args.into_iter().map(Into::into))
            .current_dir(self.path())
            .envs(&self.env);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        process::capture(&mut command).map(|text| text.trim().to_owned())
    }

    /// Commits everything that is not ignored and gives the commit's id.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(["add", "--all"])?;
        self.git(["commit", "--quiet", "--message", message])?;
        self.git(["rev-parse", "HEAD"])
    }

    /// `windlass` with these arguments in the project, with its environment.
    pub fn windlass<I>(&self, args: I) -> Windlass
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        Windlass::new(&self.path(), args).envs(&self.env)
    }
}
