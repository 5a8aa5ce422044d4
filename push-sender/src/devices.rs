//! What a device's owner can do with its record, and what a handle leads to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::Wire as _;
use protocol::push::{
    Address, Consent, DEVICE_LABEL, DeviceAct, DeviceRequest, DeviceRequestTbs, DeviceResponse,
    Handle, MAX_AWAKE_SECONDS, MAX_HANDLES, Registration, VERSION,
};
use service::SharedClock;
use service::probe::{Probe, Trouble};
use service::rate::{Bucket, Buckets, Rate};

use crate::config::DeviceSettings;
use crate::keys::{DeviceId, Keys, Naming, Tag};
use crate::record::{Record, Revoked, SealError};
use crate::store::{Row, Store, StoreError};
use crate::wakes::Reachable;

const MS_PER_WEEK: u64 = 7 * 86_400_000;
const MS_PER_HOUR: u32 = 3_600_000;
/// Records whose requests are counted, in memory.
const MOST_COUNTED: usize = 1 << 16;

/// Whether an address is one that a sender of ours takes.
pub(crate) type IsTaken = Box<dyn Fn(&Address) -> bool + Send + Sync>;

/// Why a device's request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("the body is no device request")]
    Malformed,
    #[error("the version is not spoken")]
    Version,
    #[error("the signature is not the owner's")]
    Signature,
    #[error("there is no such device")]
    UnknownDevice,
    #[error("a request with number {last} had an effect")]
    Stale { last: u64 },
    #[error("no sender takes the address")]
    Address,
    #[error("too many records have the address")]
    AddressInUse,
    #[error("more in one request than the documented bound")]
    LimitExceeded,
    #[error("so many handles were ended one by one that only all can be ended")]
    TooManyRevoked,
    #[error("the allowance is used up")]
    TooMany { retry_after_s: u64 },
    #[error("no further device is taken")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("no randomness")]
    Crypto(#[from] crypto::CryptoError),
    #[error("the work broke off")]
    Broken,
}

/// What follows from a request, beside its answer: how its device is woken from now on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) device: DeviceId,
    pub(crate) reachable: Option<Reachable>,
    /// It needs no push for so many seconds; 0: from now on it does.
    pub(crate) awake: Option<u16>,
}

/// Why a handle leads nowhere. Counted; nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    NotOurs,
    Expired,
    Revoked,
    NoDevice,
}

impl Dropped {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NotOurs => "not_ours",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NoDevice => "no_device",
        }
    }
}

pub(crate) struct Devices {
    store: Arc<Mutex<Store>>,
    keys: Keys,
    clock: SharedClock,
    settings: DeviceSettings,
    is_taken: IsTaken,
    registrations: (Rate, Bucket),
    requests: (Rate, Buckets<DeviceId>),
    trouble: Trouble,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Devices(..)")
    }
}

impl Devices {
    pub(crate) fn new(
        store: Store,
        keys: Keys,
        clock: SharedClock,
        settings: DeviceSettings,
        is_taken: IsTaken,
    ) -> Self {
        let hourly = |count: u32| Rate::new(count.max(1), count, MS_PER_HOUR);
        Self {
            store: Arc::new(Mutex::new(store)),
            keys,
            clock,
            settings,
            is_taken,
            registrations: (hourly(settings.registrations_per_hour), Bucket::default()),
            requests: (
                hourly(settings.requests_per_hour),
                Buckets::new(MOST_COUNTED),
            ),
            trouble: Trouble::default(),
        }
    }

    /// Carries out what a device's owner asks for. Blocks.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing was changed then.
    pub(crate) fn act(&self, body: &[u8]) -> Result<(DeviceResponse, Effect), DeviceError> {
        let request = DeviceRequest::decode(body).map_err(|_| DeviceError::Malformed)?;
        let asked = verify(&request)?;
        let device = self.keys.device(&asked.owner_key);
        let (rate, buckets) = &self.requests;
        let now_ms = self.clock.monotonic_ms();
        buckets.take(device, *rate, 1, now_ms).map_err(too_many)?;
        let done = self.carry_out(device, asked);
        if let Err(DeviceError::Store(error)) = &done
            && error.is_trouble()
        {
            self.trouble.report();
        }
        done
    }

