//! From wake requests to pushes: opens handles, waits until their time has come, sends, and tries
//! again what was not taken.
//!
//! A wake that waits is in memory only. One that is lost with the process costs a delay: clients
//! read by their own clock too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::push::{Address, Handle};
use service::SharedClock;
use service::rate::{Buckets, Rate};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::devices::{DeviceError, Devices, Effect};
use crate::keys::{Kind, Lane};
use crate::places::Places;
use crate::senders::{self, Outcome, Senders};
use crate::wakes::{Asked, Due, Wakes};

/// Wake requests that wait to be opened.
const MOST_REQUESTS: usize = 64;
/// Without anything due it is looked again after so long.
const IDLE: Duration = Duration::from_secs(60);

/// A push for a service that has no place is looked at again after so long, or twice that.
const BUSY_MS: u64 = 1_000;
/// Servers of somebody's own whose pushes are counted, in memory.
const MOST_WEBHOOKS: usize = 1 << 16;

/// More wake requests wait than are taken.
#[derive(Debug)]
pub(crate) struct Busy;

pub(crate) struct Dispatcher {
    devices: Arc<Devices>,
    senders: Arc<Senders>,
    clock: SharedClock,
    wakes: Mutex<Wakes>,
    is_earlier: Notify,
    places: Places,
    of_one_webhook: (Rate, Buckets<Lane>),
    patience: Duration,
    attempts: u32,
    retry_ms: u64,
    longest_retry_ms: u64,
    requests: mpsc::Sender<Vec<Handle>>,
}

impl Dispatcher {
    /// And what wake requests come out of.
    pub(crate) fn new(
        config: &Config,
        devices: Arc<Devices>,
        senders: Arc<Senders>,
        clock: SharedClock,
    ) -> (Arc<Self>, mpsc::Receiver<Vec<Handle>>) {
        let (requests, waiting) = mpsc::channel(MOST_REQUESTS);
        let sending = &config.sending;
        let pushes = config.webhook.as_ref().map_or(0, |it| it.pushes_per_minute);
        let dispatcher = Self {
            devices,
            senders,
            clock,
            wakes: Mutex::new(Wakes::new(
                config.pace,
                sending.max_pending,
                config.devices.records_per_address,
            )),
            is_earlier: Notify::new(),
            places: Places::new(sending.max_at_once),
            of_one_webhook: (
                Rate::new(pushes.max(1), pushes, 60_000),
                Buckets::new(MOST_WEBHOOKS),
            ),
            // Room for an access token that is exchanged first.
            patience: Duration::from_secs(sending.answer_seconds.saturating_mul(2)),
            attempts: sending.attempts.max(1),
            retry_ms: sending.retry_ms.max(1),
            longest_retry_ms: sending.longest_retry_ms,
            requests,
        };
        (Arc::new(dispatcher), waiting)
    }

