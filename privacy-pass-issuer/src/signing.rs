//! Blind signatures on all cores, shared fairly: accounts take turns, so an account that asks for a
//! hundred at once does not hold up an account that asks for a few.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::outcome::{IssuanceError, Issued};
use crate::store::AccountOfDay;
use crate::token_keys::{BlindSignature, TokenKey};
use crate::token_request::TokenRequest;
use crate::worker::{Workers, contained};

/// Signatures that are made in one go: long enough (1 ms) that handing them out costs nothing
/// beside them, short enough that others need not wait.
const PIECE: usize = 4;

/// Signatures that an account may wait for when it asks once more for what it was charged for.
const MOST_REPEATED: usize = 400;

/// A request and the key that it names.
pub(crate) type Assignment = (Arc<TokenKey>, TokenRequest);

/// Where signatures go.
pub(crate) type Answer = oneshot::Sender<Result<Issued, IssuanceError>>;

/// The threads that sign: one per core, since more at once would only make each of them slower.
/// Dropped, they finish what somebody waits for, and end.
pub(crate) struct Signers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The threads' work.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// There is work, or the end.
    work: Condvar,
    /// There is soon no work.
    low: Condvar,
    cores: usize,
}

#[derive(Default)]
struct Queue {
    of: HashMap<AccountOfDay, VecDeque<Piece>>,
    /// Every account that waits, once.
    turns: VecDeque<AccountOfDay>,
    signatures: usize,
    ended: bool,
}

/// A few requests of one job.
struct Piece {
    job: Arc<Job>,
    first: usize,
    work: Vec<Assignment>,
}

/// What is answered as a whole, when all of it is signed and it has been released: whoever comes
/// last answers.
pub(crate) struct Job {
    repeated: bool,
    progress: Mutex<Progress>,
}

struct Progress {
    signatures: Vec<BlindSignature>,
    missing: usize,
    released: bool,
    /// `None`: answered.
    answer: Option<Answer>,
}

