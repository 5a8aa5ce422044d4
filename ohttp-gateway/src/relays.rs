//! The relays that send requests, and their limits: relays are known by a secret, clients never.

use http::HeaderMap;
use service::gateway_auth::{GatewaySecret, RELAY_AUTHORIZATION};
use service::rate::{Bucket, Rate};

use crate::GatewayError;
use crate::config::{RelayLimit, RelaySettings};
use crate::problems::Refusal;

pub(crate) struct Relays {
    known: Vec<(GatewaySecret, Limit)>,
    /// Of everybody, where no relay is listed.
    anybody: Limit,
}

struct Limit {
    /// `None`: any number of requests.
    rate: Option<Rate>,
    bucket: Bucket,
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
                Ok((secret, Limit::new(relay.limit.unwrap_or(limit))))
            })
            .collect::<Result<_, GatewayError>>()?;
        Ok(Self {
            known,
            anybody: Limit::new(limit),
        })
    }

    /// Before anything of the request is looked at. Whether it proves whose it is.
    pub(crate) fn admit(&self, headers: &HeaderMap, now_unix_ms: u64) -> Result<bool, Refusal> {
        if self.known.is_empty() {
            return self.anybody.take(now_unix_ms).map(|()| false);
        }
        let presented = headers.get(RELAY_AUTHORIZATION);
        let mut found = None;
        // All of them, so that the time says nothing.
        for (secret, limit) in &self.known {
            if secret.accepts(presented) {
                found = Some(limit);
            }
        }
        found.ok_or(Refusal::Relay)?.take(now_unix_ms)?;
        Ok(true)
    }
}

impl Limit {
    fn new(limit: RelayLimit) -> Self {
        let RelayLimit {
            requests_per_second,
            burst,
        } = limit;
        Self {
            rate: (requests_per_second > 0)
                .then(|| Rate::new(burst.max(1), requests_per_second, 1_000)),
            bucket: Bucket::default(),
        }
    }

    fn take(&self, now_unix_ms: u64) -> Result<(), Refusal> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        rate.take(&self.bucket, 1, now_unix_ms)
            .map_err(|empty| Refusal::TooMany {
                retry_after_s: empty.retry_after_ms.unwrap_or_default().div_ceil(1_000),
            })
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
