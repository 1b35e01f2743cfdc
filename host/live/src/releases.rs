//! The capability `releases`: what runs put on targets, and how it becomes
//! current there.
//!
//! `DIR/releases/ID/` holds, beside `release.json`:
//!
//! | file | what |
//! |---|---|
//! | `compose.yml`, `.env`, `override.yml` | for compose; the override is made of the images |
//! | the files of variables | as the compose file's `env_file`s name them; links lead there from DIR |
//! | `state` | one word; the shell changes it |
//! | `project`, `images`, `vars`, `envs`, `names` | a line each, for the shell: project; service and image; names of variables; files of variables; what makes the content |
//!
//! Each operation is one script, so one round trip; what must follow a failure
//! (the last good release put back) is in the same script, so that it happens
//! although the connection is cut.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use windlass_model::call::{ReleasesCall, ReleasesOp, StageSpec, Variables};
use windlass_model::reply::{Exit, Release, ReleaseState, Staged};
use windlass_model::{CallContext, CallError, Reply, TargetName, Text};
use zeroize::Zeroizing;

use crate::Config;
use crate::ssh::Connections;
use crate::ssh::lines::excerpt;
use crate::ssh::operation::{check_path, file_error};
use crate::ssh::shell::{is_variable_name, quote};
use crate::target::script::{Answer, Script};
use crate::target::{bad_answer, blob_bytes, check_project};

mod dotenv;
mod shell;

/// Compose files and variables travel in a script.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Kept free before the call's deadline: to put the last good release back.
const RESERVE: Duration = Duration::from_secs(20);
const IMAGE_TAG: &str = "IMAGE_TAG";

/// Answers calls of the capability `releases`.
#[derive(Debug)]
pub struct Releases {
    config: Arc<Config>,
    ssh: Arc<Connections>,
}

/// `release.json`, whose `id` is the name of its directory.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    created: String,
    #[serde(flatten)]
    facts: Facts,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Facts {
    run: String,
    pipeline: String,
    environment: String,
    tag: String,
    commit: String,
    who: String,
    project: String,
    /// Service and image.
    images: Vec<(String, String)>,
    compose_sha256: String,
}

impl Releases {
    pub fn new(config: Arc<Config>, ssh: Arc<Connections>) -> Self {
        Self { config, ssh }
    }

    pub async fn call(
        &self,
        context: &CallContext,
        call: ReleasesCall,
    ) -> Result<Reply, CallError> {
        let ReleasesCall { target, dir, op } = call;
        check_path(&dir)?;
        let dir = dir.trim_end_matches('/');
        if dir.is_empty() {
            return Err(CallError::invalid(
                "releases.dir",
                "releases cannot live in /",
            ));
        }
        let place = Place {
            context,
            target: &target,
            dir,
        };
        match op {
            ReleasesOp::Stage(spec) => self.stage(place, &spec).await,
            ReleasesOp::Activate {
                id,
                timeout_ms,
                remove_orphans,
            } => {
                self.activate(place, &id, timeout_ms, remove_orphans, false)
                    .await
            }
            ReleasesOp::Restore { id } => {
                let limit = u64::try_from(context.remaining().as_millis()).unwrap_or(u64::MAX);
                self.activate(place, &id, limit, false, true).await
            }
            ReleasesOp::List => self.list(place).await,
            ReleasesOp::MarkGood { id } => {
                let mut script = self.script(place, Some(&id))?;
                script.push(shell::MARK_GOOD);
                let answer = script.run(&self.ssh, context, &target).await?;
                refused(&place, &answer, &id)?;
                Ok(Reply::Done)
            }
            ReleasesOp::Prune { keep } => {
                let mut script = self.script(place, None)?;
                script.set("KEEP", &keep.to_string())?;
                script.push(shell::PRUNE);
                let answer = script.run(&self.ssh, context, &target).await?;
                refused(&place, &answer, "")?;
                let gone = answer.frames.iter().filter(|frame| frame.kind == "gone");
                Ok(Reply::Texts(
                    gone.map(crate::target::script::Frame::text).collect(),
                ))
            }
        }
    }

    /// For what changes something: under the run's lease.
    fn script(&self, place: Place<'_>, id: Option<&str>) -> Result<Script, CallError> {
        let socket = self.ssh.named_docker_socket(place.target);
        let mut script = Script::new(place.context, socket.as_deref())?;
        script.fence(&self.ssh, place.target)?;
        self.begin(script, place, id)
    }

