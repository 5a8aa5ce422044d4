//! Everything that the relay logs and counts, at its most verbose, held against what it may.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::support::process::{Process, start_with};
use crate::support::{encapsulated, free_port, stub_gateway};

/// Messages, with the names of the fields that may stand beside each.
const MESSAGES: [(&str, &[&str]); 12] = [
    ("starting", &["service", "version"]),
    // Its own addresses.
    ("listening", &["address"]),
    ("listening for the operator", &["address"]),
    ("ready", &[]),
    ("an admin command was carried out", &["command"]),
    ("ending", &[]),
    ("ended", &[]),
    ("request", &["route", "method", "status", "milliseconds"]),
    (
        "connections are refused: there are as many as the listener takes, and all are busy",
        &["times", "max_connections"],
    ),
    ("connections could not be accepted", &["times", "kind"]),
    (
        "connections are closed: not by a proxy of `proxies`, or without its PROXY header",
        &["times", "from_proxy"],
    ),
    (
        "request bodies are refused: there are as many as the listener collects",
        &["times"],
    ),
];
const ROUTES: [&str; 10] = [
    "/",
    "/ohttp-keys",
    "/down",
    "/down/",
    "/down/ohttp-keys",
    "unmatched",
    // Of the admin listener.
    "/readyz",
    "/healthz",
    "/metrics",
    "/commands/{name}",
];
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const OUTCOMES: [&str; 22] = [
    "encapsulated",
    "key_problem",
    "date_problem",
    "media_type",
    "request_too_large",
    "request_too_slow",
    "request_broken",
    "request_unpadded",
    "request_no_room",
    "connect",
    "timeout",
    "answer_timeout",
    "broken",
    "refused",
    "not_ohttp",
    "busy",
    "too_large",
    "ending",
    // Of TLS.
    "done",
    // Of connections.
    "told",
    "closed",
    "failed",
];
const LIMITS: [&str; 4] = [
    "requests",
    "requests_at_once",
    "connections",
    "new_connections",
];
/// Metrics, with the labels that each may have.
const METRICS: [(&str, &[&str]); 15] = [
    ("http_requests_total", &["route", "method", "status"]),
    (
        "http_request_duration_seconds",
        &["route", "method", "status"],
    ),
    ("ohttp_relay_requests_total", &["outcome"]),
    ("ohttp_relay_request_bytes", &[]),
    ("ohttp_relay_response_bytes", &[]),
    ("ohttp_relay_torn_answers_total", &["reason"]),
    ("address_limit_refusals_total", &["limit"]),
    ("tls_reloads_total", &["outcome"]),
    ("http_streams_reset_total", &[]),
    ("http_connections_refused_total", &["outcome"]),
    ("http_connections_displaced_total", &[]),
    ("http_bodies_refused_total", &[]),
    ("http_bodies_displaced_total", &[]),
    ("http2_floods_total", &[]),
    ("proxy_protocol_refusals_total", &[]),
];

/// What a client says of itself.
struct Telling {
    address: &'static str,
    word: &'static str,
}

impl Telling {
    fn http(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .no_proxy()
            .local_address(Some(self.address.parse().unwrap()))
            .user_agent(self.word)
            .build()
            .unwrap()
    }
}

async fn relay(gateway: &str) -> Process {
    let settings = format!(
        "gateway = '{gateway}'\n[[gateways]]\npath = '/down'\nurl = 'http://127.0.0.1:{}/'",
        free_port()
    );
    let limits = "[address_limits]\nrequests_per_second = 1\nburst = 14\n\
                  [limits]\nmax_body_bytes = 1000";
    let directory = tempfile::tempdir().unwrap();
    let kit = "log_format = 'json'\ndrain_seconds = 10";
    start_with(directory, &settings, kit, limits).await
}

/// One of each kind of request.
async fn everything(process: &Process, client: &Telling) {
    let http = client.http();
    let word = client.word;
    let url = |path: &str| format!("{}{path}", process.url);
    let telling = |request: reqwest::RequestBuilder| {
        request
            .header("cookie", format!("who={word}"))
            .header("x-forwarded-for", client.address)
            .header("x-request-id", word)
            .header("referer", format!("https://{word}.example/"))
    };
    let post = |path: &str, media_type: &str, body: Vec<u8>| {
        let request = http
            .post(url(path))
            .header(CONTENT_TYPE, media_type)
            .body(body);
        telling(request).send()
    };
    let whole = "message/ohttp-req";
    for (status, answer) in [
        (200, post("", whole, word.into()).await),
        (
            502,
            post("", "message/ohttp-chunked-req", word.into()).await,
        ),
        (502, post("down", whole, word.into()).await),
        (502, post("down/", whole, word.into()).await),
        (415, post("", word, word.into()).await),
        (413, post("", whole, vec![0; 1001]).await),
        (404, post(word, whole, word.into()).await),
        (
            404,
            telling(http.get(url(&format!("{word}?{word}#{word}"))))
                .send()
                .await,
        ),
        (405, telling(http.put(url(""))).send().await),
        (
            405,
            telling(http.request("MIMIMI".parse().unwrap(), url("")))
                .send()
                .await,
        ),
        (
            502,
            telling(http.get(url(&format!("ohttp-keys?{word}"))))
                .send()
                .await,
        ),
        (502, telling(http.get(url("down/ohttp-keys"))).send().await),
    ] {
        assert_eq!(answer.unwrap().status(), status);
    }
}

