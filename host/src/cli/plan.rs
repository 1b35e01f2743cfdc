//! `windlass plan` and `windlass graph`

pub(crate) mod effects;
pub(crate) mod saved;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass_manifest::Outputs;
use windlass_model::event::{Event, Severity};
use windlass_model::grant::Grant;
use windlass_model::target::Address;
use windlass_report::{Reporters, Theme, Tone, clean_line};

use super::ProjectArgs;
use super::session::{self, Session};
use super::terminal::Terminal;
use crate::engine;
use crate::engine::preview::{Previewed, preview};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Prints it as JSON
    #[arg(long)]
    json: bool,
    /// Connects to nothing: no preflight, no preview, no secrets needed
    #[arg(long)]
    offline: bool,
    /// Saves the plan, for `windlass run --plan FILE`
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    project: ProjectArgs,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Dot,
}

pub(crate) async fn graph(args: GraphArgs, terminal: &Terminal) -> Exit {
    let session = match session::open(terminal, &args.project.options()).await {
        Ok(session) => session,
        Err(exit) => return exit,
    };
    let nodes = engine::nodes(&session.graph);
    terminal.out(&match args.format {
        Format::Text => windlass_report::graph::text(&nodes, terminal.data),
        Format::Dot => windlass_report::graph::dot(&session.graph.pipeline, &nodes),
    });
    Exit::Succeeded
}