    fn carry_out(
        &self,
        device: DeviceId,
        asked: DeviceRequestTbs,
    ) -> Result<(DeviceResponse, Effect), DeviceError> {
        let store = self.store();
        let row = self.keys.row(device);
        let found = self.load(&store, device)?;
        match (found, asked.act) {
            (None, DeviceAct::Register(Registration { address, consent })) => {
                let record = Record::new(asked.number, address, checked(consent)?);
                self.check_new(&store)?;
                self.check_address(&store, &row, &record)?;
                store.add(&row, &self.row(device, &record, self.week())?)?;
                metrics::counter!("push_devices_registered_total").increment(1);
                Ok((no_handles(), self.effect(device, &record)))
            }
            (None, _) => Err(DeviceError::UnknownDevice),
            (Some(record), act)
                if record.removed == 1
                    && asked.number > record.number
                    && !matches!(act, DeviceAct::Register(_)) =>
            {
                Err(DeviceError::UnknownDevice)
            }
            (Some(mut record), act) if asked.number > record.number => {
                record.number = asked.number;
                self.change(&store, device, record, act)
            }
            (Some(record), _) => Err(DeviceError::Stale {
                last: record.number,
            }),
        }
    }

    fn change(
        &self,
        store: &Store,
        device: DeviceId,
        mut record: Record,
        act: DeviceAct,
    ) -> Result<(DeviceResponse, Effect), DeviceError> {
        let (mut answer, mut awake) = (no_handles(), None);
        match act {
            DeviceAct::Register(Registration { address, consent }) => {
                if record.removed == 1 {
                    self.take_registration()?;
                    record.removed = 0;
                }
                record.address = Some(address);
                record.consent = checked(consent)?;
                self.check_address(store, &self.keys.row(device), &record)?;
            }
            DeviceAct::SetConsent(consent) => record.consent = checked(consent)?,
            DeviceAct::IssueHandles(count) => {
                answer.handles = self.issue(device, &mut record, count)?
            }
            DeviceAct::RevokeHandles(handles) => self.revoke(device, &mut record, &handles)?,
            DeviceAct::RevokeAllHandles => {
                record.generation = record.generation.wrapping_add(1);
                record.revoked.clear();
            }
            // The number stays, and the next generation: a request of before that was held back
            // brings neither the record nor its handles to life.
            DeviceAct::Remove => {
                record.removed = 1;
                record.address = None;
                record.generation = record.generation.wrapping_add(1);
                record.revoked.clear();
            }
            DeviceAct::Awake(seconds) if seconds > MAX_AWAKE_SECONDS => {
                return Err(DeviceError::LimitExceeded);
            }
            DeviceAct::Awake(seconds) => awake = Some(seconds),
        }
        self.put(store, device, &record)?;
        let effect = self.effect(device, &record);
        Ok((answer, Effect { awake, ..effect }))
    }

    fn check_new(&self, store: &Store) -> Result<(), DeviceError> {
        self.take_registration()?;
        if store.devices() >= self.settings.max_devices {
            return Err(DeviceError::Full);
        }
        Ok(())
    }

    fn take_registration(&self) -> Result<(), DeviceError> {
        let (rate, bucket) = &self.registrations;
        rate.take(bucket, 1, self.clock.monotonic_ms())
            .map_err(too_many)
    }

