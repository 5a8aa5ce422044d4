//! Adding and removing users; replacing the own leaf.

use crypto::keys::IdentityLinkKey;
use openmls::prelude::{LeafNodeIndex, MlsGroup};
use protocol::codec::opaque;
use protocol::ids::GroupId;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::ids::GroupRef;
use crate::leaf::{own_pseudonym, pseudonym_of};
use crate::mls::claimed::ClaimedKeyPackage;
use crate::mls::new_leaf::NewLeaf;
use crate::mls::plan::Plan;
use crate::mls::{further, people, policy};
use crate::outcomes::CommitOutcome;
use crate::store::contacts::{self, ContactKeys};
use crate::store::{Group, identities, restored};

/// Most contacts that are added at once.
const MAX_CLAIMS: usize = 64;

impl Engine {
    /// Adds contacts to a group, all in one commit.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit; [`UsageError::LacksPostQuantum`] for a contact
    /// that takes no X-Wing; the problem `no-key-packages` when a contact has none left.
    pub(crate) async fn add_to_group(
        &mut self,
        group: &GroupRef,
        names: &[&str],
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.add_contacts(&id, names).await
    }

    pub(crate) async fn add_contacts(&mut self, id: &GroupId, names: &[&str]) -> Result<(), Error> {
        self.heed_bans(id, names)?;
        let claimed = self.claim_for(id, names).await?;
        self.commit(id, |client| {
            client.heed_bans(id, names)?;
            client.plan_add(id, names, &claimed)
        })
        .await?;
        // They wait for the word where their Welcomes are.
        crate::error::all_can_wait(self.act().await)
    }

    fn heed_bans(&self, id: &GroupId, names: &[&str]) -> Result<(), Error> {
        let group = Group::read(&self.db, id)?;
        let mls_group = self.mls(id)?;
        for name in names {
            let contact = contacts::by_name(&self.db, name)?;
            if people::is_banned(&self.db, &mls_group, &group, &contact.signature_key)? {
                return Err(UsageError::Banned(contact.name).into());
            }
        }
        Ok(())
    }

