//! The issuer's public keys, from its directory (RFC 9578 §4). Only public keys ever come here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use ds_domain::engine::{Engine, EngineError};
use ds_domain::tokens::{IssuerKeyError, IssuerKeys, TOKEN_TYPE};
use serde::Deserialize;
use service::body::{BodyError, read_at_most};
use service::tls::CertificateDer;

use crate::foundation::{self, Note};

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
    #[error("the issuer's directory {url} cannot be fetched")]
    Unreachable {
        /// As it is configured, without what may be a password in it.
        url: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no client that could ask.
    #[error("the HTTP client for the issuer's directory cannot be set up")]
    Client(#[source] reqwest::Error),
    /// Not a directory.
    #[error("what is at {0} is no directory of an issuer")]
    Malformed(String),
    /// No usable key.
    #[error("the issuer's directory has no usable key")]
    Keys(#[source] IssuerKeyError),
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Largest directory.
const MAX_BYTES: usize = 256 * 1024;

/// What the issuer shows.
pub(crate) struct Fetched {
    /// The keys of token type 0x0002.
    pub(crate) keys: IssuerKeys,
    /// The directory, for [`kept`].
    pub(crate) body: Bytes,
}

/// Fetches the keys.
///
/// # Errors
/// [`IssuerDirectoryError`].
pub(crate) async fn fetch(
    client: &reqwest::Client,
    url: &str,
) -> Result<Fetched, IssuerDirectoryError> {
    let unreachable = |source| IssuerDirectoryError::Unreachable {
        url: service::logging::without_secrets(url),
        source,
    };
    let response = client
        .get(url)
        .timeout(Duration::from_secs(10))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| unreachable(error.without_url().into()))?;
    let body = http::Response::from(response).into_body();
    let body = read_at_most(body, MAX_BYTES)
        .await
        .map_err(|error| match error {
            BodyError::TooLong => malformed(url),
            BodyError::Broken(source) => unreachable(source),
        })?;
    Ok(Fetched {
        keys: parse(&body, url)?,
        body,
    })
}

/// Keeps what the issuer showed, for a start while it is away.
///
/// # Errors
/// [`EngineError`].
pub(crate) async fn keep(engine: &dyn Engine, body: &[u8], now_ms: u64) -> Result<(), EngineError> {
    let noted = [&now_ms.to_be_bytes()[..], body].concat();
    foundation::write_note(engine, Note::IssuerDirectory, noted).await
}

/// The keys that the issuer showed last, and how long ago, milliseconds. `None` if they are older
/// than `longest_ms`, if a clock says that they are of a later day, or if there are none.
///
/// # Errors
/// [`EngineError`].
pub(crate) async fn kept(
    engine: &dyn Engine,
    now_ms: u64,
    longest_ms: u64,
) -> Result<Option<(IssuerKeys, u64)>, EngineError> {
    let Some(noted) = foundation::note(engine, Note::IssuerDirectory).await? else {
        return Ok(None);
    };
    let Some((at, body)) = noted.value.split_first_chunk() else {
        return Ok(None);
    };
    let at_ms = u64::from_be_bytes(*at);
    let age_ms = now_ms.saturating_sub(at_ms);
    if age_ms > longest_ms || at_ms.saturating_sub(now_ms) > DAY_MS {
        return Ok(None);
    }
    Ok(parse(body, "").ok().map(|keys| (keys, age_ms)))
}

fn malformed(url: &str) -> IssuerDirectoryError {
    IssuerDirectoryError::Malformed(service::logging::without_secrets(url))
}

/// What [`fetch`] asks with. `authorities`, if there are any, are trusted instead of those of the
/// web.
///
/// # Errors
/// [`IssuerDirectoryError::Client`].
pub(crate) fn http_client(
    authorities: Option<Vec<CertificateDer<'static>>>,
) -> Result<reqwest::Client, IssuerDirectoryError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(authorities) = authorities {
        builder = builder.tls_built_in_root_certs(false);
        for authority in authorities {
            let authority =
                reqwest::Certificate::from_der(&authority).map_err(IssuerDirectoryError::Client)?;
            builder = builder.add_root_certificate(authority);
        }
    }
    builder.build().map_err(IssuerDirectoryError::Client)
}

fn parse(body: &[u8], url: &str) -> Result<IssuerKeys, IssuerDirectoryError> {
    let directory: IssuerDirectory = serde_json::from_slice(body).map_err(|_| malformed(url))?;
    let keys = directory
        .token_keys
        .iter()
        .filter(|key| key.token_type == TOKEN_TYPE)
        .map(|key| {
            let spki = URL_SAFE
                .decode(&key.token_key)
                .or_else(|_| URL_SAFE_NO_PAD.decode(&key.token_key))
                .map_err(|_| malformed(url))?;
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
            matches!(fetched, Err(IssuerDirectoryError::Malformed(_))),
            "{fetched:?}"
        );
        issuer.await.unwrap();
    }
}
