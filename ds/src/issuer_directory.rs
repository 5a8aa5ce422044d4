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
    let response = client
        .get(url)
        .timeout(Duration::from_secs(10))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(unreachable)?;
    let body = response.bytes().await.map_err(unreachable)?;
    if body.len() > MAX_BYTES {
        return Err(IssuerDirectoryError::Malformed);
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
            URL_SAFE
                .decode(&key.token_key)
                .or_else(|_| URL_SAFE_NO_PAD.decode(&key.token_key))
                .map_err(|_| IssuerDirectoryError::Malformed)
        })
        .collect::<Result<Vec<_>, _>>()?;
    IssuerKeys::from_directory_keys(keys).map_err(IssuerDirectoryError::Keys)
}
