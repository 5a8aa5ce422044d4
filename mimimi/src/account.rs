//! Devices, consent, backups, and leaving.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use client::{
    BackupKey, Client, Error, FileError, GroupRef, HistoryScope, LocalError, Options, ReportReason,
    UsageError,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::arguments::{AccountCommand, HistoryCommand};
use crate::terminal::{Name, Output};

impl AccountCommand {
    /// See `commands::shows_once`.
    pub(crate) fn shows_once(&self) -> bool {
        matches!(
            self,
            Self::Backup {
                passphrase_file: None,
                ..
            } | Self::History {
                command: HistoryCommand::Export {
                    passphrase_file: None,
                    ..
                }
            }
        )
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| LocalError::File(FileError::at(path, "read")(error)).into())
}

pub(crate) async fn execute(client: &Client, command: AccountCommand) -> Result<Output, Error> {
    Ok(match command {
        AccountCommand::Cancel { name } => {
            client.cancel_request(&name).await?;
            Output::new(
                json!({ "cancelled": name }),
                [format!("the request to {name} leads nowhere now")],
            )
        }
        AccountCommand::Rename { contact, name } => {
            client.rename_contact(&contact, name.as_deref()).await?;
            let line = match &name {
                Some(name) => format!("{} is {} here", Name(&contact), Name(name)),
                None => "called by the handle again".to_owned(),
            };
            Output::new(json!({ "renamed": contact, "name": name }), [line])
        }
        AccountCommand::Disconnect { contact } => {
            client.disconnect(&contact).await?;
            Output::new(
                json!({ "disconnected": contact }),
                [format!("{contact} is no contact any more")],
            )
        }
        AccountCommand::Report { contact, reason } => {
            client.sync(0).await?;
            let reason = ReportReason::NAMES
                .into_iter()
                .find(|(name, _)| *name == reason)
                .map_or(ReportReason::Other, |(_, reason)| reason);
            client.report(&contact, reason).await?;
            Output::new(
                json!({ "reported": contact, "reason": reason.name() }),
                [format!("{contact} is reported to the token issuer")],
            )
        }
        AccountCommand::Backup {
            file,
            passphrase_file,
        } => backup(client, &file, passphrase_file.as_deref()).await?,
        AccountCommand::History { command } => history(client, command).await?,
    })
}

fn secret_in(path: &Path) -> Result<Zeroizing<String>, Error> {
    let bytes = Zeroizing::new(read(path)?);
    std::str::from_utf8(&bytes)
        .ok()
        .map(|text| text.trim_end_matches(['\r', '\n']))
        .filter(|text| !text.is_empty())
        .map(|text| Zeroizing::new(text.to_owned()))
        .ok_or_else(|| UsageError::WrongBackupKey.into())
}

/// What seals a file; and the recovery key, if it was made for this one and is to be shown.
fn sealing_key(passphrase: Option<&Path>) -> Result<(BackupKey, Option<Zeroizing<String>>), Error> {
    Ok(match passphrase {
        Some(path) => (BackupKey::Passphrase(secret_in(path)?), None),
        None => {
            let key = client::new_recovery_key()?;
            (BackupKey::RecoveryKey(key.clone()), Some(key))
        }
    })
}

/// What opens a file.
fn opening_key(
    passphrase_file: Option<&Path>,
    recovery_key_file: Option<&Path>,
) -> Result<BackupKey, Error> {
    match (passphrase_file, recovery_key_file) {
        (Some(path), _) => Ok(BackupKey::Passphrase(secret_in(path)?)),
        (None, Some(path)) => Ok(BackupKey::RecoveryKey(secret_in(path)?)),
        (None, None) => Err(UsageError::WrongBackupKey.into()),
    }
}

async fn history(client: &Client, command: HistoryCommand) -> Result<Output, Error> {
    Ok(match command {
        HistoryCommand::Export {
            file,
            days,
            groups,
            passphrase_file,
        } => {
            client.sync(0).await?;
            let (key, recovery_key) = sealing_key(passphrase_file.as_deref())?;
            let groups = groups.iter().map(GroupRef::from).collect();
            let scope = HistoryScope { days, groups };
            let written = client.export_history(&file, &key, scope).await?;
            let shown = recovery_key.as_ref().map(|key| key.as_str());
            let line = match shown {
                Some(key) => format!("recovery key, shown only now: {key}"),
                None => "the passphrase opens it".to_owned(),
            };
            Output::new(
                json!({ "written": written, "recovery_key": shown }),
                [format!("wrote {written} messages and reactions"), line],
            )
        }
        HistoryCommand::Import {
            file,
            passphrase_file,
            recovery_key_file,
        } => {
            client.sync(0).await?;
            let key = opening_key(passphrase_file.as_deref(), recovery_key_file.as_deref())?;
            let imported = client.import_history(&file, &key).await?;
            let mut lines = vec![format!("{} messages and reactions are new", imported.added)];
            if imported.of_unknown_groups > 0 {
                let left = imported.of_unknown_groups;
                lines.push(format!(
                    "left out: {left} of groups that this device is not in yet"
                ));
            }
            Output::new(
                json!({
                    "added": imported.added, "passed_over": imported.passed_over,
                    "of_unknown_groups": imported.of_unknown_groups,
                }),
                lines,
            )
        }
    })
}

async fn backup(client: &Client, file: &Path, passphrase: Option<&Path>) -> Result<Output, Error> {
    let (key, recovery_key) = sealing_key(passphrase)?;
    let bytes = client.backup(&key).await?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| {
            opened.write_all(&bytes)?;
            opened.sync_all()
        })
        .map_err(FileError::at(file, "written"))
        .map_err(LocalError::File)?;
    let shown = recovery_key.as_ref().map(|key| key.as_str());
    let line = match shown {
        Some(key) => format!("recovery key, shown only now: {key}"),
        None => "backed up; the passphrase opens it".to_owned(),
    };
    Ok(Output::new(json!({ "recovery_key": shown }), [line]))
}

pub(crate) async fn restore(
    home: &Path,
    file: &Path,
    passphrase_file: Option<&Path>,
    recovery_key_file: Option<&Path>,
) -> Result<Output, Error> {
    let bytes = read(file)?;
    let key = opening_key(passphrase_file, recovery_key_file)?;
    let client = Client::restore(home, &bytes, &key, Options::default()).await?;
    let handle = client.handle()?.unwrap_or_default();
    Ok(Output::new(
        json!({ "handle": handle }),
        [format!("{handle} is back")],
    ))
}
