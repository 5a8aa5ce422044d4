//! Roles and standing of a group's users (draft-ietf-mimi-room-policy).

use protocol::ids::GroupId;
use protocol::policy::{GroupPolicy, Standing};

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::group_profile::GroupProfile;
use crate::ids::GroupRef;
use crate::leaf::pseudonym_of;
use crate::mls::plan::Plan;
use crate::mls::policy::policy_in;
use crate::mls::profile;
use crate::store::Group;

impl Engine {
    /// Gives a member a role, by its name: `admin` and `member` are there from the beginning.
    ///
    /// # Errors
    /// [`UsageError::NotInGroup`], [`UsageError::UnknownRole`], [`UsageError::NotPermitted`],
    /// [`UsageError::Policy`].
    pub(crate) async fn set_role(
        &mut self,
        group: &GroupRef,
        member: &str,
        role: &str,
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.change_policy(&id, member, |policy, pseudonym, person| {
            let number = policy
                .roles
                .iter()
                .find(|known| known.name.as_slice() == role.as_bytes())
                .map(|role| role.number)
                .ok_or_else(|| UsageError::UnknownRole(role.to_owned()))?;
            let (_, standing) = policy.standing(pseudonym);
            Ok(policy.with_person(pseudonym, number, standing, person))
        })
        .await
    }

    /// Mutes a member, or lets it speak again.
    ///
    /// # Errors
    /// As [`Client::set_role`].
    pub(crate) async fn set_muted(
        &mut self,
        group: &GroupRef,
        member: &str,
        muted: bool,
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        let standing = if muted {
            Standing::Muted
        } else {
            Standing::Active
        };
        let id = self.sync_for(group).await?.id;
        self.change_policy(&id, member, |policy, pseudonym, person| {
            let (role, _) = policy.standing(pseudonym);
            Ok(policy.with_person(pseudonym, role, standing, person))
        })
        .await
    }

    /// Bans a member: nothing is left to it, and it is removed. The person cannot come in again,
    /// under whatever pseudonym, without members being told and whoever may removing it.
    ///
    /// # Errors
    /// As [`Client::set_role`] and [`Client::remove_from_group`].
    pub(crate) async fn ban(&mut self, group: &GroupRef, member: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.change_policy(&id, member, |policy, pseudonym, person| {
            Ok(policy.with_person(pseudonym, policy.default_role, Standing::Banned, person))
        })
        .await?;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            Ok(Plan::Remove(client.leaves_of(&group, &[member])?))
        })
        .await
    }

    /// Sets what a group says of itself.
    ///
    /// # Errors
    /// [`UsageError::InvalidGroupName`], [`UsageError::InvalidGroupProfile`],
    /// [`UsageError::NotPermitted`].
    pub(crate) async fn set_group_profile(
        &mut self,
        group: &GroupRef,
        profile: GroupProfile,
    ) -> Result<(), Error> {
        let profile = profile.chosen()?;
        let _held = self.hold().await?;
        let id = self.sync_for(group).await?.id;
        self.commit(&id, |client| {
            let group = Group::read(&client.db, &id)?;
            let mls_group = client.mls(&id)?;
            let policy = policy_in(mls_group.extensions())?.ok_or(UsageError::NotPermitted)?;
            let sealed = profile::seal(&group, &profile)?;
            Ok(Plan::SetPolicy(Box::new(policy.with_profile(sealed))))
        })
        .await
    }

    /// Gives a member the role and standing that are listed under a former pseudonym of the same
    /// person.
    pub(crate) async fn take_over_listing(
        &mut self,
        id: &GroupId,
        former: &[u8],
        member: &str,
    ) -> Result<(), Error> {
        let listed = |client: &Self| -> Result<bool, Error> {
            let mls_group = client.mls(id)?;
            Ok(policy_in(mls_group.extensions())?
                .is_some_and(|policy| policy.participant(former).is_some()))
        };
        if !listed(self)? {
            return Ok(());
        }
        self.sync().await?;
        self.change_policy(id, member, |policy, pseudonym, person| {
            let (role, standing) = policy.standing(former);
            Ok(policy
                .with(former, policy.default_role, Standing::Active)
                .with_person(pseudonym, role, standing, person))
        })
        .await
    }

    async fn change_policy(
        &mut self,
        id: &GroupId,
        member: &str,
        change: impl Fn(&GroupPolicy, &[u8], &[u8]) -> Result<GroupPolicy, UsageError>,
    ) -> Result<(), Error> {
        self.commit(id, |client| {
            let group = Group::read(&client.db, id)?;
            let mls_group = client.mls(id)?;
            let policy = policy_in(mls_group.extensions())?.ok_or(UsageError::NotPermitted)?;
            let pseudonym = mls_group
                .members()
                .filter_map(|other| pseudonym_of(&other.credential))
                .find(|pseudonym| {
                    client
                        .is_called(&group, &mls_group, pseudonym, member)
                        .unwrap_or(false)
                })
                .ok_or_else(|| UsageError::NotInGroup(member.to_owned()))?;
            let person = client.person(&group, &mls_group, &pseudonym)?;
            Ok(Plan::SetPolicy(Box::new(change(
                &policy, &pseudonym, &person,
            )?)))
        })
        .await
    }
}
