//! Groups and their members.

use crate::account::count;
use crate::ids::{GroupId, UserId};
use crate::mirror::record;
use crate::outcomes::StopReason;
use crate::{Answer, Client};

/// A small picture.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Picture {
    /// Its media type, `image/` and something.
    pub media_type: String,
    /// The image, at most 4096 bytes. Others choose it: decode it as what a stranger sends.
    pub image: Vec<u8>,
}

/// What a group says of itself. Its members agree on it, and the service cannot read it.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct GroupProfile {
    /// Its name; empty if none was agreed on.
    #[uniffi(default = "")]
    pub name: String,
    /// What it is about, at most 1024 bytes; may have several lines.
    #[uniffi(default = "")]
    pub description: String,
    /// What it is shown by.
    #[uniffi(default = None)]
    pub picture: Option<Picture>,
}

impl From<client::GroupProfile> for GroupProfile {
    fn from(sdk: client::GroupProfile) -> Self {
        let picture = sdk.picture.map(|picture| Picture {
            media_type: picture.media_type,
            image: picture.image,
        });
        Self {
            name: sdk.name,
            description: sdk.description,
            picture,
        }
    }
}

impl From<GroupProfile> for client::GroupProfile {
    fn from(ours: GroupProfile) -> Self {
        let mut profile = Self::named(ours.name);
        profile.description = ours.description;
        profile.picture = ours
            .picture
            .map(|picture| client::Picture::new(picture.media_type, picture.image));
        profile
    }
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct GroupSummary {
    /// Which group.
    pub id: GroupId,
    /// Its name on this device: as given at its creation or agreed on since, or with a number
    /// behind it where another group has that.
    pub name: String,
    /// How many clients are in it.
    pub members: u64,
    /// Its epoch, as far as this client has followed.
    pub epoch: u64,
    /// IANA's number of its MLS ciphersuite; 0 if the group has no state here any more.
    pub ciphersuite: u16,
    /// Whether what is recorded of it now stays closed to a quantum computer.
    pub post_quantum: bool,
    /// Whether this client is still a member that can follow.
    pub active: bool,
    /// Why it does not follow any more, if it was not removed.
    pub stopped: Option<StopReason>,
    /// What its members agree on; nothing before one of them has set it.
    pub profile: GroupProfile,
}

impl From<client::GroupSummary> for GroupSummary {
    fn from(sdk: client::GroupSummary) -> Self {
        Self {
            id: sdk.id,
            name: sdk.name,
            members: count(sdk.members),
            epoch: sdk.epoch,
            ciphersuite: sdk.ciphersuite,
            post_quantum: sdk.post_quantum,
            active: sdk.active,
            stopped: sdk.stopped.map(Into::into),
            profile: sdk.profile.into(),
        }
    }
}

record! {
    /// A member of a group.
    Member {
        /// Who; nobody if this member cannot show it.
        user: Option<UserId>,
        /// Handle, or the name that they chose.
        name: String,
        /// This client.
        own: bool,
        /// Name of the role; empty in groups without roles.
        role: String,
        /// `active`, `inactive`, `muted` or `banned`.
        standing: String,
        /// Names the client among all of the group's.
        leaf_index: u32,
    }
}

record! {
    /// Something that a group's members could not carry out, or an answer that could not be right.
    Evidence {
        /// The epoch that this client was in.
        epoch: u64,
        /// The entry that brought it (segment and position), in hex; empty for an answer.
        entry: String,
        /// What is wrong with it.
        why: String,
        /// SHA-256 of it, in hex: two members can compare what each was shown.
        digest: String,
        /// When it came, milliseconds since 1970.
        seen_ms: u64,
    }
}

/// What a group is at, for comparing.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct EpochAuthenticator {
    /// The epoch that this client is in.
    pub epoch: u64,
    /// Its authenticator (RFC 9420 §8.7), in hex.
    pub authenticator: String,
}

/// What this client and the service agree on.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct VerifiedGroup {
    /// How many clients are in the group.
    pub members: u64,
    /// The group's epoch.
    pub epoch: u64,
}

#[uniffi::export]
impl Client {
    /// Groups by name, without those of connections.
    pub fn groups(&self) -> Answer<Vec<GroupSummary>> {
        let groups = self.sdk.groups()?;
        Ok(groups.into_iter().map(Into::into).collect())
    }

    /// One group.
    ///
    /// Fails with `unknown-group`.
    pub fn group(&self, group: String) -> Answer<GroupSummary> {
        Ok(self.sdk.group(&group)?.into())
    }

    /// The members of a group, as far as this client has followed.
    ///
    /// Fails with `unknown-group`.
    pub fn members(&self, group: String) -> Answer<Vec<Member>> {
        let members = self.sdk.members(&group)?;
        Ok(members.into_iter().map(Into::into).collect())
    }

