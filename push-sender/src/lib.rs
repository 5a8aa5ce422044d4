//! # Push sender
//!
//! Wakes devices when there is news for them, without knowing of what. It is run by neither the
//! relay's operator nor the delivery service's (`docs/push.md`).
//!
//! ```text
//! push-sender init --config push.toml   (once: makes the store and its keys; see sample.toml)
//! push-sender --config push.toml
//! ```
//!
//! * `POST /v1/push/device`, from devices, through a relay and the push sender's own OHTTP gateway:
//!   `protocol::push::DeviceRequest` → `DeviceResponse`.
//! * `POST /v1/wake`, from listed delivery services: `protocol::push::WakeRequest` → 202, whatever
//!   becomes of it.
//!
//! ## What can be relied on
//!
//! * A *handle* names a record, not an address: it can be copied, but not turned to another device.
//!   It expires, can be ended, and says nothing to anybody else, also not that another handle is of
//!   the same device.
//! * An address is woken at most once an interval, however many handles, records and delivery
//!   services there are, and whatever they ask for.
//! * A push has no content, and one size for all devices of a kind.
//! * What was answered is on the disk. Wakes that wait are not.

mod allowed;
mod config;
mod devices;
mod dispatch;
mod founding;
mod http;
mod keys;
mod outbound;
mod places;
mod problem;
mod record;
mod senders;
mod services;
mod store;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use service::founding::Refusal;
use service::gateway_auth::GatewaySecret;
use service::http::Server;
use service::secret_file::SecretFileError;
use service::start::Process;
use service::tls::{Peers, ServerTls, TlsError};
use tokio::task::{JoinSet, spawn_blocking};

pub use config::{
    ApnsSettings, Config, DeliveryServiceSettings, DeviceSettings, FcmSettings, PaceSettings,
    SendingSettings, WebPushSettings, WebhookSettings,
};
use devices::Devices;

use dispatch::Dispatcher;
pub use founding::init;

use senders::Senders;
pub use senders::{KeyFileError, SenderError};
pub use services::PUSH_AUTHORIZATION;
use services::Services;
pub use store::StoreError;

/// The name of the binary.
pub const PROGRAM: &str = "push-sender";

const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Why a push sender could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("`handle_weeks` must be 1 to 26, and `idle_weeks` no less")]
    Weeks,
    #[error(transparent)]
    Senders(#[from] SenderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    #[error(transparent)]
    Directory(#[from] service::directory::DirectoryError),
    #[error("the store takes no writes ({0}): start again when its disk is mended")]
    Lost(String),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] service::http::BindError),
}

/// Runs the push sender until the process is told to end.
///
/// # Errors
/// The configuration or the store is wrong, or the address cannot be bound.
pub async fn run(config: Config, process: Process) -> Result<(), PushError> {
    let weeks = config.devices.handle_weeks;
    if !(1..=26).contains(&weeks) || config.devices.idle_weeks < weeks {
        return Err(PushError::Weeks);
    }
    let senders = Arc::new(Senders::new(&config)?);
    let tls = ServerTls::of_listener(config.tls.as_ref(), Peers::Certified, &process)?;
    let gateway = GatewaySecret::load(&config.gateway_secret_file)?;
    let services = Arc::new(Services::load(&config.delivery_services)?);
    let (store, keys) = founding::open(&config)?;
    let taking = Arc::clone(&senders);
    let devices = Arc::new(Devices::new(
        store,
        keys,
        Arc::clone(&process.clock),
        config.devices,
        Box::new(move |address| taking.takes(address)),
    ));
    let probe = devices.probe();
    process.readiness.depends_on(probe.clone());
    let clock = Arc::clone(&process.clock);
    let (dispatcher, waiting) =
        Dispatcher::new(&config, Arc::clone(&devices), senders, Arc::clone(&clock));
    let trouble = devices.trouble();
    // Ends with this function.
    let mut background = JoinSet::new();
    background.spawn(Arc::clone(&dispatcher).open(waiting));
    background.spawn(Arc::clone(&dispatcher).send());
    background.spawn(tidy(Arc::clone(&devices), Arc::clone(&dispatcher)));
    let parts = http::Parts {
        devices,
        dispatcher,
        services,
        clock,
    };
    let listener = service::http::bind(config.listen).await?;
    process.readiness.ready();
    let serving = Server::new(listener, config.limits)
        .with_tls(tls)
        .serve(http::router(parts, gateway), process.shutdown);
    tokio::select! {
        () = serving => Ok(()),
        why = service::probe::lost(trouble, probe) => Err(PushError::Lost(why)),
    }
}

async fn tidy(devices: Arc<Devices>, dispatcher: Arc<Dispatcher>) {
    loop {
        let tidied = Arc::clone(&devices);
        match spawn_blocking(move || tidied.tidy()).await {
            Ok(Ok(count)) => metrics::gauge!("push_devices").set(count as f64),
            _ => tracing::error!("devices that were not here for long could not be forgotten"),
        }
        dispatcher.tidy();
        tokio::time::sleep(TIDY_EVERY).await;
    }
}
