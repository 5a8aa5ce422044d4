//! # Privacy Pass issuer and attester
//!
//! Issues publicly verifiable tokens (RFC 9578, type 0x0002: Blind RSA, 2048 bits) to accounts.
//! It learns which account asks, how often and when. It does not learn the tokens: it signs
//! blinded messages, so what is spent at the delivery service later cannot be matched with what was
//! signed here. It never talks to the delivery service, and the two are run by different operators.
//!
//! ```text
//! privacy-pass-issuer init --config issuer.toml   (once: makes database and keys; see sample.toml)
//! privacy-pass-issuer --config issuer.toml
//! ```
//!
//! * `GET /.well-known/private-token-issuer-directory`: the token keys,
//!   `application/private-token-issuer-directory` (RFC 9578 §4).
//! * `POST /token-request`: one blind signature, `application/private-token-request` →
//!   `application/private-token-response` (RFC 9578 §6). Or several,
//!   `application/private-token-generic-batch-request` → `…-generic-batch-response`
//!   (draft-ietf-privacypass-batched-tokens §6).
//! * `GET /ohttp-keys`, `/service-directory`, `/feed/latest`, `/feed/SECONDS/NUMBER`, if
//!   `ohttp_gateway` is configured: mirrors of that gateway's key configurations, and of the
//!   directory and the activity feed of the service behind it.
//! * `GET /.well-known/mimimi-reporting`: the certificate keys
//!   (`protocol::reporting::ReportingDirectory`).
//! * `POST /reporting-certificate`: `application/mimimi-certificate-request` →
//!   `application/mimimi-certificate`.
//! * `POST /abuse-report`: `application/mimimi-abuse-report` → 202; see `docs/abuse.md`.
//!
//! A token request is authenticated by `Authorization: Bearer <JWT>`: EdDSA, ES256 or RS256, with
//! `sub` the account, `exp` a time to come, and `iss` and `aud` as configured;
//! [`attestation::Attester`] is where other ways plug in. The directory says in
//! `generic-batch-size` how many requests a batch may have.
//!
//! ## What a client can rely on
//!
//! * A request that is refused costs nothing, whatever the reason.
//! * A batch is answered as a whole or refused as a whole; partial answers (206) do not occur. One
//!   element that cannot be signed refuses it, so does a quota that does not suffice for all.
//! * A request whose answer was lost can be sent again as it is, today and tomorrow: it gets the
//!   same answer and is counted once.
//! * 429 comes with `Retry-After`, and with `available`: for so many tokens a request would be
//!   served now.
//! * Every error is a problem document (RFC 9457) of type `urn:privacy-pass-issuer:problem:…`.
//!
//! ## What is kept
//!
//! Per account and day a count, and per request a digest, both under HMACs whose key lies outside
//! the database, for two days. The count is on disk before the signature leaves; charges that wait
//! at once share one write. A clock that is set back finds the counts of that day again, if it was
//! one of the last two. Of a blocked account an HMAC is kept until it is unblocked. Bursts are
//! counted in memory. Reports are kept sealed for 90 days, and until when an account's tokens are
//! withheld (`docs/abuse.md`).
//!
//! ## Token keys
//!
//! Files `token-<not before, unix seconds>.pk8` in `key_directory`. The table `[rotation]` says
//! when the next one is made and published, when it begins to sign, and how long the one before
//! signs beside it; then that one leaves the directory and its file is deleted. No key is made
//! whose truncated id another key in use has. No restart is needed for any of it.
//!
//! ## Commands
//!
//! `POST /commands/NAME` on the admin listener, `Content-Type: application/x-mimimi-admin`:
//!
//! | name | body | does |
//! |---|---|---|
//! | `keys` | | lists the keys: id, not before, state, when it expires |
//! | `rotate` | | publishes the next key now; it signs after the lead time |
//! | `reload-keys` | | takes the key files as they lie in `key_directory` now |
//! | `block` | account (`sub`) | it gets no tokens any more, nor answers it paid for |
//! | `unblock` | account | ends that |
//!
//! `reports`, `uphold`, `dismiss`, `release` and `rotate-certificate-key` are for reports of abuse:
//! `docs/abuse.md`.
//!
//! A block ends at the issuer: tokens that the account has cannot be recalled, since nobody knows
//! which they are. They end with their key, after at most a rotation period and its overlap.

