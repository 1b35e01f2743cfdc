//! What a call needs to be granted, in the words of the grant grammar.

use crate::call::{
    Call, Content, DockerOp, FileCall, FileOp, GitCall, HttpBody, HttpCall, RegistryCall,
    ReleasesOp, SecretCall, SshOp, TargetOp, Variables,
};
use crate::text::Text;

/// One thing that must be granted: `docker.push ghcr.io/acme/app:1`, or
/// `secret.send TOKEN to http:https://api.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Need {
    pub verb: String,
    pub subject: String,
    pub sink: Option<String>,
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.subject)?;
        match &self.sink {
            Some(sink) => write!(f, " to {sink}"),
            None => Ok(()),
        }
    }
}

fn need(verb: &str, subject: impl Into<String>) -> Need {
    Need {
        verb: verb.to_owned(),
        subject: subject.into(),
        sink: None,
    }
}

/// One for each secret in the text.
fn send<'a>(text: &'a Text, sink: &'a str) -> impl Iterator<Item = Need> + 'a {
    text.secrets().map(move |name| Need {
        verb: "secret.send".to_owned(),
        subject: name.to_owned(),
        sink: Some(sink.to_owned()),
    })
}

fn send_all(needs: &mut Vec<Need>, variables: &Variables, sink: &str) {
    for (_, value) in variables {
        needs.extend(send(value, sink));
    }
}

/// `repo:tag` or `repo@digest` without its tag or digest.
pub fn repository_of(reference: &str) -> &str {
    let without_digest = reference
        .split_once('@')
        .map_or(reference, |(name, _)| name);
    match without_digest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => without_digest,
    }
}

/// `https://host:port` of a URL; the whole text where it has none, and
/// `secret:NAME` where the URL begins with a secret.
pub fn origin_of(url: &str) -> &str {
    match url.find("://") {
        Some(scheme) => {
            let rest = scheme + 3;
            let end = url[rest..]
                .find(['/', '?', '#'])
                .map_or(url.len(), |at| rest + at);
            &url[..end]
        }
        None => url,
    }
}

impl Call {
    /// Everything that must be granted for the call to go through. Empty for
    /// what a guest may always do: sleep, wait for its own container.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        match self {
            Self::Docker(call) => {
                docker_needs(&call.op, &mut needs);
                if !call.engine.is_local() && !needs.is_empty() {
                    needs.push(need("docker.engine", call.engine.as_str()));
                }
            }
            Self::Registry(call) => match call {
                RegistryCall::Manifest { reference } => {
                    needs.push(need("registry.read", repository_of(&reference.to_string())))
                }
                RegistryCall::MayPush { repository } => {
                    needs.push(need("registry.push", repository));
                }
                RegistryCall::Tags { repository } => needs.push(need("registry.read", repository)),
            },
            Self::Target(call) => match &call.op {
                TargetOp::Inspect => needs.push(need("target.inspect", call.target.as_str())),
                TargetOp::Apply { ops } => {
                    needs.push(need("target.apply", call.target.as_str()));
                    let sink = format!("env:{}", call.target);
                    for op in ops {
                        match op {
                            FileOp::PutFile {
                                content: Content::Text(text),
                                ..
                            } => needs.extend(send(text, &sink)),
                            FileOp::RunScript { args, env, .. } => {
                                needs.push(need("ssh.exec", call.target.as_str()));
                                for arg in args {
                                    needs.extend(send(arg, "argv"));
                                }
                                send_all(&mut needs, env, &sink);
                            }
                            _ => {}
                        }
                    }
                }
            },
            Self::Ssh(call) => match &call.op {
                SshOp::Exec { argv, env, .. } => {
                    needs.push(need("ssh.exec", call.target.as_str()));
                    for arg in argv {
                        // Never granted: an argument list is visible to every
                        // user of the machine.
                        needs.extend(send(arg, "argv"));
                    }
                    send_all(&mut needs, env, &format!("env:{}", call.target));
                }
                SshOp::Trace { .. } | SshOp::Rejoin { .. } => {
                    needs.push(need("ssh.exec", call.target.as_str()));
                }
                SshOp::Upload { path, .. } => {
                    needs.push(need("ssh.upload", format!("{}:{path}", call.target)));
                }
                SshOp::Download { path } => {
                    needs.push(need("ssh.download", format!("{}:{path}", call.target)));
                }
            },
            Self::Releases(call) => {
                let place = format!("{}:{}", call.target, call.dir);
                match &call.op {
                    ReleasesOp::List => needs.push(need("releases.read", place)),
                    ReleasesOp::Stage(spec) => {
                        needs.push(need("releases.deploy", place));
                        let sink = format!("release:{}", call.target);
                        send_all(&mut needs, &spec.env, &sink);
                        send_all(&mut needs, &spec.images, &sink);
                        if let Some(tag) = &spec.image_tag {
                            needs.extend(send(tag, &sink));
                        }
                        for (_, variables) in &spec.files {
                            send_all(&mut needs, variables, &sink);
                        }
                    }
                    _ => needs.push(need("releases.deploy", place)),
                }
            }
            Self::Lease(call) => {
                needs.push(need("lease.hold", format!("{}:{}", call.target, call.path)))
            }
            Self::Http(call) => http_needs(call, &mut needs),
            Self::Git(call) => match call {
                GitCall::Inspect => needs.push(need("git.read", "HEAD")),
                GitCall::TagState { remote, .. } => needs.push(need("git.read", remote)),
                GitCall::CreateTag { tag, .. } => needs.push(need("git.tag", tag)),
                GitCall::PushTag { remote, tag } => {
                    needs.push(need("git.tag", tag));
                    needs.push(need("git.push", remote));
                }
            },
            Self::File(call) => match call {
                FileCall::Open { path } => needs.push(need("file.read", path)),
                FileCall::Archive { root, .. } => {
                    let root = root.trim_end_matches('/');
                    needs.push(need("file.read", format!("{root}/**")));
                }
            },
            Self::Clock(_) => {}
            Self::Secret(SecretCall::Reveal { name }) => needs.push(need("secret.reveal", name)),
        }
        needs
    }
}

