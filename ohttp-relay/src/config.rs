//! The relay's configuration file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use service::addresses::AddressLimitSettings;
use service::config::{ServiceConfig, ServiceSettings};
use service::cors::AllowedOrigins;
use service::http::Limits;
use service::outward::HttpVersion;
use service::tls::{ClientTlsSettings, TlsSettings};

use crate::RelayError;
use crate::padding::Padding;

/// See `sample.toml` for what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// The same as an entry of `gateways` for the path `/`, with `relay_secret_file`.
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub gateway_ca_file: Option<PathBuf>,
    #[serde(default)]
    pub relay_secret_file: Option<PathBuf>,
    /// Whether the activity feed is mirrored.
    #[serde(default = "default_feed")]
    pub feed: bool,
    #[serde(default)]
    pub gateways: Vec<GatewaySettings>,
    #[serde(default)]
    pub allow_cleartext: bool,
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    #[serde(default)]
    pub require_padding: Option<Padding>,
    #[serde(default = "default_connect_seconds")]
    pub connect_seconds: u64,
    #[serde(default = "default_forward_seconds")]
    pub forward_seconds: u64,
    #[serde(default = "default_answer_seconds")]
    pub answer_seconds: u64,
    #[serde(default = "default_stream_idle_seconds")]
    pub stream_idle_seconds: u64,
    #[serde(default = "default_stream_seconds")]
    pub stream_seconds: u64,
    #[serde(default = "default_stream_drain_seconds")]
    pub stream_drain_seconds: u64,
    #[serde(default = "default_max_response_bytes")]
    pub max_response_bytes: u64,
    #[serde(default = "default_idle_connections")]
    pub idle_connections: usize,
    #[serde(default = "default_http2_connections")]
    pub http2_connections: usize,
    #[serde(default = "default_max_requests")]
    pub max_requests: usize,
    #[serde(default)]
    pub allowed_origins: AllowedOrigins,
    pub service: ServiceSettings,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub address_limits: AddressLimitSettings,
    /// Addresses of what terminates connections in front, with the PROXY protocol.
    #[serde(default)]
    pub proxies: Vec<IpAddr>,
}

/// A gateway, and the path of this relay that leads to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySettings {
    pub path: String,
    pub url: String,
    /// Absent: `ohttp-keys` beside `url`.
    #[serde(default)]
    pub keys_url: Option<String>,
    /// Whether the activity feed of the service behind it is mirrored.
    #[serde(default = "default_feed")]
    pub feed: bool,
    /// Absent: `feed` beside `url`.
    #[serde(default)]
    pub feed_url: Option<String>,
    /// Addresses of the gateway's nodes, of which one is asked at a time. Empty: the addresses of
    /// the name in `url`.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    #[serde(default)]
    pub http: HttpVersion,
    /// Where the gateway knows its relays by a secret: the file with ours.
    #[serde(default)]
    pub relay_secret_file: Option<PathBuf>,
    #[serde(default)]
    pub tls: ClientTlsSettings,
}

impl ServiceConfig for Config {
    fn service(&self) -> &ServiceSettings {
        &self.service
    }
}

impl Config {
    /// How long an exchange may go on after the shutdown was requested.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.service.drain_seconds) / 2
    }

    /// Every gateway, each at a path of its own.
    pub(crate) fn gateways(&self) -> Result<Vec<GatewaySettings>, RelayError> {
        let first = self.gateway.as_ref().map(|url| GatewaySettings {
            path: "/".to_owned(),
            url: url.clone(),
            keys_url: None,
            feed: self.feed,
            feed_url: None,
            addresses: Vec::new(),
            http: HttpVersion::default(),
            relay_secret_file: self.relay_secret_file.clone(),
            tls: ClientTlsSettings {
                ca_file: self.gateway_ca_file.clone(),
                ..ClientTlsSettings::default()
            },
        });
        if first.is_none() && self.relay_secret_file.is_some() {
            return Err(RelayError::SecretOfNoGateway);
        }
        let gateways: Vec<_> = first
            .into_iter()
            .chain(self.gateways.iter().cloned())
            .collect();
        let mut paths: Vec<_> = gateways.iter().map(|gateway| &gateway.path).collect();
        paths.sort_unstable();
        paths.dedup();
        if paths.len() != gateways.len() || !gateways.iter().all(|gateway| is_path(&gateway.path)) {
            return Err(RelayError::Paths);
        }
        if gateways.is_empty() {
            return Err(RelayError::NoGateway);
        }
        for gateway in &gateways {
            for url in [
                Some(&gateway.url),
                gateway.keys_url.as_ref(),
                gateway.feed_url.as_ref(),
            ] {
                let is_clear = url.is_some_and(|url| is_http(url));
                let is_near = self.allow_cleartext
                    || match gateway.addresses.as_slice() {
                        [] => url.is_some_and(|url| is_loopback(url)),
                        nodes => nodes.iter().all(|node| node.ip().is_loopback()),
                    };
                if is_clear && (!is_near || gateway.tls != ClientTlsSettings::default()) {
                    return Err(RelayError::Cleartext);
                }
            }
        }
        Ok(gateways)
    }
}

fn is_http(url: &str) -> bool {
    url.get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("http://"))
}

fn is_loopback(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    uri.host().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

/// `/`, or `/name` with letters, digits, `-` and `_`, which no route of ours begins with.
fn is_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|name| {
        !matches!(name, "ohttp-keys" | "feed")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    })
}

fn default_feed() -> bool {
    true
}

fn default_connect_seconds() -> u64 {
    5
}

fn default_forward_seconds() -> u64 {
    75
}

