//! What was said, as a history takes it along and brings it back.

use std::collections::HashSet;

use content::MimiContent;
use protocol::ids::GroupId;
use rusqlite::Connection;
use tls_codec::VLBytes;

use crate::error::{Error, UsageError};
use crate::history_file::HistoryMessage;
use crate::store::database::{column, is_there, value};
use crate::store::messages::{Kind, MessageState, number, unsigned};

/// Groups in which something was said, as they were first spoken in.
pub(crate) fn groups(db: &Connection) -> Result<Vec<GroupId>, Error> {
    let sql = "SELECT group_id FROM messages GROUP BY group_id ORDER BY min(id)";
    let ids: Vec<[u8; 16]> = column(db, sql, ())?;
    Ok(ids.into_iter().map(GroupId).collect())
}

/// Hands messages and reactions of a group that are left, and were accepted since then, to `each`,
/// in the order of the journal.
pub(crate) fn each(
    db: &Connection,
    group: &GroupId,
    since_ms: u64,
    mut each: impl FnMut(HistoryMessage) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM messages WHERE group_id = ? AND at_ms >= ? AND state = 0 AND gone = 0
            AND content IS NOT NULL ORDER BY id",
    )?;
    let mut rows = statement.query((group.0, number(since_ms)))?;
    while let Some(row) = rows.next()? {
        let due_ms: Option<i64> = row.get("due_ms")?;
        each(HistoryMessage {
            id: row.get("message_id")?,
            sender: VLBytes::new(row.get("sender")?),
            verified: row.get("verified")?,
            name: VLBytes::new(row.get::<_, String>("name")?.into_bytes()),
            about: VLBytes::new(row.get::<_, Option<Vec<u8>>>("about")?.unwrap_or_default()),
            content: VLBytes::new(row.get("content")?),
            edited: row.get("edited")?,
            at_ms: unsigned(row.get("at_ms")?),
            after_s: row.get("after_s")?,
            due_ms: due_ms.map(unsigned),
        })?;
    }
    Ok(())
}

/// What a reaction is to; none for a message.
fn about(message: &HistoryMessage) -> Result<Option<[u8; 32]>, UsageError> {
    match message.about.as_slice() {
        [] => Ok(None),
        about => Ok(Some(about.try_into().map_err(|_| UsageError::NotAHistory)?)),
    }
}

/// Whether this client is, or was, in that group.
pub(crate) fn is_known(db: &Connection, group: &GroupId) -> Result<bool, Error> {
    is_there(db, "SELECT 1 FROM groups WHERE group_id = ?", [group.0])
}

/// What comes back of one group, in the caller's transaction.
pub(crate) struct Returning {
    group: GroupId,
    /// What was here before, in its order.
    before: Vec<[u8; 32]>,
    /// What the history has, in its order, whether it was here or not.
    told: Vec<[u8; 32]>,
    added: HashSet<[u8; 32]>,
}

impl Returning {
    pub(crate) fn begin(db: &Connection, group: GroupId) -> Result<Self, Error> {
        let sql = "SELECT message_id FROM messages WHERE group_id = ? ORDER BY id";
        Ok(Self {
            before: column(db, sql, [group.0])?,
            told: Vec::new(),
            added: HashSet::new(),
            group,
        })
    }

    /// Keeps it if it is not known here, and has not expired. What is gone here stays gone, and
    /// reactions to it do not come back. `own` is this user's identity key: who is this user does
    /// not stand in the file.
    ///
    /// # Errors
    /// [`UsageError::NotAHistory`] for what no client has written.
    pub(crate) fn take(
        &mut self,
        db: &Connection,
        message: &HistoryMessage,
        own: &[u8],
        now_ms: u64,
    ) -> Result<bool, Error> {
        let name = std::str::from_utf8(message.name.as_slice());
        let name = name.map_err(|_| UsageError::NotAHistory)?;
        MimiContent::decode(message.content.as_slice()).map_err(|_| UsageError::NotAHistory)?;
        self.told.push(message.id);
        let is_over = message.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if is_over || self.is_about_what_is_gone(db, message)? {
            return Ok(false);
        }
        let verified = message.verified == 1;
        let about = about(message)?;
        let kind = match about {
            None => Kind::Message,
            Some(_) => Kind::Reaction,
        };
        let added = db
            .prepare_cached(
                "INSERT OR IGNORE INTO messages (group_id, message_id, sender, verified, name, own,
                    kind, about, content, state, at_ms, edited, after_s, due_ms)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute((
                self.group.0,
                message.id,
                message.sender.as_slice(),
                verified,
                name,
                verified && message.sender.as_slice() == own,
                kind as u8,
                about,
                message.content.as_slice(),
                MessageState::Sent as u8,
                number(message.at_ms),
                message.edited == 1,
                message.after_s,
                message.due_ms.map(number),
            ))?;
        if added > 0 {
            self.added.insert(message.id);
        }
        Ok(added > 0)
    }

