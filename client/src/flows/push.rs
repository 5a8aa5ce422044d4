//! Being woken: the record at the push sender, and handles for leaves (docs/push.md).

use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::push::{
    DEVICE_LABEL, DeviceAct, DeviceRequest, DeviceRequestTbs, DeviceResponse, Handle, MAX_HANDLES,
    Registration, VERSION,
};

use crate::engine::Engine;
use crate::error::{Error, Fault, LocalError, UsageError};
use crate::push_address::{PushAddress, PushConsent};
use crate::store::acts::{self, Act};
use crate::store::{Group, Status, push};

/// The problem that says that a request with this number, or a later one, had an effect.
const STALE: &str = "stale-number";
/// There is no record of this device.
const UNKNOWN: &str = "unknown-device";

impl Engine {
    /// Has this device woken at `address` from now on. Its leaves get handles at times of their
    /// own.
    ///
    /// # Errors
    /// [`UsageError::NoPushSender`]; [`Error::Push`].
    pub(crate) async fn register_push(
        &mut self,
        address: &PushAddress,
        consent: PushConsent,
    ) -> Result<(), Error> {
        let _held = self.hold().await?;
        push::begin(&self.db)?;
        let was_registered = push::is_registered(&self.db)?;
        self.ask_push_sender(|| {
            DeviceAct::Register(Registration {
                address: address.to_wire(),
                consent: consent.to_wire(),
            })
        })
        .await?;
        self.transact(|db, _| {
            push::registered(db)?;
            acts::plan(db, Act::Handles, &[])?;
            if was_registered {
                return Ok(());
            }
            for group in Group::all(db)? {
                if group.status == Status::Active {
                    acts::plan(db, Act::Extras, &group.id.0)?;
                }
            }
            Ok(())
        })?;
        match self.fill_handles().await {
            // There is a record, and handles are fetched later.
            Err(error) if error.fault() != Fault::Local => {
                tracing::warn!(code = error.code(), "push handles were not fetched");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => acts::done(&self.db, Act::Handles, &[]),
        }
    }

    /// Has this device woken no more. Handles in leaves lead to nothing from now on.
    ///
    /// # Errors
    /// [`UsageError::NotWoken`]; [`Error::Push`].
    pub(crate) async fn remove_push(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        if !push::is_registered(&self.db)? {
            return Err(UsageError::NotWoken.into());
        }
        match self.ask_push_sender(|| DeviceAct::Remove).await {
            Err(Error::Push(refusal)) if refusal.problem == UNKNOWN => {}
            other => drop(other?),
        }
        self.transact(|db, _| push::forget(db))
    }

    /// This device reads by itself for so long: no push. With 0 it sleeps again.
    ///
    /// # Errors
    /// [`UsageError::NotWoken`]; [`Error::Push`].
    pub(crate) async fn awake(&mut self, seconds: u16) -> Result<(), Error> {
        let _held = self.hold().await?;
        if !push::is_registered(&self.db)? {
            return Err(UsageError::NotWoken.into());
        }
        self.ask_push_sender(|| DeviceAct::Awake(seconds)).await?;
        Ok(())
    }

    /// Fills the stock, and ends the handles of groups that this client is not in any more.
    pub(crate) async fn fill_handles(&mut self) -> Result<(), Error> {
        match self.refill().await {
            // It was forgotten there: leaves bring random bytes until the next registration.
            Err(Error::Push(refusal)) if refusal.problem == UNKNOWN => {
                self.transact(|db, _| push::forget(db))
            }
            other => other,
        }
    }

    async fn refill(&mut self) -> Result<(), Error> {
        if !push::is_registered(&self.db)? {
            return Ok(());
        }
        let ended = match self.end_handles().await {
            // It remembers no more that were ended, say. That keeps no leaf from a handle.
            Err(Error::Push(refusal)) if refusal.problem != UNKNOWN => Err(Error::Push(refusal)),
            other => Ok(other?),
        };
        let now_ms = self.transport.time.now_unix_ms();
        let missing = push::missing(&self.db, now_ms)?;
        if missing > 0 {
            let handles = self
                .ask_push_sender(|| DeviceAct::IssueHandles(missing))
                .await?;
            self.transact(|db, _| push::add(db, &handles, now_ms))?;
        }
        ended
    }

    async fn end_handles(&mut self) -> Result<(), Error> {
        let gone = push::of_groups_that_are_gone(&self.db, MAX_HANDLES)?;
        if gone.is_empty() {
            return Ok(());
        }
        self.ask_push_sender(|| DeviceAct::RevokeHandles(gone.clone()))
            .await?;
        self.transact(|db, _| push::ended(db, &gone))
    }

    /// Asks until the answer is to this very request.
    async fn ask_push_sender(&mut self, act: impl Fn() -> DeviceAct) -> Result<Vec<Handle>, Error> {
        let mut transport = self.transport.to_push_sender()?;
        let mut is_behind = false;
        loop {
            let owner = push::next(&self.db)?.ok_or(UsageError::NotWoken)?;
            let key = SignatureKeyPair::from_seed(&owner.seed);
            let asked = DeviceRequestTbs {
                version: VERSION,
                owner_key: key.public(),
                number: owner.number,
                act: act(),
            };
            let issues = matches!(asked.act, DeviceAct::IssueHandles(_));
            let request = asked.encode();
            let signature = key.sign(DEVICE_LABEL, &request);
            let signature = signature.try_into().map_err(|_| LocalError::Damaged)?;
            let request = DeviceRequest {
                request: opaque(request),
                signature,
            };
            match transport.post_to_push_sender(&request.encode()).await {
                Ok(answer) => {
                    let answer = DeviceResponse::decode(&answer);
                    let answer = answer.map_err(|_| Error::Protocol("no answer to a device"))?;
                    return Ok(answer.handles);
                }
                Err(Error::Push(refusal)) if refusal.problem == STALE && !is_behind => {
                    // The answer was lost. What was done is done; handles are issued anew.
                    if refusal.last == Some(owner.number) && !issues {
                        return Ok(Vec::new());
                    }
                    // Or this home was put back.
                    push::seen(&self.db, refusal.last.unwrap_or(0))?;
                    is_behind = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
