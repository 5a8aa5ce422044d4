//! Creating groups: ordinary ones, and the ones that connections are made in.

use crypto::credential::random_pseudonym;
use openmls::prelude::Ciphersuite;
use protocol::group::{GroupKind, ReserveGroupIdRequest, ReserveGroupIdResponse};
use protocol::ids::{Day, GroupId};
use protocol::operation::Operation;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::group_profile;
use crate::leaf::{self, CIPHERSUITE};
use crate::mls::create::{Draft, build};
use crate::mls::new_leaf::NewLeaf;
use crate::outcomes::CommitOutcome;
use crate::store::groups;
use crate::store::segments::day_said;
use crate::store::{Group, Pending, Segment, Status, successors};

impl Engine {
    /// Creates a group with this user as its only member.
    ///
    /// # Errors
    /// [`UsageError::GroupExists`], [`UsageError::InvalidGroupName`], [`UsageError::NoHandle`].
    pub(crate) async fn create_group(&mut self, name: &str) -> Result<(), Error> {
        self.create_group_with(name, leaf::CIPHERSUITE as u16).await
    }

    /// As [`Client::create_group`], in another ciphersuite: 1, 2, 3, 0x4e or 0x4f (RFC 9420 §17.1
    /// and draft-ietf-mls-pq-ciphersuites).
    ///
    /// # Errors
    /// As [`Client::create_group`]; [`UsageError::UnknownCiphersuite`].
    pub(crate) async fn create_group_with(&mut self, name: &str, suite: u16) -> Result<(), Error> {
        let _held = self.hold().await?;
        let suite = leaf::ciphersuite(suite).ok_or(UsageError::UnknownCiphersuite(suite))?;
        let name = group_profile::chosen_name(name)?;
        self.profile.credential()?;
        self.sync().await?;
        successors::give_up_name(&self.db, &name)?;
        if groups::is_taken(&self.db, &name)? {
            return Err(UsageError::GroupExists(name).into());
        }
        let leaf = self.new_leaf(suite).await?;
        let id = self.reserve(&leaf).await?;
        self.create_reserved(id, GroupKind::Group, Some(name), suite, leaf)
            .await
    }

    /// Reserves an id, makes the group in the usual ciphersuite, and has it accepted.
    pub(crate) async fn new_group(
        &mut self,
        kind: GroupKind,
        name: Option<String>,
    ) -> Result<GroupId, Error> {
        let leaf = self.new_leaf(CIPHERSUITE).await?;
        let id = self.reserve(&leaf).await?;
        self.create_reserved(id, kind, name, CIPHERSUITE, leaf)
            .await?;
        Ok(id)
    }

    pub(crate) async fn new_leaf(&mut self, suite: Ciphersuite) -> Result<NewLeaf, Error> {
        let directory = self.directory().await?;
        let pseudonym = random_pseudonym(&directory.domain)?;
        NewLeaf::of_user(&self.profile, &directory, suite, pseudonym)
    }

    /// Reserves a group id for the one who will create the group with this leaf. It is drawn here:
    /// under one of the service's choice this group would take the place of another one, for this
    /// client or for others.
    pub(crate) async fn reserve(&mut self, leaf: &NewLeaf) -> Result<GroupId, Error> {
        let group_id = GroupId(crypto::random()?);
        let reserved: ReserveGroupIdResponse = self
            .call(
                Operation::ReserveGroupId,
                leaf.signer.key()?,
                &ReserveGroupIdRequest { group_id },
            )
            .await?;
        if reserved.group_id != group_id {
            return Err(Error::Protocol(
                "another id was reserved than the one asked for",
            ));
        }
        Ok(group_id)
    }

    /// Makes a group under a reserved id, and has it accepted.
    pub(crate) async fn create_reserved(
        &mut self,
        id: GroupId,
        kind: GroupKind,
        name: Option<String>,
        suite: Ciphersuite,
        leaf: NewLeaf,
    ) -> Result<(), Error> {
        let directory = self.directory().await?;
        let draft = Draft {
            id,
            kind,
            name,
            suite,
            now_ms: self.transport.time.now_unix_ms(),
        };
        self.transact(|db, profile| build(db, profile, &directory, leaf, draft))?;
        self.submit_kept(&id).await.map(drop)
    }

    /// The service has the group, perhaps since this time: the journal's tag keys count from its
    /// day.
    pub(super) fn created(
        &mut self,
        id: &GroupId,
        accepted_ms: Option<u64>,
    ) -> Result<CommitOutcome, Error> {
        let now_ms = self.transport.time.now_unix_ms();
        self.transact(|db, _| {
            Pending::delete(db, id)?;
            // There was nobody before, and nobody was removed.
            Group::set_codes_since(db, id, 0)?;
            if let Some(accepted_ms) = accepted_ms {
                let segment = Group::read(db, id)?.segment;
                let day = day_said(Day::of(accepted_ms), now_ms);
                let segment = Segment {
                    tag_key: segment.journal_key.tag_key(),
                    tag_day: day,
                    day,
                    ..segment
                };
                segment.write(db, id)?;
            }
            Group::set_status(db, id, Status::Active)?;
            Ok(CommitOutcome::Accepted)
        })
    }
}
