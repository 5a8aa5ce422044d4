//! Who sends requests, and how many: relays are known by a secret, clients never.

use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use service::gateway_auth::{GatewaySecret, RELAY_AUTHORIZATION};

use crate::GatewayError;
use crate::config::{RelayLimit, RelaySettings};
use crate::problems::Refusal;

/// One request, in the unit of a level: a rate per second is exact per millisecond.
const REQUEST: u64 = 1_000;

pub(crate) struct Relays {
    known: Vec<(GatewaySecret, Bucket)>,
    /// Of everybody, where no relay is listed.
    anybody: Bucket,
}

/// A token bucket. Full after a start.
struct Bucket {
    limit: RelayLimit,
    level: Mutex<Level>,
}

struct Level {
    units: u64,
    as_of_ms: Option<u64>,
}

impl Relays {
    pub(crate) fn load(
        settings: &[RelaySettings],
        limit: RelayLimit,
    ) -> Result<Self, GatewayError> {
        let known = settings
            .iter()
            .map(|relay| {
                let secret = GatewaySecret::load_or_create(&relay.secret_file)?;
                Ok((secret, Bucket::new(relay.limit.unwrap_or(limit))))
            })
            .collect::<Result<_, GatewayError>>()?;
        Ok(Self {
            known,
            anybody: Bucket::new(limit),
        })
    }

    /// Before anything of the request is looked at.
    pub(crate) fn admit(&self, headers: &HeaderMap, now_unix_ms: u64) -> Result<(), Refusal> {
        if self.known.is_empty() {
            return self.anybody.take(now_unix_ms);
        }
        let presented = headers.get(RELAY_AUTHORIZATION);
        let mut found = None;
        // All of them, so that the time says nothing.
        for (secret, bucket) in &self.known {
            if secret.accepts(presented) {
                found = Some(bucket);
            }
        }
        found.ok_or(Refusal::Relay)?.take(now_unix_ms)
    }
}

impl Bucket {
    fn new(limit: RelayLimit) -> Self {
        Self {
            limit,
            level: Mutex::new(Level {
                units: Self::capacity(limit),
                as_of_ms: None,
            }),
        }
    }

    fn capacity(limit: RelayLimit) -> u64 {
        u64::from(limit.burst.max(1)) * REQUEST
    }

    fn take(&self, now_unix_ms: u64) -> Result<(), Refusal> {
        let rate = u64::from(self.limit.requests_per_second);
        if rate == 0 {
            return Ok(());
        }
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now_unix_ms.saturating_sub(level.as_of_ms.unwrap_or(now_unix_ms));
        level.as_of_ms = Some(now_unix_ms);
        level.units = level
            .units
            .saturating_add(elapsed.saturating_mul(rate))
            .min(Self::capacity(self.limit));
        match level.units.checked_sub(REQUEST) {
            Some(left) => {
                level.units = left;
                Ok(())
            }
            None => Err(Refusal::TooMany {
                retry_after_s: (REQUEST - level.units).div_ceil(rate).div_ceil(1000),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMIT: RelayLimit = RelayLimit {
        requests_per_second: 10,
        burst: 5,
    };

    fn relays(directory: &std::path::Path, names: &[&str]) -> Relays {
        let settings: Vec<_> = names
            .iter()
            .map(|name| RelaySettings {
                secret_file: directory.join(name),
                limit: None,
            })
            .collect();
        Relays::load(&settings, LIMIT).unwrap()
    }

    fn from(directory: &std::path::Path, name: &str) -> HeaderMap {
        let secret = GatewaySecret::load_or_create(&directory.join(name)).unwrap();
        [(RELAY_AUTHORIZATION, secret.header_value())]
            .into_iter()
            .collect()
    }

    #[test]
    fn each_relay_has_its_own_limit_and_strangers_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let relays = relays(path, &["a", "b"]);
        let admitted = |headers: &HeaderMap, at| {
            (0..20)
                .filter(|_| relays.admit(headers, at).is_ok())
                .count()
        };
        let (a, b) = (from(path, "a"), from(path, "b"));
        assert_eq!([admitted(&a, 0), admitted(&a, 100)], [5, 1]);
        assert_eq!(admitted(&b, 100), 5);
        let refused = relays.admit(&a, 100).unwrap_err();
        assert_eq!(refused, Refusal::TooMany { retry_after_s: 1 });
        for stranger in [HeaderMap::new(), from(path, "c")] {
            assert_eq!(relays.admit(&stranger, 100), Err(Refusal::Relay));
        }
        assert_eq!(admitted(&a, u64::MAX), 5);
    }

    #[test]
    fn without_a_list_everybody_together_is_one_relay() {
        let directory = tempfile::tempdir().unwrap();
        let relays = relays(directory.path(), &[]);
        let admitted = (0..20).filter(|_| relays.admit(&HeaderMap::new(), 7).is_ok());
        assert_eq!(admitted.count(), 5);
    }
}
