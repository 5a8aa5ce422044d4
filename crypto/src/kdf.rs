//! Key derivation: HKDF-SHA256 (RFC 5869) with labels, and MLS's ExpandWithLabel.

use hkdf::Hkdf;
use sha2::Sha256;

/// Prefix of every label, so that no derivation of ours meets one of MLS.
const LABEL_PREFIX: &str = "MIMIMI 1.0 ";

/// `HKDF-Expand(HKDF-Extract("", secret), "MIMIMI 1.0 " || label || 0 || context)`.
#[must_use]
pub fn derive<const N: usize>(secret: &[u8; 32], label: &str, context: &[u8]) -> [u8; N] {
    expand(&Hkdf::<Sha256>::new(None, secret), label, context)
}

/// As [`derive()`], with a salt in the extraction.
#[must_use]
pub fn derive_salted<const N: usize>(
    secret: &[u8; 32],
    salt: &[u8; 32],
    label: &str,
    context: &[u8],
) -> [u8; N] {
    expand(&Hkdf::<Sha256>::new(Some(salt), secret), label, context)
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, label: &str, context: &[u8]) -> [u8; N] {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 gives at most 255 blocks") };
    let mut output = [0; N];
    // Cannot fail: the length was checked when this was compiled.
    let _ = hkdf.expand_multi_info(
        &[LABEL_PREFIX.as_bytes(), label.as_bytes(), &[0], context],
        &mut output,
    );
    output
}

/// MLS `ExpandWithLabel(secret, label, context, 32)` with SHA-256 (RFC 9420 §8).
#[must_use]
pub fn expand_with_label(secret: &[u8; 32], label: &str, context: &[u8]) -> [u8; 32] {
    use tls_codec::Serialize;
    let label = tls_codec::VLBytes::new([b"MLS 1.0 ", label.as_bytes()].concat());
    let mut info = 32u16.to_be_bytes().to_vec();
    // Serialization into a Vec fails only beyond 2^30 bytes.
    info.extend(label.tls_serialize_detached().unwrap_or_default());
    info.extend(
        tls_codec::VLBytes::new(context.to_vec())
            .tls_serialize_detached()
            .unwrap_or_default(),
    );
    let mut output = [0; 32];
    if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(secret) {
        let _ = hkdf.expand(&info, &mut output);
    }
    output
}
