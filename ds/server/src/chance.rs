//! Randomness, drawn from the system.

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

/// Randomness for one request, or one moment.
pub(crate) fn fresh_rng() -> Result<ChaCha12Rng, crypto::CryptoError> {
    Ok(ChaCha12Rng::from_seed(crypto::random()?))
}
