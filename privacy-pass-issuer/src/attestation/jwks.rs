//! Where a JWK set lies: in a file, or behind a URL.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use super::AccountSettingsError;
use crate::config::AccountSettings;

/// 64 RSA keys of 4096 bits with certificates beside them are shorter.
const MAX_DOCUMENT: usize = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a file is looked at: cheap, and what an operator changes is expected to work.
const FILE_EVERY: Duration = Duration::from_secs(5);

/// A document could not be had. Carries nothing that came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the file cannot be read")]
    File,
    #[error("the URL gives no document")]
    Url,
    #[error("the document is longer than 512 KiB")]
    TooLong,
}

/// Where keys come from, besides the configuration file.
pub(super) enum JwksSource {
    File(PathBuf),
    Url {
        http: reqwest::Client,
        url: reqwest::Url,
        every: Duration,
    },
}

impl JwksSource {
    pub(super) fn new(settings: &AccountSettings) -> Result<Option<Self>, AccountSettingsError> {
        match (&settings.jwks_file, &settings.jwks_url) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(AccountSettingsError::TwoDocuments),
            (Some(path), None) => Ok(Some(Self::File(path.clone()))),
            (None, Some(url)) => {
                let url = reqwest::Url::parse(url)
                    .ok()
                    .filter(|url| matches!(url.scheme(), "http" | "https"))
                    .ok_or(AccountSettingsError::Url)?;
                // A redirect would let somebody else choose whom we believe.
                let http = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::none())
                    .timeout(PATIENCE)
                    .build()
                    .map_err(|_| AccountSettingsError::Url)?;
                Ok(Some(Self::Url {
                    http,
                    url,
                    every: Duration::from_secs(settings.jwks_refresh_seconds.max(1)),
                }))
            }
        }
    }

    pub(super) fn every(&self) -> Duration {
        match self {
            Self::File(_) => FILE_EVERY,
            Self::Url { every, .. } => *every,
        }
    }

    pub(super) async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_file(&path))
                    .await
                    .map_err(|_| FetchError::File)?
            }
            Self::Url { http, url, .. } => {
                // The client's timeout covers the body too.
                let request = http.get(url.clone()).header("accept", "application/json");
                let mut answer = request.send().await.map_err(|_| FetchError::Url)?;
                if answer.status() != 200 {
                    return Err(FetchError::Url);
                }
                let mut document = Vec::new();
                while let Some(chunk) = answer.chunk().await.map_err(|_| FetchError::Url)? {
                    if document.len() + chunk.len() > MAX_DOCUMENT {
                        return Err(FetchError::TooLong);
                    }
                    document.extend_from_slice(&chunk);
                }
                Ok(document)
            }
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, FetchError> {
    let file = std::fs::File::open(path).map_err(|_| FetchError::File)?;
    let mut document = Vec::new();
    file.take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut document)
        .map_err(|_| FetchError::File)?;
    if document.len() > MAX_DOCUMENT {
        return Err(FetchError::TooLong);
    }
    Ok(document)
}
