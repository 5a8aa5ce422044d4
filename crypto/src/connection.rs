//! Handle records, connection requests and responses: what two users tell each other before they
//! share a group.

use protocol::Wire;
use protocol::codec::{WireSecret, opaque};
use protocol::connections::{
    ClientCredential, ConnectionRequest, ConnectionRequestExtensions, ConnectionResponse,
    HandleRecord,
};
use protocol::ids::{Epoch, GroupId};
use protocol::inbox::REQUEST_SIZE;
use protocol::reporting::{Padded, REQUEST_SLOT};
use protocol::welcome::Attribution;
use tls_codec::{Serialize as _, Size, TlsSerialize, TlsSize, VLBytes};

use crate::CryptoError;
use crate::hpke::{self, HpkeKeyPair};
use crate::keys::{ConnectionKey, IdentityLinkWrapperKey};
use crate::schedule::JoinCodeSecret;
use crate::sign::{self, SignatureKeyPair};

const REQUEST_INFO: &str = "MIMIMI 1.0 connection request";
const RESPONSE_INFO: &str = "MIMIMI 1.0 connection response";
const REQUEST_LABEL: &str = "ConnectionRequestTBS";
const HANDLE_LABEL: &str = "HandleRecordTBS";
const ATTRIBUTION_LABEL: &str = "AttributionTBS";

/// The content that [`HandleRecord::signature`] covers.
#[derive(TlsSize, TlsSerialize)]
struct HandleRecordTbs {
    handle: VLBytes,
    /// As in [`HandleRecord`].
    connection_establishment_key: VLBytes,
}

fn handle_tbs(handle: &[u8], establishment_key: &[u8]) -> Vec<u8> {
    let tbs = HandleRecordTbs {
        handle: opaque(handle),
        connection_establishment_key: opaque(establishment_key),
    };
    tbs.tls_serialize_detached().unwrap_or_default()
}

/// Makes and signs a handle record.
#[must_use]
pub fn sign_handle_record(
    handle: &[u8],
    credential: &ClientCredential,
    signer: &SignatureKeyPair,
    establishment_key: &[u8],
) -> HandleRecord {
    HandleRecord {
        credential: credential.clone(),
        connection_establishment_key: opaque(establishment_key),
        signature: opaque(signer.sign(HANDLE_LABEL, &handle_tbs(handle, establishment_key))),
    }
}

/// Verifies that a handle record is its credential's own word about this handle.
///
/// # Errors
/// [`CryptoError::InvalidSignature`].
pub fn verify_handle_record(handle: &[u8], record: &HandleRecord) -> Result<(), CryptoError> {
    sign::verify(
        record.credential.signature_public_key.as_slice(),
        HANDLE_LABEL,
        &handle_tbs(handle, record.connection_establishment_key.as_slice()),
        record.signature.as_slice(),
    )
}

/// The requester's contribution to a connection request.
#[derive(Debug)]
pub struct ConnectionOffer<'a> {
    /// The real credential of the user who asks.
    pub credential: &'a ClientCredential,
    /// The connection group that the requester has made.
    pub group_id: GroupId,
    /// The connection key of the requester.
    pub connection_key: &'a ConnectionKey,
    /// HPKE public key (X-Wing) for the response.
    pub response_key: &'a [u8],
    /// Of the connection group.
    pub code: &'a JoinCodeSecret,
    /// The requester's [`protocol::reporting::SignedIntroduction`], or nothing: the length is the
    /// same.
    pub introduction: Padded<REQUEST_SLOT>,
}

/// Signs a connection request for one recipient and encrypts it to the recipient's establishment
/// key, in [`REQUEST_SIZE`] bytes.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if that is none.
pub fn seal_connection_request(
    offer: &ConnectionOffer<'_>,
    signer: &SignatureKeyPair,
    recipient_key: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mut request = ConnectionRequest {
        requester_client_credential: offer.credential.clone(),
        connection_room_id: offer.group_id,
        requester_connection_key: offer.connection_key.to_wire(),
        connection_response_key: opaque(offer.response_key),
        extensions: ConnectionRequestExtensions {
            version: ConnectionRequestExtensions::VERSION,
            code: offer.code.to_wire(),
            introduction: offer.introduction.clone(),
        },
        signature: opaque(*b""),
    };
    let unsigned = zeroize::Zeroizing::new(request.encode());
    let signed_len = unsigned
        .len()
        .saturating_sub(request.signature.tls_serialized_len());
    let tbs = request_tbs(
        unsigned.get(..signed_len).unwrap_or_default(),
        recipient_key,
    );
    request.signature = opaque(signer.sign(REQUEST_LABEL, &tbs));
    let encoded = zeroize::Zeroizing::new(request.encode());
    hpke::seal_in(REQUEST_SIZE, recipient_key, REQUEST_INFO, &[], &encoded)
}

