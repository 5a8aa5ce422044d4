//! Tracing to stderr, for our own crates only.
//!
//! HTTP, TLS and MLS libraries print addresses, URIs and values into their log lines. We cannot
//! vouch for their text, so nothing of it is written, at whatever level. A panic is reported with
//! its place in the source but without its message, which could quote data.

use std::fmt;
use std::io::IsTerminal;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

/// The environment variable that overrides `log_level`: `error`, `warn`, `info`, `debug`, `trace`.
pub const LEVEL_VARIABLE: &str = "MIMIMI_LOG";

/// The crates whose log lines are written.
const OUR_CRATES: [&str; 10] = [
    "client",
    "crypto",
    "ds_server",
    "ds_store_postgres",
    "ds_store_rocks",
    "ohttp_gateway",
    "ohttp_relay",
    "privacy_pass_issuer",
    "protocol",
    "service",
];

/// The most verbose level that is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl LogLevel {
    /// The level named by [`LEVEL_VARIABLE`], else `configured`.
    #[must_use]
    pub fn from_environment_or(configured: Self) -> Self {
        match std::env::var(LEVEL_VARIABLE).as_deref() {
            Ok("error") => Self::Error,
            Ok("warn") => Self::Warn,
            Ok("info") => Self::Info,
            Ok("debug") => Self::Debug,
            Ok("trace") => Self::Trace,
            _ => configured,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let krate = target.split_once("::").map_or(target, |(krate, _)| krate);
    OUR_CRATES.contains(&krate)
}

/// The subscriber that a process logs with; public so that tests judge the real one.
pub fn subscriber<W>(
    level: LogLevel,
    format: LogFormat,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let max = level.filter();
    let filter = filter_fn(move |metadata| is_ours(metadata) && *metadata.level() <= max)
        .with_max_level_hint(max);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => Box::new(tracing_subscriber::registry().with(lines.with_filter(filter))),
        LogFormat::Json => {
            Box::new(tracing_subscriber::registry().with(lines.json().with_filter(filter)))
        }
    }
}

/// Logs to stderr from now on, for the whole process; a second call changes nothing.
pub(crate) fn init(level: LogLevel, format: LogFormat) {
    let subscriber = subscriber(
        LogLevel::from_environment_or(level),
        format,
        std::io::stderr as fn() -> std::io::Stderr,
    );
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic
                .location()
                .map(|at| format!("{}:{}", at.file(), at.line()));
            tracing::error!(location, "a task panicked");
        }));
    }
}

/// A configured URL as a log may show it: without user, password, query and fragment.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// An error with all its sources on one line, for our own log.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_logged(level: LogLevel, format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(level, format, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "ds_server::table", "ours, trace");
            tracing::warn!(target: "service", "ours, warn");
            tracing::error!(target: "hyper::proto", "foreign, error");
            tracing::trace!(target: "reqwest::connect", "foreign, trace");
            tracing::error!(target: "dsx", "a longer name, foreign");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_our_crates_log_even_at_trace() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = lines_logged(LogLevel::Trace, format);
            assert!(lines.contains("ours, trace") && lines.contains("ours, warn"));
            assert!(!lines.contains("foreign"));
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret_in_it() {
        for (url, shown) in [
            ("https://a.example/b?c=d#e", "https://a.example/b"),
            ("https://user:pass@a.example:1/b", "https://a.example:1/b"),
            ("http://[::1]:4203", "http://[::1]:4203"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn a_level_hides_what_is_more_verbose() {
        let lines = lines_logged(LogLevel::Info, LogFormat::Text);
        assert!(!lines.contains("ours, trace") && lines.contains("ours, warn"));
    }
}
