//! Tokens that pay for a request which is being worked on: one token is in one request at a time, or
//! requests that come at the same moment would each get the work, and one of them pay.
//!
//! In the memory of this node: of several nodes each may work once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::VerifiedToken;

/// The tokens of the requests of this moment.
#[derive(Debug, Default)]
pub struct InFlight {
    nonces: Mutex<BTreeSet<[u8; 32]>>,
    released: Notify,
}

/// Given back when the request is over, however it ends.
#[must_use]
pub struct Held<'a> {
    in_flight: &'a InFlight,
    nonces: Vec<[u8; 32]>,
}

impl InFlight {
    /// Waits until no other request holds any of these tokens. All of them are taken together, so that two
    /// requests cannot wait for each other. Says whether it had to wait: then what the other request did
    /// counts.
    pub async fn hold(&self, tokens: &[VerifiedToken]) -> (Held<'_>, bool) {
        let nonces: Vec<[u8; 32]> = tokens.iter().map(|token| *token.nonce_digest()).collect();
        let mut waited = false;
        loop {
            // Before the look, so that no release is missed.
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            if self.take(&nonces) {
                let held = Held {
                    in_flight: self,
                    nonces,
                };
                return (held, waited);
            }
            waited = true;
            released.await;
        }
    }

    fn take(&self, wanted: &[[u8; 32]]) -> bool {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let free = wanted.iter().all(|nonce| !nonces.contains(nonce));
        if free {
            nonces.extend(wanted);
        }
        free
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.nonces.is_empty() {
            return;
        }
        let nonces = &self.in_flight.nonces;
        let mut nonces = nonces.lock().unwrap_or_else(PoisonError::into_inner);
        for nonce in &self.nonces {
            nonces.remove(nonce);
        }
        drop(nonces);
        self.in_flight.released.notify_waiters();
    }
}
