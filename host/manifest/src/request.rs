//! A plugin's request templates, filled in with a step's configuration: what
//! the step may ask for, as narrow as what it was told.
//!
//! A template is a grant with expressions: `docker.push {{ tags }}`. Words are
//! told apart before anything is filled in, and values are escaped, so a value
//! can neither add a word nor widen a pattern.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Environment, UndefinedBehavior, Value as Jinja};
use serde_json::Value;
use windlass_model::grant::{Grant, Pattern, is_verb};
use windlass_model::need::{origin_of, repository_of};

use crate::expression::{MAX_EXPRESSION, Piece, secret_name, split, unknown_name};
use crate::jinja::{jinja, jinja_message, to_jinja};

/// Templates and what they give come from plugins: more would be an attempt to
/// fill the host's memory.
const MAX_REQUESTS: usize = 1000;
const MAX_TEMPLATE: usize = MAX_EXPRESSION;
const MAX_SUBJECT: usize = 4096;

/// One filled-in request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub grant: Grant,
    /// Something in it came from another step's output.
    pub tainted: bool,
}

/// The template is wrong: the plugin's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {template:?}: {message}")]
pub struct RequestError {
    pub template: String,
    pub message: String,
}

/// Fills in a template. `config` is an evaluated configuration with secrets as
/// `{"$secret": NAME}`; besides its keys, expressions see `target`. `tainted`
/// are the keys whose values came from other steps.
///
/// A list or a table gives one request for each element; an absent or empty
/// value gives none. A secret is written `secret:NAME`, except in
/// `secret.send`, which takes names: there, everything but secrets is left
/// out. A sink `http:URL` becomes that URL's origin.
///
/// Filters besides minijinja's own: `origin` of a URL, `repository` of an
/// image reference; both work on lists.
pub fn expand(
    template: &str,
    config: &Value,
    target: Option<&str>,
    tainted: &BTreeSet<String>,
) -> Result<Vec<Request>, RequestError> {
    let fail = |message: String| RequestError {
        template: template.to_owned(),
        message,
    };
    if template.len() > MAX_TEMPLATE {
        return Err(RequestError {
            template: template.chars().take(60).collect(),
            message: format!("it is longer than {MAX_TEMPLATE} bytes"),
        });
    }
    let words = words(template).map_err(fail)?;
    let (verb, pattern, sink) = match words.as_slice() {
        [verb] => (verb, None, None),
        [verb, pattern] => (verb, Some(pattern), None),
        [verb, pattern, to, sink] if to.literal() == Some("to") => {
            (verb, Some(pattern), Some(sink))
        }
        _ => {
            return Err(fail(
                "it is not CAPABILITY.VERB PATTERN [to SINK]".to_owned(),
            ));
        }
    };
    let mut filler = Filler {
        context: context(config, target),
        tainted,
    };
    let verbs = filler.fill(verb, Position::Verb).map_err(fail)?;
    let sends = verb.literal() == Some("secret.send") || verb.literal() == Some("secret.reveal");
    let everything = || vec![Filled::new("*".to_owned(), false)];
    let position = if sends {
        Position::SecretNames
    } else {
        Position::Subject
    };
    let subjects = match pattern {
        Some(pattern) => filler.fill(pattern, position).map_err(fail)?,
        None => everything(),
    };
    let sinks = match sink {
        Some(sink) => filler
            .fill(sink, Position::Sink)
            .map_err(fail)?
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None],
    };
    let count = verbs
        .len()
        .saturating_mul(subjects.len())
        .saturating_mul(sinks.len());
    if count > MAX_REQUESTS {
        return Err(fail(format!("it gives more than {MAX_REQUESTS} requests")));
    }
    let mut requests = Vec::with_capacity(count);
    for verb in &verbs {
        if !is_verb(&verb.text) {
            return Err(fail(format!("there is no capability verb {:?}", verb.text)));
        }
        if verb.text == "secret.send" && sink.is_none() {
            return Err(fail("a secret is sent to a sink: add `to SINK`".to_owned()));
        }
        for subject in &subjects {
            for sink in &sinks {
                let tainted = verb.tainted
                    || subject.tainted
                    || sink.as_ref().is_some_and(|sink| sink.tainted);
                let request = Request {
                    grant: Grant {
                        verb: verb.text.clone(),
                        pattern: Pattern::parse(&subject.text),
                        sink: sink.as_ref().map(|sink| Pattern::parse(&sink.text)),
                    },
                    tainted,
                };
                if !requests.contains(&request) {
                    requests.push(request);
                }
            }
        }
    }
    Ok(requests)
}

