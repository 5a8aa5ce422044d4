//! A month of a thousand users, simulated: when their wallets are filled and when they spend.
//!
//! When a wallet is filled, and by how much, is decided by the client's own code.

use std::collections::VecDeque;

use client::issuance::{Due, Levels, Schedule};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Who plays.
pub const USERS: usize = 1_000;
const SECOND: u64 = 1_000;
/// Milliseconds.
pub const MINUTE: u64 = 60 * SECOND;
/// Milliseconds.
pub const DAY: u64 = 24 * 60 * MINUTE;
const BEGIN: u64 = 1_800_000_000_000;
const END: u64 = BEGIN + 30 * DAY;
/// Everybody has been set up by then, and begins to use what there is.
const IN_USE: u64 = BEGIN + 2 * DAY;
/// What is attacked. Before and after it the attacker sees issuance too.
const ATTACKED: std::ops::Range<u64> = BEGIN + 6 * DAY..BEGIN + 26 * DAY;
/// A user comes so often on average, and then spends this many tokens on average, one after the
/// other.
const BETWEEN_SESSIONS: f64 = 8.0 * 60.0 * MINUTE as f64;
/// Whose client is there for sessions only comes twice as often, stays for some minutes, and spends
/// tokens in one of three sessions (messages cost none), beginning in the first half of it.
const BETWEEN_STAYS: f64 = BETWEEN_SESSIONS / 2.0;
const SHORTEST_STAY: u64 = MINUTE;
const REST_OF_STAY: f64 = 6.0 * MINUTE as f64;
const TOKENS_A_SESSION: f64 = 7.0;
const BETWEEN_TOKENS: f64 = 20.0 * SECOND as f64;
/// The default of service, issuer and client.
pub const LEVELS: Levels = Levels {
    batch: 100,
    full: 200,
    reserve: 25,
};
/// A request to the issuer, as it sees it: whose, when, for how many tokens.
#[derive(Debug, Clone, Copy)]
pub struct Issuance {
    /// Whose account.
    pub user: usize,
    /// Milliseconds since 1970.
    pub at: u64,
    /// Tokens.
    pub size: usize,
}

/// A redemption, as the service sees it: when. The rest only the test knows.
#[derive(Debug, Clone, Copy)]
pub struct Redemption {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Whose it is.
    pub user: usize,
    /// Which of the user's issuances it comes from.
    pub from: usize,
    /// The first token of a session: one of each session is attacked, so that hits are independent.
    pub first: bool,
}

/// How a wallet is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wallet {
    /// As the client does.
    AsBuilt,
    /// By one token, right before it is spent.
    ForEachUse,
    /// Some minutes after it fell below its half.
    SoonAfterLow,
    /// When the time has come, as soon as the client runs, whatever it does.
    AtOnce,
}

/// When clients run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Always,
    /// For minutes, when their users look at them.
    Sessions,
}

/// A month of one user.
struct Life {
    user: usize,
    wallet: Wallet,
    presence: Presence,
    /// The client has been running since.
    here_since: u64,
    last_spent: u64,
    schedule: Schedule,
    /// Tokens of each issuance that are left.
    held: VecDeque<(usize, usize)>,
    issued: Vec<Issuance>,
    redeemed: Vec<Redemption>,
}

impl Life {
    fn live(user: usize, (wallet, presence): (Wallet, Presence), rng: &mut StdRng) -> Self {
        let set_up = rng.random_range(BEGIN..IN_USE - DAY);
        let mut life = Self {
            user,
            wallet,
            presence,
            here_since: 0,
            last_spent: 0,
            schedule: Schedule::after(set_up).expect("randomness"),
            held: VecDeque::new(),
            issued: Vec::new(),
            redeemed: Vec::new(),
        };
        if wallet != Wallet::ForEachUse {
            life.fill(set_up, LEVELS.batches(0));
        }
        let mut session = IN_USE + life.absence(rng);
        while session < END {
            session = life.session(session, rng) + life.absence(rng);
        }
        life
    }

    fn absence(&self, rng: &mut StdRng) -> u64 {
        match self.presence {
            Presence::Always => after(BETWEEN_SESSIONS, rng),
            Presence::Sessions => after(BETWEEN_STAYS, rng),
        }
    }

