//! Groups of the MLS library that are in memory, as the database has them. To load one costs many
//! times what a message does, so one that was loaded is kept for who needs it next.
//!
//! What is given out is never ahead of the database nor behind it. Each state there has a stamp
//! (`schema/mls.sql`), and a group is given out only under the stamp that the database shows then.
//! So it does not matter who has changed it: another part of this client, another process, or a
//! transaction that was taken back. What stands under another stamp is dropped when the client has
//! caught up: until then memory may have secrets of a group that the database has no more.

use std::cell::RefCell;
use std::rc::Rc;

use openmls::prelude::MlsGroup;
use protocol::ids::GroupId;
use rusqlite::Connection;

use crate::error::Error;
use crate::store::database::value;
use crate::store::mls::{load_mls, stored_id};

/// So many are kept: those that were needed last.
const MOST_KEPT: usize = 16;

type Stamp = [u8; 16];

struct Kept {
    id: GroupId,
    stamp: Stamp,
    group: Rc<MlsGroup>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Loaded {
    /// The one that was needed last is the last one.
    groups: RefCell<Vec<Kept>>,
}

/// Names the state in which the database has a group; none if it has none.
fn stamp(db: &Connection, id: &GroupId) -> Result<Option<Stamp>, Error> {
    value(
        db,
        "SELECT stamp FROM mls_stamps WHERE group_id = ?",
        [stored_id(id)?],
    )
}

impl Loaded {
    /// A group to look at.
    pub(crate) fn get(&self, db: &Connection, id: &GroupId) -> Result<Rc<MlsGroup>, Error> {
        // Before the group is loaded: what changes meanwhile shows the next time.
        let stamp = stamp(db, id)?;
        let group = match self.remove(id, stamp) {
            Some(group) => group,
            None => Rc::new(load_mls(db, id)?),
        };
        self.put(id, stamp, Rc::clone(&group));
        Ok(group)
    }

    /// A group to change, in the caller's transaction. It is kept again only by [`Loaded::keep`].
    pub(crate) fn take(&self, db: &Connection, id: &GroupId) -> Result<MlsGroup, Error> {
        let kept = self.remove(id, stamp(db, id)?);
        match kept.and_then(Rc::into_inner) {
            Some(group) => Ok(group),
            None => load_mls(db, id),
        }
    }

    /// Keeps a group as the library has written it, in the transaction in which it has.
    pub(crate) fn keep(&self, db: &Connection, id: &GroupId, group: MlsGroup) -> Result<(), Error> {
        self.put(id, stamp(db, id)?, Rc::new(group));
        Ok(())
    }

    /// Drops groups that are gone or have changed, and their secrets with them.
    pub(crate) fn forget_stale(&self, db: &Connection) -> Result<(), Error> {
        let kept: Vec<_> = self
            .groups
            .borrow()
            .iter()
            .map(|kept| (kept.id, kept.stamp))
            .collect();
        for (id, known) in kept {
            if stamp(db, &id)? != Some(known) {
                self.remove(&id, None);
            }
        }
        Ok(())
    }

    fn put(&self, id: &GroupId, stamp: Option<Stamp>, group: Rc<MlsGroup>) {
        let Some(stamp) = stamp else { return };
        let id = *id;
        let mut groups = self.groups.borrow_mut();
        groups.push(Kept { id, stamp, group });
        let beyond = groups.len().saturating_sub(MOST_KEPT);
        groups.drain(..beyond);
    }

    /// A group that is kept, if this is the stamp that it was kept under. Of another state nothing
    /// stays.
    fn remove(&self, id: &GroupId, stamp: Option<Stamp>) -> Option<Rc<MlsGroup>> {
        let mut groups = self.groups.borrow_mut();
        let at = groups.iter().position(|kept| kept.id == *id)?;
        let kept = groups.remove(at);
        (stamp == Some(kept.stamp)).then_some(kept.group)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openmls::prelude::OpenMlsProvider as _;

    use super::*;
    use crate::store::database::{begin, open, open_beside};
    use crate::store::groups::tests::{group, keep_mls_group};
    use crate::store::groups::{self, Group};
    use crate::store::provider::Provider;

    const ID: GroupId = GroupId([7; 16]);

    fn with_group(directory: &tempfile::TempDir) -> Connection {
        let db = open(&directory.path().join("db")).unwrap();
        group(7, "team").insert(&db).unwrap();
        keep_mls_group(&db, &ID);
        db
    }

    /// The library writes part of a group's state.
    fn change(db: &Connection, loaded: &Loaded) {
        let mut group = loaded.take(db, &ID).unwrap();
        let config = group.configuration().clone();
        let provider = Provider::new(db);
        group
            .set_configuration(provider.storage(), &config)
            .unwrap();
        loaded.keep(db, &ID, group).unwrap();
    }

    #[test]
    fn a_group_is_loaded_once_until_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let db = with_group(&directory);
        let loaded = Loaded::default();
        let first = loaded.get(&db, &ID).unwrap();
        assert!(Rc::ptr_eq(&first, &loaded.get(&db, &ID).unwrap()));
        // Whoever looks at it meanwhile goes on looking at what there was.
        change(&db, &loaded);
        let changed = loaded.get(&db, &ID).unwrap();
        assert!(!Rc::ptr_eq(&first, &changed));
        assert!(Rc::ptr_eq(&changed, &loaded.get(&db, &ID).unwrap()));
        // Not by way of this.
        let mut other = load_mls(&db, &ID).unwrap();
        let config = other.configuration().clone();
        let provider = Provider::new(&db);
        other
            .set_configuration(provider.storage(), &config)
            .unwrap();
        assert!(!Rc::ptr_eq(&changed, &loaded.get(&db, &ID).unwrap()));
    }

