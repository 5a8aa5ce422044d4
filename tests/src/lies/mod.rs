//! What a lying service says instead of the truth, field by field, and what the client does. The
//! tables are data; `lying_service` and `lying_answers` tell the lies to the real SDK.

pub mod answers;
mod groups;
mod joining;
pub mod journals;
mod means;
pub mod outside;
mod people;
pub mod refusals;

use client::StopReason;
use protocol::Wire;
use protocol::operation::Operation;

use crate::liar::Liar;

/// What a client does while it is lied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Holds the service's view of the group against its own.
    Verify,
    /// Sends a message into the group.
    Send,
    /// Replaces its leaf in the group.
    Renew,
    /// Changes what a member of the group may do, and sends a message into it.
    Mute,
    /// Adds a contact to another group.
    Add,
    /// Creates a group, and sends a message into it.
    Create,
    /// Puts another group in the place of one.
    Upgrade,
    /// Makes a join code.
    Invite,
    /// Counts its KeyPackages.
    Count,
    /// Asks somebody for a connection.
    Connect,
    /// Looks for connection requests.
    Look,
    /// Accepts a connection.
    Accept,
    /// Comes in by a join code.
    Enter,
    /// Comes in by an invitation of a member.
    Join,
}

/// What comes of a lie. Of each the runner asserts that it is so and nothing else: every other
/// group goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client does not look at it: what it did was done, and everything goes on.
    Harmless,
    /// The call fails with the error of this code; the group is as it was.
    Refused(&'static str),
    /// As before; what it was shown is kept as evidence.
    Evidence(&'static str),
    /// The client follows the group no further, and says so and why.
    Stops(StopReason),
    /// The client has stopped, has come back by itself, and says so: no lie does that.
    ComesBack,
    /// The invitation waits for a true answer; nothing is joined and nothing lost.
    Waits,
    /// The group is joined, with somebody in it who does not show who it is: nothing is sent into
    /// it.
    Unverified,
    /// The group is joined, and nothing is sent into it before somebody was heard.
    Unheard,
    /// Taken, as at every first look-up: the safety number is not the true one's.
    Pinned,
}

/// Alters the true answers to an operation.
pub fn alter<T: Wire>(liar: &Liar, operation: Operation, change: impl Fn(&mut T) + Send + 'static) {
    liar.twist(operation, move |_, answer| {
        let mut told = T::decode(answer).expect("a true answer");
        change(&mut told);
        *answer = told.encode();
    });
}
