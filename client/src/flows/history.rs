//! Histories: what was said goes along to another device of its user, who chooses how much.

use std::path::Path;

use protocol::time::DAY_MS;

use crate::backup_key::BackupKey;
use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::history_file::{self, HistoryRecord, Writer};
use crate::ids::GroupRef;
use crate::store::Group;
use crate::store::database::begin;
use crate::store::history::{self, Returning};

/// What of a history is written.
#[derive(Debug, Clone, Default)]
pub struct HistoryScope {
    /// Only what was said in the last so many days; all if there is none.
    pub days: Option<u32>,
    /// Only what was said in these groups; in all if there is none.
    pub groups: Vec<GroupRef>,
}

/// What has come of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedHistory {
    /// Messages and reactions that were not here before.
    pub added: u64,
    /// Those that were here, have expired, or are about what is gone here.
    pub passed_over: u64,
    /// Those of groups that this client has never been in: they can be read in later.
    pub of_unknown_groups: u64,
}

impl Engine {
    /// Writes what was said into a file, sealed. Says how much.
    pub(crate) fn export_history(
        &self,
        path: &Path,
        key: &BackupKey,
        scope: &HistoryScope,
    ) -> Result<u64, Error> {
        let groups = match scope.groups.as_slice() {
            [] => history::groups(&self.db)?,
            chosen => chosen
                .iter()
                .map(|group| Ok(Group::meant(&self.db, group)?.id))
                .collect::<Result<_, Error>>()?,
        };
        let span_ms = scope
            .days
            .map(|days| u64::from(days).saturating_mul(DAY_MS));
        let since_ms = span_ms.map_or(0, |span_ms| {
            self.transport.time.now_unix_ms().saturating_sub(span_ms)
        });
        let mut writer = Writer::begin(path, key, &self.profile.identity.public())?;
        let mut written = 0u64;
        for group in groups {
            writer.add(HistoryRecord::Group(group))?;
            history::each(&self.db, &group, since_ms, |message| {
                written = written.saturating_add(1);
                writer.add(HistoryRecord::Said(message))
            })?;
        }
        writer.end()?;
        Ok(written)
    }

    /// Reads a history of this user in: all of it, or nothing.
    pub(crate) async fn import_history(
        &mut self,
        path: &Path,
        key: &BackupKey,
    ) -> Result<ImportedHistory, Error> {
        let _held = self.hold().await?;
        let own = self.profile.identity.public().to_vec();
        let now_ms = self.transport.time.now_unix_ms();
        let transaction = begin(&mut self.db)?;
        let mut imported = ImportedHistory::default();
        let (mut returning, mut is_group_told) = (None::<Returning>, false);
        history_file::read(path, key, &own, |record| {
            match record {
                HistoryRecord::User(_) => return Err(UsageError::NotAHistory.into()),
                HistoryRecord::Group(group) => {
                    if let Some(ended) = returning.take() {
                        ended.end(&transaction)?;
                    }
                    is_group_told = true;
                    if history::is_known(&transaction, &group)? {
                        returning = Some(Returning::begin(&transaction, group)?);
                    }
                }
                HistoryRecord::Said(_) if !is_group_told => {
                    return Err(UsageError::NotAHistory.into());
                }
                HistoryRecord::Said(message) => {
                    let count = match &mut returning {
                        None => &mut imported.of_unknown_groups,
                        Some(group) => match group.take(&transaction, &message, &own, now_ms)? {
                            true => &mut imported.added,
                            false => &mut imported.passed_over,
                        },
                    };
                    *count = count.saturating_add(1);
                }
            }
            Ok(())
        })?;
        if let Some(ended) = returning {
            ended.end(&transaction)?;
        }
        transaction.commit()?;
        Ok(imported)
    }
}
