//! The way back: what a leaf needs to come into its group again, sealed to a key of its own and
//! kept at the service.
//!
//! The design seals the rotation secret. Who came in the middle of a segment does not have it, must
//! not have it, and has to seal the own row all the same: so what is sealed is the state key of the
//! step that its sealer knows, the wrapper key and the segment. It is one size for everybody, and
//! nobody keeps the rotation secret to write it.

use crypto::hpke::{self, HpkeKeyPair, Kem};
use crypto::journal::{RECOVERY_INFO, recovery_aad};
use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::{StateKey, recovery_row_id};
use crypto::secret::Secret;
use openmls::prelude::Ciphersuite;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::ids::{GroupId, RotationEpoch, SegmentId, Step};
use protocol::join::{RecoveryRow, RecoveryRowResponse};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError, UsageError};
use crate::store::Segment;

/// What is sealed, always of this size.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct RecoveryRowContent {
    step: Step,
    /// Of that step.
    state_key: WireSecret,
    wrapper_key: WireSecret,
    segment: SegmentId,
}

/// A row is sealed by the KEM of the group's ciphersuite: what it leads to is sealed by no other.
fn kem(suite: Ciphersuite) -> Result<Kem, Error> {
    let number = u16::from(suite);
    Kem::of_ciphersuite(number).ok_or_else(|| UsageError::UnknownCiphersuite(number).into())
}

/// The key pair of a leaf or code that rows are sealed to.
///
/// # Errors
/// [`UsageError::UnknownCiphersuite`].
pub(crate) fn key_pair(suite: Ciphersuite, seed: &Secret<32>) -> Result<HpkeKeyPair, Error> {
    Ok(HpkeKeyPair::derive(kem(suite)?, seed)?)
}

/// Seals the way into a segment.
///
/// # Errors
/// [`PeerError::Unusable`] for a key that is none.
pub(crate) fn seal(
    suite: Ciphersuite,
    group: &GroupId,
    segment: &Segment,
    public_key: &[u8],
) -> Result<RecoveryRow, Error> {
    let content = RecoveryRowContent {
        step: segment.step,
        state_key: segment.state_key.to_wire(),
        wrapper_key: segment.wrapper_key.to_wire(),
        segment: segment.id,
    };
    let sealed = hpke::seal_with(
        kem(suite)?,
        public_key,
        RECOVERY_INFO,
        &recovery_aad(group, segment.rotation),
        &Zeroizing::new(content.encode()),
    )
    .map_err(|_| PeerError::Unusable)?;
    Ok(RecoveryRow {
        id: recovery_row_id(group, public_key),
        sealed: opaque(sealed),
    })
}

/// Opens a row as the service shows it.
///
/// # Errors
/// [`PeerError::JoinRecord`].
pub(crate) fn open(
    group: &GroupId,
    row: &RecoveryRowResponse,
    pair: &HpkeKeyPair,
) -> Result<Segment, Error> {
    let fault = || Error::from(PeerError::JoinRecord);
    let aad = recovery_aad(group, row.rotation_epoch);
    let opened =
        hpke::open(pair, RECOVERY_INFO, &aad, row.sealed.as_slice()).map_err(|_| fault())?;
    let content = RecoveryRowContent::decode(&opened).map_err(|_| fault())?;
    let state_key = StateKey::from(&content.state_key);
    Ok(Segment::heard_of(
        content.segment,
        RotationEpoch(row.rotation_epoch.0),
        (content.step, state_key),
        IdentityLinkWrapperKey::from(&content.wrapper_key),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::leaf::CIPHERSUITES;
    use crate::store::segments::tests::segment;

    /// Ciphersuite, public key, and what was sealed to it.
    type Sample = (u16, Vec<u8>, Vec<u8>);

    /// Content of a row, and a row of each ciphersuite that was made once.
    pub(crate) fn samples(
        group: &GroupId,
        seed: [u8; 32],
        kept: impl Fn(usize) -> Option<Vec<u8>>,
    ) -> (Vec<u8>, Vec<Sample>) {
        let segment = segment(group);
        let content = RecoveryRowContent {
            step: segment.step,
            state_key: segment.state_key.to_wire(),
            wrapper_key: segment.wrapper_key.to_wire(),
            segment: segment.id,
        };
        let rows = CIPHERSUITES.iter().copied().enumerate().map(|(at, suite)| {
            let pair = key_pair(suite, &Secret::new(seed)).unwrap();
            let fresh = || {
                seal(suite, group, &segment, pair.public())
                    .unwrap()
                    .sealed
                    .into()
            };
            let sealed: Vec<u8> = kept(at).unwrap_or_else(fresh);
            let row = RecoveryRowResponse {
                rotation_epoch: segment.rotation,
                sealed: opaque(sealed.as_slice()),
            };
            let read = open(group, &row, &pair).unwrap();
            assert_eq!((read.id, read.step), (segment.id, segment.step));
            (suite as u16, pair.public().to_vec(), sealed)
        });
        (content.encode(), rows.collect())
    }

    #[test]
    fn a_row_opens_for_its_key_in_its_group_and_rotation_whatever_the_ciphersuite() {
        let group = GroupId([7; 16]);
        let segment = segment(&group).next_step();
        for suite in CIPHERSUITES.iter().copied() {
            let pair = key_pair(suite, &Secret::new([3; 32])).unwrap();
            let row = seal(suite, &group, &segment, pair.public()).unwrap();
            assert_eq!(row.id, recovery_row_id(&group, pair.public()));
            let shown = |rotation| RecoveryRowResponse {
                rotation_epoch: rotation,
                sealed: row.sealed.clone(),
            };
            let read = open(&group, &shown(segment.rotation), &pair).unwrap();
            assert_eq!((read.id, read.step), (segment.id, segment.step));
            assert_eq!(read.state_key, segment.state_key);
            assert_eq!(read.wrapper_key, segment.wrapper_key);
            assert!(open(&group, &shown(RotationEpoch(9)), &pair).is_err());
            assert!(open(&GroupId([8; 16]), &shown(segment.rotation), &pair).is_err());
            let other = key_pair(suite, &Secret::new([4; 32])).unwrap();
            assert!(open(&group, &shown(segment.rotation), &other).is_err());
        }
    }
}
