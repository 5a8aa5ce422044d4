//! # Privacy Pass issuer and attester
//!
//! Issues publicly verifiable tokens (RFC 9578, type 0x0002: Blind RSA, 2048 bits) to accounts.
//! It learns which account asks, how often and when. It does not learn the tokens: it signs
//! blinded messages, so what is spent at the delivery service later cannot be matched with what was
//! signed here. It never talks to the delivery service, and the two are run by different operators.
//!
//! ```text
//! privacy-pass-issuer --config issuer.toml        (see sample.toml)
//! ```
//!
//! | route | does |
//! |---|---|
//! | `GET /.well-known/private-token-issuer-directory` | the token keys: `application/private-token-issuer-directory` (RFC 9578 §4) |
//! | `POST /token-request` | one blind signature: `application/private-token-request` → `application/private-token-response` (RFC 9578 §6) |
//! | `GET /ohttp-keys`, if `ohttp_gateway` is configured | a mirror of that gateway's key configurations |
//! | `GET /.well-known/mimimi-reporting` | the certificate keys (`protocol::reporting::ReportingDirectory`) |
//! | `POST /reporting-certificate` | `application/mimimi-certificate-request` → `application/mimimi-certificate` |
//! | `POST /abuse-report` | `application/mimimi-abuse-report` → 202; see `docs/abuse.md` |
//!
//! A token request is authenticated by `Authorization: Bearer <JWT>`: EdDSA (Ed25519), with `sub`
//! the account, `exp` a time to come, and `iss` and `aud` as configured. One request gets one
//! token; a wallet of many is many requests on a kept-alive connection.
//!
//! ## What a client can rely on
//!
//! * A request that is refused with 400, 401, 413, 415 or 422 costs nothing.
//! * A request whose answer was lost can be sent again as it is, today and tomorrow: it gets the
//!   same answer and is counted once.
//! * 429 comes with `Retry-After`: the seconds until the next day (UTC).
//! * Every error is a problem document (RFC 9457) of type `urn:privacy-pass-issuer:problem:…`.
//!
//! ## What is kept
//!
//! Per account and day a count, and per request a digest, both under HMACs whose key lies outside
//! the database, for two days. The count is on disk before the signature exists. A clock that is
//! set back finds the counts of that day again, if it was one of the last two.
//!
//! ## Token keys
//!
//! Files `token-<not before, unix seconds>.pk8` in `key_directory`. To rotate, put a new one there,
//! its `not before` at least one directory lifetime ahead, and restart; remove the old one when
//! its tokens are no longer accepted.

pub mod accounts;
mod config;
pub mod http;
pub mod issuance;
pub mod key_mirror;
mod problem;
pub mod reporting;
pub mod rsa;
pub mod store;
pub mod token_keys;
pub mod token_request;

use std::sync::Arc;
use std::time::Duration;

use service::http::Server;
use service::secret_file::{self, SecretFileError};
use service::start::Process;
use service::tls::{ServerTls, TlsError};

use accounts::{AccountHasher, AccountSettingsError, AccountVerifier};
pub use config::{AccountSettings, Config, ReportingSettings};
use issuance::{Issuer, IssuerParts};
use reporting::keys::{CertificateKeyError, CertificateKeys};
use reporting::{Reporting, ReportingParts};
use store::reports::ReportStore;
use store::{RocksStore, StoreError};
use token_keys::{TokenKeyError, TokenKeys};

const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Why an issuer could not be started.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("`request_uri` is not a URI")]
    RequestUri,
    #[error(transparent)]
    Accounts(#[from] AccountSettingsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    TokenKeys(#[from] TokenKeyError),
    #[error("account-hash.key cannot be used")]
    AccountHashKey(#[source] SecretFileError),
    #[error("reports.key cannot be used")]
    ReportKey(#[source] SecretFileError),
    #[error(transparent)]
    CertificateKeys(#[from] CertificateKeyError),
    #[error(transparent)]
    KeyMirror(#[from] key_mirror::KeyMirrorError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

/// Runs the issuer until the process is told to end.
pub async fn run(config: Config, process: Process) -> Result<(), IssuerError> {
    if config.request_uri.parse::<::http::Uri>().is_err() {
        return Err(IssuerError::RequestUri);
    }
    let clock = Arc::clone(&process.clock);
    let accounts = AccountVerifier::new(&config.accounts)?;
    // The database comes first: its lock keeps a second process from making keys of its own.
    let store = Arc::new(RocksStore::open(&config.data_directory)?);
    let now_unix_s = clock.now_unix_ms() / 1000;
    let keys = TokenKeys::load_or_create(&config.key_directory, now_unix_s)?;
    let hash_key = secret_file::load_or_create(
        &config.key_directory.join("account-hash.key"),
        AccountHasher::KEY_LENGTH,
    )
    .map_err(IssuerError::AccountHashKey)?;
    let reports: Arc<dyn ReportStore> = Arc::new(store.reports());
    let issuer = Arc::new(Issuer::new(IssuerParts {
        accounts,
        hasher: AccountHasher::new(&hash_key),
        keys,
        store: store.clone(),
        reports: Arc::clone(&reports),
        clock: Arc::clone(&clock),
        tokens_per_account_per_day: config.tokens_per_account_per_day,
    }));
    let reporting = Arc::new(Reporting::new(ReportingParts {
        issuer: Arc::clone(&issuer),
        keys: CertificateKeys::load_or_create(&config.key_directory, now_unix_s)?,
        report_key: report_key(&config)?,
        charges: store,
        reports,
        clock: Arc::clone(&clock),
        settings: config.reporting,
    })?);
    reporting::offer_commands(&process.commands, &reporting);
    let router = http::router(
        Arc::clone(&issuer),
        &config.request_uri,
        config.directory_max_age_seconds,
    )
    .merge(reporting::http::router(Arc::clone(&reporting)));
    let router = match &config.ohttp_gateway {
        Some(gateway) => router.merge(key_mirror::router(gateway, clock)?),
        None => router,
    };
    let tls = ServerTls::of_listener(config.tls.as_ref(), &process)?;
    let listener = service::http::bind(config.listen).await?;
    let forgetting = tokio::spawn(forget_past_days(issuer, reporting));
    process.readiness.ready();
    Server::new(listener, config.limits)
        .with_tls(tls)
        .serve(router, process.shutdown)
        .await;
    forgetting.abort();
    Ok(())
}

fn report_key(config: &Config) -> Result<[u8; 32], IssuerError> {
    let path = config.key_directory.join("reports.key");
    let key = secret_file::load_or_create(&path, 32).map_err(IssuerError::ReportKey)?;
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&key);
    Ok(bytes)
}

async fn forget_past_days(issuer: Arc<Issuer>, reporting: Arc<Reporting>) {
    loop {
        if let Err(error) = reporting.tidy().await {
            tracing::error!(%error, "past reports and keys could not be dropped");
        }
        if let Err(error) = issuer.forget_past_days().await {
            tracing::error!(%error, "past days could not be dropped");
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}
