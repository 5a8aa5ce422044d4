//! `TokenRequest` of type 0x0002 (RFC 9578 §6.1):
//! `{ uint16 token_type; uint8 truncated_token_key_id; uint8 blinded_msg[256]; }`.

/// Blind RSA, 2048 bits (RFC 9578 §8.2.2).
pub const TOKEN_TYPE: u16 = 0x0002;
/// Bytes of a blinded message and of a blind signature.
pub const BLINDED_MESSAGE_LENGTH: usize = 256;
/// Bytes of a token request.
pub const TOKEN_REQUEST_LENGTH: usize = 2 + 1 + BLINDED_MESSAGE_LENGTH;

/// A well-formed token request, as its exact bytes.
pub struct TokenRequest {
    bytes: [u8; TOKEN_REQUEST_LENGTH],
    blinded_message: [u8; BLINDED_MESSAGE_LENGTH],
}

/// Why a body is not a token request that we can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRequestError {
    #[error("the body is not a token request")]
    Malformed,
    #[error("the token type is not 0x0002")]
    UnsupportedTokenType,
    #[error("the blinded message has not 256 bytes")]
    BlindedMessageLength,
}

impl TokenRequest {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenRequestError> {
        let (token_type, rest) = bytes
            .split_first_chunk::<2>()
            .ok_or(TokenRequestError::Malformed)?;
        if u16::from_be_bytes(*token_type) != TOKEN_TYPE {
            return Err(TokenRequestError::UnsupportedTokenType);
        }
        let (_, blinded_message) = rest.split_first().ok_or(TokenRequestError::Malformed)?;
        let blinded_message = blinded_message
            .try_into()
            .map_err(|_| TokenRequestError::BlindedMessageLength)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| TokenRequestError::BlindedMessageLength)?;
        Ok(Self {
            bytes,
            blinded_message,
        })
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; TOKEN_REQUEST_LENGTH] {
        &self.bytes
    }

    #[must_use]
    pub fn truncated_token_key_id(&self) -> u8 {
        self.bytes[2]
    }

    /// A number of 2048 bits, most significant byte first.
    #[must_use]
    pub fn blinded_message(&self) -> &[u8; BLINDED_MESSAGE_LENGTH] {
        &self.blinded_message
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_token_request_is_read_from_its_exact_bytes() {
        let bytes = [&[0, 2, 7][..], &[9; 256]].concat();
        let request = TokenRequest::from_bytes(&bytes).unwrap();
        assert_eq!(request.truncated_token_key_id(), 7);
        assert_eq!(request.blinded_message(), &[9; 256]);
        assert_eq!(request.as_bytes().as_slice(), bytes);
    }

    #[test]
    fn other_types_truncated_and_trailing_bytes_are_refused() {
        use TokenRequestError as E;
        let bytes = [&[0, 2, 7][..], &[9; 257]].concat();
        for (bytes, expected) in [
            (&bytes[..], E::BlindedMessageLength),
            (&bytes[..258], E::BlindedMessageLength),
            (&bytes[..3], E::BlindedMessageLength),
            (&bytes[..2], E::Malformed),
            (&bytes[..1], E::Malformed),
            (&[], E::Malformed),
            (&[0, 1, 7], E::UnsupportedTokenType),
            (&[0xff, 2], E::UnsupportedTokenType),
        ] {
            assert_eq!(TokenRequest::from_bytes(bytes).map(|_| ()), Err(expected));
        }
    }
}
