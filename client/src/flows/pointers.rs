//! Pointers: where the clients of somebody who was added find their Welcomes. They go in a journal
//! that both share: the connection, or the group of one's own devices. Getting one early, twice or
//! too late is harmless.

use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::{Error, LocalError};
use crate::mls::content::Content;
use crate::store::connections::group_with;
use crate::store::identities;
use crate::store::pointers::{self, DUE};

impl Engine {
    /// Tells those who were added to a group where their Welcomes are.
    pub(crate) async fn tell_pointers(&mut self, id: &GroupId) -> Result<(), Error> {
        let today = self.today();
        pointers::drop_expired(&self.db, today)?;
        for (row, credential, pointer) in pointers::rows(&self.db, id, DUE)? {
            let Some(key) = identities::key_of(&self.db, id, &credential)? else {
                continue;
            };
            let shared = if key == self.profile.identity.public() {
                self.devices_group()?.map(|group| group.id)
            } else {
                group_with(&self.db, &key)?
            };
            // Without a journal that both share there is nothing to be done.
            if let Some(shared) = shared {
                if self.has_acted() {
                    break;
                }
                self.send_content(&shared, &Content::Pointer(pointer))
                    .await?;
            }
            pointers::sent(&self.db, row)?;
        }
        Ok(())
    }

