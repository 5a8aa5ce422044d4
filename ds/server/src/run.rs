//! The life of the process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto::service_keys::ServiceKeys;
use ds_domain::engine::{Engine, EngineError, Table};
use ds_domain::memory::Memory;
use ds_domain::tokens::{Challenge, IssuerKeys};
use ds_store_blobs::{BlobStoreSettings, SettingsError};
use ds_store_postgres::Postgres;
use ds_store_rocks::Rocks;
use protocol::directory::StoreState;
use service::clock::SystemClock;
use service::config::StoreCommand;
use service::founding::{Refusal, StoreId};
use service::gateway_auth::GatewaySecret;
use service::logging::Chain;
use service::probe::Probe;
use service::secret_file::SecretFileError;
use service::shutdown::Shutdown;
use service::start::Process;
use tokio::task::JoinHandle;

use crate::agreed_clock::{Now, Standing};
use crate::blob_room::Blobs;
use crate::config::{BlobSettings, Config, StoreSettings};
pub use crate::error::RunError;
use crate::foundation::{self, FoundationError, Note};
use crate::issuer_directory::{self, IssuerDirectoryError};
use crate::push::Pusher;
use crate::server::{Allowed, Server, ServerSettings};
use crate::tokens::retired;

/// Runs until shutdown.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, process: Process) -> Result<(), RunError> {
    crate::init::check_finished(&config)?;
    let keys = load_keys(&config.service_key_file)?;
    let gateway = GatewaySecret::load(&config.gateway_secret_file)?;
    let Opened { engine, rocks } = open(&config, &keys).await?;
    let begun = foundation::begin(
        &*engine,
        &config.store.place(),
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
    let probe = foundation::probe(Arc::clone(&engine));
    process.readiness.depends_on(probe.clone());
    if let StoreSettings::Rocksdb { directory } = &config.store {
        // Only now: what is refused stays as it is.
        service::directory::private(directory)?;
    }
    tracing::info!(engine = config.store.engine(), "the store is open");
    let authorities = service::tls::private_authorities(config.issuer.ca_file.as_deref())?;
    let client = issuer_directory::http_client(authorities)?;
    let issuer_keys = first_issuer_keys(&client, &config, &process, &*engine)
        .await?
        .without(&retired::closed(&*engine).await?)
        .map_err(IssuerDirectoryError::Keys)?;
    let server = Server::new(
        engine,
        keys,
        Arc::clone(&process.clock),
        process.shutdown.clone(),
        issuer_keys,
        settings(&config, &begun)?,
    );
    let server = Arc::new(server.with_blobs(open_blobs(&config, begun.id).await?));
    settle(&server).await?;
    if server.count_blobs(server.now().day).await.is_err() {
        tracing::error!("blobs cannot be counted");
    }
    let pushing = start_push(&config, &server)?;
    let listener = service::http::bind(config.listen).await?;
    let upkeep = tokio::spawn(upkeep(Arc::clone(&server), client, config.clone()));
    let feed = tokio::spawn(crate::feed::keep(Arc::clone(&server)));
    let lost = lost(rocks, probe, process.shutdown.clone());
    offer_commands(&process, &config, &server);
    process.readiness.ready();
    let router = crate::routes::router(server, gateway);
    let serving =
        service::http::serve(listener, router, config.limits.listener(), process.shutdown);
    let ended = tokio::select! {
        () = serving => Ok(()),
        why = lost => Err(RunError::Lost(why)),
    };
    upkeep.abort();
    feed.abort();
    if let Some(pushing) = pushing {
        pushing.abort();
    }
    ended
}

/// Wakes devices from now on, if there is a push sender.
fn start_push(config: &Config, server: &Arc<Server>) -> Result<Option<JoinHandle<()>>, RunError> {
    let Some(settings) = &config.push else {
        return Ok(None);
    };
    if !crate::push::may_be_asked(&settings.url) {
        return Err(RunError::PushUrl);
    }
    let authorities = service::tls::private_authorities(settings.ca_file.as_deref())?;
    let client = issuer_directory::http_client(authorities)?;
    let secret = GatewaySecret::load_or_create(&settings.secret_file)?;
    let (push, pusher) = Pusher::new(settings, client, secret, Arc::clone(&server.clock));
    let _ = server.push.set(push);
    Ok(Some(tokio::spawn(pusher.run(Arc::clone(server)))))
}

/// The blob store, which answers and is the one of this store. A directory is there: a start makes
/// nothing.
async fn open_blobs(config: &Config, id: StoreId) -> Result<Blobs, RunError> {
    let BlobSettings { store, limits } = &config.blobs;
    let blobs = store.open()?;
    blobs.check().await.map_err(SettingsError::Store)?;
    // What is in memory is made at each start.
    let is_kept = !matches!(config.store, StoreSettings::Memory)
        && !matches!(store, BlobStoreSettings::Memory {});
    let bound = blobs.store_id().await.map_err(SettingsError::Store)?;
    if is_kept && bound != Some(id.to_string()) {
        let place = store.place();
        return Err(RunError::OtherBlobs { place, store: id });
    }
    if let BlobStoreSettings::Directory { directory } = store {
        service::directory::private(directory)?;
    }
    Ok(Blobs::new(blobs, *limits))
}

