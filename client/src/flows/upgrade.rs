//! Putting another group in the place of one, in another ciphersuite. RFC 9420 §11.2 has ReInit for
//! that, but the MLS library leaves ReInit proposals out of the commits that it builds: so the old
//! group is deleted, and its members are added to a new one. Only contacts can be, so the old group
//! stays if somebody is none, unless the user says otherwise. A ReInit of another implementation is
//! followed.

use crypto::credential::random_pseudonym;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::group::GroupKind;
use protocol::ids::GroupId;
use protocol::policy::{Capabilities, GroupPolicy, Standing};
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, LocalError, UsageError};
use crate::ids::GroupRef;
use crate::leaf::{self, own_pseudonym, pseudonym_of};
use crate::mls::new_leaf::NewLeaf;
use crate::mls::plan::Plan;
use crate::mls::{people, policy, profile};
use crate::store::contacts::{self, ContactKeys};
use crate::store::groups::free_name;
use crate::store::successors::{self, AGREED, Successor, set_stage, successor};
use crate::store::{Event, Group, events, identities, leaf_keys};

const CREATED: u8 = 2;

/// Whether a contact has no KeyPackage for the new group.
fn cannot_come(error: &Error) -> bool {
    error.problem() == Some(ProblemType::NoKeyPackages)
        || matches!(error, Error::Usage(UsageError::LacksPostQuantum(_)))
}

impl Engine {
    /// Ends a group and makes another one under its name, in another ciphersuite, in which all of
    /// its members are again, in the roles that they had.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`], [`UsageError::UnknownCiphersuite`];
    /// [`UsageError::WouldLeaveBehind`] when somebody is no contact, or has no KeyPackage for the
    /// ciphersuite: nothing has changed then.
    pub(crate) async fn upgrade_group(
        &mut self,
        group: &GroupRef,
        suite: u16,
    ) -> Result<(), Error> {
        let left_behind = self.upgrade(group, suite, false).await?;
        debug_assert!(left_behind.is_empty());
        Ok(())
    }

    /// As [`Client::upgrade_group`], without the members who cannot be brought along: returns who
    /// they are.
    ///
    /// # Errors
    /// As [`Client::upgrade_group`].
    pub(crate) async fn upgrade_group_leaving_others(
        &mut self,
        group: &GroupRef,
        suite: u16,
    ) -> Result<Vec<String>, Error> {
        self.upgrade(group, suite, true).await
    }

    async fn upgrade(
        &mut self,
        group: &GroupRef,
        suite: u16,
        leave_others: bool,
    ) -> Result<Vec<String>, Error> {
        let _held = self.hold().await?;
        let suite = leaf::ciphersuite(suite).ok_or(UsageError::UnknownCiphersuite(suite))?;
        let old = self.sync_for(group).await?;
        let mls_group = self.mls(&old.id)?;
        policy::permit(&old, &mls_group, &Plan::Delete)?;
        let policy = policy::policy_in(mls_group.extensions())?.map(|policy| policy.encode());
        let directory = self.directory().await?;
        let pseudonym = random_pseudonym(&directory.domain)?;
        let leaf = NewLeaf::of_user(&self.profile, &directory, suite, pseudonym.clone())?;
        let (contacts, mut left_behind) = self.members_to_bring(&old.id)?;
        // Nothing is asked of anybody if it comes to nothing anyway.
        if !left_behind.is_empty() && !leave_others {
            return Err(UsageError::WouldLeaveBehind(left_behind).into());
        }
        let id = self.reserve(&leaf).await?;
        // Their KeyPackages are there before the old group is not.
        let mut members = Vec::new();
        for contact in contacts {
            let name = contact.name.clone();
            match self.claim(&id, &[contact], suite).await {
                Ok(_) => members.push(name),
                Err(error) if cannot_come(&error) => left_behind.push(name),
                Err(error) => return Err(error),
            }
        }
        if !left_behind.is_empty() && !leave_others {
            return Err(UsageError::WouldLeaveBehind(left_behind).into());
        }
        let next = Successor {
            id,
            leaf_key: leaf.signer.0.public(),
            pseudonym: pseudonym.as_slice().to_vec(),
            name: old.display_name(),
            members,
            suite,
            stage: 0,
            policy,
        };
        self.transact(|db, _| {
            leaf.store_key(db)?;
            next.keep(db, &old.id)
        })?;
        self.commit(&old.id, |_| Ok(Plan::Delete)).await?;
        self.go_on_upgrading(&old.id).await?;
        Ok(left_behind)
    }

