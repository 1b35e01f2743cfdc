//! Amounts and excerpts for people.

/// `340 ms`, `4.2 s`, `1 m 05 s`, `2 h 03 m`.
#[must_use]
pub fn elapsed(millis: u64) -> String {
    let seconds = millis / 1_000;
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{seconds}.{} s", millis % 1_000 / 100),
        60_000..3_600_000 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// `812 B`, `1.4 KiB`, `23.0 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const STEP: u64 = 1_024;
    let mut unit = "B";
    let mut whole = bytes;
    let mut tenths = 0;
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < STEP {
            break;
        }
        tenths = whole % STEP * 10 / STEP;
        whole /= STEP;
        unit = larger;
    }
    match unit {
        "B" => format!("{whole} B"),
        _ => format!("{whole}.{tenths} {unit}"),
    }
}

/// At most `max` characters from the start; `…` tells that some are missing.
#[must_use]
pub fn head(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut head: String = text.chars().take(max.saturating_sub(1)).collect();
    head.push('…');
    head
}

/// At most `max` characters from the end, without the blank lines there.
#[must_use]
pub fn tail(text: &str, max: usize) -> String {
    let text = text.trim_end();
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let mut tail = String::from("…");
    tail.extend(text.chars().skip(count - max.saturating_sub(1)));
    tail
}

/// The last `count` lines, without the blank ones at the end.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// `1 tag`, `2 tags`.
#[must_use]
pub fn count(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Each line with two blanks before it.
#[must_use]
pub fn indent(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, elapsed, head, last_lines, tail};

    #[test]
    fn times() {
        assert_eq!(elapsed(0), "0 ms");
        assert_eq!(elapsed(999), "999 ms");
        assert_eq!(elapsed(4_260), "4.2 s");
        assert_eq!(elapsed(65_000), "1 m 05 s");
        assert_eq!(elapsed(7_380_000), "2 h 03 m");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1_500), "1.4 KiB");
        assert_eq!(bytes(23 << 20), "23.0 MiB");
    }

    #[test]
    fn excerpts_count_characters() {
        assert_eq!(head("änderung", 4), "änd…");
        assert_eq!(head("kurz", 4), "kurz");
        assert_eq!(tail("änderung\n\n", 4), "…ung");
        assert_eq!(last_lines("a\nb\nc\n\n", 2), "b\nc");
        assert_eq!(count(1, "tag"), "1 tag");
        assert_eq!(count(2, "tag"), "2 tags");
    }
}
