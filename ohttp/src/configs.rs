//! Lists of key configurations (RFC 9458 §3.2): written by the gateway, chosen from by clients.
//!
//! A client reads the list with [`usable`], which leaves configurations with the one suite that
//! every gateway has to offer, and seals to the [`crate::PublicKey`] of one of them.

use crate::suite::{Aead, HKDF_SHA256, Kem};

/// The media type of a list.
pub const MEDIA_TYPE: &str = "application/ohttp-keys";
/// Where a gateway shows its list (RFC 9540 §5).
pub const PATH: &str = "/.well-known/ohttp-gateway";

/// HKDF-SHA256 with AES-128-GCM.
const SUITE: [u8; 4] = [0x00, 0x01, 0x00, 0x01];
/// Configurations that a list may have: two generations, of three KEMs each. Whoever shows all its
/// clients two hundred keys can have each of them use one that nobody else uses.
const MAX_CONFIGS: usize = 6;

/// Why a list is not used. It is discarded whole (RFC 9458 §3.2): a client that used a part could
/// be recognised by that part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It is not encoded as it must be.
    Malformed,
    /// It has more keys than a rotation needs.
    TooMany,
}

/// A configuration with every AEAD (RFC 9458 §3.1), without a length in front.
pub(crate) fn encode(key_id: u8, kem: Kem, public: &[u8]) -> Vec<u8> {
    let mut config = vec![key_id];
    config.extend_from_slice(&kem.id().to_be_bytes());
    config.extend_from_slice(public);
    config.extend_from_slice(&[0, 8]);
    for aead in Aead::ALL {
        config.extend_from_slice(&HKDF_SHA256.to_be_bytes());
        config.extend_from_slice(&aead.id().to_be_bytes());
    }
    config
}

/// The list of `configs`, each with a two-byte length, in the order of preference.
pub fn list<'a>(configs: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut list = Vec::new();
    for config in configs {
        let length = u16::try_from(config.len()).unwrap_or(u16::MAX);
        list.extend_from_slice(&length.to_be_bytes());
        list.extend_from_slice(config);
    }
    list
}

/// The encodings of the configurations that have our suite, reduced to it: those with X-Wing first,
/// otherwise in their order. Configurations with other algorithms are passed over.
///
/// # Errors
/// [`Unusable`].
pub fn usable(mut list: &[u8]) -> Result<Vec<Vec<u8>>, Unusable> {
    let mut configs = Vec::new();
    let mut listed = 0;
    while !list.is_empty() {
        let (length, rest) = list.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (config, next) = rest.split_at_checked(length).ok_or(Unusable::Malformed)?;
        listed += 1;
        if listed > MAX_CONFIGS {
            return Err(Unusable::TooMany);
        }
        configs.extend(reduce(config)?);
        list = next;
    }
    configs.sort_by_key(|config| !is_x_wing(config));
    Ok(configs)
}

/// Key id, KEM and public key of a configuration that is one of those that [`usable`] gives.
pub(crate) fn parts(config: &[u8]) -> Option<(u8, Kem, &[u8])> {
    reduce(config).ok().flatten()?;
    let (key_id, rest) = config.split_first()?;
    let (kem, rest) = rest.split_first_chunk::<2>()?;
    let kem = Kem::from_id(u16::from_be_bytes(*kem))?;
    Some((*key_id, kem, rest.get(..kem.public_key_len())?))
}

/// Whether a quantum computer cannot open what is sealed to the key of `config`.
#[must_use]
pub fn is_x_wing(config: &[u8]) -> bool {
    config.get(1..3) == Some(&Kem::XWing.id().to_be_bytes())
}

/// `None`: not ours. How long the key of a KEM is that we don't have is not known, so that nothing
/// else of its configuration can be.
fn reduce(config: &[u8]) -> Result<Option<Vec<u8>>, Unusable> {
    let (_, rest) = config.split_first().ok_or(Unusable::Malformed)?;
    let (kem, _) = rest.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
    // No client of ours has use for P-256.
    let kem = Kem::from_id(u16::from_be_bytes(*kem)).filter(|kem| *kem != Kem::P256);
    let Some(kem) = kem else {
        return Ok(None);
    };
    let (key, rest) = config
        .split_at_checked(1 + 2 + kem.public_key_len())
        .ok_or(Unusable::Malformed)?;
    let (length, suites) = rest.split_first_chunk::<2>().ok_or(Unusable::Malformed)?;
    let is_whole = usize::from(u16::from_be_bytes(*length)) == suites.len();
    if !is_whole || suites.is_empty() || !suites.len().is_multiple_of(4) {
        return Err(Unusable::Malformed);
    }
    let has_ours = suites.chunks_exact(4).any(|suite| suite == SUITE);
    Ok(has_ours.then(|| [key, &[0, 4], &SUITE].concat()))
}

#[cfg(test)]
mod tests;
