//! `git-tag`: creates a tag at HEAD and pushes it.
//! `docs/plugins/git-tag.md` is its page.

use windlass_sdk::{Error, ErrorKind, OutputSpec, Plugin, facts, git, info, output};

/// Creates a git tag at HEAD and pushes it.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The tag; the run's own (`run.tag`) when absent.
    tag: Option<String>,
    /// Makes an annotated tag with this message; a lightweight one when absent.
    message: Option<String>,
    /// The remote to push to.
    #[serde(default = "origin")]
    remote: String,
    /// Whether to push it.
    #[serde(default = "yes")]
    push: bool,
}

fn origin() -> String {
    "origin".to_owned()
}

fn yes() -> bool {
    true
}

pub struct GitTag;

impl Plugin for GitTag {
    type Config = Config;
    const NAME: &'static str = "git-tag";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Create a git tag at HEAD and push it";

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("tag", "The tag"),
            OutputSpec::text("commit", "The commit that it points to"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "git.read HEAD",
            "git.read {{ (remote or 'origin') if push != false }}",
            "git.tag {{ tag or run.tag }}",
            "git.push {{ (remote or 'origin') if push != false }}",
        ]
    }

    fn run(config: Config) -> Result<(), Error> {
        let tag = config.tag.unwrap_or_else(|| facts().tag);
        if tag.is_empty() {
            return Err(Error::invalid("git-tag.no-tag", "the run has no tag")
                .with_hint("set `tag` of the step, `[run] tag`, or pass --tag"));
        }
        let facts = git::inspect()?;
        // Both places are looked at before anything is changed.
        let remote = if config.push {
            let places = git::tag_state(&config.remote, &tag)?;
            check(&tag, "here", places.local.as_deref(), &facts.commit)?;
            let place = format!("on {}", config.remote);
            check(&tag, &place, places.remote.as_deref(), &facts.commit)?;
            places.remote
        } else {
            None
        };
        git::create_tag(&tag, config.message.as_deref())?;
        match remote {
            _ if !config.push => info!("{tag} is at {}", facts.commit),
            Some(_) => info!("{tag} is on {} already", config.remote),
            None => {
                git::push_tag(&config.remote, &tag)?;
                info!("pushed {tag} to {}", config.remote);
            }
        }
        output::string("tag", &tag)?;
        output::string("commit", &facts.commit)
    }
}

/// A tag that exists must be the one that is wanted.
fn check(tag: &str, place: &str, found: Option<&str>, head: &str) -> Result<(), Error> {
    match found {
        Some(commit) if commit != head => Err(Error::new(
            ErrorKind::Conflict,
            "git-tag.elsewhere",
            format!("tag {tag} exists {place} and points to {commit}, while HEAD is {head}"),
        )
        .with_hint("choose another tag, or delete that one if nothing was deployed from it")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_tag_at_head_or_nowhere_is_fine() {
        assert!(check("t", "here", None, "a").is_ok());
        assert!(check("t", "here", Some("a"), "a").is_ok());
        let error = check("t", "on origin", Some("b"), "a").unwrap_err();
        assert_eq!(
            error.message,
            "tag t exists on origin and points to b, while HEAD is a"
        );
    }
}

windlass_sdk::plugin!(GitTag);