    fn is_about_what_is_gone(
        &self,
        db: &Connection,
        message: &HistoryMessage,
    ) -> Result<bool, Error> {
        let Some(about) = about(message)? else {
            return Ok(false);
        };
        let sql = "SELECT 1 FROM messages WHERE group_id = ? AND message_id = ? AND gone != 0";
        is_there(db, sql, (self.group.0, about))
    }

    /// Brings all of the group into one order.
    pub(crate) fn end(self, db: &Connection) -> Result<(), Error> {
        if self.added.is_empty() {
            return Ok(());
        }
        let order = merged(&self.before, &self.told, &self.added);
        // Below all others: only the order within a group is looked at.
        let lowest: Option<i64> = value(db, "SELECT min(id) FROM messages", ())?;
        let count = i64::try_from(order.len()).unwrap_or(i64::MAX);
        let first = lowest.unwrap_or(0).min(0).saturating_sub(count);
        let mut statement =
            db.prepare_cached("UPDATE messages SET id = ? WHERE group_id = ? AND message_id = ?")?;
        for (id, message) in (first..).zip(&order) {
            statement.execute((id, self.group.0, message))?;
        }
        Ok(())
    }
}

/// One order out of two, each of them in the order of the same journal. Where neither says which
/// is first, what was told is: a history is older than what its reader has read since.
fn merged(before: &[[u8; 32]], told: &[[u8; 32]], added: &HashSet<[u8; 32]>) -> Vec<[u8; 32]> {
    let known: HashSet<_> = before.iter().collect();
    let (mut order, mut rest) = (Vec::new(), before);
    let mut placed = HashSet::new();
    for id in told {
        if !placed.insert(id) {
            continue;
        }
        if added.contains(id) {
            order.push(*id);
        } else if known.contains(id)
            && let Some(at) = rest.iter().position(|it| it == id)
        {
            let (come, left) = rest.split_at(at + 1);
            order.extend_from_slice(come);
            rest = left;
        }
    }
    order.extend_from_slice(rest);
    order
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u8]) -> Vec<[u8; 32]> {
        numbers.iter().map(|number| [*number; 32]).collect()
    }

    fn merge(before: &[u8], told: &[u8]) -> Vec<u8> {
        let added = told.iter().filter(|it| !before.contains(it));
        let added = added.map(|number| [*number; 32]).collect();
        let order = merged(&ids(before), &ids(told), &added);
        order.iter().map(|id| id[0]).collect()
    }

    #[test]
    fn what_comes_back_stands_where_it_was() {
        assert_eq!(merge(&[5, 6], &[1, 2]), [1, 2, 5, 6]);
        assert_eq!(merge(&[1, 4], &[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(merge(&[1, 2, 3], &[2, 4]), [1, 2, 4, 3]);
        // Orders that no journal has, and one twice.
        assert_eq!(merge(&[1, 2], &[2, 1, 3]), [1, 2, 3]);
        assert_eq!(merge(&[1], &[2, 2]), [2, 1]);
    }

    proptest! {
        #[test]
        fn parts_of_one_journal_make_a_part_of_it(
            here in prop::collection::btree_set(0u8..60, 0..40),
            told in prop::collection::btree_set(0u8..60, 0..40),
        ) {
            let (here, told): (Vec<_>, Vec<_>) =
                (here.into_iter().collect(), told.into_iter().collect());
            let order = merge(&here, &told);
            // Each order holds, and nothing is lost or doubled.
            for part in [&here, &told] {
                let of: Vec<_> = order.iter().filter(|it| part.contains(it)).collect();
                prop_assert_eq!(of, part.iter().collect::<Vec<_>>());
            }
            let all: std::collections::BTreeSet<_> = here.iter().chain(&told).collect();
            prop_assert_eq!(order.len(), all.len());
        }
    }
}
