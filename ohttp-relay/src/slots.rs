//! How many requests are at a gateway at once. Each goes where the fewest are.

use std::sync::Arc;

use service::addresses::AddressPlace;
use service::outgoing::Running;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) struct Slots(Arc<Semaphore>);

/// A request at the gateway, until dropped.
pub(crate) struct Slot {
    pub(crate) by: Running,
    _place: OwnedSemaphorePermit,
    /// Of the client's address: it counts as long, whether the client is there or not.
    _of_address: Option<AddressPlace>,
}

impl Slots {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// `None`: there are as many as there may be.
    pub(crate) fn take(
        &self,
        by: impl FnOnce() -> Option<Running>,
        of_address: Option<AddressPlace>,
    ) -> Option<Slot> {
        let place = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Slot {
            by: by()?,
            _place: place,
            _of_address: of_address,
        })
    }
}