fn docker_needs(op: &DockerOp, needs: &mut Vec<Need>) {
    match op {
        DockerOp::Info | DockerOp::InspectImage { .. } => needs.push(need("docker.inspect", "*")),
        DockerOp::Build(spec) => {
            if spec.tags.is_empty() {
                needs.push(need("docker.build", "*"));
            }
            needs.extend(spec.tags.iter().map(|tag| need("docker.build", tag)));
            send_all(needs, &spec.secrets, "build");
        }
        DockerOp::Tag { new_tag, .. } => needs.push(need("docker.tag", new_tag.to_string())),
        DockerOp::Push { image } => needs.push(need("docker.push", image.to_string())),
        DockerOp::Pull { image } => needs.push(need("docker.pull", image.to_string())),
        DockerOp::RemoveImage { image } => needs.push(need("docker.remove", image.to_string())),
        DockerOp::Run(spec) => {
            let image = spec.image.to_string();
            if spec.privileged {
                needs.push(need("docker.privileged", &image));
            }
            needs.push(need("docker.run", image));
            for mount in &spec.mounts {
                needs.push(need("docker.mount", &mount.source));
            }
            if let Some(network) = &spec.network {
                needs.push(need("docker.network", network));
            }
            for text in &spec.command {
                needs.extend(send(text, "argv"));
            }
            send_all(needs, &spec.env, "container");
        }
        // By a handle that only the host gives out.
        DockerOp::InspectContainer { .. }
        | DockerOp::ContainerLogs { .. }
        | DockerOp::WaitContainer { .. }
        | DockerOp::RemoveContainer { .. } => {}
    }
}

fn http_needs(call: &HttpCall, needs: &mut Vec<Need>) {
    let url = call.url.to_string();
    needs.push(need(&format!("http.{}", call.method), &url));
    if let Some(via) = &call.via {
        needs.push(need("http.via", via.as_str()));
    }
    let sink = format!("http:{}", origin_of(&url));
    // A URL that begins with a secret is covered by the grant for that URL;
    // one that only contains a secret sends it to a known origin.
    if !url.starts_with("secret:") {
        needs.extend(send(&call.url, &sink));
    }
    send_all(needs, &call.headers, &sink);
    if let HttpBody::Text(body) = &call.body {
        needs.extend(send(body, &sink));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_repositories() {
        assert_eq!(origin_of("https://a.b:1/c?d"), "https://a.b:1");
        assert_eq!(origin_of("https://a.b?d"), "https://a.b");
        assert_eq!(origin_of("secret:HOOK"), "secret:HOOK");
        assert_eq!(repository_of("localhost:5000/a/b:1"), "localhost:5000/a/b");
        assert_eq!(repository_of("localhost:5000/a/b"), "localhost:5000/a/b");
        assert_eq!(repository_of("a/b@sha256:0"), "a/b");
    }

    #[test]
    fn a_secret_header_names_its_sink() {
        let call = Call::Http(HttpCall {
            method: "POST".into(),
            url: "https://api.example.com/x".into(),
            headers: vec![("authorization".into(), Text::secret("TOKEN"))],
            body: HttpBody::Empty,
            timeout_ms: 1,
            max_redirects: 0,
            via: None,
            max_body: 1,
        });
        let needs: Vec<String> = call.needs().iter().map(ToString::to_string).collect();
        assert_eq!(
            needs,
            [
                "http.POST https://api.example.com/x",
                "secret.send TOKEN to http:https://api.example.com"
            ]
        );
    }
}
