//! Makes a backup under a passphrase and a client out of it, as after the loss of a device.
//!
//! Arguments: the home of the client, and an empty directory for the restored one.

#![allow(clippy::print_stdout, reason = "it shows what it does")]

use std::path::Path;

use mimimi_client::{BackupKey, Client, Options};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lost, restored] = &arguments[..] else {
        return Err("two home directories are needed".into());
    };
    let key = BackupKey::Passphrase("correct horse battery staple".to_owned().into());
    let client = Client::open(Path::new(lost), Options::default()).await?;
    let bytes = client.backup(&key).await?;
    client.close().await;

    let restored = Path::new(restored);
    let client = Client::restore(restored, &bytes, &key, Options::default()).await?;
    for group in client.groups()? {
        println!("back in {}", group.name);
    }
    Ok(())
}
