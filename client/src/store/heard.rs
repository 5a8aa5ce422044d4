//! Whether somebody was heard in a group that this client came into from outside.

use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::{change, value};
use crate::store::identities::Identity;

/// Nothing is sent before somebody other than the signer (an identity key) was heard, in the
/// caller's transaction; where this client knows of nobody else, before anybody was.
pub(crate) fn wait_for_somebody(
    db: &Connection,
    id: &GroupId,
    signer: Option<&[u8]>,
) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET unheard = ? WHERE group_id = ?",
        (signer.unwrap_or_default(), id.0),
    )
}

/// Whether this client has to wait.
pub(crate) fn is_waiting(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    let signer: Option<Vec<u8>> =
        value(db, "SELECT unheard FROM groups WHERE group_id = ?", [id.0])?.flatten();
    Ok(signer.is_some())
}

/// A member was heard in an epoch that this client is in, in the caller's transaction. One who
/// cannot show who it is counts for nothing.
pub(crate) fn somebody(
    db: &Connection,
    id: &GroupId,
    identity: Option<&Identity>,
) -> Result<(), Error> {
    if let Some(real) = identity.and_then(|identity| identity.real.as_ref()) {
        change(
            db,
            "UPDATE groups SET unheard = NULL WHERE group_id = ? AND unheard != ?",
            (id.0, real.signature_public_key.as_slice()),
        )?;
    }
    Ok(())
}

/// The user goes on although nobody else was heard, in the caller's transaction.
pub(crate) fn go_on(db: &Connection, id: &GroupId) -> Result<(), Error> {
    change(
        db,
        "UPDATE groups SET unheard = NULL WHERE group_id = ?",
        [id.0],
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::store::groups::tests;

    #[test]
    fn the_signer_is_nobody_else_under_any_leaf_and_so_is_who_cannot_show_who_it_is() {
        let db = crate::store::database::in_memory().unwrap();
        let group = tests::group(1, "team");
        group.insert(&db).unwrap();
        let hear = |pseudonym: u8, key: Option<u8>| {
            let identity = Identity {
                user_pseudonym: vec![pseudonym],
                real: key.map(|key| ClientCredential {
                    name: opaque(*b"x"),
                    signature_public_key: opaque(vec![key; 32]),
                }),
            };
            somebody(&db, &group.id, Some(&identity)).unwrap();
            is_waiting(&db, &group.id).unwrap()
        };
        assert!(!is_waiting(&db, &group.id).unwrap());
        wait_for_somebody(&db, &group.id, Some(&[7; 32])).unwrap();
        assert!(hear(1, Some(7)) && hear(2, Some(7)) && hear(3, None));
        assert!(!hear(4, Some(8)));
        // Of whom this client knows that there is nobody else.
        wait_for_somebody(&db, &group.id, None).unwrap();
        assert!(hear(3, None));
        assert!(!hear(1, Some(7)));
    }
}