    /// Whether the next slot has more to tell.
    pub(crate) fn has_pointers_to_tell(&self, group: &[u8]) -> Result<bool, Error> {
        let id = GroupId(group.try_into().map_err(|_| LocalError::Damaged)?);
        Ok(self.has_acted() && !pointers::rows(&self.db, &id, DUE)?.is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::PeerError;
    use crate::leaf::CIPHERSUITE;
    use crate::store::contacts::tests::contact;
    use crate::store::key_packages;
    use crate::store::leaf_keys;
    use crate::store::mls::{delete_key_package, own_key_package};
    use crate::store::pointers::{MISFITS, MOST_WAITING, TRIES, invited, put_off, receive};
    use crate::store::provider::{LeafSigner, Provider};
    use openmls::prelude::{BasicCredential, CredentialWithKey, KeyPackage, OpenMlsProvider as _};
    use protocol::codec::{WireSecret, opaque};
    use protocol::ids::{ChainHead, Epoch, Position, RotationEpoch, SegmentId, WelcomeId};
    use protocol::journal::Place;
    use protocol::time::DAY_MS;
    use protocol::welcome::{DevicePointer, WelcomePointer};
    use rusqlite::Connection;

    fn pointer(epoch: u64) -> WelcomePointer {
        WelcomePointer {
            group_id: GroupId([7; 16]),
            epoch: Epoch(epoch),
            segment: SegmentId([1; 32]),
            place: Place {
                rotation_epoch: RotationEpoch(0),
                position: Position(0),
            },
            chain: ChainHead([0; 32]),
            devices: Vec::new(),
        }
    }

    /// A KeyPackage that was made here; its reference.
    fn key_package(db: &Connection) -> Vec<u8> {
        let signer = LeafSigner(crypto::sign::SignatureKeyPair::random().unwrap().into());
        let credential = CredentialWithKey {
            credential: BasicCredential::new(b"x".to_vec()).into(),
            signature_key: signer.0.public().to_vec().into(),
        };
        let provider = Provider::new(db);
        let package = KeyPackage::builder()
            .build(CIPHERSUITE, &provider, &signer, credential)
            .unwrap();
        leaf_keys::store_key(db, &signer.0).unwrap();
        key_packages::made(db, package.key_package()).unwrap();
        let reference = package.key_package().hash_ref(provider.crypto()).unwrap();
        reference.as_slice().to_vec()
    }

    #[test]
    fn a_key_package_counts_once_however_often_its_invitation_is_told_and_for_the_teller_alone() {
        let db = crate::store::database::in_memory().unwrap();
        for (name, key) in [("alice", 1), ("mallory", 2)] {
            contact(name, key).store(&db).unwrap();
            let rows = "INSERT INTO key_packages VALUES (?, ?, 5)";
            db.execute(rows, ([key; 32], u16::from(CIPHERSUITE)))
                .unwrap();
        }
        let device = |reference: Vec<u8>| DevicePointer {
            key_package_ref: opaque(reference),
            id: WelcomeId([3; 32]),
            key: WireSecret::new([4; 32]),
        };
        let (one, other) = (key_package(&db), key_package(&db));
        for epoch in 0..4 {
            let mut told = pointer(epoch);
            told.devices = vec![device(one.clone()), device(vec![9; 32])];
            receive(&db, &[2; 32], &told).unwrap();
        }
        let mut told = pointer(9);
        told.devices = vec![device(other)];
        receive(&db, &[2; 32], &told).unwrap();
        let left = |key: u8| -> u32 {
            let left = "SELECT sets_left FROM key_packages WHERE signature_key = ?";
            db.query_row(left, [[key; 32]], |row| row.get(0)).unwrap()
        };
        assert_eq!((left(1), left(2)), (5, 3));
    }

    #[test]
    fn of_a_key_package_that_nobody_has_used_in_time_no_private_key_is_left() {
        let db = crate::store::database::in_memory().unwrap();
        let (unused, joined) = (key_package(&db), key_package(&db));
        // As the library does when a group is joined.
        delete_key_package(&db, &joined).unwrap();
        let kept = |now_ms| {
            invited(&db, now_ms).unwrap();
            let is_kept = own_key_package(&db, &unused).unwrap().is_some();
            let count = |table| -> u32 {
                let count = format!("SELECT count(*) FROM {table}");
                db.query_row(&count, (), |row| row.get(0)).unwrap()
            };
            (is_kept, count("leaf_keys"), count("made_packages"))
        };
        // Three months, the library's own lifetime, and 98 days for the join record.
        let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let days = |days: u64| now_ms + days * DAY_MS;
        assert_eq!(kept(days(84 + 97)), (true, 2, 2));
        assert_eq!(kept(days(84 + 100)), (false, 1, 0));
    }

    #[test]
    fn no_sender_has_more_invitations_wait_than_its_own_and_none_of_an_epoch_that_cannot_be() {
        let db = crate::store::database::in_memory().unwrap();
        for epoch in 0..u64::from(MOST_WAITING) {
            receive(&db, b"mallory", &pointer(epoch)).unwrap();
        }
        let more = receive(&db, b"mallory", &pointer(1_000));
        assert!(matches!(more, Err(Error::Peer(PeerError::Unusable))));
        receive(&db, b"alice", &pointer(2_000)).unwrap();
        let never = receive(&db, b"alice", &pointer(u64::MAX));
        assert!(matches!(never, Err(Error::Peer(PeerError::Epoch))));
    }

    #[test]
    fn a_record_that_does_not_fit_is_asked_for_a_few_times_at_once_and_then_put_off() {
        const NOW_MS: u64 = 1_000_000_000;
        for (most, asked_at_once) in [(MISFITS, 6), (TRIES, 16)] {
            let db = crate::store::database::in_memory().unwrap();
            receive(&db, b"mallory", &pointer(1)).unwrap();
            let mut asked = 0;
            for _ in 0..40 {
                for waiting in invited(&db, NOW_MS).unwrap() {
                    asked += 1;
                    put_off(&db, waiting.row, (false, most), NOW_MS).unwrap();
                }
            }
            assert_eq!(asked, asked_at_once);
            // A minute later it is asked for again.
            assert_eq!(invited(&db, NOW_MS + 60_000).unwrap().len(), 1);
        }
    }

    #[test]
    fn what_the_service_does_not_have_is_asked_for_ever_more_seldom_and_forgotten() {
        const HOUR_MS: u64 = 3_600_000;
        let db = crate::store::database::in_memory().unwrap();
        receive(&db, b"mallory", &pointer(1)).unwrap();
        let mut asked = 0;
        for minute in 0..14 * 24 * 60 {
            let now_ms = 50 * HOUR_MS + minute * 60_000;
            for waiting in invited(&db, now_ms).unwrap() {
                asked += 1;
                put_off(&db, waiting.row, (true, TRIES), now_ms).unwrap();
            }
        }
        assert!((5..40).contains(&asked), "{asked}");
        let left: u32 = db
            .query_row("SELECT count(*) FROM invitations", (), |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
    }
}
