//! Being woken.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use basis::hex;
use client::{Client, Error, PushAddress, PushConsent, UsageError};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::account::read;
use crate::arguments::{PushAddressArguments, PushCommand};
use crate::terminal::Output;

pub(crate) async fn execute(client: &Client, command: PushCommand) -> Result<Output, Error> {
    match command {
        PushCommand::On(arguments) => {
            let consent = PushConsent {
                batched: arguments.batched,
                decoys: arguments.decoys,
            };
            let address = address(arguments)?;
            client.register_push(address, consent).await?;
            let said = "this device is woken when there is news".to_owned();
            Ok(Output::new(json!({ "woken": true }), [said]))
        }
        PushCommand::Awake { seconds } => {
            client.awake(seconds).await?;
            let said = match seconds {
                0 => "this device sleeps".to_owned(),
                _ => format!("this device is not woken for {seconds} s"),
            };
            Ok(Output::new(json!({ "awake": seconds }), [said]))
        }
        PushCommand::Off => {
            client.remove_push().await?;
            let said = "this device is not woken any more".to_owned();
            Ok(Output::new(json!({ "woken": false }), [said]))
        }
    }
}

/// The command line has one of them, with what belongs to it.
fn address(arguments: PushAddressArguments) -> Result<PushAddress, Error> {
    let wrong = || Error::from(UsageError::InvalidPushAddress);
    let app = arguments.app.unwrap_or_default();
    if let (Some(url), Some(file)) = (arguments.webhook, arguments.secret_file) {
        let secret = thirty_two_bytes(&read(&file)?)?;
        Ok(PushAddress::Webhook { url, secret })
    } else if let Some(file) = arguments.web_push {
        of_browser(&file)
    } else if let Some(token) = arguments.apns {
        let token = hex::decode(&token).ok_or_else(wrong)?;
        Ok(PushAddress::Apns { app, token })
    } else if let Some(token) = arguments.fcm {
        Ok(PushAddress::Fcm { app, token })
    } else {
        Err(wrong())
    }
}

/// What `PushSubscription.toJSON()` gives.
fn of_browser(file: &Path) -> Result<PushAddress, Error> {
    let wrong = || Error::from(UsageError::InvalidPushAddress);
    let subscription: Value = serde_json::from_slice(&read(file)?).map_err(|_| wrong())?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let endpoint = subscription.get("endpoint").and_then(text);
    let key = |name| {
        let value = subscription.get("keys")?.get(name)?.as_str()?;
        base64url(value)
    };
    Ok(PushAddress::WebPush {
        endpoint: endpoint.ok_or_else(wrong)?,
        p256dh: key("p256dh").ok_or_else(wrong)?,
        auth: key("auth")
            .and_then(|auth| auth.try_into().ok())
            .ok_or_else(wrong)?,
    })
}

fn thirty_two_bytes(file: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let text = std::str::from_utf8(file).ok();
    text.and_then(|text| hex::decode(text.trim()))
        .map(Zeroizing::new)
        .and_then(|bytes| bytes.as_slice().try_into().ok())
        .map(Zeroizing::new)
        .ok_or_else(|| UsageError::InvalidPushAddress.into())
}

/// As a browser gives it: without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_subscription_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("subscription.json");
        let auth = "BTBZMqHH6r4Tts7J_aSIgg";
        let text = json!({ "endpoint": "https://push.example/1", "keys": { "p256dh": "BAEC", "auth": auth } });
        std::fs::write(&file, text.to_string()).unwrap();
        let PushAddress::WebPush {
            endpoint,
            p256dh,
            auth,
        } = of_browser(&file).unwrap()
        else {
            panic!("another kind");
        };
        assert_eq!(endpoint, "https://push.example/1");
        assert_eq!(p256dh, [4, 1, 2]);
        assert_eq!(auth[..3], [0x05, 0x30, 0x59]);
        std::fs::write(&file, "{}").unwrap();
        assert!(of_browser(&file).is_err());
    }

    #[test]
    fn a_secret_is_64_hexadecimal_digits() {
        let text = format!("{}\n", "ab".repeat(32));
        assert_eq!(*thirty_two_bytes(text.as_bytes()).unwrap(), [0xab; 32]);
        for wrong in ["", "ab", "zz", "\u{e9}"] {
            assert!(thirty_two_bytes(wrong.as_bytes()).is_err());
        }
    }
}
