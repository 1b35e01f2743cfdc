//! Names that belong to somebody's network, so that a recording is looked at before it
//! is shared. They are told of, not replaced: a case with other names would be another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Ends of names that only a network of one's own resolves (RFC 6762, RFC 8375, and
/// those that people use).
const SUFFIXES: &[&str] = &[
    ".internal",
    ".intranet",
    ".local",
    ".lan",
    ".corp",
    ".home.arpa",
];

/// Each private name and the lines that have it, counted from 1.
pub(super) fn find(text: &str, hosts: &BTreeSet<String>) -> BTreeMap<String, Vec<usize>> {
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        for word in words(line) {
            if hosts.contains(word) || is_private(word) {
                let lines = found.entry(word.to_owned()).or_default();
                if lines.last() != Some(&(number + 1)) {
                    lines.push(number + 1);
                }
            }
        }
    }
    found
}

/// What could be a name or an address.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '.' | '-' | '_'))
        .map(|word| word.trim_matches(['.', '-', '_']))
        .filter(|word| !word.is_empty())
}

fn is_private(word: &str) -> bool {
    if let Ok(address) = word.parse::<Ipv4Addr>() {
        return address.is_private() || address.is_link_local() || is_shared(address);
    }
    let lower = word.to_ascii_lowercase();
    SUFFIXES
        .iter()
        .any(|suffix| lower.len() > suffix.len() && lower.ends_with(suffix))
}

/// 100.64.0.0/10 (RFC 6598), which VPNs use.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && (64..128).contains(&second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_are_found_with_their_lines() {
        let text = "url = \"http://10.1.2.3:80/\"\nvia db.internal and 8.8.8.8\n\
                    ssh deploy@web1.example.com 172.32.0.1 172.16.0.1, db.internal.\nlocal x.local";
        let hosts = BTreeSet::from(["web1.example.com".to_owned()]);
        let found: Vec<(String, Vec<usize>)> = find(text, &hosts).into_iter().collect();
        let found: Vec<(&str, &[usize])> = found
            .iter()
            .map(|(name, lines)| (name.as_str(), lines.as_slice()))
            .collect();
        assert_eq!(
            found,
            [
                ("10.1.2.3", &[1][..]),
                ("172.16.0.1", &[3]),
                ("db.internal", &[2, 3]),
                ("web1.example.com", &[3]),
                ("x.local", &[4]),
            ]
        );
    }
}
