//! Where a JWK set lies: in a file, or behind a URL.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use service::body::{BodyError, read_at_most};
use service::logging::{Chain, without_secrets};

use super::AccountSettingsError;
use crate::config::AccountSettings;
use crate::key_mirror::{KeyMirrorError, trusting};

/// 64 RSA keys of 4096 bits with certificates beside them are shorter.
const MAX_DOCUMENT: usize = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a file is looked at: cheap, and what an operator changes is expected to work.
const FILE_EVERY: Duration = Duration::from_secs(5);

/// A document could not be had. Carries nothing that came from outside.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("`accounts.jwks_file` {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`accounts.jwks_url` {url} cannot be fetched")]
    Url {
        /// Without what may be a password in it.
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`accounts.jwks_url` {url} gives no document: status {status}")]
    Status { url: String, status: u16 },
    #[error("the document at {0} is longer than 512 KiB")]
    TooLong(String),
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
                let client =
                    |error: KeyMirrorError| AccountSettingsError::Client(Chain(&error).to_string());
                let http = trusting(settings.jwks_ca_file.as_deref())
                    .map_err(client)?
                    .redirect(reqwest::redirect::Policy::none())
                    .timeout(PATIENCE)
                    .build()
                    .map_err(|error| client(error.into()))?;
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
                let (file, path) = (path.clone(), path.clone());
                tokio::task::spawn_blocking(move || read_file(&file))
                    .await
                    .map_err(|source| FetchError::File {
                        path,
                        source: source.into(),
                    })?
            }
            Self::Url { http, url, .. } => {
                // The client's timeout covers the body too.
                let request = http.get(url.clone()).header("accept", "application/json");
                let shown = || without_secrets(url.as_str());
                let failed = |source| FetchError::Url {
                    url: shown(),
                    source,
                };
                let answer = request.send().await;
                let answer = answer.map_err(|error| failed(error.without_url().into()))?;
                if answer.status() != 200 {
                    return Err(FetchError::Status {
                        url: shown(),
                        status: answer.status().as_u16(),
                    });
                }
                let body = http::Response::from(answer).into_body();
                match read_at_most(body, MAX_DOCUMENT).await {
                    Ok(document) => Ok(document.into()),
                    Err(BodyError::TooLong) => Err(FetchError::TooLong(shown())),
                    Err(BodyError::Broken(source)) => Err(failed(source)),
                }
            }
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, FetchError> {
    let failed = |source| FetchError::File {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut document = Vec::new();
    file.take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut document)
        .map_err(failed)?;
    if document.len() > MAX_DOCUMENT {
        return Err(FetchError::TooLong(path.display().to_string()));
    }
    Ok(document)
}
