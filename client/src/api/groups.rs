//! Groups, their members, and what is said in them.

use crate::api::{Client, borrowed, call, in_group, owned};
use crate::error::Error;
#[cfg(doc)]
use crate::error::{PeerError, UsageError};
use crate::flows::absence;
use crate::flows::inspect;
use crate::flows::view::{self, GroupSummary, Member};
use crate::group_profile::GroupProfile;
use crate::ids::GroupRef;
use crate::mls::people;
use crate::outcomes::StopReason;
use crate::store::evidence::{self, Evidence};
use crate::store::groups::Group;

impl Client {
    /// Creates a group with this user as its only member.
    ///
    /// # Errors
    /// [`UsageError::GroupExists`], [`UsageError::InvalidGroupName`], [`UsageError::NoHandle`].
    pub async fn create_group(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        call!(self, |engine| engine.create_group(&name).await)
    }

    /// As [`Client::create_group`], in another ciphersuite: 1, 2, 3, 0x4e or 0x4f (RFC 9420 §17.1
    /// and draft-ietf-mls-pq-ciphersuites).
    ///
    /// # Errors
    /// As [`Client::create_group`]; [`UsageError::UnknownCiphersuite`].
    pub async fn create_group_with(&self, name: &str, suite: u16) -> Result<(), Error> {
        let name = name.to_owned();
        call!(self, |engine| engine.create_group_with(&name, suite).await)
    }

