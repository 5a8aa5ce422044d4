//! Encoding and strict decoding of wire types.

use tls_codec::{DeserializeBytes, Serialize, VLBytes};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why bytes are not what they should be. Says nothing of their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early, a length is out of range, or an enum has an unknown value.
    #[error("malformed encoding")]
    Malformed,
    /// The value ends before the bytes do.
    #[error("trailing bytes")]
    TrailingBytes,
}

/// A type with one exact encoding.
///
/// Decoding works on a slice that is already in memory: no length field can make it allocate more
/// than the bytes that are there.
pub trait Wire: Sized {
    /// The encoding of this value.
    fn encode(&self) -> Vec<u8>;
    /// The value whose encoding is exactly `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are malformed or go on after the value.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

impl<T: Serialize + DeserializeBytes> Wire for T {
    fn encode(&self) -> Vec<u8> {
        // Writing into a Vec fails only for vectors beyond the 2^30 bytes of `<V>`; every body is
        // bounded far below. An empty encoding is then refused by every decoder.
        self.tls_serialize_detached().unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (value, rest) = T::tls_deserialize_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes);
        }
        // RFC 9420 §2.1.2 forbids lengths in more bytes than they need. The codec library takes
        // them where nobody asks for its feature `mls`, and a decoder by hand may be as lax.
        if *Zeroizing::new(value.encode()) == bytes {
            Ok(value)
        } else {
            Err(DecodeError::Malformed)
        }
    }
}

/// 32 secret bytes inside a message: wiped on drop, never shown, taken out by value.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct WireSecret([u8; 32]);

impl WireSecret {
    /// Wraps secret bytes for sending.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret, for the role-typed key that it becomes.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for WireSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireSecret(..)")
    }
}

impl tls_codec::Size for WireSecret {
    fn tls_serialized_len(&self) -> usize {
        32
    }
}

impl Serialize for WireSecret {
    fn tls_serialize<W: std::io::Write>(&self, writer: &mut W) -> Result<usize, tls_codec::Error> {
        writer.write_all(&self.0)?;
        Ok(32)
    }
}

impl DeserializeBytes for WireSecret {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), tls_codec::Error> {
        let (secret, rest) = <[u8; 32]>::tls_deserialize_bytes(bytes)?;
        let secret = Zeroizing::new(secret);
        Ok((Self(*secret), rest))
    }
}

/// An opaque `<V>` from borrowed bytes.
#[must_use]
pub fn opaque(bytes: impl Into<Vec<u8>>) -> VLBytes {
    VLBytes::new(bytes.into())
}

/// Bytes in a list, or that may be absent, for the documents.
pub const BYTES_PRESENTATION: &str = "opaque Bytes<V>;";

/// The bytes that a signature is over.
#[derive(tls_codec::TlsSize, tls_codec::TlsSerialize)]
struct SignContent {
    /// "MIMIMI 1.0 ", then the name of the label.
    label: VLBytes,
    /// What is signed.
    content: VLBytes,
}

/// What `SignWithLabel` signs (after RFC 9420 §5.1.2): `label<V> || content<V>`, the label with our
/// prefix.
#[must_use]
pub fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    SignContent {
        label: opaque([b"MIMIMI 1.0 ", label.as_bytes()].concat()),
        content: opaque(content),
    }
    .tls_serialize_detached()
    .unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", WireSecret::new([7; 32])), "WireSecret(..)");
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = opaque(vec![1, 2]).encode();
        bytes.push(0);
        assert_eq!(
            VLBytes::decode(&bytes).unwrap_err(),
            DecodeError::TrailingBytes
        );
    }

    #[test]
    fn a_length_beyond_the_input_is_refused() {
        assert_eq!(
            VLBytes::decode(&[0xbf, 0xff, 0xff, 0xff]).unwrap_err(),
            DecodeError::Malformed
        );
    }
}
