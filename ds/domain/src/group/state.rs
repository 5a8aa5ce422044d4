//! A change of a group's state that is no commit: the epoch and its keys stay.

use crypto::schedule::{DataKey, JournalKey};
use zeroize::Zeroizing;

use super::open::OpenedGroup;
use super::short::Short;
use super::succession::{seal_parts, seal_short};
use crate::env::Env;
use crate::refusal::Stop;
use crate::rows::Part;
use crate::store::ChangeGroup;

/// Writes these parts and the short part with what changes in it.
///
/// # Errors
/// [`Stop::Internal`].
pub(super) fn write(
    group: &OpenedGroup,
    plain: Vec<(Part, Zeroizing<Vec<u8>>)>,
    change: impl FnOnce(&mut Short),
    env: &mut Env<'_>,
) -> Result<ChangeGroup, Stop> {
    let former = &group.short;
    let mut short = Short {
        journal_key: JournalKey::new(*former.journal_key.expose()),
        data_key: DataKey::new(*former.data_key.expose()),
        pages: former.pages.clone(),
        ..*former
    };
    change(&mut short);
    let mut versioned = Vec::with_capacity(plain.len());
    for (part, bytes) in plain {
        let version = env.version();
        match part {
            Part::Roster(page) => {
                *short
                    .pages
                    .get_mut(usize::from(page))
                    .ok_or(Stop::Internal("a page that is not there"))? = version;
            }
            Part::Control => short.control = version,
            Part::Marks => short.marks = version,
            Part::Tree => short.tree = version,
            Part::TreeChanges => short.tree_changes = Some(version),
            Part::Proposals => short.proposals = Some(version),
        }
        versioned.push((part, version, bytes));
    }
    Ok(ChangeGroup {
        group: group.row,
        expected: group.version,
        parts: seal_parts(&group.id, &short, versioned, env)?,
        short: seal_short(&group.id, &group.state_key, &short, env)?,
        dropped_parts: Vec::new(),
        head: None,
        begins: None,
        entries: Vec::new(),
        join_record: None,
        welcomes: Vec::new(),
        recovery_rows: Vec::new(),
        dropped_recovery_rows: Vec::new(),
        successor: None,
    })
}
