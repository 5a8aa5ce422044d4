//! Blind signatures on all cores, shared fairly: an account that asks for a hundred at once has as many under
//! way as an account that asks for a few.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::store::AccountOfDay;
use crate::token_keys::{BlindSignature, SigningError, TokenKey};
use crate::token_request::TokenRequest;

/// Signatures that are made in one go: long enough (1.5 ms) that handing them out costs nothing beside
/// them, short enough that others need not wait.
const PIECE: usize = 4;
/// Pieces a core that wait for it when there is enough to do.
const ENOUGH: usize = 4;
/// Accounts that are kept before those that wait for nothing are looked for.
const FIRST_CLEANING: usize = 1024;

/// A request and the key that it names.
pub(crate) type Assignment = (Arc<TokenKey>, TokenRequest);

/// Why there are no signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignersError {
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error("a worker thread ended early")]
    Worker,
}

/// How many pieces wait to be signed.
pub(crate) struct Backlog {
    pieces: Mutex<usize>,
    low: Condvar,
    enough: usize,
}

/// A piece that waits.
struct InBacklog<'a>(&'a Backlog);

impl Backlog {
    /// Returns when the cores would soon have nothing to do, and after `patience` in any case.
    pub(crate) fn wait_until_low(&self, patience: Duration) {
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.low
                .wait_timeout_while(pieces, patience, |pieces| *pieces >= self.enough),
        );
    }

    fn join(&self) -> InBacklog<'_> {
        *self.pieces.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        InBacklog(self)
    }
}

impl Drop for InBacklog<'_> {
    fn drop(&mut self) {
        let mut pieces = self.0.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        *pieces -= 1;
        if *pieces + 1 == self.0.enough {
            self.0.low.notify_one();
        }
    }
}

/// The places at which signatures are made: one per core, taken in the order of asking. More at once would
/// only make each of them slower.
pub(crate) struct Signers {
    places: Arc<Semaphore>,
    cores: usize,
    queues: Mutex<Queues>,
    backlog: Arc<Backlog>,
}

/// Per account, as many turns in the queue for the places as there are places.
#[derive(Default)]
struct Queues {
    of: HashMap<AccountOfDay, Weak<Semaphore>>,
    clean_at: usize,
}

impl Signers {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_cores(cores)
    }

    fn with_cores(cores: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(cores)),
            cores,
            queues: Mutex::default(),
            backlog: Arc::new(Backlog {
                pieces: Mutex::new(0),
                low: Condvar::new(),
                enough: ENOUGH * cores,
            }),
        }
    }

    pub(crate) fn backlog(&self) -> &Arc<Backlog> {
        &self.backlog
    }

    fn queue_of(&self, account: AccountOfDay) -> Arc<Semaphore> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.of.len() >= queues.clean_at.max(FIRST_CLEANING) {
            queues.of.retain(|_, queue| queue.strong_count() > 0);
            queues.clean_at = queues.of.len().saturating_mul(2);
        }
        let slot = queues.of.entry(account).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let queue = Arc::new(Semaphore::new(self.cores));
            *slot = Arc::downgrade(&queue);
            queue
        })
    }

    /// Signs everything, in its order. Dropped, it leaves at most `cores` pieces to be finished.
    pub(crate) async fn sign(
        &self,
        account: AccountOfDay,
        work: Vec<Assignment>,
    ) -> Result<Vec<BlindSignature>, SignersError> {
        let queue = self.queue_of(account);
        let total = work.len();
        if total <= PIECE {
            return sign_piece(&queue, Arc::clone(&self.places), &self.backlog, work).await;
        }
        let mut pieces = JoinSet::new();
        let mut work = work.into_iter();
        for first in (0..total).step_by(PIECE) {
            let piece: Vec<_> = work.by_ref().take(PIECE).collect();
            let (queue, places) = (Arc::clone(&queue), Arc::clone(&self.places));
            let backlog = Arc::clone(&self.backlog);
            pieces.spawn(async move {
                let signed = sign_piece(&queue, places, &backlog, piece).await?;
                Ok::<_, SignersError>((first, signed))
            });
        }
        let mut signatures = vec![[0; _]; total];
        while let Some(piece) = pieces.join_next().await {
            let (first, signed) = piece.map_err(|_| SignersError::Worker)??;
            for (slot, signature) in signatures.iter_mut().skip(first).zip(signed) {
                *slot = signature;
            }
        }
        Ok(signatures)
    }
}

