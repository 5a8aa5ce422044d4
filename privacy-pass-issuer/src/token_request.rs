//! `TokenRequest` of type 0x0002 (RFC 9578 §6.1): `{ uint16 token_type; uint8
//! truncated_token_key_id; uint8 blinded_msg[256]; }`, and several of them in one request
//! (draft-ietf-privacypass-batched-tokens §6): `TokenRequest token_requests<V>`.

/// Blind RSA, 2048 bits (RFC 9578 §8.2.2).
pub const TOKEN_TYPE: u16 = 0x0002;
/// Bytes of a blinded message and of a blind signature.
pub const BLINDED_MESSAGE_LENGTH: usize = 256;
/// Bytes of a token request.
pub const TOKEN_REQUEST_LENGTH: usize = 2 + 1 + BLINDED_MESSAGE_LENGTH;
/// Bytes of one answer in a batch: present, type, signature.
const BATCHED_RESPONSE_LENGTH: usize = 1 + 2 + BLINDED_MESSAGE_LENGTH;
/// Bytes that the length in front of a batch has at most.
pub const LENGTH_PREFIX: usize = 8;

/// A well-formed token request, as its exact bytes.
#[derive(Clone)]
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
    #[error("the batch has more than {limit} requests")]
    BatchTooLarge { limit: usize },
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

/// Reads a batch of 1 to `limit` token requests, all of type 0x0002.
pub fn batch_from_bytes(
    bytes: &[u8],
    limit: usize,
) -> Result<Vec<TokenRequest>, TokenRequestError> {
    let (length, requests) = read_length(bytes).ok_or(TokenRequestError::Malformed)?;
    if length != requests.len() || requests.is_empty() {
        return Err(TokenRequestError::Malformed);
    }
    // Another type has another length, so what follows it cannot be told apart.
    let (elements, rest) = requests.as_chunks::<TOKEN_REQUEST_LENGTH>();
    if elements.len() > limit {
        return Err(TokenRequestError::BatchTooLarge { limit });
    }
    let batch = elements
        .iter()
        .map(|element| TokenRequest::from_bytes(element))
        .collect::<Result<Vec<_>, _>>()?;
    match rest {
        [] => Ok(batch),
        [first, second, ..] if u16::from_be_bytes([*first, *second]) != TOKEN_TYPE => {
            Err(TokenRequestError::UnsupportedTokenType)
        }
        _ => Err(TokenRequestError::Malformed),
    }
}

/// The answer to a batch: `OptionalTokenResponse token_responses<V>`, each of them present.
#[must_use]
pub fn batch_response(signatures: &[[u8; BLINDED_MESSAGE_LENGTH]]) -> Vec<u8> {
    let length = signatures.len() * BATCHED_RESPONSE_LENGTH;
    let mut response = Vec::with_capacity(LENGTH_PREFIX + length);
    write_length(&mut response, length);
    for signature in signatures {
        response.push(1);
        response.extend_from_slice(&TOKEN_TYPE.to_be_bytes());
        response.extend_from_slice(signature);
    }
    response
}

/// The length in front of a vector (RFC 9000 §16), in as few bytes as it needs (RFC 9420 §2.1.2).
fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = match bytes.first()? >> 6 {
        0 => {
            let ([length], rest) = bytes.split_first_chunk::<1>()?;
            (u32::from(*length), rest)
        }
        1 => {
            let (length, rest) = bytes.split_first_chunk::<2>()?;
            (u32::from(u16::from_be_bytes(*length) & 0x3fff), rest)
        }
        2 => {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            (u32::from_be_bytes(*length) & 0x3fff_ffff, rest)
        }
        _ => return None,
    };
    let used = bytes.len() - rest.len();
    let length = usize::try_from(length).ok()?;
    (used == length_of_length(length)).then_some((length, rest))
}

