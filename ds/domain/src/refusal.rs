//! Why a decision was not made, and whose fault it is.

use crypto::CryptoError;
use protocol::ids::Epoch;
use protocol::problem::ProblemType;

use crate::engine::Read;
use crate::store::ReservationName;

/// The client's fault, or its view is out of date. Changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A problem that its type describes completely.
    Problem(ProblemType),
    /// The client is at another epoch.
    WrongEpoch {
        /// The group's current epoch.
        current: Epoch,
    },
    /// The client is at a later epoch than the store: it was rolled back, or the client invents it.
    Behind {
        /// The group's, as the store has it.
        current: Epoch,
    },
    /// The client's clock, or a replay of something old.
    StaleTimestamp {
        /// The service's clock, milliseconds since the Unix epoch.
        now_ms: u64,
    },
    /// An allowance is used up and no token came.
    Exhausted {
        /// When enough flows back, milliseconds from now, if it does.
        retry_after_ms: Option<u64>,
    },
}

impl Refusal {
    /// The problem that it is answered with.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        match self {
            Self::Problem(problem) => *problem,
            Self::WrongEpoch { .. } => ProblemType::WrongEpoch,
            Self::Behind { .. } => ProblemType::ServiceBehind,
            Self::StaleTimestamp { .. } => ProblemType::StaleTimestamp,
            Self::Exhausted { .. } => ProblemType::TooManyRequests,
        }
    }
}

impl From<ProblemType> for Refusal {
    fn from(problem: ProblemType) -> Self {
        Self::Problem(problem)
    }
}

/// Why a decision stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// These rows are needed; then again from the start.
    Need(Vec<Read>),
    /// Refused before anything dear was done.
    Refused(Refusal),
    /// Refused after dear work: the tokens that came for it are spent.
    RefusedAtCost(Refusal),
    /// Refused after dear work that a reservation pays for: it is used up.
    RefusedUsingUp(Refusal, ReservationName),
    /// The rows that were read are not of one moment: read again.
    Moved,
    /// Our fault: something that was sealed by us does not open, or a library refused its own
    /// output.
    Internal(&'static str),
}

impl Stop {
    /// The same refusal, after dear work.
    #[must_use]
    pub fn at_cost(self) -> Self {
        match self {
            Self::Refused(refusal) => Self::RefusedAtCost(refusal),
            other => other,
        }
    }
}

impl From<ProblemType> for Stop {
    fn from(problem: ProblemType) -> Self {
        Self::Refused(problem.into())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CryptoError> for Stop {
    fn from(_: CryptoError) -> Self {
        // Refusals of what clients sent are mapped where they happen; what is left is ours.
        Self::Internal("cryptography")
    }
}
