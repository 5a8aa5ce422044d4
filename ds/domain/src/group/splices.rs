//! What makes one byte string of another: for two that are mostly the same, far shorter than
//! either.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Some bytes stay, then some go and others come in their place. What follows the last one stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Splice<'b> {
    stay: u32,
    go: u32,
    #[serde(borrow, with = "serde_bytes")]
    come: &'b [u8],
}

/// Two strings meet again where so many bytes are the same.
const MEETING: usize = 16;
/// They are looked for so far ahead.
const FARTHEST: usize = 4_096;
/// And first, without much work, so far.
const SHORT: usize = 512;
/// Of one string every place is looked at, of the other every eighth.
const STRIDE: usize = 8;
/// Places that are looked at before it is given up: less than a millisecond, whatever the strings.
const PLACES: usize = 1 << 15;

/// Splices that make `next` of `former`; none if more than `room` bytes would come, or it takes too
/// long to find them.
pub(super) fn between<'n>(former: &[u8], next: &'n [u8], room: usize) -> Option<Vec<Splice<'n>>> {
    let (mut old, mut new) = (former, next);
    let (mut splices, mut bytes) = (Vec::new(), 0usize);
    let mut left = PLACES;
    loop {
        let stay = same(old, new);
        (old, new) = (old.get(stay..)?, new.get(stay..)?);
        if old.is_empty() && new.is_empty() {
            return Some(splices);
        }
        let (go, come) = meeting(old, new, &mut left)?;
        bytes = bytes.saturating_add(come);
        if bytes > room {
            return None;
        }
        splices.push(Splice {
            stay: u32::try_from(stay).ok()?,
            go: u32::try_from(go).ok()?,
            come: new.get(..come)?,
        });
        (old, new) = (old.get(go..)?, new.get(come..)?);
    }
}

/// Carries splices out; none if they are not of this string.
pub(super) fn carried_out(former: &[u8], splices: &[Splice<'_>]) -> Option<Vec<u8>> {
    let come: usize = splices.iter().map(|splice| splice.come.len()).sum();
    let mut next = Vec::with_capacity(former.len().saturating_add(come));
    let mut rest = former;
    for Splice { stay, go, come } in splices {
        let (stays, behind) = rest.split_at_checked(usize::try_from(*stay).ok()?)?;
        next.extend_from_slice(stays);
        next.extend_from_slice(come);
        rest = behind.get(usize::try_from(*go).ok()?..)?;
    }
    next.extend_from_slice(rest);
    Some(next)
}

/// How many bytes are the same from the start.
fn same(old: &[u8], new: &[u8]) -> usize {
    const STEP: usize = 256;
    let steps = old.chunks_exact(STEP).zip(new.chunks_exact(STEP));
    let whole = STEP * steps.take_while(|(old, new)| old == new).count();
    let rest = old.iter().skip(whole).zip(new.iter().skip(whole));
    whole + rest.take_while(|(old, new)| old == new).count()
}

/// How many bytes of each there are before they meet again.
fn meeting(old: &[u8], new: &[u8], left: &mut usize) -> Option<(usize, usize)> {
    // A key for a key, mostly: as many come as go.
    let mut run = 0;
    for (at, (old, new)) in old.iter().zip(new).take(SHORT).enumerate() {
        run = if old == new { run + 1 } else { 0 };
        if run == MEETING {
            let before = at + 1 - MEETING;
            return Some((before, before));
        }
    }
    // The end is new, mostly: hashes and signatures.
    if old.len() <= SHORT && new.len() <= SHORT {
        return Some((old.len(), new.len()));
    }
    let mut ahead = SHORT;
    while ahead <= FARTHEST {
        *left = left.checked_sub(ahead)?;
        let mut places = HashMap::with_capacity(ahead / STRIDE);
        let (theirs, _) = new.as_chunks::<STRIDE>();
        for (at, theirs) in theirs.iter().take(ahead / STRIDE).enumerate() {
            // Of equal ones the first.
            places.entry(theirs).or_insert(at * STRIDE);
        }
        for (go, ours) in old.array_windows::<STRIDE>().take(ahead).enumerate() {
            let Some(come) = places.get(ours) else {
                continue;
            };
            let ours = old.get(go..)?.iter().zip(new.get(*come..)?);
            if ours.take(MEETING).filter(|(old, new)| old == new).count() == MEETING {
                return Some((go, *come));
            }
        }
        ahead *= 2;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes as a tree has them: keys, and runs of blank nodes.
    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            any::<[u8; 32]>().prop_map(|key| key.to_vec()),
            (1usize..200).prop_map(|blanks| vec![0; blanks]),
        ];
        vec(piece, 1..60)
    }

    proptest! {
        #[test]
        fn splices_make_the_one_string_of_the_other(
            former in pieces(),
            changes in vec((any::<prop::sample::Index>(), pieces()), 0..8),
        ) {
            let mut next = former.clone();
            for (at, pieces) in changes {
                let at = at.index(next.len());
                next.splice(at..=at, pieces.into_iter().take(3));
                prop_assume!(!next.is_empty());
            }
            let (former, next) = (former.concat(), next.concat());
            if let Some(splices) = between(&former, &next, usize::MAX) {
                prop_assert_eq!(carried_out(&former, &splices).unwrap(), next);
            }
        }

        #[test]
        fn splices_of_another_string_do_no_harm(
            bytes: Vec<u8>,
            splices in vec((any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..9)), 0..4),
        ) {
            let splices: Vec<Splice<'_>> = splices
                .iter()
                .map(|(stay, go, come)| Splice { stay: *stay % 64, go: *go % 64, come })
                .collect();
            let _ = carried_out(&bytes, &splices);
        }
    }

    fn tree(nodes: usize) -> Vec<Vec<u8>> {
        (0..nodes)
            .map(|_| crypto::random::<64>().unwrap().to_vec())
            .collect()
    }

    #[test]
    fn a_few_nodes_that_change_make_a_few_short_splices() {
        let former = tree(1_000);
        let mut next = former.clone();
        for (at, long) in [(3, 64), (500, 40), (501, 90), (700, 1), (999, 64)] {
            next[at] = crypto::random::<90>().unwrap()[..long].to_vec();
        }
        let (former, next) = (former.concat(), next.concat());
        let splices = between(&former, &next, 1 << 20).unwrap();
        let come: usize = splices.iter().map(|splice| splice.come.len()).sum();
        assert!(splices.len() <= 8 && come < 300, "{splices:?}");
        assert_eq!(carried_out(&former, &splices).unwrap(), next);
    }

    #[test]
    fn what_has_no_room_or_takes_too_long_is_given_up() {
        let (former, next) = (tree(100).concat(), tree(100).concat());
        assert_eq!(between(&former, &next, usize::MAX), None);
        let mut next = former.clone();
        next[17] ^= 1;
        assert_eq!(between(&former, &next, 0), None);
        assert_eq!(between(&former, &next, 1).unwrap().len(), 1);
    }
}