    /// Removes users from a group, with all their clients; the state key changes with it.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit.
    pub(crate) async fn remove_from_group(
        &mut self,
        group: &GroupRef,
        names: &[&str],
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            Ok(Plan::Remove(client.leaves_of(&group, names)?))
        })
        .await
    }

    /// Has a contact whose clients are dead come in anew: the old ones are removed, and the present
    /// ones, which have published KeyPackages, are added, with the role and standing that the
    /// contact had. Whoever still had an old one reads that it was removed.
    ///
    /// # Errors
    /// As [`Client::add_to_group`] and [`Client::remove_from_group`]; before anything was changed,
    /// unless the group changed meanwhile.
    pub(crate) async fn replace_in_group(
        &mut self,
        group: &GroupRef,
        name: &str,
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        let group = Group::read(&self.db, &id)?;
        let mls_group = self.mls(&id)?;
        self.heed_bans(&id, &[name])?;
        let leaves = self.leaves_of(&group, &[name])?;
        policy::permit(&group, &mls_group, &Plan::Remove(leaves.clone()))?;
        let former = leaves
            .first()
            .and_then(|leaf| mls_group.member(*leaf))
            .and_then(pseudonym_of)
            .ok_or_else(|| UsageError::NotInGroup(name.to_owned()))?;
        let contact = contacts::by_name(&self.db, name)?;
        let suite = mls_group.ciphersuite();
        // First, as without one nobody should be removed.
        let claimed = self.claim(&id, &[contact], suite).await?;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            Ok(Plan::Remove(client.leaves_of(&group, &[name])?))
        })
        .await?;
        self.commit(&id, |client| client.plan_add(&id, &[name], &claimed))
            .await?;
        crate::error::all_can_wait(self.act().await)?;
        self.take_over_listing(&id, &former, name).await
    }

    /// Replaces the own leaf: new keys, under the same user pseudonym.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub(crate) async fn update_own_leaf(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.update_leaf(&id).await
    }

    pub(crate) async fn update_leaf(&mut self, id: &GroupId) -> Result<(), Error> {
        let directory = self.directory().await?;
        self.commit(id, |client| {
            let mls_group = client.mls(id)?;
            let pseudonym = opaque(own_pseudonym(&mls_group)?);
            let suite = mls_group.ciphersuite();
            let leaf = match restored::next_leaf_key(&client.db, id)? {
                Some(key) => NewLeaf::with_key(&client.profile, &directory, key, pseudonym)?,
                None => NewLeaf::of_user(&client.profile, &directory, suite, pseudonym)?,
            };
            Ok(Plan::Update(Box::new(leaf)))
        })
        .await
    }

    /// Claims KeyPackages of contacts who are not in the group yet.
    async fn claim_for(
        &mut self,
        id: &GroupId,
        names: &[&str],
    ) -> Result<Vec<ClaimedKeyPackage>, Error> {
        let group = Group::read(&self.db, id)?;
        group.check_usable()?;
        let mls_group = self.mls(id)?;
        // A claim takes something from the contact: first whether the commit is possible at all.
        policy::permit_adding(&group, &mls_group)?;
        if Group::is_leaving(&self.db, id)? {
            return Err(UsageError::Leaving(group.display_name()).into());
        }
        let contacts = self.addable(&group, names)?;
        self.claim(id, &contacts, mls_group.ciphersuite()).await
    }

    fn plan_add(
        &self,
        id: &GroupId,
        names: &[&str],
        claimed: &[ClaimedKeyPackage],
    ) -> Result<Plan, Error> {
        let group = Group::read(&self.db, id)?;
        // Somebody else may have added them meanwhile.
        self.addable(&group, names)?;
        let link_keys = claimed
            .iter()
            .map(|claimed| IdentityLinkKey::new(*claimed.link_key.expose()))
            .collect();
        let key_packages = claimed
            .iter()
            .map(|claimed| claimed.key_package.clone())
            .collect();
        Ok(Plan::Add {
            key_packages,
            link_keys,
        })
    }

    fn addable(&self, group: &Group, names: &[&str]) -> Result<Vec<ContactKeys>, Error> {
        if names.is_empty() {
            return Err(UsageError::NobodyNamed.into());
        }
        if names.len() > MAX_CLAIMS {
            return Err(UsageError::TooMany(MAX_CLAIMS).into());
        }
        let mls_group = self.mls(&group.id)?;
        let mut contacts: Vec<ContactKeys> = Vec::new();
        for name in names {
            let contact = contacts::by_name(&self.db, name)?;
            let mut member = false;
            for other in mls_group.members() {
                let identity = identities::of(&self.db, &group.id, &other.credential)?;
                member |= identity
                    .and_then(|identity| identity.real)
                    .is_some_and(|real| {
                        real.signature_public_key.as_slice() == contact.signature_key
                    });
            }
            if member || contacts.iter().any(|other| other.name == contact.name) {
                return Err(UsageError::AlreadyAMember(contact.name).into());
            }
            contacts.push(contact);
        }
        Ok(contacts)
    }

    /// Whether the user of a pseudonym goes by a name.
    pub(crate) fn is_called(
        &self,
        group: &Group,
        mls_group: &MlsGroup,
        pseudonym: &[u8],
        name: &str,
    ) -> Result<bool, Error> {
        for member in mls_group.members() {
            let identity = identities::of(&self.db, &group.id, &member.credential)?;
            if identities::name(&self.db, &self.profile, identity.as_ref())? == name
                && identity.is_some_and(|identity| identity.user_pseudonym == pseudonym)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All leaves of the named users: by name, then by who they are, under whatever pseudonym.
    pub(crate) fn leaves_of(
        &self,
        group: &Group,
        names: &[&str],
    ) -> Result<Vec<LeafNodeIndex>, Error> {
        if names.is_empty() {
            return Err(UsageError::NobodyNamed.into());
        }
        if self
            .profile
            .handle
            .as_deref()
            .is_some_and(|own| names.contains(&own))
        {
            return Err(UsageError::OwnHandle.into());
        }
        let mls_group = self.mls(&group.id)?;
        let mut named = Vec::new();
        for name in names {
            let mut found = false;
            for member in mls_group.members() {
                let identity = identities::of(&self.db, &group.id, &member.credential)?;
                if identities::name(&self.db, &self.profile, identity.as_ref())? == *name {
                    found = true;
                    named.push(member.index);
                }
            }
            if !found {
                return Err(UsageError::NotInGroup((*name).to_owned()).into());
            }
        }
        let mut leaves = further::with_their_people(&self.db, group, &mls_group, &named)?;
        leaves.retain(|leaf| *leaf != mls_group.own_leaf_index());
        Ok(leaves)
    }

    /// Stages and keeps an Add without sending it: for tests of races and lost answers. The next
    /// [`Client::sync`] or [`Client::submit`] sends it. Does not ask whether somebody is banned.
    ///
    /// # Errors
    /// As [`Client::add_to_group`].
    pub(crate) async fn stage_add(
        &mut self,
        group: &GroupRef,
        names: &[&str],
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = Group::usable(&self.db, group)?.id;
        let claimed = self.claim_for(&id, names).await?;
        let plan = self.plan_add(&id, names, &claimed)?;
        self.stage_plan(&id, plan)
    }

    /// As [`Client::stage_add`], for a removal.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub(crate) fn stage_remove(&mut self, group: &GroupRef, names: &[&str]) -> Result<(), Error> {
        let group = Group::usable(&self.db, group)?;
        let leaves = self.leaves_of(&group, names)?;
        self.stage_plan(&group.id, Plan::Remove(leaves))
    }

    /// Sends what was staged in a group; does not stage it again if another commit was first.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], or as the staged operation.
    pub(crate) async fn submit(&mut self, group: &GroupRef) -> Result<CommitOutcome, Error> {
        let _held = self.hold().await?;
        let id = Group::meant(&self.db, group)?.id;
        self.submit_kept(&id).await
    }
}