/// How often a long poll looks into a database that other nodes write to, too.
const LOOK_AGAIN_MS: u64 = 5_000;

fn settings(config: &Config, begun: &foundation::Begun) -> Result<ServerSettings, RunError> {
    config.streams.check()?;
    let allowances = &config.allowances;
    Ok(ServerSettings {
        decisions: config.decisions(),
        domain: config.domain.clone(),
        issuer_name: config.issuer.name.clone(),
        challenge: Challenge::new(&config.issuer.name, &config.issuer.origin)?,
        allowed: Allowed {
            leaf: allowances.share_of(allowances.leaf),
            group: allowances.share_of(allowances.group),
            segment: allowances.share_of(allowances.segment),
            owner: allowances.share_of(allowances.owner),
        },
        load: config.limits.load().share_of(allowances.nodes),
        look_again_ms: match config.store {
            StoreSettings::Postgres(_) => Some(LOOK_AGAIN_MS),
            StoreSettings::Rocksdb { .. } | StoreSettings::Memory => None,
        },
        streams: config.streams,
        max_request_bytes: config.limits.max_body_bytes,
        store: StoreState {
            id: URL_SAFE.encode(begun.id.0),
            generation: begun.generation,
        },
    })
}

/// What `ds` does beside running.
///
/// # Errors
/// [`RunError`].
pub async fn command(config: Config, command: StoreCommand) -> Result<String, RunError> {
    match command {
        StoreCommand::Init => crate::init::init(config).await,
        StoreCommand::Restored => restored(&config).await,
    }
}

