//! Bytes and headers as text.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The declared media type in lower case, without parameters (RFC 9110 §8.3.1).
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_read_without_its_parameters_and_in_any_case() {
        let declared = |value: &str| {
            media_type(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                value.parse().unwrap(),
            )]))
        };
        assert_eq!(declared("Text/Plain; a=b").as_deref(), Some("text/plain"));
        assert_eq!(declared(" text/plain ").as_deref(), Some("text/plain"));
        assert_eq!(media_type(&HeaderMap::new()), None);
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