/// More of them than are admitted. How many are depends on how long it takes.
async fn flood(process: &Process, client: &Telling) {
    let http = client.http();
    for _ in 0..200 {
        let request = http.post(&process.url).body(client.word);
        let answer = request.header(CONTENT_TYPE, "message/ohttp-req").send();
        if answer.await.unwrap().status() == 429 {
            return;
        }
    }
    panic!("nothing is refused");
}

/// The lines, without what only tells when.
fn lines(log: &str) -> Vec<BTreeMap<String, Value>> {
    log.lines()
        .map(|line| {
            let mut line: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
            assert!(
                line.remove("timestamp")
                    .is_some_and(|value| value.is_string())
            );
            line
        })
        .collect()
}

fn check_line(line: &BTreeMap<String, Value>) {
    let members: Vec<_> = line.keys().map(String::as_str).collect();
    assert_eq!(members, ["fields", "level", "target"], "{line:?}");
    let target = line["target"].as_str().unwrap();
    assert!(target.starts_with("service::"), "{line:?}");
    let fields = line["fields"].as_object().unwrap();
    let message = fields["message"].as_str().unwrap();
    let (_, allowed) = MESSAGES
        .iter()
        .find(|(known, _)| *known == message)
        .unwrap_or_else(|| panic!("{message} is not allowed"));
    for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
        assert!(allowed.contains(&name.as_str()), "{line:?}");
        let is_known = match name.as_str() {
            "route" => ROUTES.contains(&value.as_str().unwrap()),
            "method" => METHODS.contains(&value.as_str().unwrap()),
            "status" => STATUSES.contains(&value.as_str().unwrap()),
            "milliseconds" | "times" | "max_connections" => value.is_u64(),
            "service" => value == "ohttp-relay",
            "version" => value == env!("CARGO_PKG_VERSION"),
            "address" => value.as_str().unwrap().starts_with("127.0.0.1:"),
            "command" => value == "reload-tls",
            _ => false,
        };
        assert!(is_known, "{name} in {line:?}");
    }
}

/// Name, labels and value.
type Series = (String, Vec<(String, String)>, String);

fn series(metrics: &str) -> Vec<Series> {
    metrics
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            let labels = labels.split(',').filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once('=').unwrap();
                (name.to_owned(), value.trim_matches('"').to_owned())
            });
            (name.to_owned(), labels.collect(), value.to_owned())
        })
        .collect()
}

fn check_series(name: &str, labels: &[(String, String)]) {
    let base = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let (_, allowed) = METRICS
        .iter()
        .find(|(known, _)| *known == base)
        .unwrap_or_else(|| panic!("{name} is not allowed"));
    for (label, value) in labels {
        let value = value.as_str();
        let is_known = match label.as_str() {
            "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
            _ if !allowed.contains(&label.as_str()) => false,
            "route" => ROUTES.contains(&value),
            "method" => METHODS.contains(&value),
            "status" => STATUSES.contains(&value),
            "outcome" => OUTCOMES.contains(&value),
            "limit" => LIMITS.contains(&value),
            "reason" => ["time", "idle", "broken", "too_large"].contains(&value),
            _ => false,
        };
        assert!(is_known, "{label}={value} of {name}");
    }
}

#[tokio::test]
async fn every_line_and_every_label_is_one_of_those_allowed_and_tells_no_two_clients_apart() {
    let stub = stub_gateway(Duration::ZERO, || encapsulated("answer")).await;
    let clients = [
        Telling {
            address: "127.0.0.1",
            word: "ALICE",
        },
        Telling {
            address: "127.0.3.4",
            word: "BOBBY",
        },
    ];
    let mut observed = Vec::new();
    for client in &clients {
        let process = relay(&stub.served.url("/")).await;
        everything(&process, client).await;
        let compared = series(&process.metrics().await);
        flood(&process, client).await;
        let metrics = process.metrics().await;
        process.signal("TERM").await;
        let (code, log) = process.ended().await;
        assert_eq!(code, Some(0));
        // What the relay says of itself at its start is where it listens.
        let own = |line: &&str| !line.contains("\"message\":\"listening");
        let said: String = log.lines().filter(own).collect();
        for text in [&said, &metrics] {
            for trace in ["ALICE", "BOBBY", "127.0.", "MIMIMI"] {
                assert!(!text.contains(trace), "{trace} in {text}");
            }
        }
        let lines = lines(&log);
        lines.iter().for_each(check_line);
        for (name, labels, _) in series(&metrics) {
            check_series(&name, &labels);
        }
        observed.push((lines, compared));
    }
    let without_durations = |(lines, series): &(Vec<_>, Vec<_>)| {
        let mut lines: Vec<BTreeMap<String, Value>> = lines.clone();
        // How often it was asked whether it is ready depends on when it was.
        lines.retain(|line| line["fields"]["route"] != "/readyz");
        lines.retain(|line| line["fields"]["address"] == Value::Null);
        for line in &mut lines {
            let fields = line.get_mut("fields").unwrap().as_object_mut().unwrap();
            fields.remove("milliseconds");
        }
        // Of the flood, the one line that all have in common.
        lines.dedup();
        let mut series: Vec<Series> = series.clone();
        series.retain(|(name, labels, _)| {
            !name.starts_with("http_request_duration")
                && !labels.iter().any(|(_, value)| value == "/readyz")
        });
        series.sort();
        (lines, series)
    };
    let [alice, bobby] = [&observed[0], &observed[1]].map(without_durations);
    assert!(alice.0.len() > 15, "requests are logged at all");
    assert_eq!(alice, bobby);
}