fn default_answer_seconds() -> u64 {
    30
}

fn default_stream_idle_seconds() -> u64 {
    90
}

fn default_stream_seconds() -> u64 {
    3600
}

fn default_stream_drain_seconds() -> u64 {
    330
}

fn default_max_response_bytes() -> u64 {
    4 * 1024 * 1024 + 128 * 1024
}

fn default_idle_connections() -> usize {
    64
}

fn default_http2_connections() -> usize {
    4
}

fn default_max_requests() -> usize {
    4096
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LEAST: &str = "listen = '127.0.0.1:1'\ngateway = 'http://127.0.0.1:2/'\n\
                         [service]\nadmin_listen = '127.0.0.1:3'";

    fn parse(text: &str) -> Config {
        service::config::parse(text).unwrap()
    }

    #[test]
    fn the_sample_file_is_valid_and_shows_the_defaults() {
        let sample = parse(include_str!("../sample.toml"));
        let least = parse(LEAST);
        assert_eq!(sample.feed, least.feed);
        assert_eq!(sample.connect_seconds, least.connect_seconds);
        assert_eq!(sample.forward_seconds, least.forward_seconds);
        assert_eq!(sample.answer_seconds, least.answer_seconds);
        assert_eq!(sample.stream_idle_seconds, least.stream_idle_seconds);
        assert_eq!(sample.stream_seconds, least.stream_seconds);
        assert_eq!(sample.stream_drain_seconds, least.stream_drain_seconds);
        assert_eq!(sample.max_response_bytes, least.max_response_bytes);
        assert_eq!(sample.idle_connections, least.idle_connections);
        assert_eq!(sample.http2_connections, least.http2_connections);
        assert_eq!(sample.max_requests, least.max_requests);
        assert_eq!(sample.address_limits, least.address_limits);
        assert_eq!(sample.limits.max_streams, least.limits.max_streams);
    }

    #[test]
    fn what_the_sample_file_shows_in_comments_is_valid_too() {
        // A field or table that is not in use begins with `# ` and no capital letter.
        let shown = |line: &str| {
            let field = line.strip_prefix("# ").unwrap_or("");
            let is_table = field.starts_with('[') && field.ends_with(']');
            let is_field = field
                .split_once(" = ")
                .is_some_and(|(name, _)| !name.contains(' '));
            is_table || is_field
        };
        let text: String = include_str!("../sample.toml")
            .lines()
            .map(|line| if shown(line) { &line[2..] } else { line })
            .flat_map(|line| [line, "\n"])
            .collect();
        let config = parse(&text);
        assert_eq!(config.gateways().unwrap().len(), 2);
        assert!(config.tls.is_some_and(|tls| tls.client_ca_file.is_none()));
        assert!(config.gateways[0].tls.certificate_file.is_some());
        assert_eq!(config.gateways[0].addresses.len(), 2);
        assert_eq!(config.require_padding, Some(Padding::default()));
    }

    #[test]
    fn what_the_operating_document_shows_is_valid() {
        let document = include_str!("../../docs/operating-ohttp.md");
        let mut shown = document.split("```toml\n").skip(1);
        let relay = shown.next().and_then(|rest| rest.split("```").next());
        let config = parse(relay.unwrap());
        assert!(config.gateways().unwrap()[0].tls.certificate_file.is_some());
        assert!(
            config
                .require_padding
                .is_some_and(|padding| padding.is_a_rule())
        );
    }

    #[test]
    fn addresses_suffice() {
        assert_eq!(parse(LEAST).gateways().unwrap()[0].path, "/");
    }

    #[test]
    fn each_gateway_has_a_path_of_its_own() {
        let with = |paths: &[&str]| {
            let mut text = LEAST.replace("gateway =", "# gateway =");
            for path in paths {
                text += &format!("\n[[gateways]]\npath = '{path}'\nurl = 'http://127.0.0.1:2/'");
            }
            parse(&text).gateways().map(|gateways| gateways.len())
        };
        assert_eq!(with(&["/", "/b", "/c"]).unwrap(), 3);
        assert!(matches!(with(&[]), Err(RelayError::NoGateway)));
        for paths in [
            ["/b", "/b"],
            ["/b", "c"],
            ["/b", "/{c}"],
            ["/b", "/c/d"],
            ["/", "/ohttp-keys"],
        ] {
            assert!(matches!(with(&paths), Err(RelayError::Paths)), "{paths:?}");
        }
    }

    #[test]
    fn no_gateway_is_asked_in_the_clear_over_a_network_by_mistake() {
        let to = |url: &str, rest: &str| {
            let text = LEAST.replace("http://127.0.0.1:2/", url);
            parse(&format!("{rest}\n{text}")).gateways().map(|_| ())
        };
        for near in [
            "http://127.0.0.1:2/",
            "http://[::1]:2/",
            "http://localhost/",
            "https://g.example/",
        ] {
            assert!(to(near, "").is_ok(), "{near}");
        }
        for far in ["http://g.example/", "HTTP://192.0.2.1/"] {
            assert!(matches!(to(far, ""), Err(RelayError::Cleartext)), "{far}");
            assert!(to(far, "allow_cleartext = true").is_ok(), "{far}");
        }
        let tls =
            "[[gateways]]\npath = '/b'\nurl = 'http://127.0.0.1:2/'\ntls = { ca_file = 'ca.pem' }";
        let unused = parse(&format!("{LEAST}\n{tls}"));
        assert!(matches!(unused.gateways(), Err(RelayError::Cleartext)));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = concat!(include_str!("../sample.toml"), "\nmax_conections = 3\n");
        assert!(service::config::parse::<Config>(text).is_err());
    }
}