    /// Takes handles to be woken. Nothing of them is looked at before the answer.
    pub(crate) fn accept(&self, handles: Vec<Handle>) -> Result<(), Busy> {
        match self.requests.try_send(handles) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => Err(Busy),
        }
    }

    /// A device has said something.
    pub(crate) fn heard(&self, effect: Effect) {
        let Effect {
            device,
            reachable,
            awake,
        } = effect;
        let now_ms = self.clock.monotonic_ms();
        let mut wakes = self.wakes();
        if let Some(reachable) = reachable {
            wakes.heard(reachable, now_ms, chance());
        }
        if let Some(seconds) = awake {
            wakes.awake(device, reachable.map(|it| it.tag), seconds, now_ms);
        }
        drop(wakes);
        self.is_earlier.notify_one();
    }

    /// Opens wake requests as they come.
    pub(crate) async fn open(self: Arc<Self>, mut waiting: mpsc::Receiver<Vec<Handle>>) {
        while let Some(handles) = waiting.recv().await {
            let opener = Arc::clone(&self);
            let opened = spawn_blocking(move || opener.open_all(&handles)).await;
            if !matches!(opened, Ok(0)) {
                tracing::error!("handles could not be looked up");
            }
            self.is_earlier.notify_one();
        }
    }

    /// How many could not be looked up: a row that is damaged keeps no other device asleep.
    fn open_all(&self, handles: &[Handle]) -> usize {
        let mut failed = 0;
        for handle in handles {
            let label = self.open_one(handle).unwrap_or_else(|_| {
                failed += 1;
                "failed"
            });
            metrics::counter!("push_wakes_total", "outcome" => label).increment(1);
        }
        failed
    }

    fn open_one(&self, handle: &Handle) -> Result<&'static str, DeviceError> {
        let reachable = match self.devices.reach(handle)? {
            Ok(reachable) => reachable,
            Err(dropped) => return Ok(dropped.label()),
        };
        let now_ms = self.clock.monotonic_ms();
        let mut wakes = self.wakes();
        wakes.heard(reachable, now_ms, chance());
        Ok(wakes.ask(reachable, now_ms, chance()).label())
    }

    /// Sends what is due, for good.
    pub(crate) async fn send(self: Arc<Self>) {
        loop {
            let now_ms = self.clock.monotonic_ms();
            let (due, next_ms, waiting) = {
                let mut wakes = self.wakes();
                while let Some(asked) = wakes.ask_decoy(now_ms, [chance(), chance()]) {
                    if asked != Asked::Waits {
                        count_decoy(asked.label());
                    }
                }
                (wakes.take_due(now_ms), wakes.next_due_ms(), wakes.waiting())
            };
            metrics::gauge!("push_waiting").set(waiting as f64);
            let Some(due) = due else {
                let wait = next_ms.map_or(IDLE, |next_ms| {
                    Duration::from_millis(next_ms.saturating_sub(now_ms)).min(IDLE)
                });
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.is_earlier.notified() => {}
                }
                continue;
            };
            if !self.take_place(due.lane, now_ms) {
                // Those of others are sent meanwhile.
                let after_ms = BUSY_MS + chance() % BUSY_MS;
                self.wakes().put_back(due, after_ms, now_ms);
                continue;
            }
            let sender = Arc::clone(&self);
            tokio::spawn(async move {
                let lane = due.lane;
                sender.push(due).await;
                sender.places.give_back(lane);
            });
        }
    }

    pub(crate) fn tidy(&self) {
        self.wakes().tidy(self.clock.monotonic_ms());
    }

    fn take_place(&self, lane: Lane, now_ms: u64) -> bool {
        if !self.places.take(lane) {
            return false;
        }
        let (rate, buckets) = &self.of_one_webhook;
        let is_in_time = lane.kind != Kind::Webhook || buckets.take(lane, *rate, 1, now_ms).is_ok();
        if !is_in_time {
            self.places.give_back(lane);
        }
        is_in_time
    }

    async fn push(&self, mut due: Due) {
        let Some(address) = self.address(&due).await else {
            self.wakes().forget_decoys(due.tag);
            return;
        };
        let kind = senders::label(&address);
        // The same when it is sent again.
        let id = *due
            .id
            .get_or_insert_with(|| crypto::random().unwrap_or_default());
        let now_ms = self.clock.now_unix_ms();
        let sending = self.senders.send(&address, &id, now_ms);
        let outcome = tokio::time::timeout(self.patience, sending).await;
        let outcome = outcome.unwrap_or(Outcome::Later(None));
        metrics::counter!("push_sent_total", "sender" => kind, "outcome" => outcome.label())
            .increment(1);
        if due.is_decoy {
            count_decoy(outcome.label());
        }
        match outcome {
            Outcome::Sent | Outcome::Refused => {}
            Outcome::Gone => {
                self.wakes().forget_decoys(due.tag);
                self.drop_address(due).await;
            }
            Outcome::Later(after_ms) => self.try_again(due, after_ms),
        }
    }

    /// The address, if one of the records still has it, and for a decoy still agrees.
    async fn address(&self, due: &Due) -> Option<Address> {
        for &device in &due.devices {
            let (devices, tag, is_decoy) = (Arc::clone(&self.devices), due.tag, due.is_decoy);
            match spawn_blocking(move || devices.address(device, tag, is_decoy)).await {
                Ok(Ok(Some(address))) => return Some(address),
                Ok(Ok(None)) => {}
                _ => tracing::error!("a device could not be looked up"),
            }
        }
        None
    }

    /// Of every record that stood behind the push. Others with the same address find out by
    /// themselves.
    async fn drop_address(&self, due: Due) {
        let devices = Arc::clone(&self.devices);
        let dropping = move || {
            due.devices
                .iter()
                .try_for_each(|device| devices.drop_address(*device, due.tag))
        };
        if !matches!(spawn_blocking(dropping).await, Ok(Ok(()))) {
            tracing::error!("an address that is gone could not be dropped");
        }
    }

    fn try_again(&self, due: Due, after_ms: Option<u64>) {
        if due.tried.saturating_add(1) >= self.attempts {
            metrics::counter!("push_given_up_total").increment(1);
            return;
        }
        // The service's wish counts, but does not hold a wake for ever.
        let own_ms = self.retry_ms.saturating_mul(1 << due.tried.min(16));
        // What failed together does not come again together.
        let jitter_ms = chance() % (own_ms / 2).saturating_add(1);
        let after_ms = after_ms.unwrap_or(0).max(own_ms).saturating_add(jitter_ms);
        let after_ms = after_ms.min(self.longest_retry_ms);
        self.wakes().retry(due, after_ms, self.clock.monotonic_ms());
        self.is_earlier.notify_one();
    }

    fn wakes(&self) -> MutexGuard<'_, Wakes> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_decoy(outcome: &'static str) {
    metrics::counter!("push_decoys_total", "outcome" => outcome).increment(1);
}

fn chance() -> u64 {
    crypto::random().map_or(0, u64::from_be_bytes)
}
