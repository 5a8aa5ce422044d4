//! Tokens that pay for a request which is being worked on: one token is in one request at a time,
//! or requests that come at the same moment would each get the work, and one of them pay.
//!
//! Whoever comes second waits for the first, shortly, and whoever comes third does not wait at all:
//! as many requests as somebody likes can name one token, and none of them may cost anybody else a
//! place.
//!
//! In the memory of this node: of several nodes each may work once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use ds_domain::tokens::VerifiedToken;

/// Requests take milliseconds: whoever waits longer is told to come again.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

type Nonce = [u8; 32];

/// The tokens of the requests of this moment, each with whoever waits for it.
#[derive(Debug, Default)]
pub struct InFlight {
    held: Mutex<BTreeMap<Nonce, Option<Arc<Notify>>>>,
    releases: AtomicU64,
}

/// Given back when the request is over, however it ends.
#[must_use]
pub struct Held<'a> {
    in_flight: &'a InFlight,
    nonces: Vec<Nonce>,
}

/// One of the tokens is in another request, and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is in another request")]
pub struct InUse;

/// The one who waits for a token.
struct Waiter<'a> {
    in_flight: &'a InFlight,
    nonce: Nonce,
    released: Arc<Notify>,
}

enum Taken<'a> {
    Held(Held<'a>),
    Waits(Waiter<'a>),
    InUse,
}

impl InFlight {
    /// How often tokens were given back. While this stays the same, no request that held any has
    /// spent them.
    #[must_use]
    pub fn releases(&self) -> u64 {
        self.releases.load(Ordering::Acquire)
    }

    /// Holds all of these tokens, if no other request holds one of them.
    #[must_use]
    pub fn try_hold(&self, tokens: &[VerifiedToken]) -> Option<Held<'_>> {
        let nonces = nonces(tokens);
        let mut held = self.lock();
        if nonces.iter().any(|nonce| held.contains_key(nonce)) {
            return None;
        }
        held.extend(nonces.iter().map(|nonce| (*nonce, None)));
        Some(Held {
            in_flight: self,
            nonces,
        })
    }

    /// Waits until no other request holds any of these tokens, for [`PATIENCE`] at most, and only
    /// if nobody else waits for the same token. All of them are taken together, so that two
    /// requests cannot wait for each other.
    ///
    /// # Errors
    /// [`InUse`].
    pub async fn hold(&self, tokens: &[VerifiedToken]) -> Result<Held<'_>, InUse> {
        let nonces = nonces(tokens);
        let holding = async {
            loop {
                match self.take(&nonces) {
                    Taken::Held(held) => return Ok(held),
                    Taken::InUse => return Err(InUse),
                    Taken::Waits(waiter) => waiter.released.notified().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, holding)
            .await
            .unwrap_or(Err(InUse))
    }

    fn take(&self, wanted: &[Nonce]) -> Taken<'_> {
        let mut held = self.lock();
        let Some(nonce) = wanted.iter().find(|nonce| held.contains_key(*nonce)) else {
            held.extend(wanted.iter().map(|nonce| (*nonce, None)));
            return Taken::Held(Held {
                in_flight: self,
                nonces: wanted.to_vec(),
            });
        };
        match held.get_mut(nonce) {
            Some(waiting @ None) => {
                // A release before the wait begins is not missed: it leaves a permit.
                let released = Arc::clone(waiting.insert(Arc::default()));
                Taken::Waits(Waiter {
                    in_flight: self,
                    nonce: *nonce,
                    released,
                })
            }
            _ => Taken::InUse,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Nonce, Option<Arc<Notify>>>> {
        // Written in one step each time, so a panic elsewhere leaves nothing half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nonces(tokens: &[VerifiedToken]) -> Vec<Nonce> {
    tokens.iter().map(|token| *token.nonce_digest()).collect()
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.nonces.is_empty() {
            return;
        }
        let mut held = self.in_flight.lock();
        let waiting: Vec<_> = self
            .nonces
            .iter()
            .filter_map(|nonce| held.remove(nonce).flatten())
            .collect();
        // Before anybody else can hold them.
        self.in_flight.releases.fetch_add(1, Ordering::Release);
        drop(held);
        for waiter in waiting {
            waiter.notify_one();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut held = self.in_flight.lock();
        if let Some(waiting) = held.get_mut(&self.nonce)
            && waiting
                .as_ref()
                .is_some_and(|waiting| Arc::ptr_eq(waiting, &self.released))
        {
            *waiting = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn tokens(numbers: &[u8]) -> Vec<VerifiedToken> {
        let token = |number: &u8| VerifiedToken::of_test((*number).into());
        numbers.iter().map(token).collect()
    }

    #[tokio::test]
    async fn one_waits_for_a_token_and_all_others_are_told_at_once() {
        let in_flight = InFlight::default();
        let (one, both) = (tokens(&[1]), tokens(&[2, 1]));
        let held = in_flight.try_hold(&one).unwrap();
        assert!(in_flight.try_hold(&both).is_none());
        let second = in_flight.hold(&both);
        let rest = async {
            for _ in 0..100 {
                assert_eq!(in_flight.hold(&one).await.err(), Some(InUse));
            }
            drop(held);
        };
        let (second, ()) = tokio::join!(second, rest);
        let second = second.unwrap();
        // Those that it did not have to wait for are its own too.
        assert!(in_flight.try_hold(&tokens(&[2])).is_none());
        drop(second);
        assert!(in_flight.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_then_another_may() {
        let in_flight = InFlight::default();
        let one = tokens(&[1]);
        let held = in_flight.try_hold(&one).unwrap();
        for _ in 0..2 {
            assert_eq!(in_flight.hold(&one).await.err(), Some(InUse));
        }
        drop(held);
        assert!(in_flight.hold(&one).await.is_ok());
    }

    #[tokio::test]
    async fn a_release_wakes_the_one_who_waits_for_that_token() {
        let in_flight = InFlight::default();
        let woken = AtomicUsize::new(0);
        let (first, second) = (tokens(&[1]), tokens(&[2]));
        let (one, two) = (
            in_flight.try_hold(&first).unwrap(),
            in_flight.try_hold(&second).unwrap(),
        );
        let waits = async |wanted: &[VerifiedToken]| {
            let held = in_flight.hold(wanted).await.unwrap();
            woken.fetch_add(1, Ordering::Relaxed);
            drop(held);
        };
        let releases = async {
            tokio::task::yield_now().await;
            drop(one);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(woken.load(Ordering::Relaxed), 1);
            drop(two);
        };
        tokio::join!(waits(&first), waits(&second), releases);
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }
}
