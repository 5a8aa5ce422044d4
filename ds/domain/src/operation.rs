//! What an operation is: one file each implements this, and one line of the table names it.

use std::fmt::Debug;

use protocol::Wire;
use protocol::operation::Operation as Number;

use crate::env::{Env, Prices};
use crate::refusal::Stop;
use crate::request::{Authenticated, Unauthenticated};
use crate::rows::{Bucket, Rows};
use crate::store::{Appended, Transition};
use crate::view::View;

/// An operation on signed requests.
pub trait Operation: 'static {
    /// The body of the request.
    type Request: Wire + Debug;
    /// The body of the answer.
    type Response: Wire;
    /// What is known of who asks, once it is authenticated.
    type Who;

    /// Its number and path.
    const OPERATION: Number;

    /// Whether a decision is dear: then each further one, after another change was first, costs
    /// what the first one did.
    const IS_DEAR: bool = false;

    /// The most tokens that it can cost beside those that stand for an allowance: no more are
    /// looked at.
    #[must_use]
    fn most_tokens(prices: &Prices) -> usize {
        let _ = prices;
        0
    }

    /// Cheap checks, and the signature.
    ///
    /// # Errors
    /// [`Stop`].
    fn authenticate<'r>(
        request: &'r Unauthenticated<Self::Request>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Authenticated<'r, Self::Request, Self::Who>, Stop>;

    /// What it costs; charged before it is decided, once if that is not dear.
    fn cost(request: &Authenticated<'_, Self::Request, Self::Who>, env: &Env<'_>) -> Cost;

    /// Decides. Called again when a row was missing, and with a fresh view when another change was
    /// first.
    ///
    /// # Errors
    /// [`Stop`].
    fn decide(
        request: &Authenticated<'_, Self::Request, Self::Who>,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Change<Self::Response>, Stop>;
}

/// A read that nobody signs: a capability in the body is all that it needs.
pub trait UnsignedRead: 'static {
    /// The body of the request.
    type Request: Wire + Send + Sync;
    /// The body of the answer.
    type Response: Wire + Send;

    /// Its number and path.
    const OPERATION: Number;

    /// The allowance of all who read the same.
    fn bucket(request: &Self::Request, rows: &Rows<'_>) -> Bucket;

    /// Reads. No token is spent and nothing is written.
    ///
    /// # Errors
    /// [`Stop`].
    fn read(
        request: &Self::Request,
        view: &View,
        env: &mut Env<'_>,
    ) -> Result<Self::Response, Stop>;
}

/// The price of a request: tokens and allowances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens that the request must bring.
    pub tokens: u8,
    /// Allowances that the request draws on. A token can take the place of one that is used up.
    pub charges: Vec<Charge>,
}

/// A draw on one allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// What kind of allowance.
    pub level: Level,
    /// The bucket that the draw is from.
    pub bucket: Bucket,
    /// Bytes that the request adds to what is stored or sent.
    pub bytes: usize,
}

/// Kinds of allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// A leaf in its group.
    Leaf,
    /// A user in its group, with all its leaves.
    User,
    /// A group, with all its leaves.
    Group,
    /// The readers of a segment, or of a record.
    Segment,
    /// The owner of a pool or inbox.
    Owner,
}

/// The result of a decision.
#[derive(Debug)]
pub struct Change<R> {
    /// The transition to apply; none for a request that only reads.
    pub transition: Option<Transition>,
    /// What to answer once it has.
    pub response: R,
    /// What it appends to segments: their long polls end, and their followers are told.
    pub wake: Vec<Appended>,
    /// Tokens that the request costs beyond the price that was known before.
    pub surcharge: u8,
}

impl<R> Change<R> {
    /// A response without a transition.
    #[must_use]
    pub fn nothing(response: R) -> Self {
        Self {
            transition: None,
            response,
            wake: Vec::new(),
            surcharge: 0,
        }
    }

    /// A transition that nobody waits for.
    #[must_use]
    pub fn of(transition: Transition, response: R) -> Self {
        Self {
            transition: Some(transition),
            ..Self::nothing(response)
        }
    }
}
