//! The life of the process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crypto::service_keys::ServiceKeys;
use protocol::ids::QueueId;
use protocol::time::day_of;
use service::gateway_auth::GatewaySecret;
use service::secret_file::SecretFileError;
use service::start::Process;

use crate::config::{Config, StoreSettings};
use crate::issuer_directory::{self, IssuerDirectoryError};
use crate::service_state::{DeliveryService, Settings};
use crate::store::{
    ExpiryDays, Store, StoreError, memory::Memory, postgres::Postgres, rocks::Rocks,
};
use crate::tokens::{Challenge, IssuerKeys, retired};

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The service key file.
    #[error("the service key file cannot be used")]
    KeyFile(#[from] SecretFileError),
    /// Its content.
    #[error("the service key file is damaged or of a later release")]
    Keys(#[from] crypto::CryptoError),
    /// The store.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// Issuer name or origin.
    #[error("the token challenge cannot be made")]
    Challenge(#[from] crate::tokens::ChallengeError),
    /// The issuer did not answer for long.
    #[error("the issuer's keys cannot be had")]
    Issuer(#[from] IssuerDirectoryError),
    /// The listener.
    #[error("the listener cannot be started")]
    Bind(#[from] service::http::BindError),
    /// The service.
    #[error("the service cannot be put together")]
    Service(#[from] crate::error::DsError),
}

/// Runs until shutdown.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, process: Process) -> Result<(), RunError> {
    let keys = load_keys(&config.service_key_file)?;
    let gateway = GatewaySecret::load_or_create(&config.gateway_secret_file)?;
    let store: Arc<dyn Store> = match &config.store {
        StoreSettings::Rocksdb { directory } => Arc::new(Rocks::open(directory)?),
        StoreSettings::Postgres(settings) => Arc::new(Postgres::open(settings).await?),
        StoreSettings::Memory => Arc::new(Memory::default()),
    };
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(IssuerDirectoryError::Unreachable)?;
    let issuer_keys = first_issuer_keys(&client, &config, &process)
        .await?
        .without(&retired::closed(&*store).await?)
        .map_err(IssuerDirectoryError::Keys)?;
    let settings = Settings {
        domain: config.domain.clone(),
        issuer_name: config.issuer.name.clone(),
        challenge: Challenge::new(&config.issuer.name, &config.issuer.origin)?,
        prices: config.prices,
        leaf_allowance: config.allowances.share_of(config.allowances.leaf),
        group_allowance: config.allowances.share_of(config.allowances.group),
        queue_allowance: config.allowances.share_of(config.allowances.queue),
        retention_days: config.retention_days,
        inactivity_days: config.inactivity_days,
        self_check: config.self_check,
        max_request_bytes: config.limits.max_body_bytes,
        limits: config.limits.request(),
        queue_limits: config.limits.queues().share_of(config.allowances.nodes),
        load: config.limits.load().share_of(config.allowances.nodes),
    };
    let service = Arc::new(DeliveryService::new(
        store,
        keys,
        Arc::clone(&process.clock),
        process.shutdown.clone(),
        issuer_keys,
        settings,
    )?);
    let listener = service::http::bind(config.listen).await?;
    let upkeep = tokio::spawn(upkeep(Arc::clone(&service), client, config.clone()));
    offer_commands(&process, &service, &config);
    process.readiness.ready();
    let router = crate::http::router(Arc::clone(&service), gateway);
    service::http::serve(listener, router, config.limits.listener(), process.shutdown).await;
    upkeep.abort();
    Ok(())
}

fn load_keys(path: &Path) -> Result<ServiceKeys, RunError> {
    let fresh = || ServiceKeys::generate_file().map_err(|_| SecretFileError::NoRandomness);
    let file = service::secret_file::load_or_create_with(path, fresh, ServiceKeys::FILE_LENGTHS)?;
    Ok(ServiceKeys::from_file(&file)?)
}

/// `delete-queue` takes a queue id in hexadecimal (a client that has to go: the service then proposes its
/// removal from every group); `rotate-keys` adds a generation to the service key file, in use from the next start.
fn offer_commands(process: &Process, service: &Arc<DeliveryService>, config: &Config) {
    let service = Arc::clone(service);
    process.commands.offer("delete-queue", move |argument| {
        let service = Arc::clone(&service);
        async move {
            let id = queue_id(&argument).ok_or("not a queue id: 32 hexadecimal digits")?;
            crate::queues::owner::delete_by_operator(&service, id)
                .await
                .map_err(|_| "there is no such queue")
        }
    });
    let path = config.service_key_file.clone();
    process.commands.offer("rotate-keys", move |_| {
        let path = path.clone();
        async move {
            service::secret_file::replace(&path, ServiceKeys::FILE_LENGTHS, |file| {
                ServiceKeys::rotate_file(file).map_err(|_| SecretFileError::NoRandomness)
            })
            .map_err(|_| "the service key file cannot be rewritten")
        }
    });
}

fn queue_id(text: &str) -> Option<QueueId> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        let digits = text.get(at * 2..at * 2 + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(QueueId(id))
}

/// Attempts to reach the issuer at start, one a second.
const ISSUER_ATTEMPTS: u32 = 60;

async fn first_issuer_keys(
    client: &reqwest::Client,
    config: &Config,
    process: &Process,
) -> Result<IssuerKeys, IssuerDirectoryError> {
    let mut attempt = 0;
    loop {
        match issuer_directory::fetch(client, &config.issuer.directory).await {
            Ok(keys) => return Ok(keys),
            Err(error) if attempt >= ISSUER_ATTEMPTS || process.shutdown.is_requested() => {
                return Err(error);
            }
            Err(_) => {
                attempt = attempt.saturating_add(1);
                tracing::warn!("the issuer's directory is not available yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// How often expired days are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(3600);

async fn upkeep(service: Arc<DeliveryService>, client: reqwest::Client, config: Config) {
    let mut refresh =
        tokio::time::interval(Duration::from_secs(config.issuer.refresh_seconds.max(1)));
    let mut expiry = tokio::time::interval(EXPIRY_PERIOD);
    refresh.tick().await;
    loop {
        tokio::select! {
            _ = refresh.tick() => match issuer_directory::fetch(&client, &config.issuer.directory).await {
                Ok(keys) => accept(&service, keys).await,
                Err(error) => tracing::warn!(%error, "the issuer's keys were not refreshed"),
            },
            _ = expiry.tick() => {
                if let Err(error) = expire(&service).await {
                    tracing::error!(%error, "expiry failed");
                }
                if let Err(error) = retired::drop_expired(&service).await {
                    tracing::error!(%error, "spent-sets of retired keys were not dropped");
                }
            }
        }
    }
}

/// Accepts what the issuer shows, except keys whose spent-set was dropped.
async fn accept(service: &DeliveryService, keys: IssuerKeys) {
    let closed = match retired::closed(&*service.store).await {
        Ok(closed) => closed,
        Err(error) => {
            tracing::error!(%error, "the issuer's keys were not refreshed");
            return;
        }
    };
    if keys.ids().any(|id| closed.contains(id)) {
        tracing::error!("the issuer shows a key again that was gone: its tokens are refused");
    }
    match keys.without(&closed) {
        Ok(keys) => service.accept_issuer_keys(keys),
        Err(error) => tracing::error!(%error, "the issuer's keys were not refreshed"),
    }
}

/// Days that result records outlive the clock window: a day and the one before.
const RESULT_DAYS: u32 = 1;

/// Drops what has expired.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn expire(service: &DeliveryService) -> Result<(), StoreError> {
    let today = day_of(service.clock.now_unix_ms());
    let kept = service.settings.retention_days;
    service
        .store
        .expire(ExpiryDays {
            queues: today.saturating_sub(kept),
            results: today.saturating_sub(RESULT_DAYS),
            join_records: today.saturating_sub(kept),
            reservations: today.saturating_sub(1),
            key_packages: today,
        })
        .await
}