impl Signers {
    pub(crate) fn start(workers: &Workers) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_cores(cores, workers)
    }

    pub(crate) fn with_cores(cores: usize, workers: &Workers) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            low: Condvar::new(),
            cores,
        });
        // From the beginning, so that those that could be started end if another one cannot.
        let mut signers = Self {
            shared: Arc::clone(&shared),
            threads: Vec::with_capacity(cores),
        };
        for _ in 0..cores {
            let shared = Arc::clone(&shared);
            let thread = workers.spawn("signatures", move || shared.work_off())?;
            signers.threads.push(thread);
        }
        Ok(signers)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Signers {
    fn drop(&mut self) {
        self.shared.queue().ended = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that signs ended early");
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everything signed, in its order, and once it is released answered as a whole. What
    /// nobody waits for any more is not signed.
    pub(crate) fn sign(
        &self,
        account: AccountOfDay,
        work: Vec<Assignment>,
        repeated: bool,
        answer: Answer,
    ) -> Arc<Job> {
        let total = work.len();
        let job = Arc::new(Job {
            repeated,
            progress: Mutex::new(Progress {
                signatures: vec![[0; _]; total],
                missing: total,
                released: false,
                answer: Some(answer),
            }),
        });
        // Repetitions are free of charge, so nothing else bounds how many are asked for at once.
        if repeated && self.queue().signatures_of(account) + total > MOST_REPEATED.max(total) {
            job.fail(IssuanceError::Busy);
            return job;
        }
        let mut work = work.into_iter();
        let pieces = (0..total).step_by(PIECE).map(|first| Piece {
            job: Arc::clone(&job),
            first,
            work: work.by_ref().take(PIECE).collect(),
        });
        let mut queue = self.queue();
        for piece in pieces {
            queue.push(account, piece);
        }
        drop(queue);
        if total <= PIECE {
            self.work.notify_one();
        } else {
            self.work.notify_all();
        }
        job
    }

    /// Returns when the cores would soon have nothing to do, and after `patience` in any case.
    pub(crate) fn wait_until_low(&self, patience: Duration) {
        let enough = self.enough();
        let busy = |queue: &mut Queue| queue.signatures >= enough;
        drop(self.low.wait_timeout_while(self.queue(), patience, busy));
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.queue().signatures
    }

    /// Signatures for which others need not be hurried.
    fn enough(&self) -> usize {
        2 * PIECE * self.cores
    }

    fn work_off(&self) {
        while let Some(pieces) = self.next() {
            let signed: Vec<_> = pieces.iter().map(Piece::sign).collect();
            // Together, which wakes whoever waits for them once.
            for (piece, signed) in pieces.iter().zip(signed) {
                piece.job.add(piece.first, signed);
            }
        }
    }

    /// As much as is signed in one go, of accounts in turn; a core's share, when there is little.
    fn next(&self) -> Option<Vec<Piece>> {
        let mut queue = self.queue();
        loop {
            let before = queue.signatures;
            let share = before.div_ceil(self.cores).clamp(1, PIECE);
            let (mut pieces, mut signatures) = (Vec::new(), 0);
            while signatures < share
                && let Some(piece) = queue.pop()
            {
                if !piece.job.is_given_up() {
                    signatures += piece.work.len();
                    pieces.push(piece);
                }
            }
            if before >= self.enough() && queue.signatures < self.enough() {
                self.low.notify_one();
            }
            if !pieces.is_empty() {
                return Some(pieces);
            }
            if queue.ended {
                return None;
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn signatures_of(&self, account: AccountOfDay) -> usize {
        let pieces = self.of.get(&account).into_iter().flatten();
        pieces.map(|piece| piece.work.len()).sum()
    }

    fn push(&mut self, account: AccountOfDay, piece: Piece) {
        self.signatures += piece.work.len();
        let pieces = self.of.entry(account).or_default();
        if pieces.is_empty() {
            self.turns.push_back(account);
        }
        pieces.push_back(piece);
    }

    fn pop(&mut self) -> Option<Piece> {
        let account = self.turns.pop_front()?;
        let pieces = self.of.get_mut(&account)?;
        let piece = pieces.pop_front()?;
        if pieces.is_empty() {
            self.of.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        self.signatures -= piece.work.len();
        Some(piece)
    }
}

impl Piece {
    fn sign(&self) -> Result<Vec<BlindSignature>, IssuanceError> {
        let sign = |(key, request): &Assignment| Ok(key.blind_sign(request)?);
        contained(|| self.work.iter().map(sign).collect())
    }
}

impl Job {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for it any more.
    fn is_given_up(&self) -> bool {
        let progress = self.progress();
        progress.answer.as_ref().is_none_or(Answer::is_closed)
    }

    fn add(&self, first: usize, signed: Result<Vec<BlindSignature>, IssuanceError>) {
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => return self.fail(error),
        };
        let mut progress = self.progress();
        progress.missing -= signed.len();
        let places = progress.signatures.iter_mut().skip(first);
        for (place, signature) in places.zip(signed) {
            *place = signature;
        }
        self.answer_when_complete(progress);
    }

    /// It may be answered now: what it was charged for is durable.
    pub(crate) fn release(&self) {
        let mut progress = self.progress();
        progress.released = true;
        self.answer_when_complete(progress);
    }

    /// It is answered with an error at once, and what is signed for it goes nowhere.
    pub(crate) fn fail(&self, error: IssuanceError) {
        let answer = self.progress().answer.take();
        if let Some(answer) = answer {
            let _ = answer.send(Err(error));
        }
    }

    /// Whether it was charged for before.
    pub(crate) fn is_repeated(&self) -> bool {
        self.repeated
    }

    fn answer_when_complete(&self, mut progress: MutexGuard<'_, Progress>) {
        if progress.missing > 0 || !progress.released {
            return;
        }
        if let Some(answer) = progress.answer.take() {
            let signatures = std::mem::take(&mut progress.signatures);
            drop(progress);
            // Whoever has gone meanwhile asks again, at no charge.
            let _ = answer.send(Ok(Issued {
                signatures,
                repeated: self.repeated,
            }));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::token_keys::TokenKeys;

    const GREEDY: AccountOfDay = AccountOfDay([1; 32]);
    const MODEST: AccountOfDay = AccountOfDay([2; 32]);

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

    type Waiting = oneshot::Receiver<Result<Issued, IssuanceError>>;

    fn ask(signers: &Signers, account: AccountOfDay, work: &[Assignment]) -> Waiting {
        let (answer, waiting) = oneshot::channel();
        let job = signers.shared().sign(account, work.to_vec(), false, answer);
        job.release();
        waiting
    }

    #[test]
    fn an_account_that_repeats_itself_without_end_is_refused_and_nobody_else() {
        // Nobody works, so that everything waits.
        let signers = Signers::with_cores(0, &Workers::default()).unwrap();
        let (_directory, work) = work(100);
        let ask = |account, repeated| {
            let (answer, mut answered) = oneshot::channel();
            let job = signers
                .shared()
                .sign(account, work.clone(), repeated, answer);
            job.release();
            let refused = matches!(answered.try_recv(), Ok(Err(IssuanceError::Busy)));
            (refused, answered)
        };
        let waiting: Vec<_> = (0..6).map(|_| ask(GREEDY, true)).collect();
        let refused: Vec<_> = waiting.iter().map(|(refused, _)| *refused).collect();
        assert_eq!(refused, [false, false, false, false, true, true]);
        assert!(!ask(MODEST, true).0);
        // What was charged for is signed.
        assert!(!ask(GREEDY, false).0);
    }

    #[test]
    fn each_signature_stands_where_its_request_stood() {
        let (_directory, work) = work(11);
        let signers = Signers::start(&Workers::default()).unwrap();
        let issued = ask(&signers, GREEDY, &work)
            .blocking_recv()
            .unwrap()
            .unwrap();
        assert_eq!(issued.signatures.len(), 11);
        for ((key, request), signature) in work.iter().zip(issued.signatures) {
            assert_eq!(key.blind_sign(request).unwrap(), signature);
        }
    }

    /// For one core, whose thread has not begun.
    fn about_to_begin() -> Signers {
        Signers {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                work: Condvar::new(),
                low: Condvar::new(),
                cores: 1,
            }),
            threads: Vec::new(),
        }
    }

    fn begin(signers: &mut Signers) {
        let shared = Arc::clone(&signers.shared);
        signers
            .threads
            .push(thread::spawn(move || shared.work_off()));
    }

    #[test]
    fn many_batches_of_one_account_do_not_hold_up_another_account() {
        let (_directory, work) = work(200);
        let mut signers = about_to_begin();
        let greedy: Vec<_> = (0..5).map(|_| ask(&signers, GREEDY, &work)).collect();
        let modest = ask(&signers, MODEST, &work[..1]);
        let turns: Vec<_> = (0..2)
            .flat_map(|_| signers.shared.next().unwrap())
            .collect();
        let sizes: Vec<_> = turns.iter().map(|piece| piece.work.len()).collect();
        assert_eq!(sizes, [PIECE, 1, PIECE], "in turn");
        for piece in turns {
            piece.job.add(piece.first, piece.sign());
        }
        assert!(modest.blocking_recv().unwrap().is_ok());
        begin(&mut signers);
        for batch in greedy {
            assert!(batch.blocking_recv().unwrap().is_ok());
        }
    }

    #[test]
    fn accounts_take_turns_and_each_ones_requests_keep_their_order() {
        let (_directory, work) = work(1);
        let piece = |first| {
            let (answer, _) = oneshot::channel();
            let progress = Progress {
                signatures: Vec::new(),
                missing: 1,
                released: true,
                answer: Some(answer),
            };
            Piece {
                job: Arc::new(Job {
                    repeated: false,
                    progress: Mutex::new(progress),
                }),
                first,
                work: work.clone(),
            }
        };
        let mut queue = Queue::default();
        for (account, first) in [
            (GREEDY, 1),
            (GREEDY, 2),
            (GREEDY, 3),
            (MODEST, 10),
            (MODEST, 11),
        ] {
            queue.push(account, piece(first));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|it| it.first)
            .collect();
        assert_eq!(order, [1, 10, 2, 11, 3]);
        assert!(queue.of.is_empty() && queue.turns.is_empty());
        assert_eq!(queue.signatures, 0);
    }

    #[test]
    fn who_goes_away_leaves_no_work_behind() {
        let (_directory, work) = work(2000);
        let mut signers = about_to_begin();
        let (answer, gone) = oneshot::channel();
        let job = signers.shared().sign(GREEDY, work.clone(), false, answer);
        drop(gone);
        let others = [GREEDY, MODEST].map(|account| ask(&signers, account, &work[..1]));
        begin(&mut signers);
        for other in others {
            assert!(other.blocking_recv().unwrap().is_ok());
        }
        assert_eq!(signers.shared.queue().signatures, 0);
        // What is signed is counted down.
        assert_eq!(job.progress().missing, 2000);
    }

    #[test]
    fn signers_that_end_finish_what_somebody_waits_for() {
        let (_directory, work) = work(20);
        let signers = Signers::start(&Workers::default()).unwrap();
        let waiting: Vec<_> = (0..5).map(|_| ask(&signers, GREEDY, &work)).collect();
        drop(signers);
        for mut waiting in waiting {
            assert_eq!(waiting.try_recv().unwrap().unwrap().signatures.len(), 20);
        }
    }

    #[test]
    fn what_is_signed_is_answered_when_it_is_released_and_never_when_it_has_failed() {
        let (_directory, work) = work(5);
        for released in [true, false] {
            let signers = Signers::start(&Workers::default()).unwrap();
            let (answer, mut waiting) = oneshot::channel();
            let job = signers.shared().sign(GREEDY, work.clone(), false, answer);
            // Ends when everything is signed.
            drop(signers);
            assert_eq!(job.progress().missing, 0);
            assert!(waiting.try_recv().is_err(), "not released yet");
            if released {
                job.release();
                assert_eq!(waiting.try_recv().unwrap().unwrap().signatures.len(), 5);
            } else {
                job.fail(IssuanceError::Worker);
                job.release();
                let answered = waiting.try_recv().unwrap();
                assert!(matches!(answered, Err(IssuanceError::Worker)));
            }
        }
    }

    #[test]
    fn others_are_given_time_only_while_the_cores_are_busy() {
        let (_directory, work) = work(400);
        let signers = Signers::with_cores(1, &Workers::default()).unwrap();
        // Returns at once: a test that hangs here has failed.
        signers.shared().wait_until_low(Duration::from_secs(3600));
        let waiting = ask(&signers, GREEDY, &work);
        signers.shared().wait_until_low(Duration::from_secs(3600));
        assert!(signers.shared.queue().signatures < signers.shared.enough());
        assert!(waiting.blocking_recv().unwrap().is_ok());
    }
}