    fn check_address(
        &self,
        store: &Store,
        row: &[u8; 32],
        record: &Record,
    ) -> Result<(), DeviceError> {
        let Some(address) = &record.address else {
            return Ok(());
        };
        if !(self.is_taken)(address) {
            return Err(DeviceError::Address);
        }
        let others = store.others_with(&self.keys.tag(address).0, row)?;
        if others >= self.settings.records_per_address {
            return Err(DeviceError::AddressInUse);
        }
        Ok(())
    }

    fn issue(
        &self,
        device: DeviceId,
        record: &mut Record,
        count: u16,
    ) -> Result<Vec<Handle>, DeviceError> {
        if count == 0 || usize::from(count) > MAX_HANDLES {
            return Err(DeviceError::LimitExceeded);
        }
        let week = self.week();
        if record.issued_week != week {
            (record.issued_week, record.issued) = (week, 0);
        }
        record.issued = record.issued.saturating_add(count.into());
        if record.issued > self.settings.handles_per_week {
            let left_ms = MS_PER_WEEK - self.clock.now_unix_ms() % MS_PER_WEEK;
            return Err(DeviceError::TooMany {
                retry_after_s: left_ms.div_ceil(1000),
            });
        }
        (0..count)
            .map(|_| {
                Ok(self.keys.issue(&Naming {
                    device,
                    id: crypto::random()?,
                    generation: record.generation,
                    last_week: week.saturating_add(self.settings.handle_weeks.min(26)),
                })?)
            })
            .collect()
    }

    /// Handles of others and expired ones are passed over: an answer says nothing of them.
    fn revoke(
        &self,
        device: DeviceId,
        record: &mut Record,
        handles: &[Handle],
    ) -> Result<(), DeviceError> {
        if handles.len() > MAX_HANDLES {
            return Err(DeviceError::LimitExceeded);
        }
        let week = self.week();
        record.revoked.retain(|revoked| revoked.last_week >= week);
        for naming in handles.iter().filter_map(|handle| self.keys.open(handle)) {
            let Naming { id, last_week, .. } = naming;
            if naming.device == device
                && naming.generation == record.generation
                && last_week >= week
                && !record.revoked.iter().any(|revoked| revoked.id == id)
            {
                record.revoked.push(Revoked { id, last_week });
            }
        }
        if record.revoked.len() > self.settings.revoked_handles {
            return Err(DeviceError::TooManyRevoked);
        }
        Ok(())
    }

    /// What a handle leads to. Blocks.
    pub(crate) fn reach(&self, handle: &Handle) -> Result<Result<Reachable, Dropped>, DeviceError> {
        let Some(naming) = self.keys.open(handle) else {
            return Ok(Err(Dropped::NotOurs));
        };
        if naming.last_week < self.week() {
            return Ok(Err(Dropped::Expired));
        }
        let store = self.store();
        let Some(record) = self.load(&store, naming.device)? else {
            return Ok(Err(Dropped::NoDevice));
        };
        let is_revoked = record.generation != naming.generation
            || record.revoked.iter().any(|revoked| revoked.id == naming.id);
        let Some(reachable) = self.reachable(naming.device, &record) else {
            return Ok(Err(Dropped::NoDevice));
        };
        Ok(if is_revoked {
            Err(Dropped::Revoked)
        } else {
            Ok(reachable)
        })
    }

    fn reachable(&self, device: DeviceId, record: &Record) -> Option<Reachable> {
        let address = record.address.as_ref()?;
        Some(Reachable {
            device,
            tag: self.keys.tag(address),
            lane: self.keys.lane(address),
            pace: record.consent.pace,
            decoys: record.consent.decoys == 1,
        })
    }

    fn effect(&self, device: DeviceId, record: &Record) -> Effect {
        Effect {
            device,
            reachable: self.reachable(device, record),
            awake: None,
        }
    }

