//! The delivery services that may have devices woken: each known by a secret, with a limit.

use http::{HeaderMap, HeaderName};
use service::gateway_auth::GatewaySecret;
use service::rate::{Bucket, Rate};
use service::secret_file::SecretFileError;

use crate::config::DeliveryServiceSettings;

/// The request header: `Push-Authorization: Bearer <base64url of the secret>`.
pub const PUSH_AUTHORIZATION: HeaderName = HeaderName::from_static("push-authorization");

/// Why wakes are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Stranger,
    TooMany { retry_after_s: u64 },
}

pub(crate) struct Services(Vec<Known>);

struct Known {
    secret: GatewaySecret,
    /// `None`: any number.
    rate: Option<Rate>,
    bucket: Bucket,
}

impl Services {
    pub(crate) fn load(settings: &[DeliveryServiceSettings]) -> Result<Self, SecretFileError> {
        settings
            .iter()
            .map(|it| {
                let (count, burst) = (it.wakes_per_second, it.burst);
                Ok(Known {
                    secret: GatewaySecret::load_or_create(&it.secret_file)?,
                    rate: (count > 0).then(|| Rate::new(burst.max(count), count, 1000)),
                    bucket: Bucket::default(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Which delivery service this is. An absent and a wrong secret are the same.
    pub(crate) fn recognise(&self, headers: &HeaderMap) -> Result<Recognised<'_>, NotTaken> {
        let presented = headers.get(PUSH_AUTHORIZATION);
        let mut found = None;
        // All of them, so that the time says nothing.
        for known in &self.0 {
            if known.secret.accepts(presented) {
                found = Some(known);
            }
        }
        found.map(Recognised).ok_or(NotTaken::Stranger)
    }
}

pub(crate) struct Recognised<'a>(&'a Known);

impl Recognised<'_> {
    pub(crate) fn charge(&self, wakes: usize, now_ms: u64) -> Result<(), NotTaken> {
        let Some(rate) = self.0.rate else {
            return Ok(());
        };
        let wakes = u32::try_from(wakes).unwrap_or(u32::MAX);
        let taken = rate.take(&self.0.bucket, wakes, now_ms);
        taken.map_err(|empty| NotTaken::TooMany {
            retry_after_s: empty.retry_after_ms.unwrap_or(60_000).div_ceil(1000),
        })
    }
}
