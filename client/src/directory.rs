//! The service's public directory, kept for a while.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use protocol::directory::Directory;
use protocol::operation::DIRECTORY_PATH;

use crate::error::{Error, LocalError};
use crate::issuance::Levels;
use crate::leaf::CIPHERSUITE;
use crate::{Client, wallet};

/// Keys and prices change seldom; a refusal that says so makes us look earlier.
const FRESH_MS: u64 = 10 * 60 * 1000;

/// base64url, padded or not: both are written.
pub(crate) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn decode_base64url(text: &str) -> Result<Vec<u8>, Error> {
    BASE64URL
        .decode(text)
        .map_err(|_| Error::Protocol("base64url in a directory"))
}

impl Client {
    /// The directory, fetched anew when it is old.
    pub(crate) async fn directory(&mut self) -> Result<Directory, Error> {
        let (stored, fetched_ms) = self.db.query_row(
            "SELECT directory, directory_fetched_ms FROM profile",
            (),
            |row| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, i64>(1)?)),
        )?;
        let age = self
            .transport
            .time
            .now_unix_ms()
            .abs_diff(u64::try_from(fetched_ms).unwrap_or(0));
        if let Some(stored) = stored.filter(|_| age < FRESH_MS) {
            return serde_json::from_str(&stored).map_err(|_| LocalError::Damaged.into());
        }
        self.fetch_directory().await
    }

    /// The directory as it was fetched last, if it was.
    pub(crate) fn stored_directory(&self) -> Result<Option<Directory>, Error> {
        let stored: Option<String> =
            self.db
                .query_row("SELECT directory FROM profile", (), |row| row.get(0))?;
        let parsed = stored.map(|stored| serde_json::from_str(&stored));
        Ok(parsed.transpose().map_err(|_| LocalError::Damaged)?)
    }

    /// The directory as it is now.
    pub(crate) async fn fetch_directory(&mut self) -> Result<Directory, Error> {
        let document = self.transport.fetch(DIRECTORY_PATH).await?;
        self.keep_transport_state()?;
        let directory: Directory = serde_json::from_slice(&document)
            .map_err(|_| Error::Protocol("the directory is malformed"))?;
        if !directory.wire_versions.contains(&protocol::WIRE_VERSION) {
            return Err(Error::Protocol("the service does not speak this version"));
        }
        if !directory.ciphersuites.contains(&(CIPHERSUITE as u16)) {
            return Err(Error::Protocol("the service does not take our ciphersuite"));
        }
        let now = i64::try_from(self.transport.time.now_unix_ms()).unwrap_or(i64::MAX);
        let text = serde_json::to_string(&directory).map_err(|_| LocalError::Damaged)?;
        self.db.execute(
            "UPDATE profile SET directory = ?, directory_fetched_ms = ?",
            (text, now),
        )?;
        if wallet::discard_expired(&self.db, &directory)? {
            let now = self.transport.time.now_unix_ms();
            wallet::hasten(&self.db, now, Levels::of(&directory.prices, 0).reserve)?;
        }
        Ok(directory)
    }
}
