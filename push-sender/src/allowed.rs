//! Which addresses this process talks to. Devices choose URLs, so no URL is trusted: its host must
//! be listed, and the network address that the name leads to must be public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

/// The hosts of a kind of sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    listed: Vec<Listed>,
    /// For tests: loopback, and there also in the clear.
    allow_loopback: bool,
}

#[derive(Clone, Debug)]
struct Listed {
    /// In small letters; begins with a dot if it stands for every name below it.
    host: String,
    port: u16,
}

/// A URL that is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAllowed {
    #[error("not an https URL of the form that is taken")]
    Form,
    #[error("the host is not listed")]
    Host,
}

impl Hosts {
    /// `None` if an entry is not `host`, `host:port`, or `.domain`.
    pub(crate) fn new(entries: &[String], allow_loopback: bool) -> Option<Self> {
        let listed = entries
            .iter()
            .map(|entry| {
                let (host, port) = match entry.rsplit_once(':') {
                    Some((host, port)) if !host.ends_with(':') && !host.contains(':') => {
                        (host, port.parse().ok()?)
                    }
                    _ => (entry.as_str(), 443),
                };
                let name = host.strip_prefix('.').unwrap_or(host);
                let is_name = !name.is_empty()
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
                is_name.then(|| Listed {
                    host: host.to_ascii_lowercase(),
                    port,
                })
            })
            .collect::<Option<_>>()?;
        Some(Self {
            listed,
            allow_loopback,
        })
    }

    /// The URL, if it may be asked.
    pub(crate) fn check(&self, url: &str) -> Result<Uri, NotAllowed> {
        let uri: Uri = url.parse().map_err(|_| NotAllowed::Form)?;
        // A parser drops a fragment, and another one may see another host before an `@`.
        if url.contains(['#', '@', '\\']) || !url.is_ascii() {
            return Err(NotAllowed::Form);
        }
        let host = uri.host().ok_or(NotAllowed::Form)?.to_ascii_lowercase();
        let port = match uri.scheme_str() {
            Some("https") => uri.port_u16().unwrap_or(443),
            Some("http") if self.allow_loopback && host == "127.0.0.1" => {
                uri.port_u16().unwrap_or(80)
            }
            _ => return Err(NotAllowed::Form),
        };
        let is_listed = self.listed.iter().any(|listed| {
            listed.port == port
                && if listed.host.starts_with('.') {
                    host.ends_with(&listed.host) && host.len() > listed.host.len()
                } else {
                    host == listed.host
                }
        });
        if is_listed {
            Ok(uri)
        } else {
            Err(NotAllowed::Host)
        }
    }
}

/// Whether a network address may be connected to: a listed name may be made to lead inwards.
pub(crate) fn is_reachable(address: IpAddr, allow_loopback: bool) -> bool {
    if address.is_loopback() {
        return allow_loopback;
    }
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Without the blocks of RFC 6890 that are not globally reachable.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240)
}

/// Global unicast alone, without what leads to an IPv4 address or is for documents.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, ..] = segments;
    if first == 0x64 && second == 0xff9b {
        // NAT64 (RFC 6052).
        let [.., high, low] = segments;
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    (0x2000..0x4000).contains(&first)
        && first != 0x2002
        && !(first == 0x2001 && (second == 0 || second == 0xdb8))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str], allow_loopback: bool) -> Hosts {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        Hosts::new(&entries, allow_loopback).unwrap()
    }

    #[test]
    fn only_listed_hosts_are_asked_and_only_by_https() {
        let hosts = hosts(
            &["push.example", ".notify.example", "hook.example:8443"],
            false,
        );
        for url in [
            "https://push.example/a/b?c=d",
            "https://PUSH.example:443/",
            "https://wns2.notify.example/x",
            "https://hook.example:8443/",
        ] {
            assert!(hosts.check(url).is_ok(), "{url}");
        }
        for url in [
            "http://push.example/",
            "https://push.example:8443/",
            "https://hook.example/",
            "https://notify.example/",
            "https://evilnotify.example/",
            "https://push.example.evil.example/",
            "https://evil.example/",
            "https://push.example@evil.example/",
            "https://evil.example#@push.example/",
            "https://evil.example\\@push.example/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "http://127.0.0.1/",
            "ftp://push.example/",
            "push.example",
            "/",
            "",
        ] {
            assert!(hosts.check(url).is_err(), "{url}");
        }
    }

    #[test]
    fn loopback_is_asked_only_where_the_configuration_says_so_and_lists_it() {
        let entry = ["127.0.0.1:8080"];
        let url = "http://127.0.0.1:8080/";
        assert!(hosts(&entry, true).check(url).is_ok());
        assert!(hosts(&entry, false).check(url).is_err());
        assert!(hosts(&[], true).check(url).is_err());
        assert!(hosts(&entry, true).check("http://127.0.0.1:8081/").is_err());
    }

    #[test]
    fn a_name_that_leads_inwards_is_not_connected_to() {
        for inward in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_reachable(inward.parse().unwrap(), false), "{inward}");
        }
        for public in ["17.188.143.34", "142.250.1.95", "2a00:1450:4001::1"] {
            assert!(is_reachable(public.parse().unwrap(), false), "{public}");
        }
        assert!(is_reachable("127.0.0.1".parse().unwrap(), true));
        assert!(!is_reachable("10.1.2.3".parse().unwrap(), true));
    }
}