    fn begin(
        &self,
        mut script: Script,
        place: Place<'_>,
        id: Option<&str>,
    ) -> Result<Script, CallError> {
        script.set("D", place.dir)?;
        if let Some(id) = id {
            check_id(id)?;
            script.set("ID", id)?;
        }
        script.push(shell::COMPOSE);
        Ok(script)
    }

    async fn stage(&self, place: Place<'_>, spec: &StageSpec) -> Result<Reply, CallError> {
        let files = self.files(place.context, spec)?;
        let mut script = self.script(place, None)?;
        script.set("PROJECT", &spec.project)?;
        let tag: String = spec
            .tag
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .take(64)
            .collect();
        let tag = if tag.is_empty() {
            "untagged".to_owned()
        } else {
            tag
        };
        // Of the call's identity, thus of no secret.
        let hash = hex::encode(Sha256::digest(place.context.id.stamp().as_bytes()));
        script.set("TAG", &format!("{tag}-{}", &hash[..8]))?;
        script.push(shell::VERIFY);
        script.push(
            "TIME=$(date -u +%Y%m%dT%H%M%SZ)\nCREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)\n\
             ID=$TIME-$TAG\nR=\"$D/releases/$ID\"\n\
             refuse() { say refused 0 \"$1\"; emit said 0 \"$2\"; say end 0 ''; exit 0; }\n\
             trap 'rm -rf \"$R\" \"$T\"' EXIT\n\
             mkdir -p \"$D/releases\" 2> \"$T/err\" && mkdir \"$R\" 2> \"$T/err\" || refuse disk \"$T/err\"",
        );
        for directory in &spec.directories {
            let path = if directory.starts_with('/') {
                quote(directory)?
            } else {
                quote(&format!("{}/{directory}", place.dir))?
            };
            script.push(&format!(
                "mkdir -p {path} 2> \"$T/err\" || refuse disk \"$T/err\""
            ));
        }
        script.push("umask 077");
        for (name, content) in &files {
            let file = quote(name)?;
            script.feed(
                content,
                &format!("cat > \"$R/\"{file} 2> \"$T/err\" || refuse disk \"$T/err\""),
            );
        }
        let facts = self.facts(place.context, spec);
        let json = serde_json::to_string(&facts).map_err(|error| {
            CallError::internal(
                "releases.record",
                format!("no record can be written: {error}"),
            )
        })?;
        // The target's clock gives identity and time.
        script.feed(
            json.trim_start_matches('{').as_bytes(),
            "{ printf '{\"id\":\"%s\",\"created\":\"%s\",' \"$ID\" \"$CREATED\"; cat; } > \"$R/release.json\" 2> \"$T/err\" || refuse disk \"$T/err\"",
        );
        script
            .push("chmod 755 \"$R\"; chmod 644 \"$R/compose.yml\" \"$R/release.json\"; umask 022");
        script.push(shell::STAGE);
        let answer = script.run(&self.ssh, place.context, place.target).await?;
        refused(&place, &answer, "")?;
        let staged = answer
            .find("staged")
            .ok_or_else(|| bad_answer(place.target))?;
        let (id, previous) = (staged.text(), answer.text("previous"));
        let named = [&id, &previous].into_iter().filter(|id| !id.is_empty());
        for id in named {
            check_id(id).map_err(|_| bad_answer(place.target))?;
        }
        Ok(Reply::Staged(Staged {
            id,
            changed: staged.number == 1,
            previous: (!previous.is_empty()).then_some(previous),
            missing_images: answer.text("missing").lines().map(str::to_owned).collect(),
        }))
    }