pub mod accounts;
pub mod attestation;
mod charging;
mod commands;
mod config;
mod founding;
mod headers;
pub mod http;
pub mod issuance;
pub mod key_mirror;
mod observe;
mod outcome;
pub mod plans;
mod problem;
pub mod reporting;
pub mod rsa;
mod signing;
pub mod store;
pub mod token_keys;
pub mod token_request;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use service::addresses::AddressLimits;
use service::founding::Refusal;
use service::http::Server;
use service::secret_file::SecretFileError;
use service::start::{Process, Readiness};
use service::tls::{Peers, ServerTls, TlsError};
use tokio::task::{JoinSet, spawn_blocking};

use accounts::AccountHasher;
use attestation::{AccountSettingsError, Attester, DevelopmentAttester, JwtAttester};
pub use config::{AccountSettings, Config, ReportingSettings, ReportingSettingsError};
pub use founding::init;
use issuance::{Issuer, IssuerParts};
use reporting::keys::CertificateKeyError;
use reporting::{Reporting, ReportingParts};
use store::StoreError;
use store::reports::ReportStore;
use token_keys::{RotationError, TokenKeyError};
use worker::Workers;

/// The name of the binary.
pub const PROGRAM: &str = "privacy-pass-issuer";

const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// How often it is looked whether a key is to be made or dropped: what clients are shown is right
/// to the second anyway.
const KEYS_EVERY: Duration = Duration::from_secs(1);

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
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Reporting(#[from] ReportingSettingsError),
    #[error(transparent)]
    TokenKeys(#[from] TokenKeyError),
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    #[error("the database takes no writes ({0}): start again when its disk is mended")]
    Lost(String),
    #[error(transparent)]
    CertificateKeys(#[from] CertificateKeyError),
    #[error(transparent)]
    KeyMirror(#[from] key_mirror::KeyMirrorError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

/// Runs the issuer until the process is told to end.
pub async fn run(config: Config, process: Process) -> Result<(), IssuerError> {
    if config.request_uri.parse::<::http::Uri>().is_err() {
        return Err(IssuerError::RequestUri);
    }
    let clock = Arc::clone(&process.clock);
    let limits_clock = Arc::clone(&process.clock);
    config
        .rotation
        .check(config.directory_max_age_seconds.into())?;
    config.reporting.check()?;
    let attester: Arc<dyn Attester> =
        if config.accounts.development || !config.accounts.development_tokens.is_empty() {
            tracing::warn!("account tokens are a list in the configuration file: development only");
            Arc::new(DevelopmentAttester::new(&config.accounts, config.listen)?)
        } else {
            let clock = Arc::clone(&process.clock);
            Arc::new(JwtAttester::new(&config.accounts, clock)?)
        };
    let now_unix_s = process.clock.now_unix_ms() / 1000;
    // The database comes first: its lock keeps a second process from making keys of its own.
    let founding::Opened {
        store,
        hash_key,
        report_key,
        token_keys: keys,
        certificate_keys,
    } = founding::open(&config, now_unix_s)?;
    let store = Arc::new(store);
    let probe = store.probe();
    process.readiness.depends_on(probe.clone());
    keys.keep_up(now_unix_s)?;
    attester.refresh().await;
    let reports: Arc<dyn ReportStore> = Arc::new(store.reports());
    let issuer = Issuer::new(IssuerParts {
        attester: Arc::clone(&attester),
        hasher: AccountHasher::new(&hash_key),
        keys: Arc::new(keys),
        store: store.clone(),
        reports: Arc::clone(&reports),
        clock: Arc::clone(&clock),
        plans: config.plans(),
        max_batch_size: config.max_batch_size,
    });
    let issuer = Arc::new(issuer.map_err(IssuerError::Thread)?);
    let reporting = Arc::new(Reporting::new(ReportingParts {
        issuer: Arc::clone(&issuer),
        keys: certificate_keys,
        report_key,
        charges: store.clone(),
        reports,
        clock: Arc::clone(&clock),
        settings: config.reporting.clone(),
    })?);
    reporting::offer_commands(&process.commands, &reporting);
    let router = http::router(
        Arc::clone(&issuer),
        &config.request_uri,
        config.directory_max_age_seconds,
    )
    .merge(reporting::http::router(Arc::clone(&reporting)));
    let router = match &config.ohttp_gateway {
        Some(gateway) => {
            let ca_file = config.ohttp_gateway_ca_file.as_deref();
            router.merge(key_mirror::router(
                gateway,
                ca_file,
                clock,
                process.shutdown.clone(),
            )?)
        }
        None => router,
    };
    let router = service::cors::allow(router, &config.allowed_origins);
    let tls = ServerTls::of_listener(config.tls.as_ref(), Peers::Certified, &process)?;
    let listener = service::http::bind(config.listen).await?;
    commands::offer(&process.commands, &issuer);
    // Ends with this function.
    let mut background = JoinSet::new();
    background.spawn(forget_past_days(Arc::clone(&issuer), reporting));
    background.spawn(keep_up_with_keys(Arc::clone(&issuer)));
    background.spawn(refresh(attester));
    process.readiness.ready();
    background.spawn(watch(issuer.workers().clone(), process.readiness));
    let (reading, shutdown) = (Arc::clone(&store), process.shutdown.clone());
    spawn_blocking(move || {
        if let Err(error) = reading.read_everything(&shutdown) {
            tracing::error!(%error, "the database could not be read as a whole");
        }
    });
    let serving = Server::new(listener, config.limits())
        .with_tls(tls)
        .with_address_limits(AddressLimits::new(config.address_limits, limits_clock))
        .behind_proxies(config.proxies)
        .serve(router, process.shutdown);
    tokio::select! {
        () = serving => Ok(()),
        why = service::probe::lost(store.trouble(), probe) => Err(IssuerError::Lost(why)),
    }
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

async fn keep_up_with_keys(issuer: Arc<Issuer>) {
    loop {
        let (keys, now) = (Arc::clone(issuer.token_keys()), issuer.now_unix_s());
        observe::key_ages(&keys.current(), now);
        match spawn_blocking(move || keys.keep_up(now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                metrics::counter!("issuer_key_rotations_failed_total").increment(1);
                tracing::error!(%error, "the token keys could not be rotated");
            }
            Err(_) => tracing::error!("the token keys could not be rotated"),
        }
        tokio::time::sleep(KEYS_EVERY).await;
    }
}

/// Without one of its threads an issuer cannot do its work, and nothing but a restart brings it
/// back.
async fn watch(workers: Workers, readiness: Readiness) {
    workers.ended().await;
    readiness.not_ready();
    tracing::error!("a thread that charges or signs has ended: start the process again");
}

async fn refresh(attester: Arc<dyn Attester>) {
    while let Some(every) = attester.refresh_every() {
        tokio::time::sleep(every).await;
        attester.refresh().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_issuer_that_has_lost_a_thread_is_not_ready() {
        let (workers, readiness) = (Workers::default(), Readiness::default());
        readiness.ready();
        let watching = tokio::spawn(watch(workers.clone(), readiness.clone()));
        tokio::task::yield_now().await;
        assert!(readiness.is_ready());
        let thread = workers.spawn("test", || panic!("outside of any work"));
        assert!(thread.unwrap().join().is_err());
        watching.await.unwrap();
        assert!(!readiness.is_ready());
    }
}
