//! The life of the process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::service_keys::ServiceKeys;
use protocol::directory::StoreState;
use protocol::ids::QueueId;
use protocol::time::day_of;
use service::clock::SystemClock;
use service::founding::Refusal;
use service::gateway_auth::GatewaySecret;
use service::logging::Chain;
use service::probe::Probe;
use service::secret_file::SecretFileError;
use service::shutdown::Shutdown;
use service::start::Process;

use crate::config::{Config, StoreSettings};
use crate::issuer_directory::{self, IssuerDirectoryError};
use crate::service_state::{DeliveryService, Settings};
use crate::store::{
    ExpiryDays, Foundation, FoundationError, Note, Store, StoreError, begin, bind, memory::Memory,
    postgres::Postgres, probe, rocks::Rocks,
};
use crate::tokens::{Challenge, IssuerKeys, retired};

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The service key file.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// Its content.
    #[error("the service key file {} is of a later release", .0.display())]
    Keys(PathBuf, #[source] crypto::CryptoError),
    /// It is missing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authorities of the issuer's certificate.
    #[error("the authorities for the issuer's certificate cannot be used")]
    Authorities(#[from] service::tls::TlsError),
    /// The directory of the database.
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    /// The store is not the one, not whole, or not to be had.
    #[error("the store is not served from")]
    Foundation(#[from] FoundationError),
    /// The store.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The store, later on.
    #[error("the store takes no writes ({0}): start again when its disk is mended")]
    Lost(String),
    /// Issuer name or origin.
    #[error("the token challenge cannot be made")]
    Challenge(#[from] crate::tokens::ChallengeError),
    /// The issuer did not answer for long.
    #[error("the issuer's keys cannot be had")]
    Issuer(#[from] IssuerDirectoryError),
    /// The listener.
    #[error(transparent)]
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
    crate::init::check_finished(&config)?;
    let keys = load_keys(&config.service_key_file)?;
    let gateway = GatewaySecret::load(&config.gateway_secret_file)?;
    let Opened {
        store,
        foundation,
        rocks,
    } = open(&config, &keys).await?;
    let begun = begin(
        &*foundation,
        &place(&config.store),
        &keys,
        &config.service_key_file,
    )
    .await?;
    tracing::info!(
        store = %begun.id,
        starts = begun.starts,
        generation = begun.generation,
        "the store is whole"
    );
    let probe = probe(Arc::clone(&foundation));
    process.readiness.depends_on(probe.clone());
    if let StoreSettings::Rocksdb { directory } = &config.store {
        // Only now: what is refused stays as it is.
        service::directory::private(directory)?;
    }
    tracing::info!(engine = config.store.engine(), "the store is open");
    let authorities = service::tls::private_authorities(config.issuer.ca_file.as_deref())?;
    let client = issuer_directory::http_client(authorities)?;
    let issuer_keys = first_issuer_keys(&client, &config, &process, &*foundation)
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
        store: StoreState {
            id: URL_SAFE.encode(begun.id.0),
            generation: begun.generation,
        },
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
    let upkeep = tokio::spawn(upkeep(
        Arc::clone(&service),
        foundation,
        client,
        config.clone(),
    ));
    let lost = lost(rocks, probe, process.shutdown.clone());
    offer_commands(&process, &service, &config);
    process.readiness.ready();
    let router = crate::http::router(Arc::clone(&service), gateway);
    let serving =
        service::http::serve(listener, router, config.limits.listener(), process.shutdown);
    let ended = tokio::select! {
        () = serving => Ok(()),
        why = lost => Err(RunError::Lost(why)),
    };
    upkeep.abort();
    ended
}

/// Notes that the store was put back from a backup, and says so.
///
/// # Errors
/// As [`run`]'s about the store.
pub(crate) async fn restored(config: &Config) -> Result<String, RunError> {
    crate::init::check_finished(config)?;
    let keys = load_keys(&config.service_key_file)?;
    let opened = open(config, &keys).await?;
    let place = place(&config.store);
    let begun = crate::store::restored(
        &*opened.foundation,
        &place,
        &keys,
        &config.service_key_file,
        SystemClock::shared().now_unix_ms() / 1000,
    )
    .await?;
    Ok(format!(
        "the store {} in {place} is of generation {} now: each client is told that it was restored from a backup",
        begun.id, begun.generation
    ))
}

/// An engine, as each side of it is needed.
struct Opened {
    store: Arc<dyn Store>,
    foundation: Arc<dyn Foundation>,
    rocks: Option<Rocks>,
}

impl Opened {
    fn of(engine: impl Store + Foundation) -> Self {
        let engine = Arc::new(engine);
        Self {
            foundation: engine.clone(),
            store: engine,
            rocks: None,
        }
    }
}

async fn open(config: &Config, keys: &ServiceKeys) -> Result<Opened, RunError> {
    Ok(match &config.store {
        StoreSettings::Rocksdb { directory } => {
            let rocks = Rocks::open(directory)?;
            Opened {
                rocks: Some(rocks.clone()),
                ..Opened::of(rocks)
            }
        }
        StoreSettings::Postgres(settings) => Opened::of(Postgres::open(settings).await?),
        StoreSettings::Memory => {
            let memory = Memory::default();
            bind(&memory, keys, &config.service_key_file).await?;
            Opened::of(memory)
        }
    })
}

/// Where the store is, for the operator.
pub(crate) fn place(settings: &StoreSettings) -> String {
    match settings {
        StoreSettings::Rocksdb { directory } => directory.display().to_string(),
        StoreSettings::Postgres(settings) => {
            format!("the database {} at {}", settings.database, settings.host)
        }
        StoreSettings::Memory => "memory".to_owned(),
    }
}

/// Returns when an engine in this process cannot go on. A database elsewhere comes back by itself.
async fn lost(rocks: Option<Rocks>, probe: Probe, shutdown: Shutdown) -> String {
    let Some(rocks) = rocks else {
        return std::future::pending().await;
    };
    let trouble = rocks.trouble();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = rocks.read_everything(&shutdown) {
            tracing::error!(%error, "the store could not be read as a whole");
        }
    });
    service::probe::lost(trouble, probe).await
}

fn load_keys(path: &Path) -> Result<ServiceKeys, RunError> {
    match service::secret_file::load_between(path, ServiceKeys::FILE_LENGTHS) {
        Err(error) if error.is_missing() => Err(Refusal::NoKeyFile {
            path: path.to_owned(),
            program: "ds",
        }
        .into()),
        file => {
            ServiceKeys::from_file(&file?).map_err(|error| RunError::Keys(path.to_owned(), error))
        }
    }
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

/// Attempts to reach the issuer at start, one a second, when nothing is known of it.
const ISSUER_ATTEMPTS: u32 = 60;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// What the issuer shows, or what it showed when it was there last.
async fn first_issuer_keys(
    client: &reqwest::Client,
    config: &Config,
    process: &Process,
    store: &dyn Foundation,
) -> Result<IssuerKeys, RunError> {
    let mut attempt = 0;
    loop {
        let error = match issuer_directory::fetch(client, &config.issuer.directory).await {
            Ok(fetched) => {
                issuer_directory::keep(store, &fetched.body, process.clock.now_unix_ms()).await?;
                return Ok(fetched.keys);
            }
            Err(error) => error,
        };
        let now_ms = process.clock.now_unix_ms();
        let longest_ms = u64::from(config.issuer.keep_days).saturating_mul(DAY_MS);
        if let Some((keys, age_ms)) = issuer_directory::kept(store, now_ms, longest_ms).await? {
            tracing::warn!(
                error = %Chain(&error),
                hours = age_ms / HOUR_MS,
                "the issuer is away: the keys that it showed so long ago are accepted meanwhile"
            );
            return Ok(keys);
        }
        if attempt >= ISSUER_ATTEMPTS || process.shutdown.is_requested() {
            return Err(error.into());
        }
        attempt += 1;
        tracing::warn!(error = %Chain(&error), "the issuer's directory is not available yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How often expired days are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(3600);

async fn upkeep(
    service: Arc<DeliveryService>,
    store: Arc<dyn Foundation>,
    client: reqwest::Client,
    config: Config,
) {
    let mut refresh =
        tokio::time::interval(Duration::from_secs(config.issuer.refresh_seconds.max(1)));
    let mut expiry = tokio::time::interval(EXPIRY_PERIOD);
    if let Err(error) = settle(&service, &*store).await {
        tracing::error!(%error, "the days of what is stored cannot be read");
    }
    refresh.tick().await;
    loop {
        tokio::select! {
            _ = refresh.tick() => match issuer_directory::fetch(&client, &config.issuer.directory).await {
                Ok(fetched) => {
                    accept(&service, fetched.keys).await;
                    let now_ms = service.clock.now_unix_ms();
                    if let Err(error) = issuer_directory::keep(&*store, &fetched.body, now_ms).await {
                        tracing::error!(%error, "the issuer's keys were not kept");
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the issuer's keys were not refreshed");
                }
            },
            _ = expiry.tick() => {
                let agreed = match expire_steadily(&service).await {
                    Ok(agreed) => agreed,
                    Err(error) => {
                        tracing::error!(%error, "expiry failed");
                        false
                    }
                };
                if let Err(error) = note_clock(&service, &*store).await {
                    tracing::error!(%error, "the day was not noted");
                }
                if agreed && let Err(error) = retired::drop_expired(&service).await {
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

/// As [`expire`], on a day that no jump of the clock decides. Says whether it is the clock's.
async fn expire_steadily(service: &DeliveryService) -> Result<bool, StoreError> {
    let (today, agreed) = service.settled();
    if !agreed {
        tracing::warn!(
            "the clock is ahead of what it said before: nothing expires by it until it has said so for a day"
        );
    }
    expire_before(service, today).await?;
    Ok(agreed)
}

/// The day that expiry goes by is the store's, not that of a clock that was wrong from the start: the last one on which
/// something was delivered, or the last one of the clock. What was delivered by a clock that was far behind is not
/// deleted as soon as it is right again.
async fn settle(service: &DeliveryService, store: &dyn Foundation) -> Result<(), StoreError> {
    let incarnations = service.store.incarnations().await?;
    let delivered = incarnations.into_iter().map(|(day, _)| day).max();
    let noted = store.note(Note::Clock).await?;
    let noted = noted.and_then(|day| day.try_into().ok().map(u32::from_be_bytes));
    service.settle_from(delivered.map(|day| noted.map_or(day, |noted| day.min(noted))));
    note_clock(service, store).await
}

async fn note_clock(service: &DeliveryService, store: &dyn Foundation) -> Result<(), StoreError> {
    let today = day_of(service.clock.now_unix_ms());
    store
        .write_note(Note::Clock, today.to_be_bytes().to_vec())
        .await
}

/// Drops what has expired.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn expire(service: &DeliveryService) -> Result<(), StoreError> {
    expire_before(service, day_of(service.clock.now_unix_ms())).await
}

async fn expire_before(service: &DeliveryService, today: u32) -> Result<(), StoreError> {
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
