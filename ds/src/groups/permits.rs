//! Who may come in by an external commit.

use crypto::keys::StateKey;
use crypto::leaf_authorization::{self, AuthorizedJoin};
use protocol::groups::{GroupKind, JoinPermit, LeafAuthorization};
use protocol::ids::GroupId;
use protocol::problem::ProblemType;
use protocol::time::{CLOCK_WINDOW_MS, DAY_MS, day_of};

use super::roster::{Leaf, Roster};
use crate::error::DsError;
use crate::service_state::DeliveryService;

/// A permit that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// The second user of a connection group.
    Connection,
    /// A further client of this user.
    Client {
        /// Its pseudonym.
        user: Vec<u8>,
    },
    /// In the place of a leaf.
    Rejoin {
        /// Which goes with the same commit.
        leaf: u32,
        /// Its pseudonym.
        user: Vec<u8>,
    },
    /// A new user.
    JoinCode,
}

/// Verifies a permit for the holder of `new_key`.
///
/// # Errors
/// [`ProblemType::NotAllowed`]; [`ProblemType::LimitExceeded`] for one that would be good for too long.
pub fn verify(
    service: &DeliveryService,
    roster: &Roster<'_>,
    group: (&GroupId, &StateKey),
    permit: &JoinPermit,
    new_key: &[u8],
    now_ms: u64,
) -> Result<Permission, DsError> {
    let authorized_by = |authorization: &LeafAuthorization, join| -> Result<_, DsError> {
        let leaf: &Leaf<'_> = roster
            .leaf(authorization.leaf_index)
            .ok_or(ProblemType::NotAllowed)?;
        // Whoever finds it later, in a backup say, must not come in by it.
        let longest_ms = u64::from(service.settings.limits.authorization_days)
            .saturating_mul(DAY_MS)
            .saturating_add(CLOCK_WINDOW_MS);
        if authorization.not_after_ms > now_ms.saturating_add(longest_ms) {
            return Err(ProblemType::LimitExceeded.into());
        }
        leaf_authorization::verify(
            authorization,
            &leaf.signature_key,
            group,
            join,
            new_key,
            now_ms,
        )
        .map_err(|_| ProblemType::NotAllowed)?;
        Ok((leaf.index, leaf.user_pseudonym.to_vec()))
    };
    match permit {
        JoinPermit::Connection
            if roster.kind() == GroupKind::Connection && roster.is_one_user() =>
        {
            Ok(Permission::Connection)
        }
        JoinPermit::Client(authorization) => {
            let (_, user) = authorized_by(authorization, AuthorizedJoin::Client)?;
            Ok(Permission::Client { user })
        }
        JoinPermit::Rejoin(authorization) => {
            let (leaf, user) = authorized_by(authorization, AuthorizedJoin::Rejoin)?;
            Ok(Permission::Rejoin { leaf, user })
        }
        JoinPermit::JoinCode(secret)
            if roster.kind() == GroupKind::Group
                && roster.join_code(secret.expose(), day_of(now_ms)).is_some() =>
        {
            Ok(Permission::JoinCode)
        }
        JoinPermit::Connection | JoinPermit::JoinCode(_) => Err(ProblemType::NotAllowed.into()),
    }
}
