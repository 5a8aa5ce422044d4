//! The activity feed: how ticks are chained and checked (`docs/journals.md`, *The activity feed*).

use protocol::feed::{FEED_TICK_LABEL, FeedTickTbs, Resolution, TagSet, Tick};
use protocol::ids::{Digest, TickNumber};
use protocol::{WIRE_VERSION, Wire as _};
use sha2::{Digest as _, Sha256};

use crate::CryptoError;
use crate::sign;

/// What stands as the tick before the first one.
pub const NO_TICK: Digest = Digest([0; 32]);

fn tbs(tick: &Tick) -> Vec<u8> {
    FeedTickTbs {
        version: tick.version,
        generation: tick.generation,
        resolution: tick.resolution,
        number: tick.number,
        previous: tick.previous,
        count: tick.count,
        coded: tick.coded.clone(),
    }
    .encode()
}

/// `SHA-256(label || FeedTickTbs)`: all of a tick but its signature.
#[must_use]
pub fn tick_hash(tick: &Tick) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"MIMIMI 1.0 feed tick\0");
    hash.update(tbs(tick));
    Digest(hash.finalize().into())
}

/// A tick that the service has signed. There is no other way to this type than [`check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedTick {
    /// As in [`Tick`].
    pub generation: u64,
    /// As in [`Tick`].
    pub resolution: Resolution,
    /// As in [`Tick`].
    pub number: TickNumber,
    /// As in [`Tick`].
    pub previous: Digest,
    /// What the next tick of this resolution has as its `previous`.
    pub hash: Digest,
    pub tags: TagSet,
}

/// Checks a tick under the service's journal-signing key. That it goes on from the tick before is
/// for the reader to see, who knows that.
///
/// # Errors
/// [`CryptoError::UnknownVersion`], [`CryptoError::InvalidSignature`]; [`CryptoError::CannotOpen`]
/// where its tags are no code of any set.
pub fn check(key: &[u8], tick: &Tick) -> Result<CheckedTick, CryptoError> {
    if tick.version != WIRE_VERSION {
        return Err(CryptoError::UnknownVersion);
    }
    sign::verify(key, FEED_TICK_LABEL, &tbs(tick), &tick.signature)?;
    Ok(CheckedTick {
        generation: tick.generation,
        resolution: tick.resolution,
        number: tick.number,
        previous: tick.previous,
        hash: tick_hash(tick),
        tags: TagSet::decode(tick.count, tick.coded.as_slice())
            .map_err(|_| CryptoError::CannotOpen)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use protocol::feed::code;

    use super::*;
    use crate::journal::HeadSigner;
    use crate::schedule::{JournalKey, TagKey};
    use crate::secret::Secret;
    use crate::sign::SignatureKeyPair;

    fn signer(seed: u8) -> HeadSigner {
        HeadSigner::new(SignatureKeyPair::from_seed(&Secret::new([seed; 32])))
    }

    fn tick(signer: &HeadSigner, keys: &[TagKey]) -> Tick {
        let (resolution, number) = (Resolution::Seconds2, TickNumber(900_000_000));
        let tags: BTreeSet<_> = keys
            .iter()
            .map(|key| key.feed_key().tag(resolution, number))
            .collect();
        let (count, coded) = code(&tags);
        let tbs = FeedTickTbs {
            version: WIRE_VERSION,
            generation: 3,
            resolution,
            number,
            previous: NO_TICK,
            count,
            coded,
        };
        signer.sign_tick(tbs).unwrap()
    }

    fn key() -> TagKey {
        JournalKey::new([7; 32]).tag_key()
    }

    #[test]
    fn a_member_finds_its_group_in_a_tick_that_the_service_has_signed() {
        let (service, other) = (signer(1), signer(2));
        let made = tick(&service, &[key(), TagKey::new([8; 32])]);
        let checked = check(&service.public(), &made).unwrap();
        let tag = |key: TagKey| key.feed_key().tag(checked.resolution, checked.number);
        assert!(checked.tags.contains(tag(key())));
        assert!(!checked.tags.contains(tag(TagKey::new([9; 32]))));
        assert!(check(&other.public(), &made).is_err());
    }

    #[test]
    fn whatever_is_changed_in_a_tick_its_signature_does_not_fit() {
        let service = signer(1);
        let made = tick(&service, &[key()]);
        let bytes = made.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let refused = Tick::decode(&changed)
                .is_ok_and(|changed| check(&service.public(), &changed).is_err());
            assert!(refused || Tick::decode(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn the_tag_key_of_a_later_day_finds_nothing_in_the_ticks_of_a_former_one() {
        let service = signer(1);
        let made = tick(&service, &[key()]);
        let checked = check(&service.public(), &made).unwrap();
        for days in 1..40 {
            let later = key().ahead(days).feed_key();
            assert!(
                !checked
                    .tags
                    .contains(later.tag(checked.resolution, checked.number))
            );
        }
    }

    #[test]
    fn a_segment_has_another_tag_in_each_tick_and_resolution() {
        let key = key().feed_key();
        let mut tags = BTreeSet::new();
        for resolution in Resolution::ALL {
            for number in 0..50 {
                assert!(tags.insert(key.tag(resolution, TickNumber(number))));
            }
        }
    }
}
