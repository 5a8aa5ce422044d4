//! Bounds that configuration sets: of what a request holds (`ds_domain::env::Limits`), and of what
//! is done at once.

use protocol::follow::{LONGEST_BEAT_MS, LONGEST_MS};
use serde::Deserialize;

/// Longest message or commit: an answer with one entry of a journal must pass the gateway, which
/// takes 4 MiB, with its padding and what travels beside a commit.
pub const LARGEST_ENTRY: usize = 3 * 512 * 1024;

/// Longest tree: a joiner from outside gets it in one answer.
pub const LARGEST_TREE: usize = 3 * 1024 * 1024;

/// How much is done at once, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Requests that one process works on at the same time, reads of journals apart.
    pub concurrent_requests: usize,
    /// Reads of journals that one process works on.
    pub concurrent_reads: usize,
    /// Reads of journals that one process has wait for the next entry.
    pub concurrent_waits: usize,
    /// Streams of journals that go on at one process.
    pub concurrent_streams: usize,
    /// Requests a second at all nodes together, of which as many may come at once; 0 for any
    /// number.
    pub requests_per_second: u32,
    /// Nodes that serve requests side by side: this one takes its share, at least one request.
    pub nodes: u32,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            // Together as many as the listener has connections.
            concurrent_requests: 1024,
            concurrent_reads: 512,
            concurrent_waits: 2560,
            concurrent_streams: 2048,
            requests_per_second: 0,
            nodes: 1,
        }
    }
}

impl LoadLimits {
    /// The same for one of so many nodes.
    #[must_use]
    pub fn share_of(self, nodes: u32) -> Self {
        Self { nodes, ..self }
    }
}

/// The table `[streams]` of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    /// How long a stream goes on.
    pub seconds: u32,
    /// Between two frames of a live stream at most.
    pub live_beat_ms: u32,
    /// Between two frames of an even one.
    pub even_beat_ms: u32,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            seconds: 300,
            live_beat_ms: 15_000,
            even_beat_ms: 1_000,
        }
    }
}

/// A setting of the table `[streams]` with which no client would follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("streams.{name} must be from 1 to {most}")]
pub struct StreamsOutOfBounds {
    /// Which one.
    pub name: &'static str,
    /// The most that it may be.
    pub most: u32,
}

impl StreamSettings {
    /// Clients give up what is beyond these bounds.
    ///
    /// # Errors
    /// [`StreamsOutOfBounds`].
    pub fn check(&self) -> Result<(), StreamsOutOfBounds> {
        let Self {
            seconds,
            live_beat_ms,
            even_beat_ms,
        } = *self;
        for (name, value, most) in [
            ("seconds", seconds, LONGEST_MS / 1_000),
            ("live_beat_ms", live_beat_ms, LONGEST_BEAT_MS),
            ("even_beat_ms", even_beat_ms, LONGEST_BEAT_MS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(StreamsOutOfBounds { name, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_no_client_would_follow_are_not_configured() {
        let usual = StreamSettings::default();
        let check = |seconds, live_beat_ms, even_beat_ms| {
            let settings = StreamSettings {
                seconds,
                live_beat_ms,
                even_beat_ms,
            };
            settings.check().map_err(|error| error.name)
        };
        assert_eq!(usual.check(), Ok(()));
        assert_eq!(check(900, 60_000, 60_000), Ok(()));
        assert_eq!(check(1, 1, 1), Ok(()));
        for seconds in [0, 901, u32::MAX] {
            assert_eq!(check(seconds, 1, 1), Err("seconds"));
        }
        for beat_ms in [0, 60_001, u32::MAX] {
            assert_eq!(check(1, beat_ms, 1), Err("live_beat_ms"));
            assert_eq!(check(1, 1, beat_ms), Err("even_beat_ms"));
        }
    }
}
