//! What a client that comes back into a group finds changed. What the service did not show it
//! meanwhile it cannot see again: whoever shows it a group of its own choice among the genuine ones
//! (an old one, or a member's fork) shows it by who is missing there and by what has become of the
//! roles.

use openmls::prelude::MlsGroup;
use protocol::Wire as _;
use protocol::ids::GroupId;
use protocol::policy::GroupPolicy;
use rusqlite::Connection;

use crate::error::Error;
use crate::mls::policy::{self, policy_in};
use crate::store::contacts::display_name;
use crate::store::known::Known;
use crate::store::{Profile, identities};

/// What is other than it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Who was there and is not.
    pub(crate) absent: Vec<String>,
    /// Whose role or standing is another one.
    pub(crate) changed: Vec<String>,
    /// Whether roles may do something else, or newcomers have another role.
    pub(crate) rules_changed: bool,
}

fn rules(policy: &GroupPolicy) -> GroupPolicy {
    GroupPolicy {
        participants: Vec::new(),
        ..policy.with_profile(Vec::new())
    }
}

/// Holds a group against what was known of it before.
pub(crate) fn difference(
    db: &Connection,
    profile: &Profile,
    id: &GroupId,
    known: &Known,
    mls_group: &MlsGroup,
) -> Result<Difference, Error> {
    let own = profile.credential()?;
    let now = policy_in(mls_group.extensions())?;
    let before = known
        .policy
        .as_ref()
        .and_then(|policy| GroupPolicy::decode(policy).ok());
    let mut present = Vec::new();
    for member in mls_group.members() {
        present.extend(identities::of(db, id, &member.credential)?);
    }
    let mut difference = Difference {
        // Of a group without roles, and of a backup that says nothing of them, there is nothing to
        // say.
        rules_changed: known.policy.is_some()
            && before.as_ref().map(rules) != now.as_ref().map(rules),
        ..Difference::default()
    };
    let mut seen: Vec<&[u8]> = Vec::new();
    for former in known.there() {
        let Some(real) = &former.identity.real else {
            continue;
        };
        let key = real.signature_public_key.as_slice();
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let Some(still) = present.iter().find(|it| it.is_same_user(&former.identity)) else {
            difference.absent.push(display_name(db, &own, real)?);
            continue;
        };
        let was = policy::shown(before.as_ref(), &former.identity.user_pseudonym);
        let is = policy::shown(now.as_ref(), &still.user_pseudonym);
        if known.policy.is_some() && was != is {
            difference.changed.push(display_name(db, &own, real)?);
        }
    }
    Ok(difference)
}
