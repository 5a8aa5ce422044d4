//! Adding and removing users; replacing the own leaf.

use std::time::Duration;

use crypto::credential::wrap_link_key;
use openmls::prelude::LeafNodeIndex;
use protocol::ids::GroupId;
use protocol::key_packages::MAX_CLAIMS;

use crate::Client;
use crate::contacts::{self, ContactKeys};
use crate::error::{Error, PeerError, UsageError};
use crate::groups::commit::{CommitOutcome, Plan, ROUNDS};
use crate::groups::{Group, Status, identities, load_mls};
use crate::key_packages::ClaimedKeyPackage;
use crate::leaf::NewLeaf;

impl Client {
    /// Adds contacts to a group, all in one commit.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit; the problem `no-key-packages` when a contact has none left.
    pub async fn add_to_group(&mut self, group: &str, names: &[&str]) -> Result<(), Error> {
        self.sync(0).await?;
        let mut claimed = None;
        for round in 0..ROUNDS {
            let id = self.prepare_add(group, names, &mut claimed).await?;
            if self.submit_commit(&id).await? == CommitOutcome::Accepted {
                return Ok(());
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Removes users from a group, with all their clients; the state key changes with it.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit.
    pub async fn remove_from_group(&mut self, group: &str, names: &[&str]) -> Result<(), Error> {
        self.sync(0).await?;
        for round in 0..ROUNDS {
            let id = self.prepare_remove(group, names)?;
            if self.submit_commit(&id).await? == CommitOutcome::Accepted {
                return Ok(());
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Replaces the own leaf: new keys, new pseudonyms.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub async fn update_own_leaf(&mut self, group: &str) -> Result<(), Error> {
        self.sync(0).await?;
        let id = Group::usable(&self.db, group)?.id;
        self.update_leaf(&id).await
    }

    pub(crate) async fn update_leaf(&mut self, id: &GroupId) -> Result<(), Error> {
        for round in 0..ROUNDS {
            if Group::read(&self.db, id)?.status != Status::Active {
                return Ok(());
            }
            let directory = self.directory().await?;
            let leaf = NewLeaf::make(&self.profile, &directory)?;
            self.stage_plan(id, Plan::Update(Box::new(leaf)))?;
            if self.submit_commit(id).await? == CommitOutcome::Accepted {
                return Ok(());
            }
            pause(round).await?;
        }
        Err(UsageError::Contention.into())
    }

    /// Claims KeyPackages (once, however many rounds it takes) and stages the Add.
    async fn prepare_add(
        &mut self,
        group: &str,
        names: &[&str],
        claimed: &mut Option<Vec<ClaimedKeyPackage>>,
    ) -> Result<GroupId, Error> {
        let group = Group::usable(&self.db, group)?;
        let contacts = self.addable(&group, names)?;
        let claimed = match claimed {
            Some(claimed) => claimed,
            none => none.insert(self.claim(&contacts).await?),
        };
        let wrapped_link_keys = claimed
            .iter()
            .map(|claimed| Ok(wrap_link_key(&group.wrapper_key, &claimed.link_key)?))
            .collect::<Result<_, Error>>()?;
        let key_packages = claimed
            .iter()
            .map(|claimed| claimed.key_package.clone())
            .collect();
        self.stage_plan(
            &group.id,
            Plan::Add {
                key_packages,
                wrapped_link_keys,
            },
        )?;
        Ok(group.id)
    }

    fn addable(&self, group: &Group, names: &[&str]) -> Result<Vec<ContactKeys>, Error> {
        if names.is_empty() {
            return Err(UsageError::NobodyNamed.into());
        }
        if names.len() > MAX_CLAIMS {
            return Err(UsageError::TooMany(MAX_CLAIMS).into());
        }
        let mls_group = load_mls(&self.db, &group.id)?;
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

    fn prepare_remove(&mut self, group: &str, names: &[&str]) -> Result<GroupId, Error> {
        let group = Group::usable(&self.db, group)?;
        let leaves = self.leaves_of(&group, names)?;
        self.stage_plan(&group.id, Plan::Remove(leaves))?;
        Ok(group.id)
    }

    /// All leaves of the named users: by name, then by user pseudonym, so that a client whose link
    /// does not open goes with its user.
    fn leaves_of(&self, group: &Group, names: &[&str]) -> Result<Vec<LeafNodeIndex>, Error> {
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
        let mls_group = load_mls(&self.db, &group.id)?;
        let mut users = Vec::new();
        for name in names {
            let mut found = false;
            for member in mls_group.members() {
                let identity = identities::of(&self.db, &group.id, &member.credential)?;
                if identities::name(&self.db, &self.profile, identity.as_ref())? == *name {
                    found = true;
                    users.push(identity.ok_or(PeerError::IdentityLink)?.user_pseudonym);
                }
            }
            if !found {
                return Err(UsageError::NotInGroup((*name).to_owned()).into());
            }
        }
        let mut leaves = Vec::new();
        for member in mls_group
            .members()
            .filter(|member| member.index != mls_group.own_leaf_index())
        {
            let identity = identities::of(&self.db, &group.id, &member.credential)?;
            if identity.is_some_and(|identity| users.contains(&identity.user_pseudonym)) {
                leaves.push(member.index);
            }
        }
        Ok(leaves)
    }

    /// Stages and keeps an Add without sending it: for tests of races and lost answers. The next
    /// [`Client::sync`] or [`Client::submit`] sends it.
    ///
    /// # Errors
    /// As [`Client::add_to_group`].
    pub async fn stage_add(&mut self, group: &str, names: &[&str]) -> Result<(), Error> {
        self.prepare_add(group, names, &mut None).await.map(|_| ())
    }

    /// As [`Client::stage_add`], for a removal.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub fn stage_remove(&mut self, group: &str, names: &[&str]) -> Result<(), Error> {
        self.prepare_remove(group, names).map(|_| ())
    }

    /// Sends what was staged in a group; does not stage it again if another commit was first.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], or as the staged operation.
    pub async fn submit(&mut self, group: &str) -> Result<CommitOutcome, Error> {
        let id = Group::by_name(&self.db, group)?.id;
        self.submit_commit(&id).await
    }
}

/// Waits a little before the next round, longer each time and never the same for two clients.
async fn pause(round: u32) -> Result<(), Error> {
    let [jitter] = crypto::random::<1>()?;
    let most = 20u64.saturating_mul(1 << round.min(6));
    tokio::time::sleep(Duration::from_millis(
        most.saturating_mul(u64::from(jitter)) / 255,
    ))
    .await;
    Ok(())
}
