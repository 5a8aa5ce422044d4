//! What each operator received and stored: from the counters of the processes themselves, and from
//! every byte that they wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http;
use crate::scan::{self, Finding, Needles};
use crate::stack::{Layout, Service, Stack};

/// The counters of every process that there was, added up.
#[derive(Default)]
pub(super) struct Observation {
    counters: BTreeMap<Service, BTreeMap<String, f64>>,
}

impl Observation {
    /// Reads all four.
    pub(super) async fn look(&mut self, stack: &Stack) -> Result<()> {
        for service in Service::ALL {
            self.look_at(stack, service).await?;
        }
        Ok(())
    }

    /// Adds what one process counted up to now. Once for each process.
    pub(super) async fn look_at(&mut self, stack: &Stack, service: Service) -> Result<()> {
        let (status, metrics) = http::get(stack.ports().admin_of(service), "/metrics").await?;
        ensure!(status == 200, "{} shows no metrics", service.name());
        // Beside the logs: they are read by the same people.
        let kept = format!("{}.metrics", service.name());
        fs::write(stack.layout().all_logs().join(kept), &metrics)?;
        let counters = self.counters.entry(service).or_default();
        for (series, value) in samples(&metrics) {
            *counters.entry(series.to_owned()).or_default() += value;
        }
        Ok(())
    }

    /// The sum over all labels.
    fn total(&self, service: Service, name: &str) -> f64 {
        self.series(service, name).map(|(_, value)| value).sum()
    }

    fn series(&self, service: Service, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let counters = self.counters.get(&service).into_iter().flatten();
        counters.filter_map(move |(series, value)| {
            let labels = series.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }

    /// The sums for each value of `label`, largest first.
    pub(super) fn by_label(&self, service: Service, name: &str, label: &str) -> Vec<(&str, f64)> {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (labels, value) in self.series(service, name) {
            *sums
                .entry(value_of(labels, label).unwrap_or("?"))
                .or_default() += value;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        sums
    }
}

/// The lines of a Prometheus exposition: series and value.
fn samples(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series, value.parse().ok()?)))
}

fn value_of<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// Everything that no operator may ever see.
#[derive(Default)]
pub(super) struct Said {
    pub(super) plaintexts: Vec<String>,
}

/// The outcome of looking for everything that was said.
pub(super) struct Searched {
    texts: usize,
    files: u64,
    bytes: u64,
    pub(super) findings: Vec<Finding>,
}

/// Looks for everything that was said in all that the services stored and logged, after planting
/// one text to see that the search would find it.
pub(super) fn search(layout: &Layout, directory: &Path, said: &Said) -> Result<Searched> {
    let needles = Needles::new(&said.plaintexts)?;
    let planted = directory.join("planted");
    fs::create_dir(&planted)?;
    let text = format!("? {}", said.plaintexts[0]);
    fs::write(planted.join("file"), STANDARD.encode(text))?;
    let control = scan::directory(&planted, &needles)?;
    ensure!(
        control.findings.len() == 1,
        "the search does not find a text that was planted"
    );

    let mut searched = Searched {
        texts: needles.count(),
        files: 0,
        bytes: 0,
        findings: Vec::new(),
    };
    for part in [layout.all_data(), layout.all_logs()] {
        let report = scan::directory(&part, &needles)?;
        searched.files += report.files;
        searched.bytes += report.bytes;
        searched.findings.extend(report.findings);
    }
    Ok(searched)
}

