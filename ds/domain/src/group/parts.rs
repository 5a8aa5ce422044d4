//! How the parts of a group's state are sealed: each for its group, its name and its version, so
//! that no part of an earlier state passes for one of this.

use crypto::schedule::{DataKey, StateKey};
use crypto::sealing::{self, Place};
use protocol::ids::GroupId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::env::{Env, Version};
use crate::refusal::Stop;
use crate::rows::Part;

/// `group id || part || version`.
fn row(group: &GroupId, part: [u8; 3], version: &Version) -> [u8; 35] {
    let mut row = [0; 35];
    let bytes = group.0.iter().chain(&part).chain(&version.0);
    for (to, from) in row.iter_mut().zip(bytes) {
        *to = *from;
    }
    row
}

/// Of the short part, which is sealed under the state key.
const SHORT: [u8; 3] = [0; 3];

const fn place_of(row: &[u8; 35]) -> Place<'_> {
    Place {
        table: "groups",
        row,
        part: "part",
    }
}

/// Seals the short part.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn seal_short(
    group: &GroupId,
    key: &StateKey,
    version: &Version,
    plain: &[u8],
    env: &mut Env<'_>,
) -> Result<Vec<u8>, Stop> {
    let row = row(group, SHORT, version);
    let salt = env.salt();
    let sealed = sealing::seal_salted(key.expose(), salt, place_of(&row), plain)?;
    Ok(sealed)
}

/// Opens the short part, if the key is the right one.
pub(super) fn open_short(
    group: &GroupId,
    key: &StateKey,
    version: &Version,
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let row = row(group, SHORT, version);
    sealing::open(key.expose(), place_of(&row), sealed).ok()
}

/// The work of [`open_short`] for a group that is not there.
pub(super) fn open_no_short(group: &GroupId, key: &StateKey) {
    let row = row(group, SHORT, &Version([0; 16]));
    sealing::open_absent(key.expose(), place_of(&row));
}

/// Seals another part.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn seal(
    group: &GroupId,
    key: &DataKey,
    (part, version): (Part, &Version),
    plain: &[u8],
    env: &mut Env<'_>,
) -> Result<Vec<u8>, Stop> {
    let row = row(group, part.number(), version);
    let salt = env.salt();
    Ok(sealing::seal_salted(
        key.expose(),
        salt,
        place_of(&row),
        plain,
    )?)
}

/// Opens another part, as it was read.
///
/// # Errors
/// [`Stop::Moved`] if it is not there, or not of this version: it was read at another moment than
/// the short part.
pub(super) fn open(
    group: &GroupId,
    key: &DataKey,
    (part, version): (Part, &Version),
    sealed: Option<&[u8]>,
) -> Result<Zeroizing<Vec<u8>>, Stop> {
    let row = row(group, part.number(), version);
    sealed
        .and_then(|sealed| sealing::open(key.expose(), place_of(&row), sealed).ok())
        .ok_or(Stop::Moved)
}

/// Encodes what holds no secrets, after its format.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn encode<T: Serialize>(format: u8, value: &T) -> Result<Zeroizing<Vec<u8>>, Stop> {
    postcard::to_extend(value, vec![format])
        .map(Zeroizing::new)
        .map_err(|_| Stop::Internal("a part cannot be encoded"))
}

/// Decodes what [`encode`] encoded: all of it, and of this format.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn decode<'b, T: Deserialize<'b>>(format: u8, bytes: &'b [u8]) -> Result<T, Stop> {
    let damaged = Stop::Internal("a part is not of its format");
    match bytes.split_first() {
        Some((found, rest)) if *found == format => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(damaged),
        },
        _ => Err(damaged),
    }
}

/// Takes fixed lengths from the front.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::testing::Service;

    #[test]
    fn parts_are_sealed_as_they_always_were() {
        let mut service = Service::new(1);
        let (mut env, _) = service.env();
        let (group, version) = (GroupId([1; 16]), Version([2; 16]));
        let key = StateKey::new([3; 32]);
        let sealed = seal_short(&group, &key, &version, b"short", &mut env).unwrap();
        fixtures::check("sealed short part", &sealed);
        let key = DataKey::new([4; 32]);
        let page = (Part::Roster(0x0506), &version);
        let sealed = seal(&group, &key, page, b"page", &mut env).unwrap();
        fixtures::check("sealed page", &sealed);
        for part in [Part::Roster(0x0506), Part::Control, Part::Marks, Part::Tree] {
            fixtures::check(&format!("number of {part:?}"), &part.number());
        }
        fixtures::check("number of Proposals", &Part::Proposals.number());
        fixtures::check("number of TreeChanges", &Part::TreeChanges.number());
    }
}
