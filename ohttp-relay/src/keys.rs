//! The mirror of the gateway's key configurations.
//!
//! Every client of the relay gets the same bytes, fetched once for all of them: the gateway cannot
//! hand different keys to different clients by who asks.

use bytes::Bytes;
use service::SharedClock;
use tokio::sync::Mutex;

use crate::upstream::Upstream;

pub(crate) const OHTTP_KEYS: &str = "application/ohttp-keys";

/// Seconds that configurations are kept for when the gateway does not say.
pub(crate) const DEFAULT_MAX_AGE: u64 = 300;
/// Kept for no longer than a day, whatever the gateway says.
const LONGEST_MAX_AGE: u64 = 86_400;
/// Kept for a minute, whatever the gateway says: one that is asked anew for each client could answer each of them
/// with another key.
const SHORTEST_MAX_AGE: u64 = 60;

/// `max-age` of a `Cache-Control` value (RFC 9111 §5.2.2.1), bounded.
pub(crate) fn max_age(cache_control: &str) -> u64 {
    let mut seconds = DEFAULT_MAX_AGE;
    for directive in cache_control.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return SHORTEST_MAX_AGE;
        }
        if let Some((name, value)) = directive.split_once('=')
            && name.trim().eq_ignore_ascii_case("max-age")
        {
            seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
        }
    }
    seconds.clamp(SHORTEST_MAX_AGE, LONGEST_MAX_AGE)
}

/// After a key that the gateway does not know, configurations older than this are fetched again: it may have
/// replaced all keys at once. Clients go on trying for longer, and nobody can have them fetched more often.
const DOUBTED_MS: u64 = 20_000;

/// For how long nobody asks a gateway again that did not answer.
const RETRY_MS: u64 = 1_000;

#[derive(Default)]
struct Mirror {
    entry: Option<Entry>,
    retry_ms: u64,
}

struct Entry {
    configs: Bytes,
    fetched_ms: u64,
    expires_ms: u64,
}

/// The configurations as they are handed out.
pub(crate) struct Mirrored {
    pub(crate) configs: Bytes,
    pub(crate) remaining_seconds: u64,
}

pub(crate) struct KeyMirror {
    clock: SharedClock,
    /// Locked during a fetch, so that many clients cause one.
    mirror: Mutex<Mirror>,
}

impl KeyMirror {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            mirror: Mutex::default(),
        }
    }

    /// The gateway did not know the key of a request.
    pub(crate) fn doubt(&self) {
        // If it is locked, somebody fetches right now.
        if let Ok(mut mirror) = self.mirror.try_lock()
            && let Some(entry) = &mut mirror.entry
        {
            let doubted = entry.fetched_ms.saturating_add(DOUBTED_MS);
            entry.expires_ms = entry.expires_ms.min(doubted);
        }
    }

    /// What the gateway publishes, at most as old as it allows. `None`: nothing valid is to be had.
    pub(crate) async fn current(&self, upstream: &Upstream) -> Option<Mirrored> {
        let mut mirror = self.mirror.lock().await;
        let now = self.clock.monotonic_ms();
        if mirror
            .entry
            .as_ref()
            .is_none_or(|entry| entry.expires_ms <= now)
        {
            if now < mirror.retry_ms {
                return None;
            }
            let Some((configs, max_age)) = upstream.key_configs().await else {
                // Everybody who waited for the lock gets this answer too, without a fetch.
                mirror.retry_ms = self.clock.monotonic_ms().saturating_add(RETRY_MS);
                return None;
            };
            mirror.entry = Some(Entry {
                configs,
                fetched_ms: now,
                expires_ms: now.saturating_add(max_age * 1000),
            });
        }
        mirror.entry.as_ref().map(|entry| Mirrored {
            configs: entry.configs.clone(),
            remaining_seconds: entry.expires_ms.saturating_sub(now) / 1000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_read_and_bounded() {
        assert_eq!(max_age("public, max-age=600"), 600);
        assert_eq!(max_age("Max-Age=\"90\""), 90);
        assert_eq!(max_age("max-age=99999999"), LONGEST_MAX_AGE);
        assert_eq!(max_age("public"), DEFAULT_MAX_AGE);
        for fleeting in [
            "no-store, max-age=600",
            "no-cache",
            "max-age=0",
            "max-age=x",
        ] {
            assert_eq!(max_age(fleeting), SHORTEST_MAX_AGE, "{fleeting}");
        }
    }
}
