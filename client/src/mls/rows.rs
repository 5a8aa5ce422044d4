//! The way back: what a leaf needs to come into its group again, sealed to a key of its own and
//! kept at the service.
//!
//! The design seals the rotation secret. Who came in the middle of a segment does not have it, must
//! not have it, and has to seal the own row all the same: so what is sealed is the state key of the
//! step that its sealer knows, the wrapper key and the segment. It is one size for everybody, and
//! nobody keeps the rotation secret to write it.

use crypto::journal::{RECOVERY_INFO, recovery_aad};
use crypto::keys::IdentityLinkWrapperKey;
use crypto::schedule::{StateKey, recovery_row_id};
use crypto::secret::Secret;
use openmls::prelude::{Ciphersuite, OpenMlsCrypto as _};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::types::HpkeCiphertext;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::ids::{GroupId, RotationEpoch, SegmentId, Step};
use protocol::join::{RecoveryRow, RecoveryRowResponse};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::error::{Error, PeerError};
use crate::store::Segment;

/// What is sealed, always of this size.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Content {
    step: Step,
    /// Of that step.
    state_key: WireSecret,
    wrapper_key: WireSecret,
    segment: SegmentId,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Sealed {
    kem_output: VLBytes,
    ciphertext: VLBytes,
}

/// A key pair that rows are sealed to, of the KEM of a group's ciphersuite.
pub(crate) struct RecoveryKeyPair {
    private: Zeroizing<Vec<u8>>,
    pub(crate) public: Vec<u8>,
}

impl RecoveryKeyPair {
    pub(crate) fn of(suite: Ciphersuite, seed: &Secret<32>) -> Result<Self, Error> {
        let pair = RustCrypto::default()
            .derive_hpke_keypair(suite.hpke_config(), seed.expose())
            .map_err(|_| crypto::CryptoError::Backend)?;
        Ok(Self {
            private: Zeroizing::new(pair.private.to_vec()),
            public: pair.public,
        })
    }
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
    let content = Content {
        step: segment.step,
        state_key: segment.state_key.to_wire(),
        wrapper_key: segment.wrapper_key.to_wire(),
        segment: segment.id,
    };
    let sealed = RustCrypto::default()
        .hpke_seal(
            suite.hpke_config(),
            public_key,
            RECOVERY_INFO.as_bytes(),
            &recovery_aad(group, segment.rotation),
            &Zeroizing::new(content.encode()),
        )
        .map_err(|_| PeerError::Unusable)?;
    let sealed = Sealed {
        kem_output: opaque(sealed.kem_output.as_slice()),
        ciphertext: opaque(sealed.ciphertext.as_slice()),
    };
    Ok(RecoveryRow {
        id: recovery_row_id(group, public_key),
        sealed: opaque(sealed.encode()),
    })
}

/// Opens a row as the service shows it.
///
/// # Errors
/// [`PeerError::JoinRecord`].
pub(crate) fn open(
    suite: Ciphersuite,
    group: &GroupId,
    row: &RecoveryRowResponse,
    pair: &RecoveryKeyPair,
) -> Result<Segment, Error> {
    let fault = || Error::from(PeerError::JoinRecord);
    let sealed = Sealed::decode(row.sealed.as_slice()).map_err(|_| fault())?;
    let sealed = HpkeCiphertext {
        kem_output: sealed.kem_output.as_slice().to_vec().into(),
        ciphertext: sealed.ciphertext.as_slice().to_vec().into(),
    };
    let opened = RustCrypto::default()
        .hpke_open(
            suite.hpke_config(),
            &sealed,
            &pair.private,
            RECOVERY_INFO.as_bytes(),
            &recovery_aad(group, row.rotation_epoch),
        )
        .map(Zeroizing::new)
        .map_err(|_| fault())?;
    let content = Content::decode(&opened).map_err(|_| fault())?;
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
mod tests {
    use super::*;
    use crate::leaf::CIPHERSUITES;
    use crate::store::segments::tests::segment;

    #[test]
    fn a_row_opens_for_its_key_in_its_group_and_rotation_whatever_the_ciphersuite() {
        let group = GroupId([7; 16]);
        let segment = segment(&group).next_step();
        for suite in CIPHERSUITES.iter().copied() {
            let pair = RecoveryKeyPair::of(suite, &Secret::new([3; 32])).unwrap();
            let row = seal(suite, &group, &segment, &pair.public).unwrap();
            assert_eq!(row.id, recovery_row_id(&group, &pair.public));
            let shown = |rotation| RecoveryRowResponse {
                rotation_epoch: rotation,
                sealed: row.sealed.clone(),
            };
            let read = open(suite, &group, &shown(segment.rotation), &pair).unwrap();
            assert_eq!((read.id, read.step), (segment.id, segment.step));
            assert_eq!(read.state_key, segment.state_key);
            assert_eq!(read.wrapper_key, segment.wrapper_key);
            assert!(open(suite, &group, &shown(RotationEpoch(9)), &pair).is_err());
            assert!(open(suite, &GroupId([8; 16]), &shown(segment.rotation), &pair).is_err());
            let other = RecoveryKeyPair::of(suite, &Secret::new([4; 32])).unwrap();
            assert!(open(suite, &group, &shown(segment.rotation), &other).is_err());
        }
    }
}