/// What is wrong with a template, whatever the configuration: for
/// `plugin inspect` and authors.
pub fn check(template: &str) -> Result<(), RequestError> {
    let fail = |message: String| RequestError {
        template: template.to_owned(),
        message,
    };
    let words = words(template).map_err(fail)?;
    if let Some(verb) = words.first().and_then(Word::literal)
        && !is_verb(verb)
    {
        return Err(fail(format!("there is no capability verb {verb:?}")));
    }
    for word in &words {
        for part in &word.0 {
            if let WordPart::Expression(text) = part {
                environment()
                    .compile_expression(text)
                    .map_err(|error| fail(jinja_message(&error)))?;
            }
        }
    }
    expand(
        template,
        &Value::Object(serde_json::Map::new()),
        Some("target"),
        &BTreeSet::new(),
    )
    .map(drop)
}

enum WordPart {
    Literal(String),
    Expression(String),
}

/// A word of the template, with expressions in it.
struct Word(Vec<WordPart>);

impl Word {
    fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [WordPart::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

fn words(template: &str) -> Result<Vec<Word>, String> {
    let pieces = split(template).map_err(|_| "an expression has no end".to_owned())?;
    let mut words = Vec::new();
    let mut word = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Expression(text, _) => word.push(WordPart::Expression(text.to_owned())),
            Piece::Literal(text) => {
                let mut literal = String::new();
                for char in text.chars() {
                    if char.is_whitespace() {
                        if !literal.is_empty() {
                            word.push(WordPart::Literal(std::mem::take(&mut literal)));
                        }
                        if !word.is_empty() {
                            words.push(Word(std::mem::take(&mut word)));
                        }
                    } else {
                        literal.push(char);
                    }
                }
                if !literal.is_empty() {
                    word.push(WordPart::Literal(literal));
                }
            }
        }
    }
    if !word.is_empty() {
        words.push(Word(word));
    }
    Ok(words)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Verb,
    Subject,
    SecretNames,
    Sink,
}

#[derive(Clone)]
struct Filled {
    text: String,
    tainted: bool,
}

impl Filled {
    fn new(text: String, tainted: bool) -> Self {
        Self { text, tainted }
    }
}

/// A secret within an expression: as text it is `secret:NAME`.
#[derive(Debug)]
struct Secret(String);

impl Object for Secret {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret:{}", self.0)
    }
}

/// The secrets and what is not known, as expressions see them.
fn value_of(value: &Value) -> Jinja {
    if let Some(name) = secret_name(value) {
        return Jinja::from_object(Secret(name.to_owned()));
    }
    if let Some(what) = unknown_name(value) {
        return Jinja::from(format!("({what})"));
    }
    match value {
        Value::Array(items) => Jinja::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Value::Object(entries) => Jinja::from_pairs(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), value_of(value))),
        ),
        scalar => to_jinja(scalar),
    }
}

fn context(config: &Value, target: Option<&str>) -> Vec<(String, Jinja)> {
    let mut context = Vec::new();
    if let Some(target) = target {
        context.push(("target".to_owned(), Jinja::from(target)));
    }
    if let Some(entries) = config.as_object() {
        for (key, value) in entries {
            // `target` is the step's own or nothing, whatever the plugin calls
            // its keys.
            if key != "target" {
                context.push((key.clone(), value_of(value)));
            }
        }
    }
    context
}

fn environment() -> &'static Environment<'static> {
    static LENIENT: OnceLock<Environment<'static>> = OnceLock::new();
    LENIENT.get_or_init(|| {
        fn map(value: Jinja, of: fn(&str) -> &str) -> Jinja {
            match value.kind() {
                ValueKind::Undefined | ValueKind::None => value,
                ValueKind::Seq | ValueKind::Iterable => match value.try_iter() {
                    Ok(items) => items
                        .take(MAX_REQUESTS)
                        .map(|item| map(item, of))
                        .collect::<Vec<_>>()
                        .into(),
                    Err(_) => Jinja::UNDEFINED,
                },
                _ => Jinja::from(of(&value.to_string())),
            }
        }
        let mut environment = jinja(UndefinedBehavior::Chainable);
        environment.add_filter("origin", |value: Jinja| map(value, origin_of));
        environment.add_filter("repository", |value: Jinja| map(value, repository_of));
        environment
    })
}

struct Filler<'a> {
    context: Vec<(String, Jinja)>,
    tainted: &'a BTreeSet<String>,
}