/// Notes that the store was put back from a backup, and says so.
///
/// # Errors
/// As [`run`]'s about the store.
async fn restored(config: &Config) -> Result<String, RunError> {
    crate::init::check_finished(config)?;
    let keys = load_keys(&config.service_key_file)?;
    let opened = open(config, &keys).await?;
    let place = config.store.place();
    let begun = foundation::restored(
        &*opened.engine,
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

/// An engine, and what there is to watch of one in this process.
struct Opened {
    engine: Arc<dyn Engine>,
    rocks: Option<Arc<Rocks>>,
}

async fn open(config: &Config, keys: &ServiceKeys) -> Result<Opened, RunError> {
    let of = |engine| Opened {
        engine,
        rocks: None,
    };
    Ok(match &config.store {
        StoreSettings::Rocksdb { directory } => {
            let rocks = Arc::new(Rocks::open(directory).map_err(FoundationError::from)?);
            Opened {
                rocks: Some(Arc::clone(&rocks)),
                engine: rocks,
            }
        }
        StoreSettings::Postgres(settings) => {
            let postgres = Postgres::open(settings).await;
            of(Arc::new(postgres.map_err(FoundationError::from)?))
        }
        StoreSettings::Memory => {
            let memory = Memory::default();
            foundation::bind(&memory, keys, &config.service_key_file).await?;
            of(Arc::new(memory))
        }
    })
}

/// Returns when an engine in this process cannot go on. A database elsewhere comes back by itself.
async fn lost(rocks: Option<Arc<Rocks>>, probe: Probe, shutdown: Shutdown) -> String {
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

/// `rotate-keys` adds a generation to the service key file, in use from the next start;
/// `believe-clock` says that the clock is right.
fn offer_commands(process: &Process, config: &Config, server: &Arc<Server>) {
    let server = Arc::clone(server);
    process.commands.offer("believe-clock", move |_| {
        let server = Arc::clone(&server);
        async move {
            believe_clock(&server)
                .await
                .map_err(|_| "the store cannot be told the day")
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

/// Attempts to reach the issuer at start, one a second, when nothing is known of it.
const ISSUER_ATTEMPTS: u32 = 60;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// What the issuer shows, or what it showed when it was there last.
async fn first_issuer_keys(
    client: &reqwest::Client,
    config: &Config,
    process: &Process,
    engine: &dyn Engine,
) -> Result<IssuerKeys, RunError> {
    let mut attempt = 0;
    loop {
        let error = match issuer_directory::fetch(client, &config.issuer.directory).await {
            Ok(fetched) => {
                issuer_directory::keep(engine, &fetched.body, process.clock.now_unix_ms()).await?;
                return Ok(fetched.keys);
            }
            Err(error) => error,
        };
        let now_ms = process.clock.now_unix_ms();
        let longest_ms = u64::from(config.issuer.keep_days).saturating_mul(DAY_MS);
        if let Some((keys, age_ms)) = issuer_directory::kept(engine, now_ms, longest_ms).await? {
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

async fn upkeep(server: Arc<Server>, client: reqwest::Client, config: Config) {
    let mut refresh =
        tokio::time::interval(Duration::from_secs(config.issuer.refresh_seconds.max(1)));
    let mut expiry = tokio::time::interval(EXPIRY_PERIOD);
    refresh.tick().await;
    loop {
        tokio::select! {
            _ = refresh.tick() => match issuer_directory::fetch(&client, &config.issuer.directory).await {
                Ok(fetched) => {
                    accept(&server, fetched.keys).await;
                    let now_ms = server.clock.now_unix_ms();
                    let kept = issuer_directory::keep(&*server.engine, &fetched.body, now_ms).await;
                    if let Err(error) = kept {
                        tracing::error!(%error, "the issuer's keys were not kept");
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the issuer's keys were not refreshed");
                }
            },
            _ = expiry.tick() => {
                if let Err(error) = expire_steadily(&server).await {
                    tracing::error!(%error, "expiry failed");
                }
            }
        }
    }
}

/// Accepts what the issuer shows, except keys whose spent-set was dropped.
async fn accept(server: &Server, keys: IssuerKeys) {
    let closed = match retired::closed(&*server.engine).await {
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
        Ok(keys) => server.accept_issuer_keys(keys),
        Err(error) => tracing::error!(%error, "the issuer's keys were not refreshed"),
    }
}

/// As [`expire`], on a day that no clock decides alone: not this node's, which must not have
/// jumped, and not that of any other node either, since what is deleted is deleted for all. Each
/// tells the store its day, and nothing goes by a later one than was told before: others have time
/// to say that they have an earlier day.
pub(crate) async fn expire_steadily(server: &Server) -> Result<(), EngineError> {
    let now = server.now();
    if matches!(now.standing, Standing::Ahead | Standing::AfterAbsence) {
        tracing::warn!(
            "the clock is ahead of what it said before: nothing expires by it until it has said so for a day"
        );
    }
    let told = told_day(server).await?;
    let day = told.map_or(now.day, |told| told.min(now.day));
    metrics::gauge!("ds_day_ahead_of_store").set(f64::from(now.day.saturating_sub(day)));
    // Before their rows are gone, which lead to them.
    if let Err(failure) = server.expire_blobs(day).await {
        tracing::error!(?failure, "expired blobs were not deleted");
    }
    expire(&*server.engine, day).await?;
    if server.count_blobs(now.day).await.is_err() {
        tracing::error!("blobs cannot be counted");
    }
    if now.standing == Standing::Agreed && server.sweep_blobs(now.day).await.is_err() {
        tracing::error!("the blob store cannot be swept");
    }
    tell_day(server, now, told).await?;
    metrics::counter!("ds_expiries_total").increment(1);
    if now.standing == Standing::Agreed && now.day.abs_diff(day) <= 1 {
        retired::drop_expired(server).await?;
    }
    Ok(())
}

/// The day that the service goes by is the store's, not that of a clock that was wrong from the
/// start: it goes on from the last day that was told. What was accepted by a clock that was far
/// behind is not deleted as soon as it is right again.
pub(crate) async fn settle(server: &Server) -> Result<(), EngineError> {
    let told = told_day(server).await?;
    server.settle_from(told);
    tell_day(server, server.now(), told).await
}

/// The last day that the store was told.
async fn told_day(server: &Server) -> Result<Option<u32>, EngineError> {
    let noted = foundation::note(&*server.engine, Note::Clock).await?;
    Ok(noted.and_then(|noted| noted.value.try_into().ok().map(u32::from_be_bytes)))
}

/// Tells the store the day, one at a time: of several nodes, one whose clock is wrong and is
/// believed goes no further in the time that the others take to tell theirs. A day that the clock
/// does not have for sure is not told.
async fn tell_day(server: &Server, now: Now, told: Option<u32>) -> Result<(), EngineError> {
    if now.standing != Standing::Agreed {
        return Ok(());
    }
    let day = told.map_or(now.day, |told| now.day.min(told.saturating_add(1)));
    foundation::write_note(&*server.engine, Note::Clock, day.to_be_bytes().to_vec()).await
}

/// The operator has looked at the clock: it is right.
async fn believe_clock(server: &Server) -> Result<(), EngineError> {
    server.settle_from(None);
    tell_day(server, server.now(), None).await
}

/// Drops what has expired: rows are kept until the end of their day.
///
/// # Errors
/// [`EngineError`].
pub(crate) async fn expire(engine: &dyn Engine, today: u32) -> Result<(), EngineError> {
    for table in Table::ALL.into_iter().filter(|table| table.has_days()) {
        engine.drop_days(table, today).await?;
    }
    Ok(())
}
