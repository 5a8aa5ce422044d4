//! The issuer's public keys, from its directory (RFC 9578 §4). Only public keys ever come here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::store::{Foundation, Note, StoreError};
use crate::tokens::{IssuerKeys, TOKEN_TYPE};

#[derive(Deserialize)]
struct IssuerDirectory {
    #[serde(rename = "token-keys")]
    token_keys: Vec<TokenKey>,
}

#[derive(Deserialize)]
struct TokenKey {
    #[serde(rename = "token-type")]
    token_type: u16,
    #[serde(rename = "token-key")]
    token_key: String,
    #[serde(rename = "not-before", default)]
    not_before: u64,
}

/// Why there are no keys. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum IssuerDirectoryError {
    /// No answer.
    #[error("the issuer's directory cannot be fetched")]
    Unreachable(#[source] reqwest::Error),
    /// Not a directory.
    #[error("the issuer's directory is malformed")]
    Malformed,
    /// No usable key.
    #[error("the issuer's directory has no usable key")]
    Keys(#[source] crate::tokens::IssuerKeyError),
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Largest directory.
const MAX_BYTES: usize = 256 * 1024;

/// What the issuer shows.
pub struct Fetched {
    /// The keys of token type 0x0002.
    pub keys: IssuerKeys,
    /// The directory, for [`kept`].
    pub body: Vec<u8>,
}

/// Fetches the keys.
///
/// # Errors
/// [`IssuerDirectoryError`].
pub async fn fetch(client: &reqwest::Client, url: &str) -> Result<Fetched, IssuerDirectoryError> {
    let unreachable =
        |error: reqwest::Error| IssuerDirectoryError::Unreachable(error.without_url());
    let mut response = client
        .get(url)
        .timeout(Duration::from_secs(10))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(unreachable)?;
    // Whatever length it announces: no more is kept than a directory has.
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len().saturating_add(chunk.len()) > MAX_BYTES {
            return Err(IssuerDirectoryError::Malformed);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Fetched {
        keys: parse(&body)?,
        body,
    })
}

/// Keeps what the issuer showed, for a start while it is away.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn keep(store: &dyn Foundation, body: &[u8], now_ms: u64) -> Result<(), StoreError> {
    let noted = [&now_ms.to_be_bytes()[..], body].concat();
    store.write_note(Note::IssuerDirectory, noted).await
}

/// The keys that the issuer showed last, and how long ago, milliseconds. `None` if they are older than
/// `longest_ms`, if a clock says that they are of a later day, or if there are none.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn kept(
    store: &dyn Foundation,
    now_ms: u64,
    longest_ms: u64,
) -> Result<Option<(IssuerKeys, u64)>, StoreError> {
    let Some(noted) = store.note(Note::IssuerDirectory).await? else {
        return Ok(None);
    };
    let Some((at, body)) = noted.split_first_chunk() else {
        return Ok(None);
    };
    let at_ms = u64::from_be_bytes(*at);
    let age_ms = now_ms.saturating_sub(at_ms);
    if age_ms > longest_ms || at_ms.saturating_sub(now_ms) > DAY_MS {
        return Ok(None);
    }
    Ok(parse(body).ok().map(|keys| (keys, age_ms)))
}

fn parse(body: &[u8]) -> Result<IssuerKeys, IssuerDirectoryError> {
    let directory: IssuerDirectory =
        serde_json::from_slice(body).map_err(|_| IssuerDirectoryError::Malformed)?;
    let keys = directory
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
        .map(|key| {
            let spki = URL_SAFE
                .decode(&key.token_key)
                .or_else(|_| URL_SAFE_NO_PAD.decode(&key.token_key))
                .map_err(|_| IssuerDirectoryError::Malformed)?;
            Ok((spki, key.not_before))
        })
        .collect::<Result<Vec<_>, IssuerDirectoryError>>()?;
    IssuerKeys::from_directory(keys).map_err(IssuerDirectoryError::Keys)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_directory_that_never_ends_is_cut_off_at_its_bound() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let issuer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let fetched = fetch(&client, &url).await.map(|_| ());
        assert!(
            matches!(fetched, Err(IssuerDirectoryError::Malformed)),
            "{fetched:?}"
        );
        issuer.await.unwrap();
    }
}