    /// Answers when it is over.
    fn session(&mut self, begin: u64, rng: &mut StdRng) -> u64 {
        let (mut at, end) = match self.presence {
            Presence::Always => (begin, u64::MAX),
            Presence::Sessions => {
                self.here_since = begin;
                let end = begin + SHORTEST_STAY + after(REST_OF_STAY, rng);
                let spends = rng.random_bool(1.0 / 3.0);
                let first = if spends {
                    rng.random_range(begin..begin.midpoint(end))
                } else {
                    end
                };
                (first, end)
            }
        };
        let mut first = true;
        while at < end {
            self.spend(at, first, rng);
            first = false;
            if rng.random_bool(1.0 / TOKENS_A_SESSION) {
                break;
            }
            at += SECOND + after(BETWEEN_TOKENS, rng);
        }
        if self.presence == Presence::Always {
            return at;
        }
        self.pass_time(end);
        end
    }

    fn holds(&self) -> usize {
        self.held.iter().map(|(_, left)| left).sum()
    }

    fn fill(&mut self, at: u64, batches: usize) {
        for number in 0..batches {
            // One after the other.
            let at = at + number as u64 * 300;
            self.issue(at, LEVELS.batch);
        }
    }

    fn issue(&mut self, at: u64, size: usize) {
        self.held.push_back((self.issued.len(), size));
        self.issued.push(Issuance {
            user: self.user,
            at,
            size,
        });
    }

    /// Everything that is due up to `now`, as soon as the client is there.
    fn pass_time(&mut self, now: u64) {
        while self.schedule.next_ms <= now {
            let at = self.schedule.next_ms.max(self.here_since);
            self.schedule = match self.schedule.due(at, self.last_spent).expect("randomness") {
                Due::NotYet => panic!("it is due"),
                Due::PutOff(later) if self.wallet != Wallet::AtOnce => later,
                Due::PutOff(_) | Due::Now => {
                    if LEVELS.is_low(self.holds()) || self.schedule.is_hastened() {
                        self.fill(at, LEVELS.batches(self.holds()));
                    }
                    Schedule::after(at).expect("randomness")
                }
            };
        }
    }

    fn spend(&mut self, at: u64, first: bool, rng: &mut StdRng) {
        if self.wallet == Wallet::ForEachUse {
            self.issue(at - rng.random_range(200..2_000), 1);
        } else {
            self.pass_time(at);
        }
        let Some((from, left)) = self.held.front_mut() else {
            // The wallet is empty: the action fails.
            return;
        };
        let from = *from;
        self.last_spent = at;
        *left -= 1;
        if *left == 0 {
            self.held.pop_front();
        }
        self.redeemed.push(Redemption {
            at,
            user: self.user,
            from,
            first,
        });
        let nearly_empty = self.holds() < LEVELS.reserve;
        let low = self.wallet == Wallet::SoonAfterLow && LEVELS.is_low(self.holds());
        if self.wallet != Wallet::ForEachUse && (nearly_empty || low) {
            self.schedule = self.schedule.hastened(at).expect("randomness");
        }
    }
}

/// A time with this mean that says nothing about when it will be over.
fn after(mean_ms: f64, rng: &mut StdRng) -> u64 {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    (-uniform.ln() * mean_ms) as u64
}

/// What issuer and service have seen of everybody.
#[derive(Debug)]
pub struct Month {
    /// Of each user, in order.
    pub issued: Vec<Vec<Issuance>>,
    /// Of everybody, in order.
    pub redeemed: Vec<Redemption>,
}

impl Month {
    /// Plays it.
    #[must_use]
    pub fn of(wallet: Wallet, presence: Presence, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut month = Self {
            issued: Vec::new(),
            redeemed: Vec::new(),
        };
        for user in 0..USERS {
            let mut life = Life::live(user, (wallet, presence), &mut rng);
            life.issued.sort_by_key(|issuance| issuance.at);
            month.issued.push(life.issued);
            month.redeemed.extend(life.redeemed);
        }
        month.redeemed.sort_by_key(|redemption| redemption.at);
        month
    }

    /// One redemption of each session in the time that is attacked, of half of the users.
    #[must_use]
    pub fn attacked(&self, half: usize) -> Vec<Redemption> {
        let all = self.redeemed.iter().copied();
        all.filter(|it| it.first && ATTACKED.contains(&it.at) && it.user % 2 == half)
            .collect()
    }
}
