//! The real binary, with its wiping allocator: start, requests, what it logs, graceful end.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use ohttp::ClientRequest;
use service::{Clock, SystemClock};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::support::{
    Target, free_port, gateway_config, http_client, http_date, inner, inner_to, open, target,
};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// The gateway as a process, as talkative as it gets.
struct Running {
    child: Child,
    http: reqwest::Client,
    url: String,
    admin: String,
    port: u16,
    target: Target,
    _directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::start_with("").await
    }

    /// With these settings, besides.
    async fn start_with(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = target().await;
        let (port, admin_port) = (free_port(), free_port());
        let config = gateway_config(
            directory.path(),
            &format!("127.0.0.1:{port}"),
            &format!("127.0.0.1:{admin_port}"),
            &target.served.url(""),
            "",
        );
        let config = format!("{settings}{config}");
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, config).unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_ohttp-gateway"))
            .args(["init", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .status();
        assert!(made.await.unwrap().success());
        let child = Command::new(env!("CARGO_BIN_EXE_ohttp-gateway"))
            .arg("--config")
            .arg(&file)
            .env("MIMIMI_LOG", "trace")
            .env("RUST_LOG", "trace")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let running = Self {
            child,
            http: http_client(),
            url: format!("http://127.0.0.1:{port}/"),
            admin: format!("http://127.0.0.1:{admin_port}"),
            port,
            target,
            _directory: directory,
        };
        tokio::time::timeout(READY_WITHIN, running.is_ready())
            .await
            .expect("the gateway becomes ready");
        running
    }

    /// Returns when it is.
    async fn is_ready(&self) {
        let ready = || self.http.get(format!("{}/readyz", self.admin)).send();
        while !ready().await.is_ok_and(|answer| answer.status() == 200) {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn keys(&self) -> Vec<u8> {
        let answer = self.http.get(format!("{}ohttp-keys", self.url)).send();
        answer.await.unwrap().bytes().await.unwrap().to_vec()
    }

    async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.admin)).send();
        answer.await.unwrap().text().await.unwrap()
    }

    async fn command(&self, name: &str, argument: &'static str) -> (u16, String) {
        let answer = self
            .http
            .post(format!("{}/commands/{name}", self.admin))
            .header(CONTENT_TYPE, "application/x-mimimi-admin")
            .body(argument)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Returns when it has asked the target for `path`.
    async fn is_asked(&self, path: &str) {
        let asked = || {
            let seen = self.target.seen.lock().unwrap();
            seen.iter().any(|request| request.path == path)
        };
        while !asked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id().unwrap());
        let status = Command::new("sh").arg("-c").arg(kill).status().await;
        assert!(status.unwrap().success());
    }

    /// What it logged, after it has ended well.
    async fn log(mut self) -> String {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let ended = async {
            stderr.read_to_string(&mut log).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .unwrap();
        assert_eq!(status.code(), Some(0));
        log
    }
}