    /// What is left to do of an upgrade.
    pub(crate) async fn go_on_upgrading(&mut self, old: &GroupId) -> Result<(), Error> {
        let Some(next) = successor(&self.db, old)?.filter(|next| next.stage >= AGREED) else {
            return Ok(());
        };
        let is_new = next.stage == AGREED;
        if is_new && Group::find(&self.db, &next.id)?.is_none() {
            let name = free_name(&self.db, &next.name)?;
            let directory = self.directory().await?;
            let signer = leaf_keys::signer(&self.db, &next.leaf_key)?;
            let pseudonym = opaque(next.pseudonym);
            let leaf = NewLeaf::with_key(&self.profile, &directory, signer.0, pseudonym)?;
            self.create_reserved(next.id, GroupKind::Group, Some(name), next.suite, leaf)
                .await?;
        }
        self.transact(|db, _| {
            set_stage(db, old, CREATED)?;
            let name = Group::read(db, &next.id)?.display_name();
            match is_new {
                true => events::say_if_not_post_quantum(db, name, next.suite),
                false => Ok(()),
            }
        })?;
        for contact in next.members {
            let added = self.add_contacts(&next.id, &[contact.as_str()]).await;
            match added {
                Ok(()) | Err(Error::Usage(UsageError::AlreadyAMember(_))) => {}
                // A contact no more, or with other keys, since the old group was ended.
                Err(Error::Usage(UsageError::UnknownContact(_)) | Error::Peer(_)) => {
                    self.leave_behind(&next.id, contact)?;
                }
                Err(error) if cannot_come(&error) => self.leave_behind(&next.id, contact)?,
                Err(error) => return Err(error),
            }
        }
        if let Some(policy) = next.policy {
            self.take_over_policy(old, &next.id, &policy).await?;
        }
        successors::forget(&self.db, old)
    }

    fn leave_behind(&self, id: &GroupId, name: String) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?.display_name();
        events::store(&self.db, &Event::LeftBehind { group, name })
    }

    /// The other members of a group: who is a contact, and the names of who is not.
    fn members_to_bring(&self, id: &GroupId) -> Result<(Vec<ContactKeys>, Vec<String>), Error> {
        let (mut contacts, mut others) = (Vec::<ContactKeys>::new(), Vec::new());
        let own = self.profile.identity.public();
        for member in self.mls(id)?.members() {
            let identity = identities::of(&self.db, id, &member.credential)?;
            let key = identity
                .as_ref()
                .and_then(|identity| identity.real.as_ref())
                .map(|real| real.signature_public_key.as_slice().to_vec());
            if key.as_deref() == Some(&own) {
                continue;
            }
            let contact = match &key {
                Some(key) => contacts::name_of_key(&self.db, key)?,
                None => None,
            };
            match contact {
                Some(name) if contacts.iter().any(|known| known.name == name) => {}
                Some(name) => contacts.push(contacts::by_name(&self.db, &name)?),
                None => {
                    let name = identities::name(&self.db, &self.profile, identity.as_ref())?;
                    if !others.contains(&name) {
                        others.push(name);
                    }
                }
            }
        }
        Ok((contacts, others))
    }

    /// Everybody has the role and the standing in the new group that they had in the old one. Who
    /// was banned there stays listed, and who that is is sealed for the members of the new group.
    async fn take_over_policy(
        &mut self,
        old: &GroupId,
        id: &GroupId,
        policy: &[u8],
    ) -> Result<(), Error> {
        let former = GroupPolicy::decode(policy).map_err(|_| LocalError::Damaged)?;
        let next = |client: &Engine| -> Result<GroupPolicy, Error> {
            let mls_group = client.mls(id)?;
            let groups = (Group::read(&client.db, old)?, Group::read(&client.db, id)?);
            let mut next = GroupPolicy {
                participants: Vec::new(),
                profile: opaque(profile::resealed(
                    &client.db,
                    (&groups.0, &former),
                    &groups.1,
                )?),
                ..former.clone()
            };
            for participant in &former.participants {
                let before = participant.user_pseudonym.as_slice();
                let key = identities::key_behind(&client.db, old, before)?;
                let mut now = None;
                for member in mls_group.members() {
                    let identity = identities::of(&client.db, id, &member.credential)?;
                    let real = identity
                        .as_ref()
                        .and_then(|identity| identity.real.as_ref());
                    if key.is_some()
                        && real.map(|real| real.signature_public_key.as_slice()) == key.as_deref()
                    {
                        now = identity.map(|identity| identity.user_pseudonym);
                    }
                }
                let pseudonym = match now {
                    Some(pseudonym) => pseudonym,
                    None if participant.standing == Standing::Banned => before.to_vec(),
                    // Left behind.
                    None => continue,
                };
                let person = participant.person.as_slice();
                let person = people::resealed(&client.db, &groups.0, &groups.1, person)?;
                let (role, standing) = (participant.role, participant.standing);
                next = next.with_person(&pseudonym, role, standing, &person);
            }
            // Somebody must be able to change it.
            let admins = mls_group.members().any(|member| {
                pseudonym_of(&member.credential)
                    .is_some_and(|user| next.capabilities(&user).contain(Capabilities::SET_ROLE))
            });
            if !admins {
                next = next.with(
                    &own_pseudonym(&mls_group)?,
                    GroupPolicy::ADMIN,
                    Standing::Active,
                );
            }
            Ok(next)
        };
        let present = policy::policy_in(self.mls(id)?.extensions())?;
        if present.as_ref() == Some(&next(self)?) {
            return Ok(());
        }
        self.commit(id, |client| Ok(Plan::SetPolicy(Box::new(next(client)?))))
            .await
    }

    /// Groups that are being upgraded.
    pub(crate) fn upgrading(&self) -> Result<Vec<GroupId>, Error> {
        successors::all(&self.db)
    }
}
