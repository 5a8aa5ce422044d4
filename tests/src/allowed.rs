//! Everything that relay and gateway may log, and every label that they may show, in what these
//! tests do: whatever else there is, a test that looks fails.

use xtask::stack::Service;

/// Of both, without the time; words in capitals stand for a value of the sets below, N for a
/// number.
const LINES: [&str; 7] = [
    "INFO service::start: starting service=NAME version=VERSION",
    "INFO service::start: listening for the operator address=OWN",
    "INFO service::http: listening address=OWN",
    "INFO service::process: ready",
    "INFO service::start: ending",
    "INFO service::start: ended",
    "DEBUG service::observe: request route=ROUTE method=METHOD status=STATUS milliseconds=N",
];
const GATEWAY_LINES: [&str; 5] = [
    "INFO ohttp_gateway::keys: a new generation of keys is made",
    "INFO ohttp_gateway::keys: a new generation of keys is made, as commanded",
    "INFO ohttp_gateway::keys: a generation of keys is dropped",
    "WARN ohttp_gateway::keys: all keys are replaced, as commanded",
    "WARN ohttp_gateway::upstream: the delivery service gave an answer that is not passed on",
];

const ADMIN_ROUTES: [&str; 5] = [
    "/metrics",
    "/readyz",
    "/healthz",
    "/commands/{name}",
    "unmatched",
];
const RELAY_ROUTES: [&str; 5] = [
    "/",
    "/ohttp-keys",
    "/service-directory",
    "/feed/latest",
    "/feed/{seconds}/{number}",
];
const GATEWAY_ROUTES: [&str; 6] = [
    "/",
    "/ohttp-keys",
    "/service-directory",
    "/feed/latest",
    "/feed/{seconds}/{number}",
    "/.well-known/ohttp-gateway",
];
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const RELAY_OUTCOMES: [&str; 17] = [
    "encapsulated",
    "key_problem",
    "date_problem",
    "media_type",
    "request_too_large",
    "request_too_slow",
    "request_broken",
    "request_unpadded",
    "connect",
    "timeout",
    "answer_timeout",
    "broken",
    "refused",
    "not_ohttp",
    "busy",
    "too_large",
    "ending",
];
const GATEWAY_OUTCOMES: [&str; 16] = [
    "answered",
    "streamed",
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
];

const OBSERVED: &[&str] = &["route", "method", "status"];
/// Metrics, with the labels that each may have.
const RELAY_METRICS: [(&str, &[&str]); 7] = [
    ("http_requests_total", OBSERVED),
    ("http_request_duration_seconds", OBSERVED),
    ("http_streams_reset_total", &[]),
    ("ohttp_relay_requests_total", &["outcome"]),
    ("ohttp_relay_request_bytes", &[]),
    ("ohttp_relay_response_bytes", &[]),
    ("ohttp_relay_torn_answers_total", &["reason"]),
];
const GATEWAY_METRICS: [(&str, &[&str]); 7] = [
    ("http_requests_total", OBSERVED),
    ("http_request_duration_seconds", OBSERVED),
    ("http_streams_reset_total", &[]),
    ("ohttp_gateway_requests_total", &["outcome"]),
    ("ohttp_gateway_request_bytes", &[]),
    ("ohttp_gateway_response_bytes", &[]),
    ("ohttp_gateway_keys", &[]),
];

fn is_known(service: Service, label: &str, value: &str) -> bool {
    let (routes, outcomes): (&[&str], &[&str]) = match service {
        Service::Relay => (&RELAY_ROUTES, &RELAY_OUTCOMES),
        Service::Gateway => (&GATEWAY_ROUTES, &GATEWAY_OUTCOMES),
        Service::Ds | Service::Issuer | Service::PushGateway | Service::PushSender => (&[], &[]),
    };
    match label {
        "route" => routes.contains(&value) || ADMIN_ROUTES.contains(&value),
        "method" => METHODS.contains(&value),
        "status" => STATUSES.contains(&value),
        "outcome" => outcomes.contains(&value),
        "reason" => ["time", "idle", "broken", "too_large"].contains(&value),
        _ => false,
    }
}

/// How many of the lines tell of requests.
///
/// # Panics
/// There is a line in `log` that relay or gateway may not write.
pub fn check_log(service: Service, log: &str) -> usize {
    let mut requests = 0;
    for line in log.lines() {
        let shape = shape(service, line);
        let is_allowed = LINES.contains(&shape.as_str())
            || service == Service::Gateway && GATEWAY_LINES.contains(&shape.as_str());
        assert!(is_allowed, "{}: {line}", service.name());
        requests += usize::from(shape.starts_with("DEBUG"));
    }
    requests
}

/// A line without its time, known values replaced by the names of their sets.
fn shape(service: Service, line: &str) -> String {
    let (time, rest) = line.split_once(' ').unwrap_or((line, ""));
    let is_time = time.len() == "2026-01-01T00:00:00.000000Z".len()
        && time.bytes().all(|byte| b"0123456789-:.TZ".contains(&byte));
    assert!(is_time, "{}: {line}", service.name());
    let words = rest
        .trim_start()
        .split(' ')
        .map(|word| match word.split_once('=') {
            Some(("milliseconds", value)) if value.parse::<u64>().is_ok() => {
                "milliseconds=N".to_owned()
            }
            // Once, at the start: where it listens itself.
            Some(("address", value)) if rest.contains("listening") && is_loopback(value) => {
                "address=OWN".to_owned()
            }
            Some(("service", "\"ohttp-relay\"" | "\"ohttp-gateway\"")) => "service=NAME".to_owned(),
            Some(("version", _)) => "version=VERSION".to_owned(),
            Some((name, value)) if is_known(service, name, value.trim_matches('"')) => {
                format!("{name}={}", name.to_uppercase())
            }
            _ => word.to_owned(),
        });
    words.collect::<Vec<_>>().join(" ")
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<std::net::SocketAddr>()
        .is_ok_and(|address| address.ip().is_loopback())
}

/// How many series there are.
///
/// # Panics
/// There is a series in `metrics` that relay or gateway may not have.
pub fn check_metrics(service: Service, metrics: &str) -> usize {
    let allowed = if service == Service::Relay {
        &RELAY_METRICS
    } else {
        &GATEWAY_METRICS
    };
    let series = metrics
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    series
        .map(|line| {
            let is_allowed = (|| {
                let (series, value) = line.rsplit_once(' ')?;
                value.parse::<f64>().ok()?;
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.strip_suffix('}')?;
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(name);
                let (_, names) = allowed.iter().find(|(known, _)| *known == base)?;
                let mut labels = labels.split(',').filter(|label| !label.is_empty());
                labels
                    .all(|label| {
                        let (label, value) = label.split_once('=').unwrap_or((label, ""));
                        let value = value.trim_matches('"');
                        if label == "le" {
                            value == "+Inf" || value.parse::<f64>().is_ok()
                        } else {
                            names.contains(&label) && is_known(service, label, value)
                        }
                    })
                    .then_some(())
            })();
            assert!(is_allowed.is_some(), "{}: {line}", service.name());
        })
        .count()
}