fn length_of_length(length: usize) -> usize {
    match length {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

fn write_length(out: &mut Vec<u8>, length: usize) {
    let exponent = length_of_length(length).trailing_zeros() as usize;
    let bytes = (length as u64).to_be_bytes();
    let first = out.len();
    out.extend_from_slice(&bytes[8 - (1 << exponent)..]);
    out[first] |= (exponent as u8) << 6;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use privacypass::generic_tokens::{GenericBatchTokenRequest, GenericBatchTokenResponse};
    use privacypass::{Deserialize as _, Serialize as _};
    use proptest::prelude::*;

    use super::*;

    fn request(key: u8, message: u8) -> Vec<u8> {
        [&[0, 2, key][..], &[message; 256]].concat()
    }

    fn batch(elements: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_length(&mut bytes, elements.len());
        bytes.extend_from_slice(elements);
        bytes
    }

    #[test]
    fn a_token_request_is_read_from_its_exact_bytes() {
        let bytes = request(7, 9);
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

    #[test]
    fn a_batch_that_is_empty_too_long_or_not_of_our_type_is_refused() {
        use TokenRequestError as E;
        let two = [request(1, 2), request(3, 4)].concat();
        let voprf = [&[0, 1, 7][..], &[9; 49]].concat();
        let long_form = [&[0x80, 0, 0, 4][..], &[0, 2, 0, 0]].concat();
        for (bytes, expected) in [
            (Vec::new(), E::Malformed),
            (batch(&[]), E::Malformed),
            (long_form, E::Malformed),
            (batch(&two[..517]), E::Malformed),
            ([batch(&two), vec![0]].concat(), E::Malformed),
            (batch(&two)[..519].to_vec(), E::Malformed),
            (batch(&voprf), E::UnsupportedTokenType),
            (
                batch(&[request(1, 2), voprf.clone()].concat()),
                E::UnsupportedTokenType,
            ),
            (
                batch(&[voprf, request(1, 2)].concat()),
                E::UnsupportedTokenType,
            ),
            (
                batch(&[two.clone(), request(5, 6)].concat()),
                E::BatchTooLarge { limit: 2 },
            ),
        ] {
            assert_eq!(batch_from_bytes(&bytes, 2).map(|_| ()), Err(expected));
        }
        assert_eq!(batch_from_bytes(&batch(&two), 2).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_a_request_or_refused_and_what_is_read_is_what_was_sent(bytes: Vec<u8>) {
            if let Ok(request) = TokenRequest::from_bytes(&bytes) {
                prop_assert_eq!(request.as_bytes().as_slice(), bytes.as_slice());
            }
            let _ = batch_from_bytes(&bytes, 10);
        }

        #[test]
        fn a_batch_is_read_as_the_reference_implementation_reads_it(
            elements in prop::collection::vec((any::<u8>(), any::<u8>()), 1..80),
            cut in 0_usize..300,
            garbage: Vec<u8>,
        ) {
            let elements: Vec<u8> = elements.iter().flat_map(|(key, message)| request(*key, *message)).collect();
            let whole = batch(&elements);
            let ours: Vec<u8> = batch_from_bytes(&whole, 100)
                .unwrap()
                .iter()
                .flat_map(|request| request.as_bytes().to_vec())
                .collect();
            prop_assert_eq!(&ours, &elements);
            let reference = GenericBatchTokenRequest::tls_deserialize_exact(&whole).unwrap();
            prop_assert_eq!(reference.tls_serialize_detached().unwrap(), whole.clone());
            let cut = whole.len().saturating_sub(1 + cut);
            prop_assert!(batch_from_bytes(&whole[..cut], 100).is_err());
            if !garbage.is_empty() {
                prop_assert!(batch_from_bytes(&[whole, garbage].concat(), 100).is_err());
            }
        }

        #[test]
        fn an_answer_is_read_by_the_reference_implementation(signatures in prop::collection::vec(any::<u8>(), 0..80)) {
            let signatures: Vec<_> = signatures.iter().map(|byte| [*byte; 256]).collect();
            let bytes = batch_response(&signatures);
            let read = GenericBatchTokenResponse::tls_deserialize_exact(&bytes).unwrap();
            prop_assert_eq!(read.issued_count(), signatures.len());
            prop_assert_eq!(read.tls_serialize_detached().unwrap(), bytes);
        }

        #[test]
        fn a_length_has_one_encoding(length in 0_usize..0x4000_0000) {
            let mut bytes = Vec::new();
            write_length(&mut bytes, length);
            prop_assert_eq!(read_length(&bytes), Some((length, &[][..])));
            if bytes.len() < 4 {
                let long = (u32::try_from(length).unwrap() | 0x8000_0000).to_be_bytes();
                prop_assert_eq!(read_length(&long), None);
            }
        }
    }
}
