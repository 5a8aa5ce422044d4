//! Handles: registering the own one, looking up others'.

use crypto::connection::{sign_handle_record, verify_handle_record};
use crypto::hpke;
use crypto::sign::SignatureKeyPair;
use protocol::Wire as _;
use protocol::codec::opaque;
use protocol::connections::{HandleRecord, is_valid_handle};
use protocol::group::Accepted;
use protocol::ids::Week;
use protocol::inbox::{LookupHandleRequest, LookupHandleResponse, RegisterHandleRequest};
use protocol::operation::Operation;
use protocol::time::DAY_MS;

use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, UsageError};
use crate::store::acts::{self, Act};
use crate::store::profile;

/// A handle that its owner does not renew is free for others after so many weeks.
const EXPIRY_WEEKS: u16 = 52;
/// It is renewed between half of these weeks and these: a device that is left over draws its own
/// time, and comes before the record ends whatever another one has drawn.
const RENEWAL_WEEKS: u64 = 24;

const WEEK_MS: u64 = 7 * DAY_MS;

pub(crate) fn expiry(now_ms: u64) -> Week {
    Week(Week::of(now_ms).0.saturating_add(EXPIRY_WEEKS))
}

/// The public key that an inbox is read with.
pub(crate) fn inbox_owner(owner: &SignatureKeyPair) -> Result<[u8; 32], Error> {
    owner
        .public()
        .as_slice()
        .try_into()
        .map_err(|_| LocalError::Damaged.into())
}

impl Engine {
    /// Registers this user's handle, which is also the name that members see, and publishes
    /// KeyPackages. Again with the same handle: renews the record.
    ///
    /// # Errors
    /// [`UsageError::HandleRegistered`], [`UsageError::InvalidHandle`]; the problem `handle-taken`.
    pub(crate) async fn register_handle(&mut self, handle: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        if !is_valid_handle(handle.as_bytes()) {
            return Err(UsageError::InvalidHandle.into());
        }
        if let Some(own) = self.profile.handle.as_ref().filter(|own| *own != handle) {
            return Err(UsageError::HandleRegistered(own.clone()).into());
        }
        self.put_handle(handle).await?;
        profile::set_handle(&self.db, Some(handle))?;
        self.profile.handle = Some(handle.to_owned());
        self.replenish_key_packages().await
    }

    /// Has the record behind a handle stand for a year.
    async fn put_handle(&mut self, handle: &str) -> Result<(), Error> {
        let profile = &self.profile;
        let record = sign_handle_record(
            handle.as_bytes(),
            &profile.credential_for(handle),
            &profile.identity,
            profile.establishment()?.public(),
        );
        let request = RegisterHandleRequest {
            handle: opaque(handle.as_bytes()),
            record: opaque(record.encode()),
            inbox: profile.inbox,
            inbox_owner: inbox_owner(&profile.inbox_owner)?,
            expiry: expiry(self.transport.time.now_unix_ms()),
        };
        let owner = SignatureKeyPair::from_seed(&profile.handle_owner.seed());
        let _: Accepted = self
            .call(Operation::RegisterHandle, owner, &request)
            .await?;
        Ok(())
    }

    /// Has the record of the own handle renewed in time: else another one could have the handle
    /// after a year, and who looks for this user would find that one.
    pub(crate) fn plan_handle(&mut self) -> Result<(), Error> {
        if self.profile.handle.is_none() {
            return Ok(());
        }
        let now_ms = self.transport.time.now_unix_ms();
        let latest_ms = now_ms.saturating_add(RENEWAL_WEEKS * WEEK_MS);
        match u64::try_from(profile::handle_due_ms(&self.db)?).unwrap_or(0) {
            // None is drawn yet, or another clock drew it.
            due_ms if due_ms == 0 || due_ms > latest_ms => self.draw_handle_renewal(),
            due_ms if due_ms <= now_ms => self.transact(|db, _| acts::plan(db, Act::Handle, &[])),
            _ => Ok(()),
        }
    }

    fn draw_handle_renewal(&mut self) -> Result<(), Error> {
        let random = u64::from(u16::from_be_bytes(crypto::random()?));
        let half_ms = RENEWAL_WEEKS * WEEK_MS / 2;
        let wait_ms = half_ms.saturating_add(half_ms.saturating_mul(random) / 65_535);
        let due_ms = self.transport.time.now_unix_ms().saturating_add(wait_ms);
        profile::set_handle_due_ms(&self.db, i64::try_from(due_ms).unwrap_or(i64::MAX))
    }

    pub(crate) async fn renew_handle(&mut self) -> Result<(), Error> {
        let Some(handle) = self.profile.handle.clone() else {
            return Ok(());
        };
        let renewed = self.put_handle(&handle).await;
        // What is refused costs its token: not again at once.
        if !matches!(renewed, Err(Error::Unreachable(_))) {
            self.draw_handle_renewal()?;
        }
        renewed
    }

    /// The record behind a handle, verified to be its credential's own word, and what a request to
    /// it costs now.
    pub(crate) async fn look_up(&mut self, handle: &str) -> Result<(HandleRecord, u8), Error> {
        let signer = SignatureKeyPair::random()?;
        let request = LookupHandleRequest {
            handle: opaque(handle.as_bytes()),
        };
        let found: LookupHandleResponse =
            self.call(Operation::LookupHandle, signer, &request).await?;
        let record =
            HandleRecord::decode(found.record.as_slice()).map_err(|_| PeerError::HandleRecord)?;
        verify_handle_record(handle.as_bytes(), &record).map_err(|_| PeerError::HandleRecord)?;
        if record.credential.name.as_slice() != handle.as_bytes() {
            return Err(PeerError::HandleRecord.into());
        }
        // Before anything is made for it: to a key that is none no request could ever be sealed.
        let key = record.connection_establishment_key.as_slice();
        hpke::seal(key, "", &[], &[]).map_err(|_| PeerError::HandleRecord)?;
        Ok((record, found.price))
    }
}
