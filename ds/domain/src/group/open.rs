//! Opening a group's state for one request. A group that is not there, one that is gone and a key
//! that does not fit are one problem, after the same work.

use crypto::schedule::StateKey;
use protocol::codec::WireSecret;
use protocol::group::{CommitRequest, ExternalJoinRequest, GroupKey};
use protocol::ids::{Epoch, GroupId};
use protocol::problem::ProblemType;

use super::MESSAGE_LAG;
use super::parts;
use super::short::Short;
use crate::env::{Env, Version};
use crate::operation::{Charge, Cost, Level};
use crate::refusal::{Refusal, Stop};
use crate::request::NamesGroup;
use crate::rows::GroupRow;
use crate::store::Versioned;
use crate::view::View;

/// For bodies with a field `group`, beside the operations that they belong to.
macro_rules! names_group {
    ($($request:ty)+) => {
        $(impl $crate::request::NamesGroup for $request {
            fn group(&self) -> &protocol::group::GroupKey {
                &self.group
            }
        })+
    };
}

pub(super) use names_group;

macro_rules! brings_commit {
    ($($request:ty)+) => {
        $(impl NamesGroup for $request {
            fn group(&self) -> &GroupKey {
                &self.group
            }

            fn next_key(&self) -> Option<&WireSecret> {
                self.rotation.as_ref().map(|next| &next.state_key)
            }

            fn commit(&self) -> Option<&[u8]> {
                Some(self.commit.as_slice())
            }
        })+
    };
}

brings_commit! { CommitRequest ExternalJoinRequest }

/// A group whose short part is open.
#[derive(Debug)]
pub struct OpenedGroup {
    /// The id of the group.
    pub id: GroupId,
    /// The name of the group's row.
    pub row: GroupRow,
    /// Its version as it was read.
    pub version: Version,
    /// The short part, decrypted.
    pub short: Short,
    /// `S_t` of its epoch.
    pub state_key: StateKey,
    /// The epoch whose state key the request brought; none if it was the key that its commit tells.
    pub asked: Option<Epoch>,
}

impl OpenedGroup {
    /// Opens a group with the key that a request brings, or with one of the next steps: a message
    /// may lag behind, and who has won comes again with the key before. `next` is the key that the
    /// request's commit tells.
    ///
    /// # Errors
    /// [`Stop::Need`]; [`ProblemType::UnknownGroup`].
    pub fn open(
        view: &View,
        key: &GroupKey,
        next: Option<&WireSecret>,
        env: &Env<'_>,
    ) -> Result<Self, Stop> {
        let id = key.group_id;
        let row = env.rows().group(&id);
        let stored = view.row(&row.key())?.and_then(Versioned::read);
        for (is_next, secret) in [(false, Some(&key.state_key)), (true, next)] {
            let Some(secret) = secret else { continue };
            let mut state_key = StateKey::from(secret);
            for ahead in 0..=MESSAGE_LAG {
                let Some((version, sealed)) = stored else {
                    parts::open_no_short(&id, &state_key);
                    state_key = state_key.next();
                    continue;
                };
                if let Some(plain) = parts::open_short(&id, &state_key, &version, sealed) {
                    let short = Short::decode(&plain)?;
                    let asked = Epoch(short.epoch.0.saturating_sub(ahead));
                    return Ok(Self {
                        id,
                        row,
                        version,
                        short,
                        state_key,
                        asked: (!is_next).then_some(asked),
                    });
                }
                state_key = state_key.next();
            }
        }
        Err(ProblemType::UnknownGroup.into())
    }

    /// That the request is of the group's current epoch.
    ///
    /// # Errors
    /// [`Refusal::WrongEpoch`].
    pub fn require_current(&self) -> Result<(), Refusal> {
        if self.asked == Some(self.short.epoch) {
            Ok(())
        } else {
            Err(Refusal::WrongEpoch {
                current: self.short.epoch,
            })
        }
    }

    /// The refusal of what names another epoch than it must.
    #[must_use]
    pub fn other_epoch(&self, named: Epoch) -> Refusal {
        let current = self.short.epoch;
        if named > current {
            Refusal::Behind { current }
        } else {
            Refusal::WrongEpoch { current }
        }
    }
}

/// Whose a request is, for the allowances that it draws on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Drawer<'u> {
    /// A leaf's, of this user.
    Leaf(u32, &'u [u8]),
    /// Of somebody who comes in from outside: all who do share one.
    Joiner,
    /// Of somebody who asks for its leaf: all who do share one.
    Asker,
}

/// Draws on the allowances of leaf, user and group. A user has a part of the group's, however many
/// leaves it has: nobody's flood is everybody's.
#[must_use]
pub(super) fn charges(group: &GroupId, drawer: Drawer<'_>, bytes: usize, env: &Env<'_>) -> Cost {
    let rows = env.rows();
    // RFC 9420's trees end at 2^31 leaves.
    let (leaf, user) = match drawer {
        Drawer::Leaf(leaf, user) => (leaf, Some(user)),
        Drawer::Joiner => (u32::MAX, None),
        Drawer::Asker => (u32::MAX - 1, None),
    };
    let leaf = rows.leaf_bucket(group, protocol::ids::LeafIndex(leaf));
    let user = user.map(|user| (Level::User, rows.user_bucket(group, user)));
    let buckets = [
        Some((Level::Leaf, leaf)),
        user,
        Some((Level::Group, rows.group_bucket(group))),
    ];
    let charge = |(level, bucket)| Charge {
        level,
        bucket,
        bytes,
    };
    Cost {
        tokens: 0,
        charges: buckets.into_iter().flatten().map(charge).collect(),
    }
}