#[tokio::test]
async fn the_gateway_serves_logs_nothing_that_identifies_and_ends_cleanly() {
    let gateway = Running::start().await;
    let (http, url) = (&gateway.http, &gateway.url);
    let keys = gateway.keys().await;
    let date = http_date(SystemClock.now_unix_ms());
    let encapsulate = |path: &str, content: &[u8]| {
        let fields = [
            ("date", date.as_str()),
            ("authorization", "SECRETTOKEN"),
            ("cookie", "SECRETCOOKIE"),
        ];
        ClientRequest::from_encoded_config_list(&keys)
            .unwrap()
            .encapsulate(&inner(path, &fields, content))
            .unwrap()
    };
    let post = |body: Vec<u8>| {
        http.post(url)
            .header(CONTENT_TYPE, "message/ohttp-req")
            .header("user-agent", "SECRETAGENT")
            .body(body)
            .send()
    };
    let (encapsulated, response) = encapsulate("/v1/echo", b"SECRETBODY");
    let answer = post(encapsulated.clone()).await.unwrap();
    assert_eq!(
        open(response, &answer.bytes().await.unwrap()).content,
        b"SECRETBODY"
    );
    assert_eq!(post(encapsulated).await.unwrap().status(), 409);
    for path in [
        "/v1/redirect",
        "/v1/not-the-gateway",
        "/SECRETPATH",
        "/v1/SECRETPATH",
        "bad SECRETPATH",
    ] {
        let (encapsulated, _) = encapsulate(path, b"SECRETBODY");
        assert_eq!(post(encapsulated).await.unwrap().status(), 200);
    }
    assert_eq!(post(b"SECRETGARBAGE".to_vec()).await.unwrap().status(), 400);
    assert_eq!(
        http.get(format!("{url}SECRETPATH"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("ohttp_gateway_requests_total{outcome=\"replayed\"} 1"),
        "{metrics}"
    );

    // A long poll that is still waiting gets an answer before the process ends.
    let (encapsulated, response) = encapsulate("/v1/slow", b"");
    let waiting = tokio::spawn(post(encapsulated));
    gateway.is_asked("/v1/slow").await;
    gateway.terminate().await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(open(response, &answer.bytes().await.unwrap()).status, 503);

    let port = gateway.port.to_string();
    let log = gateway.log().await;
    assert!(
        log.contains("DEBUG") && log.contains("request"),
        "requests are logged at all: {log}"
    );
    // Where it listens itself it may say, once.
    let (own, log): (Vec<&str>, Vec<&str>) = log
        .lines()
        .partition(|line| line.contains(" listening address=") || line.contains(" listening for"));
    assert_eq!(own.len(), 2, "{own:?}");
    let log = log.join("\n");
    for text in [&log, &metrics] {
        for secret in ["SECRET", "127.0.0.1", "ds.example", "v1/", &port] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// Everything that the gateway may ever log in the clear, without time and duration; `ROUTE`,
/// `METHOD` and `STATUS` are of the sets below.
const LINES: [&str; 19] = [
    "INFO service::start: starting service=SERVICE version=VERSION",
    "INFO service::start: listening for the operator address=OWN",
    "INFO service::http: listening address=OWN",
    "INFO service::process: ready",
    "INFO service::process: an admin command was carried out command=COMMAND",
    "INFO service::start: ending",
    "INFO service::start: ended",
    "INFO ohttp_gateway::keys: a new generation of keys is made",
    "INFO ohttp_gateway::keys: a new generation of keys is made, as commanded",
    "INFO ohttp_gateway::keys: a generation of keys is dropped",
    "WARN ohttp_gateway::keys: all keys are replaced, as commanded",
    "WARN ohttp_gateway::upstream: the delivery service gave an answer that is not passed on",
    "ERROR ohttp_gateway::upstream: the delivery service does not accept the gateway secret",
    "ERROR ohttp_gateway::keys: the newest keys are of a time far ahead and will not be followed by others: is the clock right? `rotate now` replaces them",
    "WARN ohttp_gateway: requests need no date: who captured one can have it carried out again after a restart",
    "WARN ohttp_gateway::replay: the replay cache is full, the oldest half is forgotten early",
    "ERROR ohttp_gateway: a response could not be encapsulated",
    "ERROR ohttp_gateway: the key files cannot be read or written, the keys stay as they are",
    "DEBUG service::observe: request route=ROUTE method=METHOD status=STATUS milliseconds=N",
];

/// Every label, and every value it may have.
const LABELS: [(&str, &[&str]); 9] = [
    // In lines only.
    ("service", &["ohttp-gateway"]),
    ("version", &[env!("CARGO_PKG_VERSION")]),
    ("command", &["keys", "rotate", "marker"]),
    (
        "route",
        &[
            "/",
            "/ohttp-keys",
            "/.well-known/ohttp-gateway",
            "/metrics",
            "/readyz",
            "/healthz",
            "/commands/{name}",
            "unmatched",
        ],
    ),
    ("method", &["GET", "HEAD", "POST", "PUT", "DELETE", "other"]),
    ("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]),
    (
        "outcome",
        &[
            "answered",
            "media_type",
            "truncated",
            "key",
            "replayed",
            "unknown_relay",
            "relay_limit",
            "malformed",
            "date",
            "expectation",
            "target_not_allowed",
            "unreachable",
            "timeout",
            "bad_answer",
            "ending",
        ],
    ),
    (
        "quantile",
        &["0", "0.5", "0.9", "0.95", "0.99", "0.999", "1"],
    ),
    ("le", &[]),
];

fn values_of(label: &str) -> Option<&'static [&'static str]> {
    LABELS
        .iter()
        .find(|(name, _)| *name == label)
        .map(|(_, values)| *values)
}

/// A log line without its time, its values replaced by the names of the sets that they are in.
fn template(line: &str) -> String {
    let (_, rest) = line.trim().split_once(' ').unwrap();
    let rest = rest.trim_start();
    let words = rest.split(' ').map(|word| match word.split_once('=') {
        Some(("milliseconds", value)) if value.parse::<u64>().is_ok() => "milliseconds=N".into(),
        Some(("address", value)) if rest.contains("listening") => {
            assert!(value.starts_with("127.0.0.1:"), "{line}");
            "address=OWN".into()
        }
        Some((name, value)) => {
            let value = value.trim_matches('"');
            assert!(
                values_of(name).is_some_and(|values| values.contains(&value)),
                "{line}"
            );
            format!("{name}={}", name.to_uppercase())
        }
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The labels of all metrics: names, values and which metric has them, without the measured
/// numbers.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let series = line.rsplit_once(' ').unwrap().0;
            if let Some((_, labels)) = series.split_once('{') {
                for label in labels.trim_end_matches('}').split("\",") {
                    let (name, value) = label.split_once("=\"").unwrap();
                    let value = value.trim_end_matches('"');
                    let values = values_of(name).unwrap_or_else(|| panic!("{line}"));
                    let number = name == "le" && (value == "+Inf" || value.parse::<f64>().is_ok());
                    assert!(number || values.contains(&value), "{line}");
                }
            }
            series.to_owned()
        })
        .collect()
}

#[tokio::test]
async fn no_log_line_and_no_label_tells_two_clients_apart() {
    let gateway = Running::start().await;
    // Two clients that have nothing in common but what they do: KEM, AEAD, fields, contents, sizes.
    struct Person {
        config: Vec<u8>,
        name: &'static str,
        authorization: &'static str,
    }
    let list = gateway.keys().await;
    let (x_wing, rest) = list[2..].split_at(u16::from_be_bytes([list[0], list[1]]).into());
    let (x25519, _) = rest[2..].split_at(u16::from_be_bytes([rest[0], rest[1]]).into());
    let with =
        |config: &[u8], aead| [&config[..config.len() - 10], &[0, 4, 0, 1, 0, aead]].concat();
    let people = [
        Person {
            config: with(x_wing, 1),
            name: "alice",
            authorization: "PrivateToken token=\"QUxJQ0U=\"",
        },
        Person {
            config: with(x25519, 3),
            name: "bob-with-a-long-name",
            authorization: "PrivateToken token=\"Qk9C\", PrivateToken token=\"Qk9CMg==\"",
        },
    ];
    let act = async |person: &Person| {
        let date = http_date(SystemClock.now_unix_ms());
        let good = [
            ("date", date.as_str()),
            ("authorization", person.authorization),
            ("x-name", person.name),
        ];
        let post = async |body: Vec<u8>, media_type: &str| {
            let request = gateway
                .http
                .post(&gateway.url)
                .header(CONTENT_TYPE, media_type);
            let request = request.header("user-agent", person.name);
            request.body(body).send().await.unwrap();
        };
        let name = person.name;
        let encapsulate = |inner: Vec<u8>| {
            let client = ClientRequest::from_encoded_config(&person.config).unwrap();
            client.encapsulate(&inner).unwrap().0
        };
        for inner in [
            inner("/v1/echo", &good, name.as_bytes()),
            inner(&format!("/v1/{name}"), &good, name.as_bytes()),
            inner(&format!("/{name}"), &good, b""),
            inner("/v1/echo", &[("x-name", name)], b""),
            inner("/v1/redirect", &good, b""),
            inner("/v1/not-the-gateway", &good, b""),
            inner_to("DELETE", "ds.example", "/v1/echo", &good, b""),
            inner_to("POST", name, "/v1/echo", &good, b""),
            format!("garbage of {name}").into_bytes(),
        ] {
            let request = encapsulate(inner);
            post(request.clone(), "message/ohttp-req").await;
            post(request, "message/ohttp-req").await;
        }
        post(
            format!("\x63{name} is no request").into_bytes(),
            "message/ohttp-req",
        )
        .await;
        post(vec![1; 3], "message/ohttp-req").await;
        post(name.as_bytes().to_vec(), &format!("text/{name}")).await;
        gateway.keys().await;
        let elsewhere = gateway.http.get(format!("{}{name}?{name}", gateway.url));
        elsewhere.header("cookie", name).send().await.unwrap();
        // What was logged and measured of one person, without that of the next one.
        series(&gateway.metrics().await)
    };
    let first = act(&people[0]).await;
    gateway.command("keys", "marker").await;
    let second = act(&people[1]).await;
    assert!(
        first
            .iter()
            .any(|series| series.contains("outcome=\"replayed\""))
    );
    let told: Vec<_> = second.difference(&first).collect();
    assert!(
        told.iter()
            .all(|series| series.contains("/commands/{name}") || series.contains("/metrics")),
        "{told:?}"
    );
    gateway.terminate().await;
    let log = gateway.log().await;
    let lines: Vec<_> = log.lines().map(template).collect();
    for line in &lines {
        assert!(LINES.contains(&line.as_str()), "{line}");
    }
    // Both left the same lines in the same order; the admin listener's own lines are left out.
    let exact: Vec<_> = log
        .lines()
        .map(|line| {
            line.split_once("milliseconds")
                .map_or(line, |(line, _)| line)
        })
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(_, line)| line.trim().to_owned())
        .filter(|line| !line.contains("/metrics") && !line.contains("/readyz"))
        .collect();
    let marker = exact
        .iter()
        .position(|line| line.contains("/commands/{name}"));
    let (first, second) = exact.split_at(marker.unwrap());
    let of_requests = |lines: &[String]| -> Vec<String> {
        let kept = lines.iter().filter(|line| {
            !line.contains("service::start")
                && !line.contains("service::process")
                && !line.contains("service::http")
                && !line.contains("::keys")
                && !line.contains("/commands/")
        });
        kept.cloned().collect()
    };
    // The list of keys was fetched once before the first one began.
    assert_eq!(of_requests(first)[1..], of_requests(second));
    assert!(of_requests(second).len() > 20);
}

#[tokio::test]
async fn keys_are_listed_rotated_and_replaced_by_command_without_a_restart() {
    let gateway = Running::start().await;
    let before = gateway.keys().await;
    let (status, listed) = gateway.command("keys", "").await;
    assert_eq!((status, listed.lines().count()), (200, 2), "{listed}");
    assert!(listed.contains("x-wing  published") && listed.contains("x25519  published"));

    let (status, told) = gateway.command("rotate", "").await;
    assert_eq!((status, told.lines().count()), (200, 4), "{told}");
    // Nobody is shown the new ones before every cached list has expired.
    assert_eq!(gateway.keys().await, before);
    assert_eq!(gateway.command("rotate", "").await.0, 400);
    assert_eq!(gateway.command("rotate", "soon").await.0, 400);

    let post = async |keys: &[u8]| {
        let client = ClientRequest::from_encoded_config_list(keys).unwrap();
        let date = http_date(SystemClock.now_unix_ms());
        let inner = inner("/v1/echo", &[("date", &date)], b"x");
        let (encapsulated, response) = client.encapsulate(&inner).unwrap();
        let request = gateway.http.post(&gateway.url);
        let request = request.header(CONTENT_TYPE, "message/ohttp-req");
        let answer = request.body(encapsulated).send().await.unwrap();
        let status = answer.status();
        let opened = response.decapsulate(&answer.bytes().await.unwrap()).is_ok();
        (status.as_u16(), opened)
    };
    assert_eq!(post(&before).await, (200, true));
    assert_eq!(gateway.command("rotate", "now").await.0, 200);
    let after = gateway.keys().await;
    assert_ne!(after, before);
    assert_eq!(post(&before).await, (400, false));
    assert_eq!(post(&after).await, (200, true));
    gateway.terminate().await;
    gateway.log().await;
}

/// Each may be a TLS handshake, however soon it ends.
#[tokio::test]
async fn an_address_has_new_connections_at_a_bounded_rate() {
    let gateway = Running::start_with(
        "connections_of_address = 5\nnew_connections_of_address_per_second = 1\n",
    )
    .await;
    let mut told = Vec::new();
    for _ in 0..40 {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", gateway.port)).await;
        let mut stream = connected.unwrap();
        let request = b"GET /ohttp-keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request)
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        told.push(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    }
    let served = told.iter().filter(|served| **served).count();
    assert!((5..20).contains(&served), "{served}");
}
