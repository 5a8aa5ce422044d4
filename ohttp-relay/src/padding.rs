//! The sizes that requests may have where the relay insists on padding.
//!
//! The rule is that of the protocol document, written down once more: the relay links nothing that
//! knows what is inside a request.

use serde::Deserialize;

/// The table `[require_padding]`: the sizes that a padded request may have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Padding {
    /// The smallest bucket; larger ones double.
    pub smallest: u64,
    /// From here on buckets are multiples of this one.
    pub largest_doubling: u64,
    /// What encapsulation adds to a bucket, one for each KEM that is in use.
    pub overheads: Vec<u64>,
}

impl Default for Padding {
    fn default() -> Self {
        Self {
            smallest: 512,
            largest_doubling: 64 * 1024,
            // RFC 9458 §4.3: header 7, encapsulated key, tag 16. X25519 (32 bytes), P-256 (65),
            // X-Wing (1120).
            overheads: vec![55, 88, 1143],
        }
    }
}

impl Padding {
    /// Whether it asks for something that can be done.
    pub(crate) fn is_a_rule(&self) -> bool {
        self.smallest > 1
            && self.largest_doubling >= self.smallest
            && self.is_bucket(self.largest_doubling)
            && !self.overheads.is_empty()
    }

    /// Whether an encapsulated request of `len` bytes was padded.
    pub(crate) fn allows(&self, len: u64) -> bool {
        self.overheads.iter().any(|overhead| {
            len.checked_sub(*overhead)
                .is_some_and(|padded| self.is_bucket(padded))
        })
    }

    fn is_bucket(&self, len: u64) -> bool {
        let smallest = self.smallest.max(1);
        if len <= self.largest_doubling {
            len > 0 && len.is_multiple_of(smallest) && (len / smallest).is_power_of_two()
        } else {
            len.is_multiple_of(self.largest_doubling.max(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_allows_everything_or_nothing_is_none() {
        let with = |smallest, largest_doubling, overheads: &[u64]| Padding {
            smallest,
            largest_doubling,
            overheads: overheads.to_vec(),
        };
        assert!(Padding::default().is_a_rule());
        for padding in [
            with(512, 0, &[55]),
            with(0, 65_536, &[55]),
            with(1, 65_536, &[55]),
            with(512, 65_537, &[55]),
            with(512, 65_536, &[]),
        ] {
            assert!(!padding.is_a_rule(), "{padding:?}");
        }
    }

    #[test]
    fn the_default_allows_the_buckets_of_the_protocol_and_nothing_else() {
        let padding = Padding::default();
        let buckets = |len: usize| protocol::padding::bucket(len) == len;
        for len in 0..200_000_usize {
            let is_padded = [55, 88, 1143]
                .into_iter()
                .any(|overhead| len >= overhead && buckets(len - overhead));
            assert_eq!(padding.allows(len as u64), is_padded, "{len}");
        }
        assert!(padding.allows(2 * 1024 * 1024 + 55));
    }
}