    /// What a release's directory holds, `release.json` and `state` aside.
    fn files(&self, context: &CallContext, spec: &StageSpec) -> Result<Files, CallError> {
        check_project(&spec.project)?;
        let compose = spec.compose.as_ref().ok_or_else(|| {
            CallError::invalid("releases.no-compose-file", "a release needs a compose file")
        })?;
        let compose = blob_bytes(context, compose, MAX_FILE)?;
        let mut env = self.variables(&spec.env)?;
        if let Some(tag) = &spec.image_tag {
            env.retain(|(name, _)| name != IMAGE_TAG);
            env.push((IMAGE_TAG.to_owned(), self.config.secrets.resolve(tag)?));
        }
        let mut services = serde_json::Map::new();
        let mut images = String::new();
        for (service, image) in &spec.images {
            check_service(service)?;
            let image = self.config.secrets.resolve(image)?;
            check_image(service, &image)?;
            let _ = writeln!(images, "{service} {}", *image);
            services.insert(service.clone(), serde_json::json!({ "image": *image }));
        }
        // JSON is YAML. Compose v1 wants the version of all its files alike.
        let mut override_file = serde_json::Map::new();
        if let Some(version) = declared_version(&String::from_utf8_lossy(&compose)) {
            override_file.insert("version".to_owned(), version.into());
        }
        override_file.insert("services".to_owned(), services.into());
        let override_file = serde_json::Value::from(override_file).to_string();
        let mut names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let mut files: Files = vec![
            ("compose.yml".to_owned(), compose),
            (".env".to_owned(), bytes(&dotenv::write(".env", &env)?)),
            ("override.yml".to_owned(), bytes(&override_file)),
            ("project".to_owned(), bytes(&format!("{}\n", spec.project))),
            ("images".to_owned(), bytes(&images)),
            ("vars".to_owned(), bytes(&lines(&names))),
        ];
        let mut envs: Vec<&str> = Vec::new();
        for (name, variables) in &spec.files {
            check_file_name(name)?;
            if files.iter().any(|(taken, _)| taken == name) || RESERVED.contains(&name.as_str()) {
                return Err(CallError::invalid(
                    "releases.file-name",
                    format!("a file of variables cannot be called {name}: the release has its own"),
                ));
            }
            envs.push(name);
            let text = dotenv::write(name, &self.variables(variables)?)?;
            files.push((name.clone(), bytes(&text)));
        }
        let list = lines(&envs);
        files.push(("envs".to_owned(), bytes(&list)));
        let all: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let all = lines(&all);
        files.push(("names".to_owned(), bytes(&all)));
        Ok(files)
    }

    fn variables(
        &self,
        variables: &Variables,
    ) -> Result<Vec<(String, Zeroizing<String>)>, CallError> {
        variables
            .iter()
            .map(|(name, value)| Ok((name.clone(), self.config.secrets.resolve(value)?)))
            .collect()
    }

    fn facts(&self, context: &CallContext, spec: &StageSpec) -> Facts {
        Facts {
            run: context.id.run.to_string(),
            pipeline: spec.pipeline.clone(),
            environment: spec.environment.clone(),
            tag: spec.tag.clone(),
            commit: spec.commit.clone(),
            who: spec.who.clone(),
            project: spec.project.clone(),
            images: spec
                .images
                .iter()
                .map(|(service, image)| (service.clone(), image.to_string()))
                .collect(),
            compose_sha256: spec
                .compose
                .as_ref()
                .map(|blob| blob.sha256.clone())
                .unwrap_or_default(),
        }
    }

    async fn activate(
        &self,
        place: Place<'_>,
        id: &str,
        timeout_ms: u64,
        remove_orphans: bool,
        restore: bool,
    ) -> Result<Reply, CallError> {
        let left = place.context.remaining();
        let limit = Duration::from_millis(timeout_ms)
            .min(left.saturating_sub(RESERVE).max(left / 2))
            .as_secs()
            .max(1);
        let mut script = self.script(place, Some(id))?;
        script.set("LIMIT", &limit.to_string())?;
        script.set(
            "ORPHANS",
            if remove_orphans {
                "--remove-orphans"
            } else {
                ""
            },
        )?;
        script.set("RESTORE", if restore { "restore" } else { "" })?;
        script.push(shell::VERIFY);
        script.push(shell::LINKS);
        script.push(shell::STRAYS);
        script.push(shell::ACTIVATE);
        let answer = script.run(&self.ssh, place.context, place.target).await?;
        refused(&place, &answer, id)?;
        if answer.find("active").is_some() {
            return Ok(Reply::Exit(Exit {
                code: 0,
                tail: answer.ran.tail,
                values: vec![("release".to_owned(), Text::from(id))],
            }));
        }
        Err(failed_activation(&place, &answer, id, limit))
    }

