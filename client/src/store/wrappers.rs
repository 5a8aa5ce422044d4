//! Wrapper keys: one for each segment, each sealed under the next, so that who comes in can go back
//! as far as a link key needs it, and who was removed cannot go on.

use std::collections::HashMap;

use crypto::keys::IdentityLinkWrapperKey;
use crypto::sealing::{self, Place};
use protocol::codec::opaque;
use protocol::ids::{GroupId, LeafIndex, RotationEpoch};
use protocol::join::{LeafLinkKey, SealedFormerWrapperKey, WrapperChainLink};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::{Error, LocalError, PeerError};
use crate::store::database::{change, key32};

fn row(group: &GroupId, of: RotationEpoch) -> Vec<u8> {
    [&group.0[..], &of.0.to_be_bytes()].concat()
}

fn place(row: &[u8]) -> Place<'_> {
    Place {
        table: "wrapper_keys",
        row,
        part: "former",
    }
}

/// Seals the wrapper key of the segment that ends under the one of the segment that begins.
pub(crate) fn seal_former(
    group: &GroupId,
    of: RotationEpoch,
    former: &IdentityLinkWrapperKey,
    under: &IdentityLinkWrapperKey,
) -> Result<SealedFormerWrapperKey, Error> {
    let row = row(group, of);
    let sealed = sealing::seal(under.expose(), place(&row), former.expose())?;
    Ok(SealedFormerWrapperKey {
        of,
        sealed: opaque(sealed),
    })
}

/// Opens what [`seal_former`] sealed.
///
/// # Errors
/// [`PeerError::Wrapper`].
pub(crate) fn open_former(
    group: &GroupId,
    former: &SealedFormerWrapperKey,
    under: &IdentityLinkWrapperKey,
) -> Result<IdentityLinkWrapperKey, Error> {
    let row = row(group, former.of);
    let opened = sealing::open(under.expose(), place(&row), former.sealed.as_slice())
        .map_err(|_| PeerError::Wrapper)?;
    let key = key32(&opened).map_err(|_| PeerError::Wrapper)?;
    Ok(IdentityLinkWrapperKey::new(key))
}

/// Keeps a wrapper key, in the caller's transaction.
pub(crate) fn keep(
    db: &Connection,
    group: &GroupId,
    of: RotationEpoch,
    key: &IdentityLinkWrapperKey,
) -> Result<(), Error> {
    change(
        db,
        "INSERT OR REPLACE INTO wrappers (group_id, rotation_epoch, wrapper_key) VALUES (?, ?, ?)",
        (
            group.0,
            i64::try_from(of.0).map_err(|_| LocalError::Damaged)?,
            key.expose(),
        ),
    )
}

/// All that are kept, the latest first.
pub(crate) fn kept(db: &Connection, group: &GroupId) -> Result<Vec<IdentityLinkWrapperKey>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT wrapper_key FROM wrappers WHERE group_id = ? ORDER BY rotation_epoch DESC",
    )?;
    let rows = statement.query_map([group.0], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| Ok(IdentityLinkWrapperKey::new(key32(&Zeroizing::new(row?))?)))
        .collect()
}

/// The wrapper keys that somebody who comes in finds: the one in force and those that the chain
/// leads back to.
pub(crate) struct Wrappers {
    keys: HashMap<RotationEpoch, IdentityLinkWrapperKey>,
}

impl Wrappers {
    /// Walks back as far as the chain opens: what the service makes up opens nothing, and leaves
    /// then show nobody behind them.
    pub(crate) fn walk(
        group: &GroupId,
        (rotation, in_force): (RotationEpoch, &IdentityLinkWrapperKey),
        chain: &[WrapperChainLink],
    ) -> Self {
        let mut keys = HashMap::new();
        keys.insert(rotation, IdentityLinkWrapperKey::new(*in_force.expose()));
        let mut links: Vec<&WrapperChainLink> = chain.iter().collect();
        links.sort_unstable_by_key(|link| std::cmp::Reverse(link.under));
        for link in links {
            let opened = keys
                .get(&link.under)
                .and_then(|under| open_former(group, &link.former, under).ok());
            if let Some(former) = opened.filter(|_| link.former.of < link.under) {
                keys.insert(link.former.of, former);
            }
        }
        Self { keys }
    }

    /// Keeps them all, in the caller's transaction.
    pub(crate) fn keep(&self, db: &Connection, group: &GroupId) -> Result<(), Error> {
        for (of, key) in &self.keys {
            keep(db, group, *of, key)?;
        }
        Ok(())
    }

    /// The wrapped link key of a leaf, and the key that opens it.
    pub(crate) fn link<'k>(
        &'k self,
        leaves: &'k [LeafLinkKey],
        leaf: u32,
    ) -> Option<(RotationEpoch, &'k IdentityLinkWrapperKey, &'k [u8])> {
        let wrapped = &leaves
            .iter()
            .find(|known| known.leaf_index == LeafIndex(leaf))?
            .link_key;
        let key = self.keys.get(&wrapped.wrapper)?;
        Some((wrapped.wrapper, key, wrapped.sealed.as_slice()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::join::WrappedLinkKey;

    use super::*;

    #[test]
    fn a_chain_leads_back_and_not_on_and_nothing_made_up_is_in_it() {
        let group = GroupId([1; 16]);
        let key = |byte: u8| IdentityLinkWrapperKey::new([byte; 32]);
        let link = |under: u8, of: u8| WrapperChainLink {
            under: RotationEpoch(under.into()),
            former: seal_former(&group, RotationEpoch(of.into()), &key(of), &key(under)).unwrap(),
        };
        let chain = [link(9, 5), link(5, 2)];
        let leaves: Vec<LeafLinkKey> = [(0, 9), (1, 5), (2, 2), (3, 1)]
            .into_iter()
            .map(|(leaf, wrapper)| LeafLinkKey {
                leaf_index: LeafIndex(leaf),
                link_key: WrappedLinkKey {
                    wrapper: RotationEpoch(wrapper),
                    sealed: opaque(vec![7]),
                },
            })
            .collect();
        let found = |in_force: u8, chain: &[WrapperChainLink]| {
            let from = (RotationEpoch(in_force.into()), &key(in_force));
            let wrappers = Wrappers::walk(&group, from, chain);
            let opens = (0..4).filter(|leaf| wrappers.link(&leaves, *leaf).is_some());
            opens.collect::<Vec<u32>>()
        };
        assert_eq!(found(9, &chain), [0, 1, 2]);
        assert_eq!(found(5, &chain), [1, 2]);
        assert_eq!(found(2, &chain), [2]);
        // One that says to be the former of another segment.
        let moved = WrapperChainLink {
            former: SealedFormerWrapperKey {
                of: RotationEpoch(1),
                ..link(9, 5).former
            },
            ..link(9, 5)
        };
        assert_eq!(found(9, &[moved]), [0]);
    }
}