async fn sign_piece(
    queue: &Semaphore,
    places: Arc<Semaphore>,
    backlog: &Backlog,
    piece: Vec<Assignment>,
) -> Result<Vec<BlindSignature>, SignersError> {
    let in_backlog = backlog.join();
    let _turn = queue.acquire().await.map_err(|_| SignersError::Worker)?;
    let place = places
        .acquire_owned()
        .await
        .map_err(|_| SignersError::Worker)?;
    drop(in_backlog);
    let signed = spawn_blocking(move || {
        // Held by the work, not by who waits for it: it goes on when they are gone.
        let _place = place;
        piece
            .iter()
            .map(|(key, request)| key.blind_sign(request))
            .collect::<Result<Vec<_>, _>>()
    });
    Ok(signed.await.map_err(|_| SignersError::Worker)??)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::token_keys::TokenKeys;

    fn work(count: u16) -> (tempfile::TempDir, Vec<Assignment>) {
        let directory = tempfile::tempdir().unwrap();
        let keys = TokenKeys::load_or_create(&directory.path().join("keys"), 1).unwrap();
        let current = keys.current();
        let (key, ..) = current.states(1).next().unwrap();
        let work = (2..count + 2)
            .map(|number| {
                let mut bytes = [0; 259];
                (bytes[1], bytes[2]) = (2, key.truncated_id());
                bytes[257..].copy_from_slice(&number.to_be_bytes());
                (Arc::clone(key), TokenRequest::from_bytes(&bytes).unwrap())
            })
            .collect();
        (directory, work)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_signature_stands_where_its_request_stood() {
        let (_directory, work) = work(11);
        let signed = Signers::new()
            .sign(AccountOfDay([1; 32]), work.clone())
            .await
            .unwrap();
        for ((key, request), signature) in work.iter().zip(signed) {
            assert_eq!(key.blind_sign(request).unwrap(), signature);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_batches_of_one_account_do_not_hold_up_another_account() {
        let (_directory, work) = work(200);
        let signers = Arc::new(Signers::with_cores(1));
        let greedy_done = Arc::new(AtomicBool::new(false));
        let mut greedy = JoinSet::new();
        for _ in 0..5 {
            let (signers, work) = (Arc::clone(&signers), work.clone());
            let done = Arc::clone(&greedy_done);
            greedy.spawn(async move {
                signers.sign(AccountOfDay([1; 32]), work).await.unwrap();
                done.store(true, Ordering::SeqCst);
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        let modest = work[..1].to_vec();
        signers.sign(AccountOfDay([2; 32]), modest).await.unwrap();
        assert!(!greedy_done.load(Ordering::SeqCst));
        greedy.join_all().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_goes_away_leaves_no_work_behind() {
        let (_directory, work) = work(2000);
        let signers = Arc::new(Signers::with_cores(1));
        let waiting = {
            let (signers, work) = (Arc::clone(&signers), work.clone());
            tokio::spawn(async move { signers.sign(AccountOfDay([1; 32]), work).await.map(|_| ()) })
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        // 2000 signatures take most of a second; a few do not.
        let next = signers.sign(AccountOfDay([2; 32]), work[..1].to_vec());
        let next = tokio::time::timeout(Duration::from_millis(300), next);
        assert!(next.await.unwrap().is_ok());
    }
}