impl Filler<'_> {
    /// The texts that a word gives: pattern text, values escaped.
    fn fill(&mut self, word: &Word, position: Position) -> Result<Vec<Filled>, String> {
        let mut texts = vec![Filled::new(String::new(), false)];
        for part in &word.0 {
            match part {
                WordPart::Literal(literal) => {
                    texts
                        .iter_mut()
                        .for_each(|filled| filled.text.push_str(literal));
                }
                WordPart::Expression(expression) => {
                    let values = self.evaluate(expression, position)?;
                    if texts.len().saturating_mul(values.len()) > MAX_REQUESTS {
                        return Err(format!("it gives more than {MAX_REQUESTS} requests"));
                    }
                    let origin = position == Position::Sink
                        && matches!(word.0.first(), Some(WordPart::Literal(text)) if text == "http:");
                    texts = texts
                        .iter()
                        .flat_map(|before| {
                            values.iter().map(move |value| {
                                let text = if origin {
                                    origin_of(&value.text)
                                } else {
                                    &value.text
                                };
                                Filled::new(
                                    format!("{}{}", before.text, Pattern::escape(text)),
                                    before.tainted || value.tainted,
                                )
                            })
                        })
                        .collect();
                }
            }
        }
        if texts.iter().any(|filled| filled.text.len() > MAX_SUBJECT) {
            return Err(format!(
                "it gives a pattern longer than {MAX_SUBJECT} bytes"
            ));
        }
        // An empty pattern would be nothing, but reads like everything.
        texts.retain(|filled| !filled.text.is_empty());
        Ok(texts)
    }

    fn evaluate(&self, expression: &str, position: Position) -> Result<Vec<Filled>, String> {
        let compiled = environment()
            .compile_expression(expression)
            .map_err(|error| jinja_message(&error))?;
        let names = compiled.undeclared_variables(false);
        let tainted = names.iter().any(|name| self.tainted.contains(name));
        let value = compiled
            .eval(Jinja::from_pairs(
                self.context
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            ))
            .map_err(|error| jinja_message(&error))?;
        let mut texts = Vec::new();
        collect(&value, position, 0, &mut texts)?;
        Ok(texts
            .into_iter()
            .map(|text| Filled::new(text, tainted))
            .collect())
    }
}

