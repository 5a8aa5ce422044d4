//! Leaving for good: handle with its inbox, KeyPackages, groups, and what is kept here.

use crypto::schedule::PoolToken;
use crypto::secret::Secret;
use crypto::sign::SignatureKeyPair;
use protocol::Wire;
use protocol::codec::{WireSecret, opaque};
use protocol::group::Accepted;
use protocol::inbox::DeleteHandleRequest;
use protocol::key_packages::DeleteKeyPackagesRequest;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::flows::act::in_any_order;
use crate::mls::plan::Plan;
use crate::store::pools;
use crate::store::sync_outbox::enqueue;
use crate::store::{Group, Profile, Status, contacts, devices, profile};
use crate::sync_message::{HandleKeys, PoolKeys, SyncMessage};

impl Engine {
    /// Gives the handle up. Contacts and groups stay; nobody can ask for a connection any more.
    ///
    /// # Errors
    /// [`UsageError::NoHandle`].
    pub(crate) async fn delete_handle(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        let handle = self.profile.handle.clone().ok_or(UsageError::NoHandle)?;
        self.delete_published_handle(&handle).await
    }

    async fn delete_published_handle(&mut self, handle: &str) -> Result<(), Error> {
        let request = DeleteHandleRequest {
            handle: opaque(handle.as_bytes()),
        };
        let owner = SignatureKeyPair::from_seed(&self.profile.handle_owner.seed());
        self.delete_at_service(
            Operation::DeleteHandle,
            owner,
            &request,
            ProblemType::UnknownHandle,
        )
        .await
    }

    /// Registers the handle anew under keys that a removed device does not have.
    pub(crate) async fn rotate_handle_keys(&mut self) -> Result<(), Error> {
        let handle = self.profile.handle.clone().ok_or(UsageError::NoHandle)?;
        self.delete_published_handle(&handle).await?;
        self.transact(|db, _| {
            let (owner, establishment) = (Secret::<32>::random()?, Secret::<32>::random()?);
            profile::set_handle_keys(db, owner.expose(), establishment.expose())?;
            enqueue(
                db,
                SyncMessage::Handle(HandleKeys {
                    owner_seed: WireSecret::new(*owner.expose()),
                    establishment_seed: WireSecret::new(*establishment.expose()),
                }),
            )
        })?;
        self.profile = Profile::read(&self.db)?;
        self.register_handle(&handle).await?;
        profile::handle_keys_are_new(&self.db)
    }

    /// Deletes something of this client's at the service; that it is gone already is no error.
    async fn delete_at_service(
        &mut self,
        operation: Operation,
        owner: SignatureKeyPair,
        request: &impl Wire,
        gone: ProblemType,
    ) -> Result<(), Error> {
        let deleted: Result<Accepted, Error> = self.call(operation, owner, request).await;
        match deleted {
            Err(error) if error.problem() != Some(gone) => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete_pool(
        &mut self,
        token: &PoolToken,
        owner: SignatureKeyPair,
    ) -> Result<(), Error> {
        let request = DeleteKeyPackagesRequest { pool: token.pool() };
        self.delete_at_service(
            Operation::DeleteKeyPackages,
            owner,
            &request,
            ProblemType::NotOwner,
        )
        .await
    }

    /// Deletes former pools.
    pub(crate) async fn delete_retired_pools(&mut self) -> Result<(), Error> {
        for (token, owner) in in_any_order(pools::retired(&self.db)?)? {
            if self.has_acted() {
                break;
            }
            self.delete_pool(&token, owner).await?;
            pools::is_deleted(&self.db, &token)?;
        }
        Ok(())
    }

    /// Deletes what is in the pool of a contact, before sets are published that take the place of
    /// all.
    pub(crate) async fn empty_pool(
        &mut self,
        signature_key: &[u8],
        pool: &PoolKeys,
    ) -> Result<(), Error> {
        self.delete_pool(&pool.token(), pool.owner()).await?;
        contacts::pool_is_fresh(&self.db, signature_key)
    }

    /// Leaves every group, takes back every connection and request, deletes handle, inbox and
    /// KeyPackages, and forgets everything. The user's other devices are removed first. Where
    /// others are left in a group, the last trace of this user goes with their next commit.
    ///
    /// # Errors
    /// Whatever the requests meet; it can be called again then.
    pub(crate) async fn delete_account(&mut self) -> Result<(), Error> {
        let _held = self.hold().await?;
        self.sync().await?;
        let others: Vec<String> = devices::devices(&self.db, &self.profile)?
            .into_iter()
            .filter(|device| !device.own)
            .map(|device| device.name)
            .collect();
        for device in others {
            self.unlink_device(&device).await?;
        }
        if let Some(handle) = self.profile.handle.clone() {
            self.delete_published_handle(&handle).await?;
        }
        for group in Group::all(&self.db)? {
            if group.status == Status::Active {
                self.leave_for_good(&group).await?;
            }
        }
        for (key, pool) in contacts::pools(&self.db)? {
            self.empty_pool(&key, &pool).await?;
        }
        self.delete_retired_pools().await
    }

    async fn leave_for_good(&mut self, group: &Group) -> Result<(), Error> {
        match &group.name {
            Some(_) => self.leave_group(&group.id.into()).await,
            None => self.commit(&group.id, |_| Ok(Plan::Delete)).await,
        }
    }
}
