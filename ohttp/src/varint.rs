//! Variable-length integers (RFC 9000 §16). Longer encodings than needed are allowed, as there.

/// The largest value.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// Appends `value` in its shortest form. Values beyond [`MAX`] have none and are never asked for:
/// they are lengths of slices and statuses.
pub(crate) fn put(value: u64, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let (form, len) = match value {
        0..=0x3f => (0x00, 1),
        0x40..=0x3fff => (0x40, 2),
        0x4000..=0x3fff_ffff => (0x80, 4),
        _ => (0xc0, 8),
    };
    let start = out.len();
    out.extend_from_slice(&bytes[8 - len..]);
    out[start] |= form;
}

/// The integer at the start of `bytes` and its length. `None`: it is not there as a whole yet.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = 1 << (bytes.first()? >> 6);
    let encoded = bytes.get(..len)?;
    let value = encoded
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    // The form is in the two highest bits.
    Some((value & (MAX >> (62 - (8 * len - 2))), len))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_9000_are_read() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            let mut out = Vec::new();
            put(value, &mut out);
            assert_eq!(out, bytes);
        }
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)));
    }

    proptest! {
        #[test]
        fn an_integer_is_read_once_it_is_there_as_a_whole(
            value in prop_oneof![0u64..70, 0u64..20_000, 0u64..1 << 31, 0u64..=MAX],
        ) {
            let mut out = Vec::new();
            put(value, &mut out);
            for len in 0..out.len() {
                prop_assert_eq!(read(&out[..len]), None);
            }
            prop_assert_eq!(read(&out), Some((value, out.len())));
        }
    }
}
