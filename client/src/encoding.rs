//! base64url as the services write it.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};

use crate::error::Error;

/// base64url, padded or not: both are written.
pub(crate) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn decode_base64url(text: &str) -> Result<Vec<u8>, Error> {
    BASE64URL
        .decode(text)
        .map_err(|_| Error::Protocol("base64url in a directory"))
}
