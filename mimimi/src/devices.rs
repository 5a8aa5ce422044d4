//! The devices of this user.

use client::{Client, Error};
use serde_json::json;

use crate::arguments::DeviceCommand;
use crate::terminal::{Name, Output, names};

pub(crate) async fn execute(client: &Client, command: DeviceCommand) -> Result<Output, Error> {
    Ok(match command {
        DeviceCommand::Link { name } => {
            let link = client.link_code(&name).await?;
            Output::new(
                json!(link),
                [
                    format!(
                        "on the other device: mimimi device approve {} {}",
                        link.code, link.number
                    ),
                    "type the number there yourself; then here: mimimi device complete and the number shown there"
                        .to_owned(),
                ],
            )
        }
        DeviceCommand::Approve { code, number } => {
            let number = client.approve_link(&code, &number.join(" ")).await?;
            Output::new(
                json!({ "number": number }),
                [format!(
                    "on the new device: mimimi device complete {number}"
                )],
            )
        }
        DeviceCommand::Complete { number, wait } => {
            let wait = wait.saturating_mul(1000);
            let handle = client.complete_link(&number.join(" "), wait).await?;
            Output::new(
                json!({ "handle": handle }),
                [format!("this is a device of {handle} now")],
            )
        }
        DeviceCommand::List => {
            client.sync(0).await?;
            let devices = client.devices()?;
            let rows = devices.iter().map(|device| {
                let own = if device.own { "this one" } else { "" };
                [Name(&device.name).to_string(), own.to_owned()]
            });
            Output::table(json!(devices), ["DEVICE", ""], rows, "no devices")
        }
        DeviceCommand::Remove { name, .. } => {
            let removed = match name {
                Some(name) => {
                    client.unlink_device(&name).await?;
                    vec![name]
                }
                None => client.unlink_other_devices().await?,
            };
            let left: Vec<String> = client
                .devices()?
                .into_iter()
                .filter(|device| !device.own)
                .map(|device| device.name)
                .collect();
            let removal = if removed.is_empty() {
                "there was no other device".to_owned()
            } else {
                let removed = names(&removed);
                format!("removed from every group: {removed}; contacts and handle have new keys")
            };
            let rest = if left.is_empty() {
                "this is your only device now".to_owned()
            } else {
                format!("your other devices: {}", names(&left))
            };
            Output::new(json!({ "removed": removed, "left": left }), [removal, rest])
        }
    })
}
