//! Who came in from outside sends nothing before it has heard somebody: a genuine but old GroupInfo passes every other
//! check, and nobody answers in an epoch that is nobody's.

use openmls::prelude::{Credential, MlsGroup};
use protocol::ids::GroupId;
use rusqlite::{Connection, OptionalExtension as _};

use crate::Client;
use crate::error::Error;
use crate::groups::content::Content;
use crate::groups::known;
use crate::schedule::{self, Act};

/// Nothing is sent before somebody other than the signer was heard, in the caller's transaction.
pub(crate) fn wait_for_somebody(
    db: &Connection,
    id: &GroupId,
    signer: &Credential,
) -> Result<(), Error> {
    db.execute(
        "UPDATE groups SET unheard = ? WHERE group_id = ?",
        (known::digest(signer), id.0),
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

/// A member was heard in an epoch that this client is in, in the caller's transaction. One who cannot show who it is
/// counts for nothing; the signer only where there is nobody else.
pub(crate) fn somebody(
    db: &Connection,
    id: &GroupId,
    mls_group: &MlsGroup,
    credential: &Credential,
    is_known: bool,
) -> Result<(), Error> {
    if !is_known {
        return Ok(());
    }
    let two = mls_group.members().count() <= 2;
    db.execute(
        "UPDATE groups SET unheard = NULL WHERE group_id = ? AND unheard IS NOT NULL AND (? OR unheard != ?)",
        (id.0, two, known::digest(credential)),
    )?;
    Ok(())
}

/// Somebody has come in from outside: the two members with the lowest leaves say that they are there, in the caller's
/// transaction.
pub(crate) fn greet(db: &Connection, id: &GroupId, mls_group: &MlsGroup) -> Result<(), Error> {
    let own = mls_group.own_leaf_index();
    let before = mls_group.members().filter(|member| member.index < own);
    if before.count() < 2 {
        schedule::plan(db, Act::Greet, &id.0)?;
    }
    Ok(())
}

impl Client {
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
    use openmls::prelude::BasicCredential;

    use super::*;
    use crate::groups::{load_mls, tests};

    #[test]
    fn in_a_group_of_two_the_peer_is_heard_and_nobody_who_cannot_show_who_it_is() {
        let db = crate::database::in_memory().unwrap();
        let group = tests::group(1, "team");
        group.insert(&db).unwrap();
        tests::keep_mls_group(&db, &group.id);
        let mls_group = load_mls(&db, &group.id).unwrap();
        let signer: Credential = BasicCredential::new(b"signer".to_vec()).into();
        assert!(!is_waiting(&db, &group.id).unwrap());
        wait_for_somebody(&db, &group.id, &signer).unwrap();
        somebody(&db, &group.id, &mls_group, &signer, false).unwrap();
        assert!(is_waiting(&db, &group.id).unwrap());
        somebody(&db, &group.id, &mls_group, &signer, true).unwrap();
        assert!(!is_waiting(&db, &group.id).unwrap());
    }
}
