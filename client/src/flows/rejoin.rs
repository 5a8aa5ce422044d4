//! Coming back after a loss of state: by the signature key of the own leaf, which vouches for the
//! new one.

use crypto::leaf_authorization::{AuthorizedJoin, authorize};
use protocol::group::OwnLeafResponse;
use protocol::ids::{GroupId, LeafIndex, Minute};
use protocol::join::JoinPermit;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, PeerError, UsageError};
use crate::flows::member_request::Seen;
use crate::ids::GroupRef;
use crate::mls::authenticate::Sight;
use crate::mls::external::Entrance;
use crate::mls::new_leaf::NewLeaf;
use crate::outcomes::StopReason;
use crate::store::shown::{self, forget_shown};
use crate::store::{Group, Segment, Status, evidence, known, leaf_keys, refused_returns};

const AUTHORIZATION_MS: u64 = 10 * 60 * 1000;
/// After so many attempts of its own the client waits to be told, or to be added again.
const ATTEMPTS: u32 = 3;
/// The state key may change between the look-up and the commit.
const ROUNDS: u32 = 3;

impl Engine {
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
    pub(crate) async fn rejoin_group(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = evidence::group_or_connection(&self.db, &self.profile, group)?.id;
        self.transact(|db, _| forget_shown(db, &id))?;
        self.sync().await?;
        self.rejoin_by_word(&Group::read(&self.db, &id)?).await
    }

    /// As [`Client::rejoin_group`]; the user has been shown the new members that it named, and goes
    /// on.
    ///
    /// # Errors
    /// As [`Client::rejoin_group`], for members that it did not name.
    pub(crate) async fn rejoin_group_with_shown(&mut self, group: &GroupRef) -> Result<(), Error> {
        let _held = self.hold().await?;
        let id = evidence::group_or_connection(&self.db, &self.profile, group)?.id;
        self.sync().await?;
        self.rejoin_by_word(&Group::read(&self.db, &id)?).await
    }

    /// As [`Client::rejoin_group`], for the group of this user's devices.
    ///
    /// # Errors
    /// As [`Client::rejoin_group`]; [`UsageError::UnknownGroup`] without one.
    pub(crate) async fn rejoin_devices(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let group = match &self.profile.device_group {
            Some(id) => Group::find(&self.db, id)?,
            None => None,
        };
        let group = group.ok_or_else(|| UsageError::UnknownGroup("devices".to_owned()))?;
        self.rejoin_by_word(&group).await
    }

    async fn rejoin_by_word(&mut self, group: &Group) -> Result<(), Error> {
        match group.status {
            Status::Active => Ok(()),
            Status::Lost | Status::Refused => {
                self.rejoin(&group.id).await?;
                // Not after an attempt of its own: who can cause a loss must not cause any number
                // of them.
                Group::set_rejoin_attempts(&self.db, &group.id, 0)
            }
            Status::Joining | Status::Removed | Status::Closed => group.check_usable(),
        }
    }

    /// Groups whose MLS state is gone or unreadable are known as lost from here on.
    pub(crate) fn find_lost_state(&mut self) -> Result<(), Error> {
        for group in Group::all(&self.db)? {
            if group.status != Status::Active {
                continue;
            }
            match self.mls(&group.id) {
                Ok(mls_group) if Group::leaf_key(&self.db, &group.id)?.is_none() => {
                    if let Some(own_leaf) = mls_group.own_leaf_node() {
                        let key = own_leaf.signature_key().as_slice();
                        Group::set_leaf_key(&self.db, &group.id, key)?;
                    }
                }
                Ok(_) => {}
                Err(_) => self.lose(&group.id, StopReason::State)?,
            }
        }
        Ok(())
    }

    /// As [`Client::rejoin_group`], by itself: only after a loss of this client's own, only among
    /// the members that it knows, a few times, and never an error for what cannot be.
    pub(crate) async fn try_rejoin(&mut self, id: &GroupId) -> Result<(), Error> {
        let reason = evidence::stopped(&self.db, id)?;
        if !reason.is_some_and(StopReason::is_own_loss) {
            return Ok(());
        }
        let attempts = Group::rejoin_attempts(&self.db, id)?;
        if attempts >= ATTEMPTS || Group::leaf_key(&self.db, id)?.is_none() {
            return Ok(());
        }
        Group::set_rejoin_attempts(&self.db, id, attempts.saturating_add(1))?;
        match self.rejoin(id).await {
            // Nothing was tried.
            Err(error @ (Error::Unreachable(_) | Error::Issuer(_))) => {
                Group::set_rejoin_attempts(&self.db, id, attempts)?;
                Err(error)
            }
            // Nor was it without a way back: others have rotated, and have not sealed one yet.
            Err(error @ Error::Usage(UsageError::GroupLost(_))) => {
                Group::set_rejoin_attempts(&self.db, id, attempts)?;
                Err(error)
            }
            Err(Error::Usage(UsageError::NewMembers { .. })) => self.transact(|db, profile| {
                // The user has seen nothing of them.
                forget_shown(db, id)?;
                evidence::set_stopped(db, id, Some(StopReason::Newcomers))?;
                evidence::tell(db, profile, &Group::read(db, id)?, StopReason::Newcomers)
            }),
            Err(Error::Peer(_) | Error::Protocol(_)) => Ok(()),
            other => other,
        }
    }

