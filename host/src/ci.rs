//! What a CI system tells by its environment.

/// Facts of a CI job; all absent on a person's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ci {
    /// GitHub Actions: annotations and a step summary are understood.
    pub github: bool,
    /// The tag whose push started the job.
    pub tag: Option<String>,
    pub branch: Option<String>,
    /// The job's page.
    pub link: Option<String>,
    /// Who started it.
    pub who: Option<String>,
    /// Where a Markdown summary goes.
    pub summary: Option<std::path::PathBuf>,
}

impl Ci {
    /// Looks names up with `get`.
    pub fn detect(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        if get("GITHUB_ACTIONS").as_deref() == Some("true") {
            let kind = get("GITHUB_REF_TYPE");
            let name = get("GITHUB_REF_NAME");
            return Self {
                github: true,
                tag: name.clone().filter(|_| kind.as_deref() == Some("tag")),
                branch: name.filter(|_| kind.as_deref() == Some("branch")),
                link: match (
                    get("GITHUB_SERVER_URL"),
                    get("GITHUB_REPOSITORY"),
                    get("GITHUB_RUN_ID"),
                ) {
                    (Some(server), Some(repository), Some(run)) => {
                        Some(format!("{server}/{repository}/actions/runs/{run}"))
                    }
                    _ => None,
                },
                who: get("GITHUB_ACTOR").map(|actor| format!("{actor} (GitHub Actions)")),
                summary: get("GITHUB_STEP_SUMMARY").map(Into::into),
            };
        }
        if get("GITLAB_CI").as_deref() == Some("true") {
            return Self {
                tag: get("CI_COMMIT_TAG"),
                branch: get("CI_COMMIT_BRANCH"),
                link: get("CI_JOB_URL"),
                who: get("GITLAB_USER_LOGIN").map(|user| format!("{user} (GitLab CI)")),
                ..Self::default()
            };
        }
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn github_tells_tag_and_page() {
        let ci = Ci::detect(&|name| {
            Some(
                match name {
                    "GITHUB_ACTIONS" => "true",
                    "GITHUB_REF_TYPE" => "tag",
                    "GITHUB_REF_NAME" => "20260124-014658",
                    "GITHUB_SERVER_URL" => "https://github.com",
                    "GITHUB_REPOSITORY" => "acme/observer",
                    "GITHUB_RUN_ID" => "7",
                    "GITHUB_ACTOR" => "octocat",
                    _ => return None,
                }
                .to_owned(),
            )
        });
        assert_eq!(ci.tag.as_deref(), Some("20260124-014658"));
        assert_eq!(ci.branch, None);
        assert_eq!(
            ci.link.as_deref(),
            Some("https://github.com/acme/observer/actions/runs/7")
        );
    }

    #[test]
    fn elsewhere_there_is_nothing() {
        assert_eq!(Ci::detect(&|_| None), Ci::default());
    }
}
