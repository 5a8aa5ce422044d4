//! What was decided about a person holds for that person, under whatever pseudonym it comes.
//!
//! The service enforces a policy by pseudonyms, and whoever comes in again has a new one. Members
//! know who is behind a leaf. So the policy says of whom it bans or mutes who that is, sealed under
//! a key that members have and the service has not. Each client holds newcomers against it. It
//! refuses to add who is banned; when somebody else does, or he comes by a code, everybody is told,
//! and whoever may remove him does so. A newcomer who does not show who he is counts as one who is
//! kept out, as long as anybody is. A person with another identity is another person here.

use openmls::prelude::MlsGroup;
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, Standing};

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::ids::GroupRef;
use crate::leaf::{own_pseudonym, pseudonym_of};
use crate::mls::people::{muted_again, open, seal, under_present_key, unwelcome};
use crate::mls::plan::Plan;
use crate::mls::policy::{capabilities, policy_in};
use crate::mls::profile;
use crate::outcomes::CommitOutcome;
use crate::store::{Group, Status, identities, kept_out};

impl Engine {
    /// Carries out what was decided about people who came in again, as far as this user may.
    pub(crate) async fn carry_out_decisions(&mut self, id: &GroupId) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        if group.kind != GroupKind::Group || group.status != Status::Active {
            return Ok(());
        }
        let mls_group = self.mls(id)?;
        let Some(policy) = policy_in(mls_group.extensions())? else {
            return Ok(());
        };
        let may = capabilities(Some(&policy), &own_pseudonym(&mls_group)?);
        let mut plans = Vec::new();
        if may.contain(Capabilities::REMOVE) {
            let leaves = unwelcome(&self.db, &group, &mls_group, &policy)?;
            if !leaves.is_empty() {
                plans.push(Plan::Remove(leaves));
            }
        }
        let mut next = None;
        if may.contain(Capabilities::SET_ROLE) {
            next = match muted_again(&self.db, &group, &mls_group, &policy)? {
                None => under_present_key(&self.db, &group, &policy)?,
                muted => muted,
            };
        }
        if may.contain(Capabilities::SET_PROFILE) {
            let sealed = next.as_ref().unwrap_or(&policy);
            let again = profile::under_present_key(&self.db, &group, sealed)?;
            next = again.or(next);
        }
        plans.extend(next.map(|next| Plan::SetPolicy(Box::new(next))));
        for plan in plans {
            self.stage_plan(id, plan)?;
            // Somebody else was faster: what is left is done the next time.
            if self.submit_kept(id).await? == CommitOutcome::Superseded {
                return Ok(());
            }
        }
        kept_out::forget_kept_out(&self.db, id)
    }

    /// A policy entry for a member, which says who it is.
    pub(crate) fn person(
        &self,
        group: &Group,
        mls_group: &MlsGroup,
        pseudonym: &[u8],
    ) -> Result<Vec<u8>, UsageError> {
        let real = mls_group
            .members()
            .filter(|member| pseudonym_of(&member.credential).as_deref() == Some(pseudonym))
            .find_map(|member| {
                identities::of(&self.db, &group.id, &member.credential)
                    .ok()
                    .flatten()?
                    .real
            });
        // Of somebody who does not show who he is only the pseudonym can be kept out.
        Ok(real
            .and_then(|real| seal(group, &real).ok())
            .unwrap_or_default())
    }

    /// Lets a banned person come in again.
    ///
    /// # Errors
    /// [`UsageError::NotBanned`], [`UsageError::NotPermitted`].
    pub(crate) async fn unban(&mut self, group: &GroupRef, name: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            let mls_group = client.mls(&id)?;
            let policy = policy_in(mls_group.extensions())?.ok_or(UsageError::NotPermitted)?;
            let own = client.profile.credential()?;
            let mut next = policy.clone();
            for participant in &policy.participants {
                let Some((key, claimed)) = open(&client.db, &group, participant.person.as_slice())?
                else {
                    continue;
                };
                let person = ClientCredential {
                    name: protocol::codec::opaque(claimed.into_bytes()),
                    signature_public_key: protocol::codec::opaque(key),
                };
                let shown = crate::store::contacts::display_name(&client.db, &own, &person)?;
                if participant.standing == Standing::Banned && shown == name {
                    let pseudonym = participant.user_pseudonym.as_slice();
                    next = next.with(pseudonym, policy.default_role, Standing::Active);
                }
            }
            if next == policy {
                return Err(UsageError::NotBanned(name.to_owned()).into());
            }
            Ok(Plan::SetPolicy(Box::new(next)))
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::ids::RotationEpoch;

    use super::*;
    use crate::mls::people::{has, listings};
    use crate::store::groups::tests::group;
    use crate::store::wrappers;
    use crypto::keys::IdentityLinkWrapperKey;
    use protocol::codec::opaque;
    use protocol::policy::GroupPolicy;

    fn person(name: &str, key: u8) -> ClientCredential {
        ClientCredential {
            name: opaque(name.as_bytes()),
            signature_public_key: opaque(vec![key; 32]),
        }
    }

    #[test]
    fn who_is_kept_out_is_known_to_members_of_that_group_only_and_has_no_length() {
        let db = crate::store::database::in_memory().unwrap();
        let here = group(1, "here");
        let sealed = seal(&here, &person("carol", 3)).unwrap();
        let carol = Some((vec![3; 32], "carol".to_owned()));
        assert_eq!(open(&db, &here, &sealed).unwrap(), carol);
        assert_eq!(open(&db, &group(2, "there"), &sealed).unwrap(), None);
        let with_key = |key| {
            let segment = crate::store::segments::Segment {
                wrapper_key: IdentityLinkWrapperKey::new([key; 32]),
                ..group(1, "here").segment
            };
            Group {
                segment,
                ..group(1, "here")
            }
        };
        assert_eq!(open(&db, &with_key(9), &sealed).unwrap(), None);
        // Whoever was in the segment in which it was sealed.
        let former = (RotationEpoch(0), &here.segment.wrapper_key);
        wrappers::keep(&db, &here.id, former.0, former.1).unwrap();
        assert_eq!(open(&db, &with_key(9), &sealed).unwrap(), carol);
        let policy = GroupPolicy::of_creator(opaque(*b"alice")).with_person(
            b"old",
            GroupPolicy::MEMBER,
            Standing::Banned,
            &sealed,
        );
        let next = under_present_key(&db, &with_key(9), &policy).unwrap();
        let next = next.unwrap();
        assert_eq!(under_present_key(&db, &with_key(9), &next).unwrap(), None);
        db.execute("DELETE FROM wrappers", ()).unwrap();
        let listed = listings(&db, &next, &with_key(9), &[3; 32]).unwrap();
        assert!(has(&listed, Standing::Banned));
        let longer = seal(&here, &person(&"c".repeat(64), 3)).unwrap();
        assert_eq!(longer.len(), sealed.len());
        assert!(longer.len() <= protocol::policy::MAX_PERSON);
    }

    #[test]
    fn a_person_is_found_under_any_pseudonym() {
        let db = crate::store::database::in_memory().unwrap();
        let here = group(1, "here");
        let sealed = seal(&here, &person("carol", 3)).unwrap();
        let policy = GroupPolicy::of_creator(opaque(*b"alice")).with_person(
            b"old",
            GroupPolicy::MEMBER,
            Standing::Banned,
            &sealed,
        );
        let listings = |key: u8| listings(&db, &policy, &here, &[key; 32]).unwrap();
        assert!(has(&listings(3), Standing::Banned));
        assert!(!has(&listings(3), Standing::Muted));
        assert!(listings(4).is_empty());
    }
}