    async fn list(&self, place: Place<'_>) -> Result<Reply, CallError> {
        let socket = self.ssh.named_docker_socket(place.target);
        let script = Script::new(place.context, socket.as_deref())?;
        let mut script = self.begin(script, place, None)?;
        script.push(shell::LIST);
        let answer = script.run(&self.ssh, place.context, place.target).await?;
        let mut releases: Vec<Release> = answer
            .frames
            .chunks(2)
            .filter_map(|pair| match pair {
                [state, record] if state.kind == "state" && record.kind == "release" => {
                    release(&state.text(), state.number == 1, &record.data)
                }
                _ => None,
            })
            .collect();
        releases.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(Reply::Releases(releases))
    }
}

type Files = Vec<(String, Zeroizing<Vec<u8>>)>;

/// Names in a release's directory that are not for files of variables.
const RESERVED: [&str; 5] = ["state", "release.json", "envs", "names", "current"];

#[derive(Clone, Copy)]
struct Place<'a> {
    context: &'a CallContext,
    target: &'a TargetName,
    dir: &'a str,
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn lines(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word}\n")).collect()
}

/// `told`: a directory's name and what its `state` says. A state that is none counts
/// as failed, as the target takes it: nobody goes back to such a release. Of a record
/// that cannot be read, the name is known all the same.
fn release(told: &str, is_current: bool, record: &[u8]) -> Option<Release> {
    let (id, state) = told.split_once(' ')?;
    check_id(id).ok()?;
    let state = serde_json::from_value(serde_json::Value::from(state.trim()));
    let record: Record = serde_json::from_slice(record).unwrap_or_default();
    Some(Release {
        id: id.to_owned(),
        state: state.unwrap_or(ReleaseState::Failed),
        created: record.created,
        run: record.facts.run,
        tag: record.facts.tag,
        commit: record.facts.commit,
        who: record.facts.who,
        images: record.facts.images,
        is_current,
        pipeline: record.facts.pipeline,
        environment: record.facts.environment,
        compose_sha256: record.facts.compose_sha256,
    })
}

fn check_id(id: &str) -> Result<(), CallError> {
    let good = id.starts_with(|c: char| c.is_ascii_digit())
        && id.len() <= 128
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if good {
        return Ok(());
    }
    Err(
        CallError::invalid("releases.id", format!("{id:?} is no release"))
            .hint("`windlass releases` lists them"),
    )
}

fn check_service(service: &str) -> Result<(), CallError> {
    let good = !service.is_empty()
        && !service.starts_with('-')
        && service
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if good {
        return Ok(());
    }
    Err(CallError::invalid(
        "releases.service",
        format!("{service:?} is no name of a service"),
    ))
}

fn check_image(service: &str, image: &str) -> Result<(), CallError> {
    let good = !image.is_empty()
        && !image.starts_with('-')
        && image
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/:@+[]".contains(c));
    if good {
        return Ok(());
    }
    Err(CallError::invalid(
        "releases.image",
        format!("the image of {service} is no image reference"),
    )
    .hint("use `repository@sha256:…`, as `docker-push` gives it"))
}

fn check_file_name(name: &str) -> Result<(), CallError> {
    let good = !name.is_empty()
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if good {
        return Ok(());
    }
    Err(CallError::invalid(
        "releases.file-name",
        format!("{name:?} is no name for a file beside the compose file"),
    )
    .hint("use letters, digits, `.`, `_` and `-`, and no directories"))
}

/// The top-level `version`, when it stands on a line of its own.
fn declared_version(compose: &str) -> Option<String> {
    let line = compose
        .lines()
        .find_map(|line| line.strip_prefix("version:"))?;
    let value = line.split('#').next()?.trim().trim_matches(['"', '\'']);
    let good = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit() || c == '.');
    good.then(|| value.to_owned())
}

