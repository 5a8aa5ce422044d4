//! Sizes that messages are padded to, so that their length says little.

/// Smallest size of a padded request or response.
pub const SMALLEST_BUCKET: usize = 512;
/// Above this size, buckets are multiples of it.
pub const LARGEST_DOUBLING_BUCKET: usize = 64 * 1024;

/// No request of a client is shorter, padded: most messages fit in it, and so a message has the
/// size of a read.
pub const ORDINARY_REQUEST: usize = 2 * 1024;
/// No answer is shorter, padded: what is read of a journal in one go fits in it, and so the answer
/// to a message, or a refusal, has the size of what is read.
pub const ORDINARY_ANSWER: usize = 8 * 1024;
/// Every bulk exchange has this size, padded, the request and the answer: so nobody who cannot open
/// them tells an upload from a download. An answer to a request of this size is never shorter.
pub const BULK: usize = 4 * LARGEST_DOUBLING_BUCKET;
/// What binary HTTP takes of an answer beside its content, at most.
pub const ANSWER_HEAD: usize = 512;

/// The size of a request of `len` bytes on the network.
#[must_use]
pub const fn request_bucket(len: usize) -> usize {
    at_least(ORDINARY_REQUEST, len)
}

/// The size of an answer of `len` bytes on the network.
#[must_use]
pub const fn answer_bucket(len: usize) -> usize {
    at_least(ORDINARY_ANSWER, len)
}

/// The same of an answer to a request that has this size, padded.
#[must_use]
pub const fn answer_bucket_for(request: usize, len: usize) -> usize {
    match request {
        BULK => at_least(BULK, len),
        _ => answer_bucket(len),
    }
}

const fn at_least(ordinary: usize, len: usize) -> usize {
    bucket(if len < ordinary { ordinary } else { len })
}

/// The size bucket of a message of `len` bytes on the network: powers of two from
/// [`SMALLEST_BUCKET`] to [`LARGEST_DOUBLING_BUCKET`], multiples of the latter beyond.
#[must_use]
pub const fn bucket(len: usize) -> usize {
    if len <= SMALLEST_BUCKET {
        SMALLEST_BUCKET
    } else if len <= LARGEST_DOUBLING_BUCKET {
        len.next_power_of_two()
    } else {
        len.div_ceil(LARGEST_DOUBLING_BUCKET)
            .saturating_mul(LARGEST_DOUBLING_BUCKET)
    }
}

/// The Padmé size of `len` bytes at rest (Nikitin et al., PETS 2019): at most 12 % more, and the
/// size tells O(log log len) bits.
#[must_use]
pub const fn padme(len: usize) -> usize {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let Some(cleared) = exponent.checked_sub(kept_bits) else {
        return len;
    };
    let mask = (1usize << cleared) - 1;
    match len.checked_add(mask) {
        Some(sum) => sum & !mask,
        None => len,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn padme_costs_at_most_twelve_percent_and_is_idempotent(len in 1usize..1 << 40) {
            let padded = padme(len);
            prop_assert!(padded >= len);
            prop_assert!(padded - len <= len / 8 + 1);
            prop_assert_eq!(padme(padded), padded);
        }

        #[test]
        fn a_bucket_holds_its_message(len in 0usize..1 << 30) {
            prop_assert!(bucket(len) >= len);
            prop_assert_eq!(bucket(bucket(len)), bucket(len));
            for padded in [request_bucket(len), answer_bucket(len)] {
                prop_assert!(padded >= bucket(len) && bucket(padded) == padded);
            }
            prop_assert_eq!(request_bucket(len) == ORDINARY_REQUEST, len <= ORDINARY_REQUEST);
            prop_assert_eq!(answer_bucket(len) == ORDINARY_ANSWER, len <= ORDINARY_ANSWER);
            prop_assert_eq!(answer_bucket_for(ORDINARY_REQUEST, len), answer_bucket(len));
            let bulk = answer_bucket_for(BULK, len);
            prop_assert_eq!(bulk, answer_bucket(len).max(BULK));
        }
    }
}