    /// Where a device is reached now, if its address is still the one of `tag`, and if it agrees to
    /// decoys where that is what it is asked for. Blocks.
    pub(crate) fn address(
        &self,
        device: DeviceId,
        tag: Tag,
        is_decoy: bool,
    ) -> Result<Option<Address>, DeviceError> {
        let record = self.load(&self.store(), device)?;
        let record = record.filter(|record| !is_decoy || record.consent.decoys == 1);
        let address = record.and_then(|record| record.address);
        Ok(address.filter(|address| self.keys.tag(address) == tag))
    }

    /// Drops an address that leads nowhere any more. The record stays: its owner can bring another
    /// address, and the handles go on. Blocks.
    pub(crate) fn drop_address(&self, device: DeviceId, tag: Tag) -> Result<(), DeviceError> {
        let store = self.store();
        let Some(mut record) = self.load(&store, device)? else {
            return Ok(());
        };
        if record.address.as_ref().map(|it| self.keys.tag(it)) != Some(tag) {
            return Ok(());
        }
        record.address = None;
        let row = self.keys.row(device);
        let week = store.load(&row)?.map_or(self.week(), |row| row.week);
        store.put(&row, &self.row(device, &record, week)?)?;
        Ok(())
    }

    /// Forgets who was not here for long. Blocks.
    pub(crate) fn tidy(&self) -> Result<u64, DeviceError> {
        let store = self.store();
        store.drop_before(self.week().saturating_sub(self.settings.idle_weeks))?;
        Ok(store.devices())
    }

    pub(crate) fn probe(&self) -> Probe {
        let store = Arc::clone(&self.store);
        Probe::new(move || {
            let store = Arc::clone(&store);
            async move {
                let write = move || {
                    let store = store.lock().unwrap_or_else(PoisonError::into_inner);
                    store.probe()
                };
                match tokio::task::spawn_blocking(write).await {
                    Ok(written) => written.map_err(|error| error.to_string()),
                    Err(_) => Err("a write broke off".to_owned()),
                }
            }
        })
    }

    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    fn load(&self, store: &Store, device: DeviceId) -> Result<Option<Record>, DeviceError> {
        store
            .load(&self.keys.row(device))?
            .map(|row| Record::open(device, &self.keys, &row.sealed))
            .transpose()
            .map_err(DeviceError::from)
    }

    fn put(&self, store: &Store, device: DeviceId, record: &Record) -> Result<(), DeviceError> {
        let row = self.row(device, record, self.week())?;
        Ok(store.put(&self.keys.row(device), &row)?)
    }

    fn row(&self, device: DeviceId, record: &Record, week: u16) -> Result<Row, DeviceError> {
        Ok(Row {
            tag: match &record.address {
                Some(address) => self.keys.tag(address).0,
                None => crypto::random()?,
            },
            week,
            sealed: record.seal(device, &self.keys)?,
        })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn week(&self) -> u16 {
        u16::try_from(self.clock.now_unix_ms() / MS_PER_WEEK).unwrap_or(u16::MAX)
    }
}

/// The request, if it is its owner's.
fn verify(request: &DeviceRequest) -> Result<DeviceRequestTbs, DeviceError> {
    let asked = request.unverified().map_err(|_| DeviceError::Malformed)?;
    if asked.version != VERSION {
        return Err(DeviceError::Version);
    }
    let signed = request.request.as_slice();
    crypto::sign::verify(&asked.owner_key, DEVICE_LABEL, signed, &request.signature)
        .map_err(|_| DeviceError::Signature)?;
    Ok(asked)
}

fn checked(consent: Consent) -> Result<Consent, DeviceError> {
    if consent.decoys > 1 {
        return Err(DeviceError::Malformed);
    }
    Ok(consent)
}

fn no_handles() -> DeviceResponse {
    DeviceResponse {
        handles: Vec::new(),
    }
}

fn too_many(empty: service::rate::Empty) -> DeviceError {
    DeviceError::TooMany {
        retry_after_s: empty.retry_after_ms.unwrap_or(3_600_000).div_ceil(1000),
    }
}

#[cfg(test)]
mod tests;
