//! The keys of a group, of a segment of its journal and of a step in it (`docs/journals.md`,
//! *Keys*).
//!
//! ```text
//! exporter "rotation" of the epoch that begins the segment
//!   R ──┬─ "state key" ──▶ S_0 ─ "next" ─▶ S_1 ─ "next" ─▶ …      state keys, one an epoch
//!       │                   └─ "segment", group id, rotation epoch ─▶ segment id
//!       └─ "link wrapper" ▶ W                                      wrapper key
//! exporter "journal key" of the same epoch
//!   k_0 ┬─ "next" ─▶ k_1 ─ "next" ─▶ …                             entry keys, one an epoch
//!       └─ "tag" ──▶ T_0 ─ "next" ─▶ …                             tag keys, one a day
//!                    └─ "feed" ─▶ F_0 ─ "tick", resolution, number ─▶ tag
//! exporter "welcome" of the epoch of an Add
//!   X ─ "welcome of", KeyPackageRef ─┬─ "welcome id"               where a Welcome is found
//!                                    └─ "welcome key"              what opens it
//! exporter "join record" of the epoch of an Add
//!   join key ─ "join record", group id ─▶ join record id
//! a blob's capability ─ "blob id" ─▶ blob id                       (`crate::blob`)
//! code ─┬─ "permit"  shown by who comes in
//!       └─ "hpke"    seed of the key pair that rotation secrets are sealed to
//! ```
//! All labels carry the prefix of [`kdf`]. A key is used up by the step that ratchets it on.

use protocol::codec::WireSecret;
use protocol::feed::{Resolution, Tag};
use protocol::group::NextSegment;
use protocol::ids::{
    GroupId, JoinRecordId, PoolId, RecoveryRowId, RotationEpoch, SegmentId, TickNumber, WelcomeId,
};
use sha2::{Digest as _, Sha256};

use crate::CryptoError;
use crate::kdf;
use crate::keys::keys;
use crate::secret::Secret;

fn derived<T: From<[u8; 32]>>(secret: &[u8; 32], label: &str) -> T {
    kdf::derive::<32>(secret, label, &[]).into()
}

macro_rules! ratchets {
    ($($name:ident;)+) => {
        $(impl $name {
            /// The key of the next step; this one is gone.
            #[must_use]
            pub fn next(self) -> Self {
                derived(self.expose(), "next")
            }

            /// The key `steps` further on.
            #[must_use]
            pub fn ahead(self, steps: u32) -> Self {
                (0..steps).fold(self, |key, _| key.next())
            }
        })+
    };
}

keys! {
    /// `R`: known to the members of the epoch that begins a segment, and to whom it is sealed.
    /// Never to the service.
    RotationSecret;
    /// `S_t`: opens the group's state at the service for one epoch.
    StateKey;
    /// `k_t`: opens the journal's entries of one step.
    JournalKey;
    /// `T_d`: names a segment in the feed of one day.
    TagKey;
    /// `F_d`: makes a segment's tags of one day.
    FeedKey;
    /// `W`: opens the link keys of a segment. Never known to the service.
    WrapperKey;
    /// `X`: finds and opens the Welcomes of one epoch. Never known to the service.
    WelcomeSecret;
    /// The key that opens one Welcome.
    WelcomeKey;
    /// Seals the join record of one epoch.
    JoinKey;
    /// A join code's secret, which its holders have.
    JoinCodeSecret;
    /// The permit that a holder of a join code shows.
    JoinCodePermit;
    /// What seals the parts of a group's state but the short one: drawn by the service for each
    /// segment.
    DataKey;
    /// A contact's bearer secret for one pool of KeyPackages.
    PoolToken;
}

ratchets! {
    StateKey;
    JournalKey;
    TagKey;
}

/// Labels of MLS exporters (RFC 9420 §8.5), without context and 32 bytes long.
pub mod exporters {
    /// `R`, in an epoch that begins a segment.
    pub const ROTATION: &str = "MIMIMI 1.0 rotation";
    /// `k_0`, in an epoch that begins a segment.
    pub const JOURNAL_KEY: &str = "MIMIMI 1.0 journal key";
    /// `X`, in an epoch with Adds.
    pub const WELCOME: &str = "MIMIMI 1.0 welcome";
    /// The join key, in an epoch with Adds.
    pub const JOIN_RECORD: &str = "MIMIMI 1.0 join record";
}

impl RotationSecret {
    /// Derives the first state key of the segment, `S_0`.
    #[must_use]
    pub fn state_key(&self) -> StateKey {
        derived(self.expose(), "state key")
    }

    /// Derives the segment's wrapper key, `W`.
    #[must_use]
    pub fn wrapper_key(&self) -> WrapperKey {
        derived(self.expose(), "link wrapper")
    }
}

impl StateKey {
    /// The segment that begins with this key, which must be `S_0`.
    #[must_use]
    pub fn segment(&self, group: &GroupId, rotation: RotationEpoch) -> SegmentId {
        let context = [&group.0[..], &rotation.0.to_be_bytes()].concat();
        SegmentId(kdf::derive(self.expose(), "segment", &context))
    }
}

impl JournalKey {
    /// `T_0`; this key must be `k_0`.
    #[must_use]
    pub fn tag_key(&self) -> TagKey {
        derived(self.expose(), "tag")
    }
}

impl TagKey {
    /// What makes the tags of its day.
    #[must_use]
    pub fn feed_key(&self) -> FeedKey {
        derived(self.expose(), "feed")
    }
}