    /// What came in a group, or in the connection with a contact, that could not be carried out. It
    /// is kept for good.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn evidence(&self, group: impl Into<GroupRef>) -> Result<Vec<Evidence>, Error> {
        self.read_group(group, evidence::evidence)
    }

    /// Why this client has stopped following a group or connection; `None` if it has not.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn stop_reason(&self, group: impl Into<GroupRef>) -> Result<Option<StopReason>, Error> {
        self.read_group(group, evidence::stop_reason)
    }

    /// Asks the service what it holds of a group and compares it with what this client has: returns
    /// the number of clients in the group and its epoch, which both agree on.
    ///
    /// # Errors
    /// [`PeerError::Disagreement`].
    pub async fn verify_group(&self, group: impl Into<GroupRef>) -> Result<(usize, u64), Error> {
        in_group!(self, group, |engine, group| engine
            .verify_group(&group)
            .await)
    }

    /// What two members can compare over another channel: the authenticator of the present epoch
    /// (RFC 9420 §8.7) in hex, with the epoch. It is the same for all who have the same history of
    /// the group, and different after two different commits, whatever the service shows.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn epoch_authenticator(&self, group: impl Into<GroupRef>) -> Result<(u64, String), Error> {
        self.read_group(group, inspect::epoch_authenticator)
    }

    /// Makes a join code that is good for so many days (at most a year). It is a secret: whoever
    /// has it can come in until then, or until it is revoked.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`]; the problem `limit-exceeded` when there are too many codes.
    pub async fn invite(&self, group: impl Into<GroupRef>, days: u32) -> Result<String, Error> {
        in_group!(self, group, |engine, group| engine
            .invite(&group, days)
            .await)
    }

    /// Revokes a join code of a group that this client is in.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::NotAMember`].
    pub async fn revoke_invitation(&self, code: &str) -> Result<(), Error> {
        let code = code.to_owned();
        call!(self, |engine| engine.revoke_invitation(&code).await)
    }

    /// Comes into a group by a join code and returns the name that it has here.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::JoinCodeExpired`],
    /// [`UsageError::AlreadyAMember`].
    pub async fn join_by_code(&self, code: &str) -> Result<String, Error> {
        let code = code.to_owned();
        call!(self, |engine| engine.join_by_code(&code).await)
    }

    /// Leaves a group with all clients of this user. It is done when another member has committed
    /// it, which happens as soon as one of them catches up; until then nobody can send. Whoever is
    /// alone deletes the group.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], [`UsageError::NotAMember`].
    pub async fn leave_group(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .leave_group(&group)
            .await)
    }

    /// Deletes a group: everybody else is removed, and nothing of it stays at the service.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`].
    pub async fn delete_group(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .delete_group(&group)
            .await)
    }

    /// Forgets a group that this client is not in any more, everything that was said there, and
    /// proofs against the service ([`Client::evidence`]). Where this client only does not follow
    /// the group any more, its leaf stays: others go on seeing it, and it cannot come back by
    /// itself.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`], [`UsageError::StillAMember`].
    pub async fn forget_group(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .forget_group(&group)
            .await)
    }

    /// Adds contacts to a group, all in one commit.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit; the problem `no-key-packages` when a contact has
    /// none left.
    pub async fn add_to_group(
        &self,
        group: impl Into<GroupRef>,
        names: &[&str],
    ) -> Result<(), Error> {
        let names = owned(names);
        in_group!(self, group, |engine, group| engine
            .add_to_group(&group, &borrowed(&names))
            .await)
    }

    /// Removes users from a group, with all their clients; the state key changes with it.
    ///
    /// # Errors
    /// [`UsageError`] for names that do not fit.
    pub async fn remove_from_group(
        &self,
        group: impl Into<GroupRef>,
        names: &[&str],
    ) -> Result<(), Error> {
        let names = owned(names);
        in_group!(self, group, |engine, group| engine
            .remove_from_group(&group, &borrowed(&names))
            .await)
    }

    /// Has a contact whose clients are dead come in anew: the old ones are removed, and the present
    /// ones, which have published KeyPackages, are added, with the role and standing that the
    /// contact had. Whoever still had an old one reads that it was removed.
    ///
    /// # Errors
    /// As [`Client::add_to_group`] and [`Client::remove_from_group`]; before anything was changed,
    /// unless the group changed meanwhile.
    pub async fn replace_in_group(
        &self,
        group: impl Into<GroupRef>,
        name: &str,
    ) -> Result<(), Error> {
        let name = name.to_owned();
        in_group!(self, group, |engine, group| engine
            .replace_in_group(&group, &name)
            .await)
    }

    /// Replaces the own leaf: new keys, under the same user pseudonym.
    ///
    /// # Errors
    /// As [`Client::remove_from_group`].
    pub async fn update_own_leaf(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .update_own_leaf(&group)
            .await)
    }

    /// Goes on with the members of a group that cannot show who they are, and although nobody was
    /// heard since this client came in: what is sent from now on reaches them.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub async fn accept_unverified(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .accept_unverified(&group)
            .await)
    }

    /// Groups by name, without connection groups.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn groups(&self) -> Result<Vec<GroupSummary>, Error> {
        self.read(|db, _, _| view::groups(db))
    }

    /// One group.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn group(&self, group: impl Into<GroupRef>) -> Result<GroupSummary, Error> {
        let group = group.into();
        self.at_desk(|desk| view::summary(desk, Group::meant(desk, &group)?))
    }

    /// Whether there is a group of this name and no contact.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn has_group(&self, name: &str) -> Result<bool, Error> {
        self.read(|db, _, _| view::has_group(db, name))
    }

    /// The members of a group, as far as this client has followed.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn members(&self, group: impl Into<GroupRef>) -> Result<Vec<Member>, Error> {
        self.read_group(group, view::members)
    }

    /// The names of those who are banned from a group.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn banned(&self, group: impl Into<GroupRef>) -> Result<Vec<String>, Error> {
        self.read_group(group, people::banned)
    }

    /// Lets a banned person come in again.
    ///
    /// # Errors
    /// [`UsageError::NotBanned`], [`UsageError::NotPermitted`].
    pub async fn unban(&self, group: impl Into<GroupRef>, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        in_group!(self, group, |engine, group| engine
            .unban(&group, &name)
            .await)
    }

    /// Comes back into a group, or a connection with a contact, that this client does not follow
    /// any more. What was said meanwhile is lost. Nothing is sent into a group that is not, as far
    /// as its members' identity links and this client's own knowledge say, the one that was known.
    ///
    /// # Errors
    /// [`UsageError::NewMembers`] if somebody is in it whom this client does not know to be there:
    /// shown to the user, who may go on by [`Client::rejoin_group_with_shown`].
    /// [`PeerError::Unauthenticated`] if it is another group. [`UsageError::GroupLost`] if the
    /// service knows this client's leaf no more or the way back is lost, [`UsageError::NotAMember`]
    /// after a removal.
    pub async fn rejoin_group(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .rejoin_group(&group)
            .await)
    }

    /// As [`Client::rejoin_group`]; the user has been shown the new members that it named, and goes
    /// on.
    ///
    /// # Errors
    /// As [`Client::rejoin_group`], for members that it did not name.
    pub async fn rejoin_group_with_shown(&self, group: impl Into<GroupRef>) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .rejoin_group_with_shown(&group)
            .await)
    }

    /// The contacts who were in a group when this client followed it last, and with whom there
    /// still is a connection: each can add this user again, if it is a member still. Nobody while
    /// this client is in the group.
    ///
    /// # Errors
    /// [`UsageError::UnknownGroup`].
    pub fn who_can_bring_back(&self, group: impl Into<GroupRef>) -> Result<Vec<String>, Error> {
        self.read_group(group, absence::who_can_bring_back)
    }

    /// Asks one of them to add this user again. It is told
    /// [`Event::ReturnWanted`](crate::Event::ReturnWanted), and decides.
    ///
    /// # Errors
    /// [`UsageError::AlreadyAMember`] in a group that this client follows;
    /// [`UsageError::NotInGroup`] for somebody who is none of [`Client::who_can_bring_back`].
    pub async fn ask_to_return(
        &self,
        group: impl Into<GroupRef>,
        contact: &str,
    ) -> Result<(), Error> {
        let contact = contact.to_owned();
        in_group!(self, group, |engine, group| engine
            .ask_to_return(&group, &contact)
            .await)
    }

    /// As [`Client::rejoin_group`], for the group of this user's devices.
    ///
    /// # Errors
    /// As [`Client::rejoin_group`]; [`UsageError::UnknownGroup`] without one.
    pub async fn rejoin_devices(&self) -> Result<(), Error> {
        call!(self, |engine| engine.rejoin_devices().await)
    }

    /// Gives a member a role, by its name: `admin` and `member` are there from the beginning.
    ///
    /// # Errors
    /// [`UsageError::NotInGroup`], [`UsageError::UnknownRole`], [`UsageError::NotPermitted`],
    /// [`UsageError::Policy`].
    pub async fn set_role(
        &self,
        group: impl Into<GroupRef>,
        member: &str,
        role: &str,
    ) -> Result<(), Error> {
        let member = member.to_owned();
        let role = role.to_owned();
        in_group!(self, group, |engine, group| engine
            .set_role(&group, &member, &role)
            .await)
    }

    /// Sets name, description and picture of a group, for all of its members: they follow the name,
    /// with a number behind it where another group has it. [`Client::group`] says what they are.
    ///
    /// # Errors
    /// [`UsageError::InvalidGroupName`], [`UsageError::InvalidGroupProfile`],
    /// [`UsageError::NotPermitted`].
    pub async fn set_group_profile(
        &self,
        group: impl Into<GroupRef>,
        profile: GroupProfile,
    ) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .set_group_profile(&group, profile)
            .await)
    }

    /// Mutes a member, or lets it speak again.
    ///
    /// # Errors
    /// As [`Client::set_role`].
    pub async fn set_muted(
        &self,
        group: impl Into<GroupRef>,
        member: &str,
        muted: bool,
    ) -> Result<(), Error> {
        let member = member.to_owned();
        in_group!(self, group, |engine, group| engine
            .set_muted(&group, &member, muted)
            .await)
    }

    /// Bans a member: nothing is left to it, and it is removed. The person cannot come in again,
    /// under whatever pseudonym, without members being told and whoever may removing it.
    ///
    /// # Errors
    /// As [`Client::set_role`] and [`Client::remove_from_group`].
    pub async fn ban(&self, group: impl Into<GroupRef>, member: &str) -> Result<(), Error> {
        let member = member.to_owned();
        in_group!(self, group, |engine, group| engine
            .ban(&group, &member)
            .await)
    }

    /// Ends a group and makes another one under its name, in another ciphersuite, in which all of
    /// its members are again, in the roles that they had.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`], [`UsageError::UnknownCiphersuite`];
    /// [`UsageError::WouldLeaveBehind`] when somebody is no contact, or has no KeyPackage for the
    /// ciphersuite: nothing has changed then.
    pub async fn upgrade_group(&self, group: impl Into<GroupRef>, suite: u16) -> Result<(), Error> {
        in_group!(self, group, |engine, group| engine
            .upgrade_group(&group, suite)
            .await)
    }

    /// As [`Client::upgrade_group`], without the members who cannot be brought along: returns who
    /// they are.
    ///
    /// # Errors
    /// As [`Client::upgrade_group`].
    pub async fn upgrade_group_leaving_others(
        &self,
        group: impl Into<GroupRef>,
        suite: u16,
    ) -> Result<Vec<String>, Error> {
        in_group!(self, group, |engine, group| engine
            .upgrade_group_leaving_others(&group, suite)
            .await)
    }
}