/// The texts of a value: itself, or those of its elements.
fn collect(
    value: &Jinja,
    position: Position,
    depth: usize,
    texts: &mut Vec<String>,
) -> Result<(), String> {
    /// Deeper values are an attempt to exhaust the stack.
    const MAX_DEPTH: usize = 32;
    if depth > MAX_DEPTH || texts.len() > MAX_REQUESTS {
        return Err(format!("it gives more than {MAX_REQUESTS} requests"));
    }
    if let Some(secret) = value.downcast_object_ref::<Secret>() {
        texts.push(match position {
            Position::SecretNames => secret.0.clone(),
            _ => format!("secret:{}", secret.0),
        });
        return Ok(());
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => {}
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter().map_err(|error| jinja_message(&error))? {
                collect(&item, position, depth + 1, texts)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter().map_err(|error| jinja_message(&error))? {
                let item = value
                    .get_item(&key)
                    .map_err(|error| jinja_message(&error))?;
                collect(&item, position, depth + 1, texts)?;
            }
        }
        ValueKind::String | ValueKind::Number | ValueKind::Bool => {
            let text = value.to_string();
            // Where secrets' names are wanted, other values are no names.
            if position != Position::SecretNames && !text.is_empty() {
                texts.push(text);
            }
        }
        kind => return Err(format!("an expression gives a {kind}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(template: &str, config: &Value) -> Vec<String> {
        expand(template, config, Some("prod_1"), &BTreeSet::new())
            .expect(template)
            .iter()
            .map(|request| request.grant.to_string())
            .collect()
    }

    #[test]
    fn lists_give_one_each_and_absent_values_none() {
        let config =
            json!({"tags": ["a/b:1", "a/b:latest"], "empty": [], "none": null, "blank": ""});
        assert_eq!(
            texts("docker.push {{ tags }}", &config),
            ["docker.push a/b:1", "docker.push a/b:latest"]
        );
        assert_eq!(
            texts("registry.push {{ tags | repository }}", &config),
            ["registry.push a/b"]
        );
        for name in ["empty", "none", "blank", "missing", "missing.deeper"] {
            assert!(
                texts(&format!("docker.push {{{{ {name} }}}}"), &config).is_empty(),
                "{name}"
            );
        }
        assert_eq!(texts("docker.inspect *", &config), ["docker.inspect **"]);
        assert_eq!(
            texts(
                "docker.pull {{ tags if pull != 'never' }}",
                &json!({"tags": "a", "pull": "never"})
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            texts(
                "docker.mount {{ (mounts or []) | map(attribute='source') | list }}",
                &json!({"mounts": [{"source": "data", "target": "/x"}]})
            ),
            ["docker.mount data"]
        );
        assert!(
            texts(
                "docker.mount {{ (mounts or []) | map(attribute='source') | list }}",
                &json!({})
            )
            .is_empty()
        );
    }

    #[test]
    fn lists_multiply() {
        assert_eq!(
            texts(
                "ssh.upload {{ target }}:{{ dir }}/{{ names }}",
                &json!({"dir": "/srv", "names": ["a", "b"]})
            ),
            ["ssh.upload prod_1:/srv/a", "ssh.upload prod_1:/srv/b"]
        );
    }

    #[test]
    fn values_cannot_widen_a_pattern_or_add_words() {
        let requests = expand(
            "file.read {{ path }}",
            &json!({"path": "** to x"}),
            None,
            &BTreeSet::new(),
        )
        .expect("requests");
        assert_eq!(requests.len(), 1);
        assert!(requests[0].grant.pattern.is_literal());
        assert!(requests[0].grant.pattern.matches("** to x"));
        assert!(!requests[0].grant.pattern.matches("anything"));
        assert_eq!(requests[0].grant.sink, None);
        assert!(
            !Grant::parse("file.read *")
                .expect("grant")
                .pattern
                .is_literal()
        );
        let star = expand(
            "docker.push {{ x }}",
            &json!({"x": "*"}),
            None,
            &BTreeSet::new(),
        );
        assert!(star.expect("requests")[0].grant.pattern.is_literal());
    }

    #[test]
    fn secrets_are_names() {
        let config = json!({
            "webhook": {"$secret": "HOOK"},
            "url": "https://api.example.com/x?y",
            "headers": {"authorization": {"$secret": "TOKEN"}, "accept": "text/plain"},
        });
        assert_eq!(
            texts("http.POST {{ webhook }}", &config),
            ["http.POST secret:HOOK"]
        );
        assert_eq!(
            texts("secret.send {{ headers }} to http:{{ url }}", &config),
            ["secret.send TOKEN to http:https://api.example.com"]
        );
        assert_eq!(
            texts("secret.send {{ headers }} to http:{{ webhook }}", &config),
            ["secret.send TOKEN to http:secret:HOOK"]
        );
        assert!(texts("secret.send {{ url }} to build", &config).is_empty());
        // Text that reads like a secret stays text.
        assert!(texts("secret.send {{ x }} to build", &json!({"x": "TOKEN"})).is_empty());
        assert_eq!(
            texts("http.GET {{ webhook ~ '/x' }}", &config),
            ["http.GET secret:HOOK/x"]
        );
    }

    #[test]
    fn the_target_is_the_steps_own() {
        assert_eq!(
            texts("ssh.exec {{ target }}", &json!({"target": "prod_2"})),
            ["ssh.exec prod_1"]
        );
        let none = expand(
            "docker.engine {{ target }}",
            &json!({"target": "stage"}),
            None,
            &BTreeSet::new(),
        );
        assert_eq!(none, Ok(Vec::new()));
    }

    #[test]
    fn what_came_from_a_step_is_tainted() {
        let tainted = BTreeSet::from(["image".to_owned()]);
        let config = json!({"image": "sha256:0", "tags": ["a"]});
        let of = |template| expand(template, &config, None, &tainted).expect("requests")[0].tainted;
        assert!(of("docker.run {{ image }}"));
        assert!(of("docker.run {{ tags[0] ~ image }}"));
        assert!(!of("docker.push {{ tags }}"));
    }

    #[test]
    fn methods_may_be_configured() {
        assert_eq!(
            texts(
                "http.{{ method | upper }} {{ url }}",
                &json!({"method": "put", "url": "http://x/"})
            ),
            ["http.PUT http://x/"]
        );
        let wrong = expand(
            "{{ verb }} x",
            &json!({"verb": "docker.own"}),
            None,
            &BTreeSet::new(),
        );
        assert!(wrong.is_err());
    }

    #[test]
    fn templates_are_bounded() {
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let config = json!({"many": many, "text": "x".repeat(5000)});
        let none = BTreeSet::new();
        for template in [
            "docker.push {{ many }}{{ many }}{{ many }}",
            "docker.push {{ many }}{{ many }} to {{ many }}",
            "docker.push {{ text }}",
            "docker.push {{ range(100000) | list | length ~ range(100000) | list | join }}",
            "docker.push {{ 'x' * 10000000 }}",
            "docker.push {{ unfinished",
            "docker.push a b",
            "docker.psh a",
            "secret.send {{ text }}",
            "docker.push {{ text | nofilter }}",
        ] {
            assert!(
                expand(template, &config, None, &none).is_err(),
                "{template}"
            );
        }
        assert!(check("docker.push {{ tags }}").is_ok());
        assert!(check("docker.push {{ tags").is_err());
        assert!(check("http.{{ method }} {{ url }}").is_ok());
    }
}
