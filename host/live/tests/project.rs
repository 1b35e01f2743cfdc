//! The project's files and its repository.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use windlass_live::{Config, Live};
use windlass_model::backend::NoLog;
use windlass_model::call::{FileCall, GitCall};
use windlass_model::reply::{GitFacts, TagCommits};
use windlass_model::{
    BlobRef, Blobs, Call, CallContext, CallError, CallId, Capability as _, ErrorKind, Reply, RunId,
    Secrets, StepKey,
};
use windlass_tests::require;

struct Project {
    dir: TempDir,
    live: Live,
    blobs: Arc<Blobs>,
    _scratch: TempDir,
}

impl Project {
    fn new() -> Self {
        let (dir, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let config = Config {
            root,
            scratch: scratch.path().to_owned(),
            targets: Vec::new(),
            registries: Vec::new(),
            secrets: Arc::new(Secrets::default()),
        };
        Self {
            dir,
            live: Live::new(config).unwrap(),
            blobs: Arc::default(),
            _scratch: scratch,
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let context = CallContext {
            id: CallId {
                run: RunId(uuid::Uuid::now_v7()),
                step: StepKey::new("t", None),
                attempt: 1,
                seq: 1,
            },
            deadline: tokio::time::Instant::now() + Duration::from_secs(30),
            cancel: CancellationToken::new(),
            log: Arc::new(NoLog),
            blobs: Arc::clone(&self.blobs),
            answered: Default::default(),
        };
        self.live.call(&context, call).await
    }

    async fn open(&self, path: &str) -> Result<Vec<u8>, CallError> {
        let reply = self
            .call(Call::File(FileCall::Open { path: path.into() }))
            .await?;
        Ok(self.bytes(&reply))
    }

    fn bytes(&self, reply: &Reply) -> Vec<u8> {
        let Reply::Blob(reference) = reply else {
            panic!("{reply:?}")
        };
        self.blobs
            .get(reference)
            .unwrap()
            .read(0, u32::MAX)
            .unwrap()
    }

    async fn archive(
        &self,
        ignore: &[&str],
        keep: &[&str],
    ) -> Result<(BlobRef, Vec<String>), CallError> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let call = FileCall::Archive {
            root: ".".into(),
            ignore: owned(ignore),
            keep: owned(keep),
        };
        let reply = self.call(Call::File(call)).await?;
        let bytes = self.bytes(&reply);
        let mut tar = tar::Archive::new(bytes.as_slice());
        let names = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
            format!(
                "{} {:o}",
                entry.path().unwrap().display(),
                header.mode().unwrap()
            )
        });
        let names = names.collect();
        let Reply::Blob(reference) = reply else {
            panic!("no blob")
        };
        Ok((reference, names))
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.root(), args)
    }

    async fn facts(&self) -> Result<GitFacts, CallError> {
        match self.call(Call::Git(GitCall::Inspect)).await? {
            Reply::Git(facts) => Ok(*facts),
            other => panic!("{other:?}"),
        }
    }

    async fn tag_state(&self, remote: &str, tag: &str) -> Result<TagCommits, CallError> {
        let call = GitCall::TagState {
            remote: remote.into(),
            tag: tag.into(),
        };
        match self.call(Call::Git(call)).await? {
            Reply::Tag(commits) => Ok(commits),
            other => panic!("{other:?}"),
        }
    }

    async fn create_tag(&self, tag: &str, message: Option<&str>) -> Result<Reply, CallError> {
        let call = GitCall::CreateTag {
            tag: tag.into(),
            message: message.map(str::to_owned),
        };
        self.call(Call::Git(call)).await
    }

    async fn push_tag(&self, remote: &str, tag: &str) -> Result<Reply, CallError> {
        let call = GitCall::PushTag {
            remote: remote.into(),
            tag: tag.into(),
        };
        self.call(Call::Git(call)).await
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@localhost",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn files_are_opened_beneath_the_root_only() {
    let project = Project::new();
    std::fs::write(project.dir.path().join("outside"), "no").unwrap();
    project.write("a/b", "yes");
    project.write(".git/config", "no");
    project.write(".windlass/journal", "no");
    let link =
        |to: &str, name: &str| std::os::unix::fs::symlink(to, project.root().join(name)).unwrap();
    link("a/b", "inside");
    link("../outside", "out");
    link("/etc/passwd", "absolute");
    link(".git", "sly");
    link(".windlass/journal", "slier");
    link("loop", "loop");
    assert_eq!(project.open("a/b").await.unwrap(), b"yes");
    assert_eq!(project.open("inside").await.unwrap(), b"yes");
    assert_eq!(project.open("a/../a/b").await.unwrap(), b"yes");
    for path in [
        "../outside",
        "/etc/passwd",
        "out",
        "absolute",
        ".git/config",
        "a/../.git/config",
        "sly/config",
        "slier",
        ".windlass/journal",
        "loop",
    ] {
        let error = project.open(path).await.unwrap_err();
        assert_eq!(
            (error.kind, error.code.as_str()),
            (ErrorKind::Denied, "file.outside"),
            "{path}"
        );
    }
    assert_eq!(project.open("a").await.unwrap_err().code, "file.not-a-file");
    assert_eq!(project.open("none").await.unwrap_err().code, "file.missing");
    assert!(
        Command::new("mkfifo")
            .arg(project.root().join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        project.open("pipe").await.unwrap_err().code,
        "file.not-a-file"
    );
}

#[tokio::test]
async fn an_archive_is_canonical() {
    let trees = [Project::new(), Project::new()];
    let long = format!("deep/{}/x", "n".repeat(180));
    for (number, project) in trees.iter().enumerate() {
        let mut files = vec![
            "z",
            "a/b",
            "Dockerfile",
            "skip/me",
            "skip/not",
            ".git/HEAD",
            "sub/.git",
            ".windlass/x",
            &long,
        ];
        if number == 1 {
            files.reverse();
        }
        for file in files {
            project.write(file, file);
        }
        let script = project.root().join("run.sh");
        std::fs::write(&script, "#!").unwrap();
        let mode = if number == 0 { 0o700 } else { 0o775 };
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
        std::os::unix::fs::symlink("/etc/passwd", project.root().join("link")).unwrap();
    }
    let ignore = ["skip", "!skip/not", "Dockerfile", "# comment"];
    let (one, names) = trees[0].archive(&ignore, &["Dockerfile"]).await.unwrap();
    let (two, _) = trees[1].archive(&ignore, &["Dockerfile"]).await.unwrap();
    assert_eq!(one, two);
    let wanted = [
        "Dockerfile 644".to_owned(),
        "a/ 755".into(),
        "a/b 644".into(),
        "deep/ 755".into(),
        format!("deep/{}/ 755", "n".repeat(180)),
        format!("{long} 644"),
        "link 777".into(),
        "run.sh 755".into(),
        "skip/ 755".into(),
        "skip/not 644".into(),
        "sub/ 755".into(),
        "z 644".into(),
    ];
    assert_eq!(names, wanted);
    let (_, names) = trees[0].archive(&["**"], &["Dockerfile"]).await.unwrap();
    assert_eq!(names, ["Dockerfile 644"]);
    assert_eq!(
        trees[0].archive(&["["], &[]).await.unwrap_err().code,
        "file.ignore-pattern"
    );
}

#[tokio::test]
async fn a_repository_is_described() {
    require!(Git);
    let project = Project::new();
    let error = project.facts().await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::NotFound, "git.no-repository")
    );
    project.git(&["init", "-q"]);
    assert_eq!(project.facts().await.unwrap_err().code, "git.no-commit");
    project.write("a", "1");
    project.git(&["add", "."]);
    project.git(&["commit", "-qm", "one"]);
    project.git(&["tag", "v1"]);
    project.git(&[
        "remote",
        "add",
        "origin",
        "https://me:t0ken@github.com/acme/observer.git",
    ]);
    project.write(".windlass/journal", "ours");
    let facts = project.facts().await.unwrap();
    assert_eq!(facts.commit, project.git(&["rev-parse", "HEAD"]));
    assert_eq!(
        (facts.branch.as_deref(), facts.tags.as_slice()),
        (Some("main"), &["v1".to_owned()][..])
    );
    assert_eq!((facts.dirty, facts.shallow), (false, false));
    assert_eq!(
        facts.origin.as_deref(),
        Some("https://github.com/acme/observer")
    );
    project.write("b", "2");
    assert!(project.facts().await.unwrap().dirty);
    project.git(&["checkout", "-q", "--detach"]);
    assert_eq!(project.facts().await.unwrap().branch, None);

    let shallow = Project::new();
    let from = format!("file://{}", project.root().display());
    project.git(&["commit", "-q", "--allow-empty", "-m", "two"]);
    git(
        shallow.dir.path(),
        &["clone", "-q", "--depth", "1", &from, "root"],
    );
    assert!(shallow.facts().await.unwrap().shallow);
}