pub(super) fn print(seen: &Observation, layout: &Layout, searched: &Searched) {
    row("", "received", "wrote to disk");
    println!("  {}", "─".repeat(98));
    let bytes = |service, name: &str| size(seen.total(service, name));
    row(
        "A  relay",
        &format!(
            "{} sealed requests, {} in, {} out",
            seen.total(Service::Relay, "ohttp_relay_requests_total"),
            bytes(Service::Relay, "ohttp_relay_request_bytes_sum"),
            bytes(Service::Relay, "ohttp_relay_response_bytes_sum"),
        ),
        &written(layout, Service::Relay),
    );
    row("", "and the clients' addresses, which it does not log", "");
    row(
        "B  gateway",
        &format!(
            "{} requests to open, all from the relay's address",
            seen.total(Service::Gateway, "ohttp_gateway_requests_total"),
        ),
        &written(layout, Service::Gateway),
    );
    row(
        "B  delivery",
        "pseudonyms, sealed names and messages:",
        &written(layout, Service::Ds),
    );
    let operations = seen.by_label(Service::Ds, "ds_requests_total", "operation");
    for pair in operations.chunks(2) {
        let cells = pair.iter().map(|(path, count)| {
            let operation = path.strip_prefix("/v1/").unwrap_or(path);
            format!("{count:>4} {operation:<29}")
        });
        row("", &cells.collect::<String>(), "");
    }
    row(
        "C  issuer",
        &format!(
            "{} tokens to sign, blinded, and for which account",
            seen.total(Service::Issuer, "issuer_tokens_issued_total"),
        ),
        &written(layout, Service::Issuer),
    );
    println!();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let bytes = size(searched.bytes as f64);
    println!(
        "  {} handles, account names, messages and group names were looked for in {} files ({bytes})",
        searched.texts, searched.files
    );
    println!(
        "  of data and logs at their most verbose, as text, hex and base64: {} found (one that was\n  \
         planted beside them was).",
        if searched.findings.is_empty() {
            "none".to_owned()
        } else {
            searched.findings.len().to_string()
        }
    );
}

fn row(operator: &str, received: &str, stored: &str) {
    println!("  {operator:<12} {received:<56} {stored}");
}

/// Files, bytes and log lines of a service.
#[allow(clippy::cast_precision_loss, reason = "for people")]
fn written(layout: &Layout, service: Service) -> String {
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![layout.data(service)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => {
                    files += 1;
                    bytes += metadata.len();
                }
                Err(_) => {}
            }
        }
    }
    let lines =
        fs::read(layout.log(service)).map_or(0, |log| log.split(|byte| *byte == b'\n').count() - 1);
    let data = if files == 0 {
        "no data".to_owned()
    } else {
        format!("{} in {files} files", size(bytes as f64))
    };
    format!("{data}; {lines} log lines")
}

fn size(bytes: f64) -> String {
    if bytes < 10_000.0 {
        format!("{bytes} B")
    } else if bytes < 10_000_000.0 {
        format!("{:.0} kB", bytes / 1e3)
    } else {
        format!("{:.0} MB", bytes / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE http_requests_total counter\n\
        http_requests_total{route=\"/v1/a\",status=\"2xx\"} 3\n\
        http_requests_total{route=\"/v1/a\",status=\"4xx\"} 1\n\
        http_requests_total{route=\"/v1/b\",status=\"2xx\"} 2\n\
        http_requests_totally_other 7\n\
        bytes_sum 1024.5\n";

    fn observed(times: usize) -> Observation {
        let mut observation = Observation::default();
        for _ in 0..times {
            let counters = observation.counters.entry(Service::Ds).or_default();
            for (series, value) in samples(METRICS) {
                *counters.entry(series.to_owned()).or_default() += value;
            }
        }
        observation
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_over_processes() {
        for (times, expected) in [(1, 6.0), (2, 12.0)] {
            let total = observed(times).total(Service::Ds, "http_requests_total");
            assert!((total - expected).abs() < 0.1, "{total}");
        }
    }

    #[test]
    fn the_values_of_a_label_are_told_apart() {
        let observation = observed(1);
        let routes = observation.by_label(Service::Ds, "http_requests_total", "route");
        let routes: Vec<_> = routes.into_iter().map(|(route, _)| route).collect();
        assert_eq!(routes, ["/v1/a", "/v1/b"]);
    }
}
