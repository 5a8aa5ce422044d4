//! The issuer's public keys, from its directory (RFC 9578 §4). Only public keys ever come here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::Deserialize;

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

/// Largest directory.
const MAX_BYTES: usize = 256 * 1024;

/// Fetches the keys of token type 0x0002.
///
/// # Errors
/// [`IssuerDirectoryError`].
pub async fn fetch(
    client: &reqwest::Client,
    url: &str,
) -> Result<IssuerKeys, IssuerDirectoryError> {
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
    parse(&body)
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