/// Why a script went no further, as an error.
fn refused(place: &Place<'_>, answer: &Answer, id: &str) -> Result<(), CallError> {
    let Some(frame) = answer.find("refused") else {
        return Ok(());
    };
    let (target, dir) = (place.target, place.dir);
    let (reason, said) = (frame.text(), answer.text("said"));
    Err(match reason.as_str() {
        "disk" => file_error("used for releases", target, dir, &said),
        "no-compose" => CallError::unavailable(
            "compose.missing",
            format!("{target} has neither `docker compose` nor `docker-compose`"),
        )
        .hint("install the Compose plug-in there: https://docs.docker.com/compose/install/linux/"),
        "compose" => CallError::invalid(
            "compose.refused",
            format!("compose on {target} refuses the file: {}", excerpt(&said)),
        )
        .hint("nothing on the target changed; `docker compose config` shows the same here"),
        "blank" => {
            let names = dotenv::blank_variables(&said);
            let list = names.join(", ");
            let first = names
                .into_iter()
                .find(|name| is_variable_name(name))
                .unwrap_or_else(|| "NAME".to_owned());
            CallError::invalid(
                "compose.blank-variable",
                format!("the compose file uses variables that are not set: {list}"),
            )
            .hint(format!(
                "give them in the step's `env`, or a default in the file: ${{{first}:-…}}"
            ))
        }
        "docker" => CallError::unavailable(
            "docker.unreachable",
            format!(
                "the Docker engine of {target} cannot be reached: {}",
                excerpt(&said)
            ),
        )
        .hint("is the login in the group docker there, and the engine running?"),
        "missing" => CallError::not_found(
            "releases.missing",
            format!("{target} has no release {id} in {dir}"),
        )
        .hint("`windlass releases` lists them"),
        "not-current" => CallError::conflict(
            "releases.not-current",
            format!("release {id} is not the current one on {target}"),
        ),
        other => {
            let Some(service) = other.strip_prefix("service ") else {
                return Err(bad_answer(target));
            };
            let mut services: Vec<String> =
                answer.text("services").lines().map(str::to_owned).collect();
            services.sort_unstable();
            CallError::invalid(
                "compose.unknown-service",
                format!("the compose file has no service {service}"),
            )
            .hint(format!("it has: {}", services.join(", ")))
        }
    })
}

/// The first line says why; what follows are a container's last words.
fn opening(said: &str) -> String {
    let (first, rest) = said.split_once('\n').unwrap_or((said, ""));
    match excerpt(rest) {
        rest if rest.is_empty() => excerpt(first),
        rest => format!("{} {rest}", excerpt(first)),
    }
}

fn failed_activation(place: &Place<'_>, answer: &Answer, id: &str, limit: u64) -> CallError {
    let target = place.target;
    let find = |kind| answer.find(kind).map(crate::target::script::Frame::text);
    let mut error = if let Some(said) = find("timeout") {
        CallError::timeout(
            "releases.up-timeout",
            format!(
                "release {id} was not up on {target} within {limit} s: {}",
                excerpt(&said)
            ),
        )
    } else if let Some(said) = find("verify") {
        CallError::unavailable(
            "releases.not-running",
            format!("release {id} does not run on {target}: {}", opening(&said)),
        )
    } else if let Some(said) = find("switch") {
        file_error("switched", target, &format!("{}/current", place.dir), &said)
    } else {
        let said = find("up").unwrap_or_default();
        CallError::unavailable(
            "releases.up-failed",
            format!(
                "release {id} did not come up on {target}: {}",
                excerpt(&said)
            ),
        )
    };
    let put = answer.text("put");
    let (note, hint) = match put.split_once(' ') {
        Some(("back", back)) => (
            format!("; release {back} was put back"),
            "the target serves what it served before; the log above shows why".to_owned(),
        ),
        Some((_, back)) => (
            format!(
                "; putting release {back} back failed, too: {}",
                excerpt(&answer.text("putwhy"))
            ),
            format!("look at the target now: `docker compose -p PROJECT ps` on {target}"),
        ),
        None => (
            "; there is no earlier release to put back".to_owned(),
            "the log above shows why; `current` was not switched".to_owned(),
        ),
    };
    error.message.push_str(&note);
    error.hint = Some(hint);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_taken_over() {
        assert_eq!(
            declared_version("version: \"3.8\" # old\nservices:"),
            Some("3.8".into())
        );
        assert_eq!(declared_version("services:\n  version: x"), None);
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for id in ["", "..", "../x", "-1", "a", "1/2", "1 2"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        assert!(check_id("20260124T014658Z-v1-abcdef01").is_ok());
        for name in ["", "..", "a/b", "-x", "a b"] {
            assert!(check_file_name(name).is_err(), "{name}");
        }
        assert!(check_file_name("app.env").is_ok());
        assert!(check_image("a", "$(x)").is_err());
    }
}
