//! The profile of a group, sealed in its policy: members agree on it, and the service cannot read
//! it.

use crypto::kdf;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::sealing::{self, Place};
use openmls::group::GroupContext;
use openmls::prelude::Extensions;
use protocol::ids::GroupId;
use protocol::policy::GroupPolicy;
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::group_profile::GroupProfile;
use crate::mls::policy::policy_in;
use crate::store::{Group, wrappers};

fn place(group: &GroupId) -> Place<'_> {
    Place {
        table: "policies",
        row: &group.0,
        part: "profile",
    }
}

fn seal_key(wrapper: &IdentityLinkWrapperKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(kdf::derive(wrapper.expose(), "group profile", &[]))
}

/// For the policy of this group.
pub(crate) fn seal(group: &Group, profile: &GroupProfile) -> Result<Vec<u8>, Error> {
    seal_plain(group, &profile.encode())
}

fn seal_plain(group: &Group, plain: &[u8]) -> Result<Vec<u8>, Error> {
    if plain.is_empty() {
        return Ok(Vec::new());
    }
    let key = seal_key(&group.segment.wrapper_key);
    Ok(sealing::seal(&key, place(&group.id), plain)?)
}

/// Under the key of now, or a former one that this client knows.
fn open_plain(
    db: &Connection,
    group: &Group,
    policy: &GroupPolicy,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let sealed = policy.profile.as_slice();
    let open = |wrapper: &IdentityLinkWrapperKey| {
        sealing::open(&seal_key(wrapper), place(&group.id), sealed).ok()
    };
    if sealed.is_empty() {
        return Ok(None);
    }
    if let Some(plain) = open(&group.segment.wrapper_key) {
        return Ok(Some(plain));
    }
    Ok(wrappers::kept(db, &group.id)?.iter().find_map(open))
}

/// The profile in a policy. `None` without one, and for what no member has made.
pub(crate) fn open(
    db: &Connection,
    group: &Group,
    policy: &GroupPolicy,
) -> Result<Option<GroupProfile>, Error> {
    let plain = open_plain(db, group, policy)?;
    Ok(plain.and_then(|plain| GroupProfile::decode(&plain)))
}

/// The profile that a group's members agree on.
pub(crate) fn agreed(
    db: &Connection,
    group: &Group,
    extensions: &Extensions<GroupContext>,
) -> Result<Option<GroupProfile>, Error> {
    match policy_in(extensions)? {
        Some(policy) => open(db, group, &policy),
        None => Ok(None),
    }
}

/// What those who are to come in are told that a group is called.
pub(crate) fn name_for_others(
    db: &Connection,
    group: &Group,
    extensions: &Extensions<GroupContext>,
) -> Result<String, Error> {
    let agreed = agreed(db, group, extensions)?.map(|profile| profile.name);
    let agreed = agreed.filter(|name| !name.is_empty());
    Ok(agreed.unwrap_or_else(|| group.display_name()))
}

/// A policy with the profile of another group, sealed for the members of this one.
pub(crate) fn resealed(
    db: &Connection,
    (from, of): (&Group, &GroupPolicy),
    to: &Group,
) -> Result<Vec<u8>, Error> {
    match open_plain(db, from, of)? {
        Some(plain) => seal_plain(to, &plain),
        None => Ok(Vec::new()),
    }
}

/// A policy with its profile under the wrapper key of now, if it is under a former one: who comes
/// in later may not be able to go back to that.
pub(crate) fn under_present_key(
    db: &Connection,
    group: &Group,
    policy: &GroupPolicy,
) -> Result<Option<GroupPolicy>, Error> {
    let sealed = policy.profile.as_slice();
    let key = seal_key(&group.segment.wrapper_key);
    if sealed.is_empty() || sealing::open(&key, place(&group.id), sealed).is_ok() {
        return Ok(None);
    }
    let again = resealed(db, (group, policy), group)?;
    Ok((!again.is_empty()).then(|| policy.with_profile(again)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;
    use protocol::ids::RotationEpoch;

    use super::*;
    use crate::store::database::in_memory;
    use crate::store::groups::tests::group;
    use crate::store::segments::Segment;

    fn with_key(key: u8) -> Group {
        let segment = Segment {
            wrapper_key: IdentityLinkWrapperKey::new([key; 32]),
            ..group(1, "here").segment
        };
        Group {
            segment,
            ..group(1, "here")
        }
    }

    #[test]
    fn a_profile_opens_for_members_of_that_group_only_and_shows_nothing() {
        let db = in_memory().unwrap();
        let (before, after) = (with_key(8), with_key(9));
        let profile = |name: &str| GroupProfile {
            name: name.to_owned(),
            ..GroupProfile::default()
        };
        let policy = GroupPolicy::of_creator(opaque(*b"alice"));
        let sealed = seal(&before, &profile("garden")).unwrap();
        let policy = policy.with_profile(sealed.clone());
        let opened = |group: &Group, policy: &GroupPolicy| open(&db, group, policy).unwrap();
        assert_eq!(opened(&before, &policy), Some(profile("garden")));
        assert_eq!(opened(&after, &policy), None);
        assert_eq!(opened(&group(2, "there"), &policy), None);
        assert!(!sealed.windows(6).any(|window| window == b"garden"));
        let longer = seal(&before, &profile(&"g".repeat(200))).unwrap();
        assert_eq!(longer.len(), sealed.len());
        // Whoever was there before the key changed seals it anew, and only then who comes reads it.
        let (of, key) = (RotationEpoch(0), &before.segment.wrapper_key);
        wrappers::keep(&db, &after.id, of, key).unwrap();
        assert_eq!(opened(&after, &policy), Some(profile("garden")));
        assert!(under_present_key(&db, &before, &policy).unwrap().is_none());
        let next = under_present_key(&db, &after, &policy).unwrap().unwrap();
        assert!(under_present_key(&db, &after, &next).unwrap().is_none());
        db.execute("DELETE FROM wrappers", ()).unwrap();
        assert_eq!(opened(&after, &next), Some(profile("garden")));
    }

    #[test]
    fn the_largest_profile_fits_into_a_policy() {
        let picture = crate::group_profile::Picture {
            media_type: "image/webp".to_owned(),
            image: vec![7; crate::group_profile::MAX_PICTURE],
        };
        let profile = GroupProfile {
            name: "n".repeat(crate::group_profile::MAX_NAME),
            description: "d".repeat(crate::group_profile::MAX_DESCRIPTION),
            picture: Some(picture),
        };
        let sealed = seal(&with_key(8), &profile).unwrap();
        let policy = GroupPolicy::of_creator(opaque(*b"alice")).with_profile(sealed);
        assert_eq!(policy.check(), Ok(()));
    }
}