    async fn rejoin(&mut self, id: &GroupId) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let restored = self.find_restored_leaf(id).await?;
            let group = Group::read(&self.db, id)?;
            let lost =
                UsageError::GroupLost(evidence::shown_name(&self.db, &self.profile, &group)?);
            let mut known = known::of(&self.db, id)?.ok_or_else(|| lost.clone())?;
            let (segment, signer) = match restored {
                // Who came back before may have another place; the key is this client's.
                Some((segment, place, key)) => {
                    known.own_leaf = place.0;
                    (segment, key)
                }
                None => {
                    let key = Group::leaf_key(&self.db, id)?.ok_or_else(|| lost.clone())?;
                    let Some((segment, own)) = self.own_leaf(id, &key).await? else {
                        return Err(lost.into());
                    };
                    let LeafIndex(place) = own.leaf.leaf_index;
                    let returns = refused_returns::of(&self.db, id)?;
                    if place != known.own_leaf && returns.iter().all(|it| it.leaf != place) {
                        let why = "the own leaf is not where it was";
                        return Err(PeerError::Unauthenticated(why).into());
                    }
                    known.own_leaf = place;
                    (segment, leaf_keys::signer(&self.db, &key)?.0)
                }
            };
            let key = signer.public().to_vec();
            // In whole minutes: a client's own milliseconds would tell its clock from others.
            let end_ms = self.transport.time.now_unix_ms() + AUTHORIZATION_MS;
            let not_after_ms = Minute::of(end_ms).next().start_ms();
            let authorization = authorize(
                &signer,
                id,
                &segment.id,
                AuthorizedJoin::Rejoin,
                known.own_leaf,
                not_after_ms,
                &key,
            );
            let directory = self.directory().await?;
            // By what the service calls it, this user could be linked with another group.
            let pseudonym = known
                .own_pseudonym(&self.profile.identity.public())
                .ok_or_else(|| lost.clone())?;
            let sight = Sight::Back {
                known,
                leaf_key: key.clone(),
                shown: shown::shown(&self.db, id)?,
            };
            let entrance = Entrance {
                id: *id,
                kind: group.kind,
                name: group.name,
                segment,
                leaf: NewLeaf::with_key(&self.profile, &directory, signer, pseudonym)?,
                permit: JoinPermit::Rejoin,
                authorization: Some(authorization),
                sight,
                answer: None,
            };
            match self.enter(&entrance).await {
                // It has rotated meanwhile.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {}
                other => return other,
            }
        }
        Err(UsageError::Contention.into())
    }

    /// Where the service sees the leaf with this key, and the segment that the group is in: the one
    /// that is known, or the one in the recovery row.
    async fn own_leaf(
        &mut self,
        id: &GroupId,
        key: &[u8],
    ) -> Result<Option<(Segment, OwnLeafResponse)>, Error> {
        let group = Group::read(&self.db, id)?;
        let name = group.display_name();
        let mut candidates = vec![group.segment];
        let mut looked_up = false;
        while let Some(candidate) = candidates.pop() {
            let segment = self.at_its_end(candidate).await?;
            if let Some(segment) = segment {
                let signer = leaf_keys::signer(&self.db, key)?;
                match self.look_for_leaf(id, &segment, signer.0).await? {
                    Seen::Leaf(own) => return Ok(Some((segment, own))),
                    // The service's word alone: what it says ends no group for good.
                    Seen::NoLeaf => return Err(UsageError::NotAMember(name).into()),
                    Seen::NoGroup => {}
                }
            }
            if !looked_up {
                looked_up = true;
                candidates = self.way_back(id).await?;
            }
        }
        Ok(None)
    }

    /// What the recovery row says.
    async fn way_back(&mut self, id: &GroupId) -> Result<Vec<Segment>, Error> {
        let suite = known::ciphersuite(&self.db, id)?;
        let mut seeds = vec![Group::read(&self.db, id)?.recovery];
        let mut found = Vec::new();
        // A return that the service has refused, as it says, may be in the journal.
        for refused in refused_returns::of(&self.db, id)? {
            found.push(refused.segment);
            seeds.push(refused.recovery);
        }
        for seed in &seeds {
            found.extend(self.recovered_segment(id, suite, seed).await?);
        }
        Ok(found)
    }
}