fn request_tbs(signed_bytes: &[u8], recipient_key: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    // The recipient's key is signed too: he cannot pass the request on as if it were for another.
    zeroize::Zeroizing::new([signed_bytes, &opaque(recipient_key).encode()].concat())
}

/// Opens a connection request and verifies that its credential signed it for this key.
///
/// # Errors
/// [`CryptoError::CannotOpen`], [`CryptoError::UnknownVersion`] or
/// [`CryptoError::InvalidSignature`].
pub fn open_connection_request(
    key: &HpkeKeyPair,
    sealed: &[u8],
) -> Result<ConnectionRequest, CryptoError> {
    let bytes = hpke::open_padded(key, REQUEST_INFO, &[], sealed)?;
    let request = ConnectionRequest::decode(&bytes).map_err(|_| CryptoError::CannotOpen)?;
    if request.extensions.version != ConnectionRequestExtensions::VERSION {
        return Err(CryptoError::UnknownVersion);
    }
    let signed_len = bytes
        .len()
        .saturating_sub(request.signature.tls_serialized_len());
    let tbs = request_tbs(bytes.get(..signed_len).unwrap_or_default(), key.public());
    sign::verify(
        request
            .requester_client_credential
            .signature_public_key
            .as_slice(),
        REQUEST_LABEL,
        &tbs,
        request.signature.as_slice(),
    )?;
    Ok(request)
}

/// Encrypts a connection response, bound to the connection group.
///
/// # Errors
/// [`CryptoError::InvalidKey`] if the response key is none.
pub fn seal_connection_response(
    response: &ConnectionResponse,
    response_key: &[u8],
    group: &GroupId,
) -> Result<Vec<u8>, CryptoError> {
    hpke::seal(
        response_key,
        RESPONSE_INFO,
        &group.0,
        &zeroize::Zeroizing::new(response.encode()),
    )
}

/// Opens a connection response.
///
/// # Errors
/// [`CryptoError::CannotOpen`] or [`CryptoError::UnknownVersion`].
pub fn open_connection_response(
    key: &HpkeKeyPair,
    group: &GroupId,
    sealed: &[u8],
) -> Result<ConnectionResponse, CryptoError> {
    let bytes = hpke::open(key, RESPONSE_INFO, &group.0, sealed)?;
    let response = ConnectionResponse::decode(&bytes).map_err(|_| CryptoError::CannotOpen)?;
    if response.version == 1 {
        Ok(response)
    } else {
        Err(CryptoError::UnknownVersion)
    }
}

/// The content that [`Attribution::signature`] covers.
#[derive(TlsSize, TlsSerialize)]
struct AttributionTbs {
    group_id: GroupId,
    /// Of the Welcome.
    epoch: Epoch,
    /// As in [`protocol::welcome::JoinInfo`].
    wrapper_key: WireSecret,
    /// As in [`protocol::welcome::JoinInfo`].
    group_name: VLBytes,
}

fn attribution_tbs(
    group: &GroupId,
    epoch: u64,
    wrapper: &IdentityLinkWrapperKey,
    name: &[u8],
) -> zeroize::Zeroizing<Vec<u8>> {
    let tbs = AttributionTbs {
        group_id: *group,
        epoch: Epoch(epoch),
        wrapper_key: wrapper.to_wire(),
        group_name: opaque(name),
    };
    zeroize::Zeroizing::new(tbs.tls_serialize_detached().unwrap_or_default())
}

/// The adder vouches for an invitation.
#[must_use]
pub fn sign_attribution(
    signer: &SignatureKeyPair,
    group: &GroupId,
    epoch: u64,
    wrapper: &IdentityLinkWrapperKey,
    name: &[u8],
) -> Attribution {
    Attribution {
        signature_public_key: opaque(signer.public()),
        signature: opaque(signer.sign(
            ATTRIBUTION_LABEL,
            &attribution_tbs(group, epoch, wrapper, name),
        )),
    }
}

