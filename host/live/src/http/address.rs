//! Which addresses a request may go to. Cloud metadata services hand out the
//! machine's own credentials to whoever asks, so they are never reached;
//! loopback and private addresses are, when a grant names the URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use url_host::Host;
use windlass_model::CallError;

/// Names under which clouds serve metadata, for connections that are resolved
/// on the far side.
const METADATA_NAMES: [&str; 3] = ["metadata.google.internal", "metadata.goog", "instance-data"];

/// `reqwest` re-exports `url` without its `Host`.
mod url_host {
    use std::net::IpAddr;

    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Host<'a> {
        Name(&'a str),
        Address(IpAddr),
    }

    pub(super) fn of(url: &reqwest::Url) -> Option<Host<'_>> {
        let text = url.host_str()?;
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        Some(match bare.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(text),
        })
    }
}

/// Why an address is never reached.
pub(crate) fn forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => {
            let segments = address.segments();
            address.is_unicast_link_local()
                // Amazon's metadata service.
                || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
                // Google's.
                || address == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
                || embedded_v4(segments).is_some_and(forbidden_v4)
        }
    }
}

fn forbidden_v4(address: Ipv4Addr) -> bool {
    address.is_link_local()
        // Alibaba's metadata service, Azure's wire server.
        || address == Ipv4Addr::new(100, 100, 100, 200)
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

/// IPv4 within IPv6: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_v4(segments: [u16; 8]) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(pair(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

fn refused(host: &str) -> CallError {
    CallError::denied(
        "http.metadata-address",
        format!("{host} is a link-local or metadata address, which is never reached"),
    )
    .hint("cloud metadata services hand out the machine's own credentials")
}

/// What can be told without resolving: literal addresses, well-known names.
pub(crate) fn check(url: &Url) -> Result<(), CallError> {
    match url_host::of(url) {
        None => Err(CallError::invalid(
            "http.invalid-url",
            "the URL has no host",
        )),
        Some(Host::Address(address)) if forbidden(address) => Err(refused(&address.to_string())),
        Some(Host::Name(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            if METADATA_NAMES.contains(&name.as_str()) {
                return Err(refused(&name));
            }
            Ok(())
        }
        Some(Host::Address(_)) => Ok(()),
    }
}

/// Resolves a URL's host once. The connection is made to exactly these.
pub(crate) async fn resolve(url: &Url) -> Result<Vec<SocketAddr>, CallError> {
    check(url)?;
    let port = url.port_or_known_default().unwrap_or(443);
    let name = match url_host::of(url) {
        Some(Host::Address(address)) => return Ok(vec![SocketAddr::new(address, port)]),
        Some(Host::Name(name)) => name,
        None => {
            return Err(CallError::invalid(
                "http.invalid-url",
                "the URL has no host",
            ));
        }
    };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, port))
        .await
        .map_err(|_| unresolved(name))?
        .take(64)
        .collect();
    if addresses.is_empty() {
        return Err(unresolved(name));
    }
    // One bad address among good ones is an attempt to get past this check.
    if addresses.iter().any(|address| forbidden(address.ip())) {
        return Err(refused(name));
    }
    Ok(addresses)
}

fn unresolved(name: &str) -> CallError {
    CallError::unavailable("http.dns", format!("the name {name} is not known to DNS"))
        .hint("check the host's name, and this machine's DNS")
        .retryable()
}

/// Whether a host is this machine, without asking DNS. `localhost` counts:
/// RFC 6761 reserves it.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

/// The same check where a client resolves by itself.
#[derive(Debug)]
pub(crate) struct CheckedResolver;

impl reqwest::dns::Resolve for CheckedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await?
                .take(64)
                .collect();
            if addresses.iter().any(|address| forbidden(address.ip())) {
                return Err(Box::<dyn std::error::Error + Send + Sync>::from(
                    "it resolves to a link-local or metadata address",
                ));
            }
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_refused_in_every_spelling() {
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://[fd00:ec2::254]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://[fe80::1]/",
            "http://100.100.100.200/",
            "http://metadata.google.internal/",
            "http://METADATA.google.internal./",
        ] {
            let url = Url::parse(url).expect(url);
            assert_eq!(
                check(&url).expect_err(url.as_str()).code,
                "http.metadata-address",
                "{url}"
            );
        }
        for url in [
            "http://127.0.0.1:8000/",
            "http://10.0.0.7/",
            "http://[::1]/",
        ] {
            check(&Url::parse(url).expect(url)).expect(url);
        }
    }

    #[test]
    fn loopback_is_known_without_dns() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