#[tokio::test]
async fn tags_are_made_and_pushed_once() {
    require!(Git);
    let project = Project::new();
    project.git(&["init", "-q"]);
    project.git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    let one = project.git(&["rev-parse", "HEAD"]);
    let remote = project.dir.path().join("remote.git");
    git(project.dir.path(), &["init", "-q", "--bare", "remote.git"]);
    project.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
    // A hook that would stop everything is not asked.
    project.write(".git/hooks/pre-push", "#!/bin/sh\nexit 1\n");
    let hook = project.root().join(".git/hooks/pre-push");
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    for (tag, message) in [("light", None), ("heavy", Some("-a message"))] {
        assert_eq!(
            project.tag_state("origin", tag).await.unwrap(),
            TagCommits::default()
        );
        assert_eq!(
            project.push_tag("origin", tag).await.unwrap_err().code,
            "git.no-tag"
        );
        for _ in 0..2 {
            project.create_tag(tag, message).await.unwrap();
            project.push_tag("origin", tag).await.unwrap();
        }
        let both = TagCommits {
            local: Some(one.clone()),
            remote: Some(one.clone()),
        };
        assert_eq!(project.tag_state("origin", tag).await.unwrap(), both);
    }
    project.git(&["commit", "-q", "--allow-empty", "-m", "two"]);
    let two = project.git(&["rev-parse", "HEAD"]);
    let error = project.create_tag("light", None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(
        error.message.contains(&one) && error.message.contains(&two),
        "{error:?}"
    );
    project.git(&["tag", "-f", "light", "HEAD"]);
    let error = project.push_tag("origin", "light").await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Conflict, "git.tag-elsewhere")
    );
    assert!(
        error.message.contains(&one) && error.message.contains(&two),
        "{error:?}"
    );
}

#[tokio::test]
async fn words_that_git_would_misread_are_refused() {
    require!(Git);
    let project = Project::new();
    project.git(&["init", "-q"]);
    project.git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    for tag in ["-d", "", "a b", "a..b"] {
        assert_eq!(
            project.create_tag(tag, None).await.unwrap_err().kind,
            ErrorKind::Invalid,
            "{tag}"
        );
    }
    let code = |remote: &'static str| {
        let project = &project;
        async move { project.tag_state(remote, "v1").await.unwrap_err().code }
    };
    assert_eq!(code("--upload-pack=touch x").await, "git.argument");
    assert_eq!(code("ext::sh -c true").await, "git.protocol");
    assert_eq!(code("http://localhost/x").await, "git.protocol");
    assert_eq!(code("nowhere").await, "git.no-remote");
}