impl FeedKey {
    /// The segment's tag in a tick of the key's day.
    #[must_use]
    pub fn tag(&self, resolution: Resolution, number: TickNumber) -> Tag {
        let context = [&[resolution as u8][..], &number.0.to_be_bytes()].concat();
        Tag(u64::from_be_bytes(kdf::derive(
            self.expose(),
            "tick",
            &context,
        )))
    }
}

impl WelcomeSecret {
    /// Where the Welcome of a KeyPackage is found, and what opens it.
    #[must_use]
    pub fn of(&self, key_package_ref: &[u8]) -> (WelcomeId, WelcomeKey) {
        let own: Secret<32> =
            Secret::new(kdf::derive(self.expose(), "welcome of", key_package_ref));
        (
            WelcomeId(kdf::derive(own.expose(), "welcome id", &[])),
            WelcomeKey::new(kdf::derive(own.expose(), "welcome key", &[])),
        )
    }
}

impl JoinKey {
    /// Where the join record is found.
    #[must_use]
    pub fn record_id(&self, group: &GroupId) -> JoinRecordId {
        JoinRecordId(kdf::derive(self.expose(), "join record", &group.0))
    }
}

impl JoinCodeSecret {
    /// What its holder shows to the service.
    #[must_use]
    pub fn permit(&self) -> JoinCodePermit {
        derived(self.expose(), "permit")
    }

    /// Seed of the key pair that recovery rows are sealed to.
    #[must_use]
    pub fn hpke_seed(&self) -> Secret<32> {
        Secret::new(kdf::derive(self.expose(), "hpke", &[]))
    }
}

impl JoinCodePermit {
    /// SHA-256 of the permit, which the service keeps.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }
}

impl PoolToken {
    /// The pool, for the service.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        PoolId(kdf::derive(self.expose(), "pool", &[]))
    }
}

/// The id of the recovery row for this public key in this group.
#[must_use]
pub fn recovery_row_id(group: &GroupId, public_key: &[u8]) -> RecoveryRowId {
    let mut hash = Sha256::new();
    hash.update(b"MIMIMI 1.0 recovery row\0");
    hash.update(group.0);
    hash.update(public_key);
    RecoveryRowId(hash.finalize().into())
}

/// The keys of a new segment that the service may know, taken from a [`NextSegment`] in one place.
#[derive(Debug)]
pub struct SegmentKeys {
    /// `S_0`.
    pub state_key: StateKey,
    /// `k_0`.
    pub journal_key: JournalKey,
}

impl From<&NextSegment> for SegmentKeys {
    fn from(next: &NextSegment) -> Self {
        Self {
            state_key: StateKey::from(&next.state_key),
            journal_key: JournalKey::from(&next.journal_key),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn no_two_labels_give_the_same_key() {
        let group = GroupId([2; 16]);
        let bytes = [1; 32];
        let rotation = RotationSecret::new(bytes);
        let mut all = vec![
            *rotation.state_key().expose(),
            *rotation.wrapper_key().expose(),
            *StateKey::new(bytes).next().expose(),
            StateKey::new(bytes).segment(&group, RotationEpoch(0)).0,
            StateKey::new(bytes).segment(&group, RotationEpoch(1)).0,
            StateKey::new(bytes)
                .segment(&GroupId([3; 16]), RotationEpoch(0))
                .0,
            *JournalKey::new(bytes).tag_key().expose(),
            *TagKey::new(bytes).feed_key().expose(),
            JoinKey::new(bytes).record_id(&group).0,
            *JoinCodeSecret::new(bytes).permit().expose(),
            *JoinCodeSecret::new(bytes).hpke_seed().expose(),
            PoolToken::new(bytes).pool().0,
            recovery_row_id(&group, &bytes).0,
        ];
        for key_package in [&b"one"[..], b"other"] {
            let (id, key) = WelcomeSecret::new(bytes).of(key_package);
            all.extend([id.0, *key.expose()]);
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_ratchet_goes_on_step_by_step() {
        let twice = StateKey::new([7; 32]).next().next();
        assert_eq!(StateKey::new([7; 32]).ahead(2), twice);
        assert_ne!(StateKey::new([7; 32]).ahead(1), twice);
    }

    /// The formats that can never change: whoever changes a label sees it here.
    #[test]
    fn the_schedule_gives_what_it_always_gave() {
        let rotation = RotationSecret::new([1; 32]);
        let group = GroupId([2; 16]);
        let s0 = rotation.state_key();
        assert_eq!(
            [
                hex(s0.expose()),
                hex(&s0.segment(&group, RotationEpoch(3)).0),
                hex(rotation.wrapper_key().expose()),
                hex(JournalKey::new([4; 32]).tag_key().expose()),
                hex(JournalKey::new([4; 32]).next().expose()),
                hex(TagKey::new([4; 32]).feed_key().expose()),
                hex(&FeedKey::new([4; 32])
                    .tag(Resolution::Seconds20, TickNumber(5))
                    .0
                    .to_be_bytes()),
                hex(&WelcomeSecret::new([5; 32]).of(b"ref").0.0),
                hex(&recovery_row_id(&group, b"key").0),
            ]
            .map(|full| full.get(..16).unwrap().to_owned()),
            FIXTURE
        );
    }

    const FIXTURE: [&str; 9] = [
        "62fdc348c4688bc0",
        "3df8f95e2446c4c6",
        "dae01330f03cf48a",
        "488f5afd99493201",
        "998325ca8c3b813c",
        "5a3ff28e95aeac71",
        "8a148fc157f75ddf",
        "9c838d0cc23625ca",
        "a4bb0ff746c9797f",
    ];

    #[test]
    fn debug_of_every_key_shows_no_bytes() {
        assert_eq!(
            format!("{:?}", RotationSecret::new([0x41; 32])),
            "RotationSecret(Secret<32>(..))"
        );
    }
}
