//! Spent-sets of issuer keys that are no longer accepted.

use std::collections::HashMap;

use crate::service_state::DeliveryService;
use crate::store::StoreError;

/// A key that has been gone from the issuer's directory for so long is not coming back. Were it accepted
/// again after its spent-set was dropped, its tokens could be spent a second time.
const MARGIN_MS: u64 = 2 * 24 * 60 * 60 * 1000;

/// Since when keys are gone, as far as this process has seen: a restart begins the margin anew.
#[derive(Debug, Default)]
pub struct RetiredKeys(HashMap<[u8; 32], u64>);

impl RetiredKeys {
    /// Drops the spent-sets of keys that have been gone for the margin.
    ///
    /// # Errors
    /// [`StoreError::Engine`].
    pub async fn drop_expired(&mut self, service: &DeliveryService) -> Result<(), StoreError> {
        let now_ms = service.clock.now_unix_ms();
        let accepted = service.issuer_keys();
        self.0
            .retain(|gone, _| !accepted.ids().any(|id| id == gone));
        for key in service.store.spent_issuer_keys().await? {
            if accepted.ids().any(|id| *id == key) {
                continue;
            }
            let since = *self.0.entry(key).or_insert(now_ms);
            if now_ms.saturating_sub(since) >= MARGIN_MS {
                service.store.drop_spent(key).await?;
                self.0.remove(&key);
            }
        }
        Ok(())
    }
}