    #[test]
    fn what_a_transaction_has_changed_is_forgotten_with_the_transaction() {
        let directory = tempfile::tempdir().unwrap();
        let mut db = with_group(&directory);
        let loaded = Loaded::default();
        let transaction = begin(&mut db).unwrap();
        change(&transaction, &loaded);
        let changed = loaded.get(&transaction, &ID).unwrap();
        assert!(Rc::ptr_eq(
            &changed,
            &loaded.get(&transaction, &ID).unwrap()
        ));
        transaction.rollback().unwrap();
        assert!(!Rc::ptr_eq(&changed, &loaded.get(&db, &ID).unwrap()));
    }

    #[test]
    fn no_other_change_makes_up_for_one_that_was_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut db = with_group(&directory);
        let loaded = Loaded::default();
        let transaction = begin(&mut db).unwrap();
        change(&transaction, &loaded);
        let changed = loaded.get(&transaction, &ID).unwrap();
        transaction.rollback().unwrap();
        // As many changes as were taken back.
        change(&db, &Loaded::default());
        assert!(!Rc::ptr_eq(&changed, &loaded.get(&db, &ID).unwrap()));
    }

    #[test]
    fn a_group_that_was_loaded_before_a_change_is_not_given_out_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let db = with_group(&directory);
        let loaded = Loaded::default();
        let (before, old) = (stamp(&db, &ID).unwrap(), load_mls(&db, &ID).unwrap());
        change(&db, &Loaded::default());
        let old = Rc::new(old);
        loaded.put(&ID, before, Rc::clone(&old));
        assert!(!Rc::ptr_eq(&old, &loaded.get(&db, &ID).unwrap()));
    }

    #[test]
    fn what_another_process_has_changed_is_loaded_anew() {
        let directory = tempfile::tempdir().unwrap();
        let db = with_group(&directory);
        let loaded = Loaded::default();
        let known = loaded.get(&db, &ID).unwrap();
        let beside = open_beside(&directory.path().join("db")).unwrap();
        change(&beside, &Loaded::default());
        assert!(!Rc::ptr_eq(&known, &loaded.get(&db, &ID).unwrap()));
    }

    #[test]
    fn a_group_that_is_deleted_is_not_given_out_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let db = with_group(&directory);
        let loaded = Loaded::default();
        loaded.get(&db, &ID).unwrap();
        loaded.forget_stale(&db).unwrap();
        assert_eq!(loaded.groups.borrow().len(), 1);
        Group::delete(&db, &ID).unwrap();
        loaded.forget_stale(&db).unwrap();
        assert!(loaded.groups.borrow().is_empty());
        assert!(loaded.get(&db, &ID).is_err() && loaded.take(&db, &ID).is_err());
        let left: u32 = db
            .query_row("SELECT count(*) FROM mls_stamps", (), |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
        assert!(!groups::is_taken(&db, "team").unwrap());
    }

    #[test]
    fn only_those_that_were_needed_last_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let db = with_group(&directory);
        let loaded = Loaded::default();
        let first = loaded.get(&db, &ID).unwrap();
        for number in 100..100 + u8::try_from(MOST_KEPT).unwrap() {
            let id = GroupId([number; 16]);
            keep_mls_group(&db, &id);
            loaded.get(&db, &id).unwrap();
        }
        assert_eq!(loaded.groups.borrow().len(), MOST_KEPT);
        assert!(!Rc::ptr_eq(&first, &loaded.get(&db, &ID).unwrap()));
    }
}
