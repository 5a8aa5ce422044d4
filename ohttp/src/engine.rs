//! Who does the cryptography: AWS-LC; where it does not compile to, which is in browsers,
//! RustCrypto. A test holds both to the same bytes.

#[cfg(not(target_arch = "wasm32"))]
mod aws_lc;
#[cfg(any(test, target_arch = "wasm32"))]
mod portable;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

#[cfg(all(test, not(target_arch = "wasm32")))]
pub(crate) use aws_lc::provider::AwsLc;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use aws_lc::{AeadKey, CurveKey, HpkeContext, Prk, XWingKey, hpke};
#[cfg(target_arch = "wasm32")]
pub(crate) use portable::{AeadKey, CurveKey, HpkeContext, Prk, XWingKey, hpke};