    /// Creates a group with this user as its only member, in the ciphersuite of the MLS number that
    /// is given, or in the usual one.
    ///
    /// Fails with `group-exists`, `invalid-group-name`, `no-handle`, `unknown-ciphersuite`.
    #[uniffi::method(default(ciphersuite = None))]
    pub async fn create_group(&self, name: String, ciphersuite: Option<u16>) -> Answer<()> {
        let created = match ciphersuite {
            Some(suite) => self.sdk.create_group_with(&name, suite).await,
            None => self.sdk.create_group(&name).await,
        };
        Ok(created?)
    }

    /// Adds contacts to a group, all in one commit.
    ///
    /// Fails with `unknown-contact`, `already-a-member`, `nobody-named` and the like; with
    /// `lacks-post-quantum` when a contact has a client that takes no groups as this one, which
    /// `upgrade_group` would make a classical one; or refused with `no-key-packages` when a contact
    /// has none left.
    pub async fn add_to_group(&self, group: String, names: Vec<String>) -> Answer<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(self.sdk.add_to_group(&group, &names).await?)
    }

    /// Removes users from a group, with all their clients. What the service keeps of it is sealed
    /// under another key from then on.
    ///
    /// Fails with `not-in-group`, `not-permitted`.
    pub async fn remove_from_group(&self, group: String, names: Vec<String>) -> Answer<()> {
        let (group, names) = (&group, names.iter().map(String::as_str));
        let names: Vec<&str> = names.collect();
        Ok(self.sdk.remove_from_group(group, &names).await?)
    }

    /// Has a contact whose clients are dead come in anew: the old ones are removed, and the present
    /// ones are added, with the role and standing that the contact had.
    pub async fn replace_in_group(&self, group: String, name: String) -> Answer<()> {
        Ok(self.sdk.replace_in_group(&group, &name).await?)
    }

    /// Leaves a group with all clients of this user. It is done when another member has committed
    /// it, which happens as soon as one of them catches up. Whoever is alone deletes the group.
    ///
    /// Fails with `unknown-group`, `not-a-member`.
    pub async fn leave_group(&self, group: String) -> Answer<()> {
        Ok(self.sdk.leave_group(&group).await?)
    }

    /// Deletes a group: everybody else is removed, and nothing of it stays at the service.
    ///
    /// Fails with `not-permitted`.
    pub async fn delete_group(&self, group: String) -> Answer<()> {
        Ok(self.sdk.delete_group(&group).await?)
    }

    /// Forgets a group that this client is not in any more, everything that was said there, and
    /// proofs against the service. Where this client only does not follow the group any more, its
    /// leaf stays: others go on seeing it, and it cannot come back by itself.
    ///
    /// Fails with `unknown-group`, `still-a-member`.
    pub async fn forget_group(&self, group: String) -> Answer<()> {
        Ok(self.sdk.forget_group(&group).await?)
    }

    /// Sets name, description and picture of a group, for all of its members.
    ///
    /// Fails with `invalid-group-name`, `invalid-group-profile`, `not-permitted`.
    pub async fn set_group_profile(&self, group: String, profile: GroupProfile) -> Answer<()> {
        let group = &group;
        Ok(self.sdk.set_group_profile(group, profile.into()).await?)
    }

    /// Gives a member a role, by its name: `admin` and `member` are there from the beginning.
    ///
    /// Fails with `not-in-group`, `unknown-role`, `not-permitted`, `policy`.
    pub async fn set_role(&self, group: String, member: String, role: String) -> Answer<()> {
        let group = &group;
        Ok(self.sdk.set_role(group, &member, &role).await?)
    }

    /// Mutes a member, or lets it speak again.
    ///
    /// Fails with `not-in-group`, `not-permitted`.
    pub async fn set_muted(&self, group: String, member: String, muted: bool) -> Answer<()> {
        let group = &group;
        Ok(self.sdk.set_muted(group, &member, muted).await?)
    }

    /// Bans a member: nothing is left to it, and it is removed. The person cannot come in again
    /// without members being told and whoever may removing it.
    ///
    /// Fails with `not-in-group`, `not-permitted`.
    pub async fn ban(&self, group: String, member: String) -> Answer<()> {
        Ok(self.sdk.ban(&group, &member).await?)
    }

    /// Lets a banned person come in again.
    ///
    /// Fails with `not-banned`, `not-permitted`.
    pub async fn unban(&self, group: String, name: String) -> Answer<()> {
        Ok(self.sdk.unban(&group, &name).await?)
    }

    /// The names of those who are banned from a group.
    ///
    /// Fails with `unknown-group`.
    pub fn banned(&self, group: String) -> Answer<Vec<String>> {
        Ok(self.sdk.banned(&group)?)
    }

    /// Makes a join code that is good for so many days, at most a year. It is a secret: whoever has
    /// it can come in until then, or until it is revoked.
    ///
    /// Fails with `not-permitted`, or refused with `limit-exceeded` when there are too many codes.
    pub async fn invite(&self, group: String, days: u32) -> Answer<String> {
        Ok(self.sdk.invite(&group, days).await?)
    }

    /// Revokes a join code of a group that this client is in.
    ///
    /// Fails with `invalid-join-code`, `not-a-member`.
    pub async fn revoke_invitation(&self, code: String) -> Answer<()> {
        Ok(self.sdk.revoke_invitation(&code).await?)
    }

    /// Comes into a group by a join code and returns the name that it has here.
    ///
    /// Fails with `invalid-join-code`, `join-code-expired`, `already-a-member`.
    pub async fn join_by_code(&self, code: String) -> Answer<String> {
        Ok(self.sdk.join_by_code(&code).await?)
    }

    /// Replaces the own leaf: new keys, under the same pseudonym.
    pub async fn update_own_leaf(&self, group: String) -> Answer<()> {
        Ok(self.sdk.update_own_leaf(&group).await?)
    }

    /// Goes on with the members of a group that cannot show who they are, and although nobody was
    /// heard since this client came in: what is sent from now on reaches them.
    ///
    /// Fails with `unknown-group`.
    pub async fn accept_unverified(&self, group: String) -> Answer<()> {
        Ok(self.sdk.accept_unverified(&group).await?)
    }

    /// Comes back into a group, or a connection with a contact, that this client does not follow
    /// any more. What was said meanwhile is lost.
    ///
    /// Fails with `new-members` if somebody is in it whom this client does not know to be there:
    /// show that to the user, who may go on by `rejoin_group_with_shown`. Fails with
    /// `unauthenticated-group` if it is another group, `group-lost` if there is no way back,
    /// `not-a-member` after a removal.
    pub async fn rejoin_group(&self, group: String) -> Answer<()> {
        Ok(self.sdk.rejoin_group(&group).await?)
    }

    /// As `rejoin_group`; the user has been shown the new members that it named, and goes on.
    pub async fn rejoin_group_with_shown(&self, group: String) -> Answer<()> {
        let group = &group;
        Ok(self.sdk.rejoin_group_with_shown(group).await?)
    }

    /// The contacts who were in a group when this client followed it last: each can add this user
    /// again, if it is a member still. Nobody while this client is in the group.
    ///
    /// Fails with `unknown-group`.
    pub fn who_can_bring_back(&self, group: String) -> Answer<Vec<String>> {
        Ok(self.sdk.who_can_bring_back(&group)?)
    }

    /// Asks one of them to add this user again, who decides.
    ///
    /// Fails with `already-a-member`, `not-in-group`.
    pub async fn ask_to_return(&self, group: String, contact: String) -> Answer<()> {
        Ok(self.sdk.ask_to_return(&group, &contact).await?)
    }

    /// Ends a group and makes another one under its name, in another ciphersuite, in which all of
    /// its members are again, in the roles that they had.
    ///
    /// Fails with `not-permitted`, `unknown-ciphersuite`, or `would-leave-behind` when somebody
    /// cannot come along: nothing has changed then.
    pub async fn upgrade_group(&self, group: String, ciphersuite: u16) -> Answer<()> {
        let group = &group;
        Ok(self.sdk.upgrade_group(group, ciphersuite).await?)
    }

    /// As `upgrade_group`, without the members who cannot be brought along: returns who they are.
    pub async fn upgrade_group_leaving_others(
        &self,
        group: String,
        ciphersuite: u16,
    ) -> Answer<Vec<String>> {
        let group = &group;
        let left = self.sdk.upgrade_group_leaving_others(group, ciphersuite);
        Ok(left.await?)
    }

    /// Asks the service what it holds of a group and compares it with what this client has: returns
    /// what both agree on.
    ///
    /// Fails with `peer` when they do not.
    pub async fn verify_group(&self, group: String) -> Answer<VerifiedGroup> {
        let (members, epoch) = self.sdk.verify_group(&group).await?;
        let members = count(members);
        Ok(VerifiedGroup { members, epoch })
    }

    /// What two members can compare over another channel. It is the same for all who have the same
    /// history of the group, and different after two different commits, whatever the service shows.
    ///
    /// Fails with `unknown-group`.
    pub fn epoch_authenticator(&self, group: String) -> Answer<EpochAuthenticator> {
        let (epoch, authenticator) = self.sdk.epoch_authenticator(&group)?;
        Ok(EpochAuthenticator {
            epoch,
            authenticator,
        })
    }

    /// Why this client has stopped following a group or connection, if it has.
    ///
    /// Fails with `unknown-group`.
    pub fn stop_reason(&self, group: String) -> Answer<Option<StopReason>> {
        Ok(self.sdk.stop_reason(&group)?.map(Into::into))
    }

    /// What came in a group, or in the connection with a contact, that could not be carried out. It
    /// is kept for good.
    ///
    /// Fails with `unknown-group`.
    pub fn evidence(&self, group: String) -> Answer<Vec<Evidence>> {
        let evidence = self.sdk.evidence(&group)?;
        Ok(evidence.into_iter().map(Into::into).collect())
    }
}
