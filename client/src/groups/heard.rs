//! Who came in from outside sends nothing before it has heard somebody: a genuine but old GroupInfo
//! passes every other check, and nobody answers in an epoch that is nobody's. Who has signed it
//! counts for nothing, under whatever leaf: a former member could keep the service a group of its
//! own.

use openmls::prelude::MlsGroup;
use protocol::ids::GroupId;
use rusqlite::{Connection, OptionalExtension as _};

use crate::engine::Engine;
use crate::error::Error;
use crate::groups::content::Content;
use crate::groups::identities::{self, Identity};
use crate::groups::{Group, further};
use crate::schedule::{self, Act};

/// Nothing is sent before somebody other than the signer (an identity key) was heard, in the
/// caller's transaction; where this client knows of nobody else, before anybody was.
pub(crate) fn wait_for_somebody(
    db: &Connection,
    id: &GroupId,
    signer: Option<&[u8]>,
) -> Result<(), Error> {
    db.execute(
        "UPDATE groups SET unheard = ? WHERE group_id = ?",
        (signer.unwrap_or_default(), id.0),
    )?;
    Ok(())
}

/// Whether this client has to wait.
pub(crate) fn is_waiting(db: &Connection, id: &GroupId) -> Result<bool, Error> {
    let signer: Option<Vec<u8>> = db
        .query_row(
            "SELECT unheard FROM groups WHERE group_id = ?",
            [id.0],
            |row| row.get(0),
        )
        .optional()?
        .flatten();
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
        db.execute(
            "UPDATE groups SET unheard = NULL WHERE group_id = ? AND unheard != ?",
            (id.0, real.signature_public_key.as_slice()),
        )?;
    }
    Ok(())
}

/// Somebody has come in from outside, and hears two others: the devices of the two people with the
/// lowest leaves say that they are there, in the caller's transaction. Where there is nobody else,
/// the user's other devices say so.
pub(crate) fn greet(
    db: &Connection,
    group: &Group,
    mls_group: &MlsGroup,
    newcomer: &Identity,
) -> Result<(), Error> {
    let mut greeting: Vec<Identity> = Vec::new();
    for identity in further::people(db, group, mls_group, &[])? {
        let is_another = identity.real.is_some() && !identity.is_same_user(newcomer);
        if is_another && !greeting.iter().any(|it| it.is_same_user(&identity)) {
            greeting.push(identity);
        }
    }
    let own = mls_group.own_leaf_node().map(|leaf| leaf.credential());
    let own = own
        .map(|own| identities::of(db, &group.id, own))
        .transpose()?;
    let own = own.flatten();
    let is_first = |own: &Identity| greeting.iter().take(2).any(|it| it.is_same_user(own));
    if greeting.is_empty() || own.is_some_and(|own| is_first(&own)) {
        schedule::plan(db, Act::Greet, &group.id.0)?;
    }
    Ok(())
}

/// The user goes on although nobody else was heard, in the caller's transaction.
pub(crate) fn go_on(db: &Connection, id: &GroupId) -> Result<(), Error> {
    db.execute(
        "UPDATE groups SET unheard = NULL WHERE group_id = ?",
        [id.0],
    )?;
    Ok(())
}

impl Engine {
    /// Says in a group that this client is there.
    pub(crate) async fn say_hello(&mut self, id: &GroupId) -> Result<(), Error> {
        if is_waiting(&self.db, id)? {
            return Ok(());
        }
        self.send_content(id, &Content::Greeting).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::groups::tests;

    #[test]
    fn the_signer_is_nobody_else_under_any_leaf_and_so_is_who_cannot_show_who_it_is() {
        let db = crate::database::in_memory().unwrap();
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
