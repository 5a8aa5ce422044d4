//! Devices, consent, backups, and leaving.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use client::{BackupKey, Client, Error, LocalError, Options, ReportReason, UsageError};
use serde_json::json;
use zeroize::Zeroizing;

use crate::arguments::AccountCommand;
use crate::commands::{Output, read};

pub(crate) async fn execute(client: &mut Client, command: AccountCommand) -> Result<Output, Error> {
    Ok(match command {
        AccountCommand::Link { name } => {
            let link = client.link_code(&name).await?;
            Output::new(
                json!(link),
                [
                    format!("on the other device: mimimi link-approve {} {}", link.code, link.number),
                    "type the number there yourself; then here: mimimi link-complete and the number shown there"
                        .to_owned(),
                ],
            )
        }
        AccountCommand::LinkApprove { code, number } => {
            let number = client.approve_link(&code, &number.join(" ")).await?;
            Output::new(
                json!({ "number": number }),
                [format!("on the new device: mimimi link-complete {number}")],
            )
        }
        AccountCommand::LinkComplete { number, wait } => {
            let wait = wait.saturating_mul(1000);
            let handle = client.complete_link(&number.join(" "), wait).await?;
            Output::new(
                json!({ "handle": handle }),
                [format!("this is a device of {handle} now")],
            )
        }
        AccountCommand::Devices => {
            client.sync(0).await?;
            let devices = client.devices()?;
            let lines = devices.iter().map(|device| {
                let own = if device.own { " (this one)" } else { "" };
                format!("{}{own}", device.name)
            });
            Output::new(json!(devices), lines)
        }
        AccountCommand::RemoveDevice { name } => {
            client.unlink_device(&name).await?;
            Output::new(
                json!({ "removed": name }),
                [format!("{name} is removed from everything")],
            )
        }
        AccountCommand::Decline { id } => {
            client.sync(0).await?;
            client.decline_request(&id)?;
            Output::new(
                json!({ "declined": id }),
                [format!("request {id} is forgotten")],
            )
        }
        AccountCommand::Cancel { name } => {
            client.cancel_request(&name).await?;
            Output::new(
                json!({ "cancelled": name }),
                [format!("the request to {name} leads nowhere now")],
            )
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
        AccountCommand::Block { name } => {
            client.block(&name, true).await?;
            Output::new(
                json!({ "blocked": name }),
                [format!("nothing is taken from {name}")],
            )
        }
        AccountCommand::Unblock { name } => {
            client.block(&name, false).await?;
            Output::new(
                json!({ "unblocked": name }),
                [format!("{name} is heard again")],
            )
        }
        AccountCommand::Backup {
            file,
            passphrase_file,
        } => backup(client, &file, passphrase_file.as_deref())?,
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

fn backup(client: &Client, file: &Path, passphrase: Option<&Path>) -> Result<Output, Error> {
    let recovery_key = match passphrase {
        Some(_) => None,
        None => Some(Client::new_recovery_key()?),
    };
    let key = match (passphrase, &recovery_key) {
        (Some(path), _) => BackupKey::Passphrase(secret_in(path)?),
        (None, Some(key)) => BackupKey::RecoveryKey(key.clone()),
        (None, None) => return Err(UsageError::WrongBackupKey.into()),
    };
    let bytes = client.backup(&key)?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
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
    let key = match (passphrase_file, recovery_key_file) {
        (Some(path), _) => BackupKey::Passphrase(secret_in(path)?),
        (None, Some(path)) => BackupKey::RecoveryKey(secret_in(path)?),
        (None, None) => return Err(UsageError::WrongBackupKey.into()),
    };
    let client = Client::restore(home, &bytes, &key, Options::default()).await?;
    let handle = client.handle().unwrap_or_default().to_owned();
    Ok(Output::new(
        json!({ "handle": handle }),
        [format!("{handle} is back")],
    ))
}