/// Verifies an attribution; whose key it is remains to be compared.
///
/// # Errors
/// [`CryptoError::InvalidSignature`].
pub fn verify_attribution(
    attribution: &Attribution,
    group: &GroupId,
    epoch: u64,
    wrapper: &IdentityLinkWrapperKey,
    name: &[u8],
) -> Result<(), CryptoError> {
    sign::verify(
        attribution.signature_public_key.as_slice(),
        ATTRIBUTION_LABEL,
        &attribution_tbs(group, epoch, wrapper, name),
        attribution.signature.as_slice(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_connection_request_opens_at_its_recipient_only_and_carries_its_senders_signature() {
        let signer = SignatureKeyPair::random().unwrap();
        let credential = ClientCredential {
            name: opaque(*b"alice"),
            signature_public_key: opaque(signer.public()),
        };
        let key = ConnectionKey::new([2; 32]);
        let code = JoinCodeSecret::new([3; 32]);
        let offer = ConnectionOffer {
            credential: &credential,
            group_id: GroupId([5; 16]),
            connection_key: &key,
            response_key: &[6; 1216],
            code: &code,
            introduction: Padded::empty(),
        };
        let bob = HpkeKeyPair::from_seed(&Secret::new([7; 32])).unwrap();
        let sealed = seal_connection_request(&offer, &signer, bob.public()).unwrap();
        let opened = open_connection_request(&bob, &sealed).unwrap();
        assert_eq!(opened.requester_client_credential, credential);
        assert_eq!(JoinCodeSecret::from(&opened.extensions.code), code);
        let carol = HpkeKeyPair::from_seed(&Secret::new([8; 32])).unwrap();
        assert!(open_connection_request(&carol, &sealed).is_err());

        let impostor = SignatureKeyPair::random().unwrap();
        let forged = seal_connection_request(&offer, &impostor, bob.public()).unwrap();
        assert_eq!(
            open_connection_request(&bob, &forged).unwrap_err(),
            CryptoError::InvalidSignature
        );

        // Bob encrypts what he got to Carol: the signature names his key, not hers.
        let inner = hpke::open(&bob, REQUEST_INFO, &[], &sealed).unwrap();
        let passed_on = hpke::seal(carol.public(), REQUEST_INFO, &[], &inner).unwrap();
        assert_eq!(
            open_connection_request(&carol, &passed_on).unwrap_err(),
            CryptoError::InvalidSignature
        );
    }

    #[test]
    fn a_request_is_as_long_whatever_the_name_and_the_introduction() {
        let signer = SignatureKeyPair::random().unwrap();
        let bob = HpkeKeyPair::from_seed(&Secret::new([7; 32])).unwrap();
        let sealed = |name: &str, introduction: &[u8]| {
            let credential = ClientCredential {
                name: opaque(name.as_bytes()),
                signature_public_key: opaque(signer.public()),
            };
            let offer = ConnectionOffer {
                credential: &credential,
                group_id: GroupId([5; 16]),
                connection_key: &ConnectionKey::new([2; 32]),
                response_key: &[6; 1216],
                code: &JoinCodeSecret::new([3; 32]),
                introduction: Padded::new(introduction).unwrap(),
            };
            seal_connection_request(&offer, &signer, bob.public()).unwrap()
        };
        let longest = "x".repeat(protocol::connections::MAX_HANDLE_BYTES);
        let (without, with) = (sealed("a", &[]), sealed(&longest, &[1; 600]));
        assert_eq!((without.len(), with.len()), (REQUEST_SIZE, REQUEST_SIZE));
        let opened = open_connection_request(&bob, &with).unwrap();
        assert_eq!(opened.extensions.introduction.content(), [1; 600]);
    }

    #[test]
    fn a_handle_record_is_bound_to_its_handle_and_key() {
        let signer = SignatureKeyPair::random().unwrap();
        let credential = ClientCredential {
            name: opaque(*b"a"),
            signature_public_key: opaque(signer.public()),
        };
        let mut record = sign_handle_record(b"alice", &credential, &signer, &[1; 32]);
        assert!(verify_handle_record(b"alice", &record).is_ok());
        assert!(verify_handle_record(b"mallory", &record).is_err());
        record.connection_establishment_key = opaque([2; 32]);
        assert!(verify_handle_record(b"alice", &record).is_err());
    }
}
