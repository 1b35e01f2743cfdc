//! What a target is: system, user, Docker and compose there.

use windlass_model::reply::TargetFacts;
use windlass_model::{CallContext, CallError, TargetName};

use super::script::Script;
use crate::ssh::Connections;
use crate::ssh::lines::excerpt;

const SCRIPT: &str = r#"say os 0 "$(uname -s)"
say machine 0 "$(uname -m)"
say user 0 "$(id -un 2>/dev/null || id -u)"
say groups 0 "$(id -Gn 2>/dev/null)"
say host 0 "$DOCKER_HOST"
if command -v docker >/dev/null 2>&1; then
  docker version --format '{{.Server.Version}}' > "$T/out" 2> "$T/err"; r=$?
  emit version $r "$T/out"
  emit error $r "$T/err"
else
  say nodocker 0 ''
fi
case $DOCKER_HOST in
  unix://*)
    s=${DOCKER_HOST#unix://}
    if [ ! -e "$s" ]; then say socket 0 missing
    elif [ ! -w "$s" ]; then say socket 0 forbidden
    else say socket 0 usable
    fi
    say owner 0 "$(stat -c %G "$s" 2>/dev/null)"
    ;;
esac
c=$(docker compose version --short 2>/dev/null) && [ -n "$c" ] && say v2 0 "$c" || {
  c=$(docker-compose version --short 2>/dev/null) && [ -n "$c" ] && say v1 0 "$c"
}
"#;

/// One round trip; nothing changes.
pub(crate) async fn inspect(
    ssh: &Connections,
    context: &CallContext,
    target: &TargetName,
) -> Result<TargetFacts, CallError> {
    let mut script = Script::new(context, ssh.named_docker_socket(target).as_deref())?;
    script.push(SCRIPT);
    let answer = script.run(ssh, context, target).await?;
    let word = |kind: &str| answer.text(kind).trim().to_owned();
    let user = word("user");
    let compose = match (word("v2"), word("v1")) {
        (v2, _) if !v2.is_empty() => format!("docker compose {}", v2.trim_start_matches('v')),
        (_, v1) if !v1.is_empty() => format!("docker-compose {v1}"),
        _ => String::new(),
    };
    let docker = answer.find("version");
    let docker_version = docker
        .filter(|frame| frame.number == 0)
        .map(|_| word("version"))
        .unwrap_or_default();
    let docker_problem = if answer.find("nodocker").is_some() {
        format!("{target} has no `docker`: install Docker Engine there")
    } else if !docker_version.is_empty() {
        String::new()
    } else {
        problem(
            target,
            &user,
            &word("host"),
            &word("socket"),
            &word("owner"),
            &answer.text("error"),
        )
    };
    Ok(TargetFacts {
        os: word("os").to_ascii_lowercase(),
        architecture: architecture(&word("machine")),
        user,
        compose,
        docker_problem,
        docker_version,
    })
}

/// Reason and remedy.
fn problem(
    target: &TargetName,
    user: &str,
    host: &str,
    socket: &str,
    owner: &str,
    said: &str,
) -> String {
    if socket == "forbidden" || said.contains("permission denied") {
        let group = if owner.is_empty() || owner == "root" {
            "docker"
        } else {
            owner
        };
        return format!(
            "{user} may not use the Docker engine of {target} ({host}): run `sudo usermod -aG \
             {group} {user}` there and log in anew, use a rootless engine, or set `sudo = true`"
        );
    }
    if socket == "missing" {
        return format!(
            "no Docker engine runs on {target} (there is no {host}): `sudo systemctl start docker` \
             there, or name its socket with `docker_socket`"
        );
    }
    format!(
        "the Docker engine of {target} ({host}) does not answer: {}",
        excerpt(said)
    )
}

/// `uname -m` in the words of image configurations.
fn architecture(machine: &str) -> String {
    match machine {
        "x86_64" | "amd64" => "amd64",
        "aarch64" | "arm64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i386" | "i486" | "i586" | "i686" => "386",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_apart() {
        let target = TargetName::new("prod");
        let text = problem(&target, "deploy", "unix:///s", "forbidden", "docker", "");
        assert!(text.contains("usermod -aG docker deploy"), "{text}");
        let text = problem(&target, "deploy", "unix:///s", "missing", "", "");
        assert!(text.contains("no Docker engine runs on prod"), "{text}");
        let text = problem(
            &target,
            "deploy",
            "unix:///s",
            "usable",
            "",
            "Cannot connect to x",
        );
        assert!(text.contains("does not answer: Cannot connect"), "{text}");
    }
}
