//! Spent-sets of issuer keys that are no longer accepted.

use std::collections::BTreeMap;

use crate::service_state::DeliveryService;
use crate::store::{Store, StoreError};

/// A key that has been gone from the issuer's directory for so long is not coming back. If it does, nothing
/// can be spent under it: its tokens could be spent a second time.
const MARGIN_MS: u64 = 2 * 24 * 60 * 60 * 1000;

/// Drops the spent-sets of keys that have been gone for the margin. Since when a key is gone is in the
/// store: a service that restarts every day drops them too, and so does whichever node looks first.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn drop_expired(service: &DeliveryService) -> Result<(), StoreError> {
    let now_ms = service.clock.now_unix_ms();
    let accepted = service.issuer_keys();
    let noted: BTreeMap<[u8; 32], u64> = service
        .store
        .retired_issuer_keys()
        .await?
        .into_iter()
        .map(|key| (key.id, key.since_ms))
        .collect();
    for key in service.store.spent_issuer_keys().await? {
        let since_ms = noted.get(&key).copied();
        if accepted.ids().any(|id| *id == key) {
            if since_ms.is_some() {
                service.store.readmit_issuer_key(key).await?;
            }
            continue;
        }
        match since_ms {
            None => service.store.retire_issuer_key(key, now_ms).await?,
            Some(since_ms) if now_ms.saturating_sub(since_ms) >= MARGIN_MS => {
                service.store.drop_spent(key).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The issuer keys whose spent-set was dropped: a directory that lists one again is wrong.
///
/// # Errors
/// [`StoreError::Engine`].
pub async fn closed(store: &dyn Store) -> Result<Vec<[u8; 32]>, StoreError> {
    let retired = store.retired_issuer_keys().await?;
    Ok(retired
        .into_iter()
        .filter(|key| key.closed)
        .map(|key| key.id)
        .collect())
}
