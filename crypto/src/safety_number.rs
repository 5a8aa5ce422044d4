//! Safety numbers: what two contacts read to each other to know that the service gave them each
//! other's keys.

use sha2::{Digest, Sha512};

/// Rounds of hashing: makes the search for a colliding key dear.
const ROUNDS: usize = 5200;

/// The 60 digits that both sides compute from both real signature keys, in groups of five.
#[must_use]
pub fn safety_number(one: &[u8], other: &[u8]) -> String {
    let (a, b) = (fingerprint(one), fingerprint(other));
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    let digits = first + &second;
    digits
        .as_bytes()
        .chunks(5)
        .map(String::from_utf8_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn fingerprint(key: &[u8]) -> String {
    let mut hash = Sha512::digest([b"MIMIMI 1.0 safety number", key].concat());
    for _ in 1..ROUNDS {
        hash = Sha512::new()
            .chain_update(hash)
            .chain_update(key)
            .finalize();
    }
    hash.chunks_exact(5)
        .take(6)
        .map(|chunk| {
            let number = chunk.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
            format!("{:05}", number % 100_000)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_read_the_same_number_and_another_key_gives_another() {
        let number = safety_number(&[1; 32], &[2; 32]);
        assert_eq!(number, safety_number(&[2; 32], &[1; 32]));
        assert_ne!(number, safety_number(&[1; 32], &[3; 32]));
        assert_eq!(number.len(), 60 + 11);
    }
}
