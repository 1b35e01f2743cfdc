//! A preview as text: like a difference, step by step.

use similar::{ChangeTag, TextDiff};
use windlass_layers::Effect;
use windlass_report::{Theme, Tone, clean_line};

use crate::engine::preview::{Extent, Previewed, PreviewedStep};

/// Lines of a difference that are shown for one file.
const MAX_LINES: usize = 200;

/// Ends with a line that counts.
pub(crate) fn as_text(previewed: &Previewed, theme: Theme) -> String {
    let mut out = String::from("\nwhat a run would do\n");
    for step in &previewed.steps {
        out.push_str(&step_text(step, theme));
    }
    let effects: usize = previewed.steps.iter().map(|step| step.effects.len()).sum();
    let stopped = previewed
        .steps
        .iter()
        .filter(|step| matches!(step.extent, Extent::Stopped { .. } | Extent::Maybe { .. }))
        .count();
    let mut targets: Vec<&str> = previewed
        .steps
        .iter()
        .flat_map(|step| &step.effects)
        .filter_map(|effect| effect.target.as_ref())
        .map(|target| target.as_str())
        .filter(|target| *target != windlass_model::id::LOCAL)
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let count = |number: usize, word: &str| {
        format!("{number} {word}{}", if number == 1 { "" } else { "s" })
    };
    let mut line = if previewed.failure.is_some() {
        "a run would fail".to_owned()
    } else if !previewed.changes() {
        "a run would change nothing".to_owned()
    } else {
        format!("{} known", count(effects, "change"))
    };
    if !targets.is_empty() {
        line.push_str(&format!(" on {}", targets.join(", ")));
    }
    if stopped > 0 && previewed.failure.is_none() {
        line.push_str(&format!(", {} known only in part", count(stopped, "step")));
    }
    out.push_str(&format!(
        "\n{}; nothing was changed now\n",
        theme.paint(Tone::Strong, &line)
    ));
    out
}

fn step_text(step: &PreviewedStep, theme: Theme) -> String {
    let mut out = format!(
        "  {} {}\n",
        theme.paint(Tone::Strong, &step.step.to_string()),
        theme.paint(Tone::Faint, &format!("({})", step.uses))
    );
    for effect in &step.effects {
        out.push_str(&effect_text(effect, theme));
    }
    match &step.extent {
        Extent::Whole if step.effects.is_empty() => out.push_str("    = nothing\n"),
        Extent::Whole => {}
        Extent::Stopped { reason, at_most } => {
            out.push_str(&format!("    ? {}\n", clean_line(reason)));
            out.push_str(&bounds("from here on: at most", at_most, theme));
        }
        Extent::Maybe { reason, at_most } => {
            out.push_str(&format!("    ? maybe: {}\n", clean_line(reason)));
            out.push_str(&bounds("at most", at_most, theme));
        }
        Extent::Skipped { reason } => {
            out.push_str(&format!("    - skipped: {}\n", clean_line(reason)));
        }
        Extent::Failed { error } => {
            let line = format!("x would fail: {}", clean_line(&error.message));
            out.push_str(&format!("    {}\n", theme.paint(Tone::Bad, &line)));
            if let Some(hint) = &error.hint {
                out.push_str(&format!("      hint: {}\n", clean_line(hint)));
            }
        }
    }
    out
}

fn bounds(lead: &str, grants: &[String], theme: Theme) -> String {
    let mut out = String::new();
    if grants.is_empty() {
        return out;
    }
    out.push_str(&format!("      {}\n", theme.paint(Tone::Faint, lead)));
    for grant in grants {
        let line = theme.paint(Tone::Faint, &clean_line(grant));
        out.push_str(&format!("        {line}\n"));
    }
    out
}

fn effect_text(effect: &Effect, theme: Theme) -> String {
    let (sign, tone) = if effect.opaque {
        ("!", Tone::Warning)
    } else if effect.files.iter().any(|file| file.old.is_some()) {
        ("~", Tone::Active)
    } else {
        ("+", Tone::Good)
    };
    let mut line = format!("{sign} {}", clean_line(&effect.summary));
    if effect.opaque {
        line.push_str(" (what it does cannot be known)");
    }
    let mut out = format!("    {}", theme.paint(tone, &line));
    if let Some(now) = &effect.now {
        out.push_str(&format!("  {}", theme.paint(Tone::Faint, &clean_line(now))));
    }
    out.push('\n');
    for file in &effect.files {
        let note = if file.old.is_none() { " (new)" } else { "" };
        out.push_str(&format!("      {}{note}\n", clean_line(&file.name)));
        out.push_str(&difference(
            file.old.as_deref().unwrap_or_default(),
            &file.new,
            theme,
        ));
    }
    out
}

fn difference(old: &str, new: &str, theme: Theme) -> String {
    let diff = TextDiff::from_lines(old, new);
    let mut lines = Vec::new();
    for (index, group) in diff.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            lines.push("        …".to_owned());
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let (sign, tone) = match change.tag() {
                ChangeTag::Delete => ("-", Tone::Bad),
                ChangeTag::Insert => ("+", Tone::Good),
                ChangeTag::Equal => (" ", Tone::Plain),
            };
            let text = format!(
                "{sign} {}",
                clean_line(change.value().trim_end_matches('\n'))
            );
            lines.push(format!("        {}", theme.paint(tone, text.trim_end())));
        }
    }
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if more > 0 {
        lines.push(format!("        … {more} more lines"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
