//! The envelope of every request that acts: who asks for what, when, and the signature over exactly
//! that.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

use crate::Wire;
use crate::ids::{LeafIndex, Minute};
use crate::operation::Operation;

/// Whose key signed the request.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Sender {
    /// The leaf with this index of the group that the body names; the key is the leaf's signature
    /// key in the roster.
    #[tls_codec(discriminant = 1)]
    Leaf(LeafIndex),
    /// A public key: of the leaf that will join, or the owner that the operation names, or one made
    /// for this request where the operation names no owner.
    #[tls_codec(discriminant = 2)]
    Key(VLBytes),
}

/// `SignedRequest`: the body of every POST but the unsigned reads.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignedRequest {
    /// [`crate::WIRE_VERSION`].
    pub version: u16,
    /// Must be the operation of the path that the request was posted to.
    pub operation: Operation,
    /// By the service's clock as the client knows it, within [`WINDOW_MINUTES`] minutes of it.
    pub minute: Minute,
    /// Random: two requests with the same content are two requests, unless this is the same.
    pub nonce: [u8; 16],
    /// The leaf or key that signed the request.
    pub sender: Sender,
    /// Encoding of the operation's request type.
    pub body: VLBytes,
    /// `SignWithLabel(key, "DeliveryServiceRequest", RequestTbs)`. [`RequestTbs`] is everything
    /// above, as received.
    pub signature: VLBytes,
}

/// How far a request's minute may be from the service's clock, either way.
pub const WINDOW_MINUTES: u32 = 10;

/// Everything of a [`SignedRequest`] but its signature, for the signer.
#[derive(Debug, TlsSize, TlsSerialize)]
pub struct RequestTbs<'a> {
    /// As in [`SignedRequest`].
    pub version: u16,
    /// As in [`SignedRequest`].
    pub operation: Operation,
    /// As in [`SignedRequest`].
    pub minute: Minute,
    /// As in [`SignedRequest`].
    pub nonce: [u8; 16],
    /// As in [`SignedRequest`].
    pub sender: &'a Sender,
    /// As in [`SignedRequest`].
    pub body: &'a VLBytes,
}

/// The label of the request signature.
pub const REQUEST_LABEL: &str = "DeliveryServiceRequest";

/// A decoded request together with the exact bytes that its signature covers.
#[derive(Debug)]
pub struct ReceivedRequest<'a> {
    /// The decoded envelope, signature included.
    pub request: SignedRequest,
    /// The received bytes before the signature. The signature covers these bytes, never a
    /// re-encoding.
    pub signed_bytes: &'a [u8],
}

impl<'a> ReceivedRequest<'a> {
    /// Decodes an envelope and keeps the raw bytes that were signed.
    ///
    /// # Errors
    /// [`crate::DecodeError`] as [`Wire::decode`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, crate::DecodeError> {
        let request = SignedRequest::decode(bytes)?;
        let signature_len = tls_codec::Size::tls_serialized_len(&request.signature);
        let signed_bytes = bytes
            .len()
            .checked_sub(signature_len)
            .and_then(|end| bytes.get(..end))
            .ok_or(crate::DecodeError::Malformed)?;
        Ok(Self {
            request,
            signed_bytes,
        })
    }

    /// The wire version of an envelope of any version, so that an unknown one can be refused as
    /// such.
    #[must_use]
    pub fn version_of(bytes: &[u8]) -> Option<u16> {
        bytes.first_chunk::<2>().map(|b| u16::from_be_bytes(*b))
    }
}