pub(crate) async fn plan(args: PlanArgs, terminal: &Terminal) -> Exit {
    match make(args, terminal).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn make(args: PlanArgs, terminal: &Terminal) -> Result<Exit, Exit> {
    let session = session::open(terminal, &args.project.options()).await?;
    if !session.problems.is_empty() {
        terminal.diagnostics(&session.problems);
    }
    if args.offline {
        if args.json {
            terminal.json(&as_json(&session, &[], None));
        } else {
            terminal.out(&as_text(&session, &[], true, terminal.data));
        }
        return Ok(Exit::Succeeded);
    }
    let backends = session.backends(terminal).await?;
    let cancel = CancellationToken::new();
    super::signals::watch(*terminal, cancel.clone(), None);
    let input = session.input(&backends, Reporters::new(), cancel);
    let previewed = preview(input).await;
    backends.close().await;
    let findings = findings(&previewed);
    if args.json {
        terminal.json(&as_json(&session, &findings, Some(&previewed)));
    } else {
        terminal.out(&as_text(&session, &findings, false, terminal.data));
        terminal.out(&effects::as_text(&previewed, terminal.data));
    }
    if let Some(error) = &previewed.failure {
        return Ok(Exit::for_error(error));
    }
    if let Some(path) = &args.out {
        saved::Plan::of(&session, &previewed)
            .write(path)
            .map_err(|error| {
                terminal.error(
                    &format!("the plan could not be saved to {}: {error}", path.display()),
                    None,
                );
                Exit::Engine
            })?;
        terminal.say(&format!(
            "saved; `windlass run --plan {}` does this, or refuses if the world moved",
            path.display()
        ));
    }
    Ok(if previewed.changes() {
        Exit::Changes
    } else {
        Exit::Succeeded
    })
}

struct Found {
    step: String,
    severity: Severity,
    message: String,
    hint: Option<String>,
}

fn findings(previewed: &Previewed) -> Vec<Found> {
    previewed
        .events
        .iter()
        .filter_map(|envelope| match &envelope.event {
            Event::Finding {
                step,
                severity,
                message,
                hint,
            } => Some(Found {
                step: step.to_string(),
                severity: *severity,
                message: message.clone(),
                hint: hint.clone(),
            }),
            _ => None,
        })
        .collect()
}

/// A secret that a script, a build or a container reads is nobody's secret
/// there any more.
fn shown(grant: &Grant) -> String {
    let sink = grant.sink.as_ref().map(ToString::to_string);
    let revealed =
        sink.is_some_and(|sink| sink == "build" || sink == "container" || sink.starts_with("env:"));
    if revealed {
        format!("{grant} (revealed there)")
    } else {
        grant.to_string()
    }
}

/// Step instance, plugin, requests.
fn requests(session: &Session) -> Vec<(String, String, Vec<String>)> {
    session
        .graph
        .instances()
        .into_iter()
        .filter_map(|key| {
            let node = session.graph.step(key.name.as_str())?;
            let requests = engine::requests_of(
                &session.graph,
                &session.plugins,
                &key,
                &Outputs::default(),
                true,
            );
            let lines = match requests {
                Ok(requests) => requests
                    .into_iter()
                    .map(|request| shown(&request.grant))
                    .collect(),
                Err(error) => vec![format!("({})", error.message)],
            };
            Some((key.to_string(), node.uses.clone(), lines))
        })
        .collect()
}

fn address(address: &Address) -> String {
    match address {
        Address::Local => "this machine".to_owned(),
        Address::Ssh(ssh) => {
            let user = ssh
                .user
                .as_ref()
                .map(|user| format!("{user}@"))
                .unwrap_or_default();
            let port = ssh.port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("ssh {user}{}{port}", ssh.host)
        }
    }
}

fn as_text(session: &Session, findings: &[Found], offline: bool, theme: Theme) -> String {
    let graph = &session.graph;
    let mut out = String::new();
    let environment = graph
        .environment
        .as_ref()
        .map(|environment| format!(" {} {}", theme.arrow(), environment.name))
        .unwrap_or_default();
    let head = format!("{}{environment}, tag {}", graph.pipeline, graph.tag);
    out.push_str(&format!("{}\n\n", theme.paint(Tone::Strong, &head)));
    out.push_str(&windlass_report::graph::text(&engine::nodes(graph), theme));
    if !graph.active.is_empty() {
        out.push_str("\ntargets\n");
        for target in &graph.targets {
            if graph.active.contains(&target.name) {
                out.push_str(&format!(
                    "  {}  {}\n",
                    target.name,
                    address(&target.address)
                ));
            }
        }
    }
    out.push_str("\nwhat each step may do\n");
    for (step, uses, lines) in requests(session) {
        out.push_str(&format!(
            "  {} {}\n",
            theme.paint(Tone::Strong, &step),
            theme.paint(Tone::Faint, &format!("({uses})"))
        ));
        for line in lines {
            out.push_str(&format!("    {}\n", clean_line(&line)));
        }
    }
    if !graph.secrets.is_empty() {
        out.push_str("\nsecrets\n");
        for secret in &graph.secrets {
            out.push_str(&format!("  {}\n", secret.name));
        }
    }
    out.push_str("\npreflight\n");
    if offline {
        out.push_str("  not asked (--offline)\n");
    } else if findings.is_empty() {
        out.push_str(&format!(
            "  {} nothing stands in the way\n",
            theme.paint(Tone::Good, theme.glyph("✓", "ok"))
        ));
    }
    for found in findings {
        let (tone, word) = match found.severity {
            Severity::Note => (Tone::Plain, "note"),
            Severity::Warning => (Tone::Warning, "warning"),
            Severity::Problem => (Tone::Bad, "problem"),
        };
        out.push_str(&format!(
            "  {} {}: {}\n",
            theme.paint(tone, word),
            found.step,
            clean_line(&found.message)
        ));
        if let Some(hint) = &found.hint {
            out.push_str(&format!("    hint: {}\n", clean_line(hint)));
        }
    }
    out
}

fn as_json(
    session: &Session,
    findings: &[Found],
    previewed: Option<&Previewed>,
) -> serde_json::Value {
    let graph = &session.graph;
    json!({
        "pipeline": graph.pipeline,
        "environment": graph.environment.as_ref().map(|environment| &environment.name),
        "tag": graph.tag,
        "steps": engine::nodes(graph),
        "targets": graph
            .targets
            .iter()
            .filter(|target| graph.active.contains(&target.name))
            .map(|target| json!({"name": target.name, "address": address(&target.address)}))
            .collect::<Vec<_>>(),
        "requests": requests(session)
            .into_iter()
            .map(|(step, uses, requests)| json!({"step": step, "uses": uses, "requests": requests}))
            .collect::<Vec<_>>(),
        "secrets": graph.secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
        "preflight": findings
            .iter()
            .map(|found| json!({
                "step": found.step,
                "severity": found.severity,
                "message": found.message,
                "hint": found.hint,
            }))
            .collect::<Vec<_>>(),
        "preview": previewed.map(|previewed| &previewed.steps),
        "changes": previewed.map(Previewed::changes),
    })
}
