//! What can go wrong, and whose fault it is. The public text of each is its [`ProblemType`]; the
//! internal one goes to the trace only.

use protocol::problem::ProblemType;
use service::sparse::Sparse;

use crate::store::StoreError;

/// Why a request was not carried out. It changed nothing, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DsError {
    /// The client's fault, or its view is out of date.
    #[error("refused: {}", .0.slug())]
    Refused(ProblemType),
    /// The client is at another epoch.
    #[error("wrong epoch")]
    WrongEpoch {
        /// The group's epoch.
        current: u64,
    },
    /// The client is at a later epoch than we: the store was rolled back, or the client invents it.
    #[error("behind the client")]
    Behind {
        /// The group's epoch, as we have it.
        current: u64,
    },
    /// The client's clock, or a replay of something old.
    #[error("stale timestamp")]
    StaleTimestamp {
        /// Our clock.
        now_ms: u64,
    },
    /// The allowance of a leaf is used up.
    #[error("allowance used up")]
    TooManyRequests {
        /// When something flows back, if it does.
        retry_after_ms: Option<u64>,
    },
    /// More than this process takes at once.
    #[error("busy")]
    Busy {
        /// When to come again.
        retry_after_ms: u64,
    },
    /// Not a refusal: the request was carried out before; this is its recorded response.
    #[error("carried out before")]
    AlreadyDone(Vec<u8>),
    /// The state moved between reading and writing; the domain tries again before it gives up.
    #[error("a concurrent request was first")]
    Conflict,
    /// Our fault: storage.
    #[error("storage: {0}")]
    Storage(String),
    /// Our fault: something that was sealed by us does not open, or a library refused its own output.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl DsError {
    /// A member's request is of this epoch, and the group at another one.
    pub(crate) fn other_epoch(of_request: u64, current: u64) -> Self {
        if of_request <= current {
            return Self::WrongEpoch { current };
        }
        metrics::counter!("ds_behind_total").increment(1);
        // Any member of a group can say so of it.
        static SAID: Sparse = Sparse::new();
        if let Some(times) = SAID.due() {
            tracing::error!(
                times,
                "a member's request is of a later epoch than this store has: was it restored from a backup?"
            );
        }
        Self::Behind { current }
    }
}

impl From<ProblemType> for DsError {
    fn from(problem: ProblemType) -> Self {
        Self::Refused(problem)
    }
}

impl From<StoreError> for DsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::AlreadyDone(sealed) => Self::AlreadyDone(sealed),
            StoreError::TokenSpent => Self::Refused(ProblemType::TokenRejected),
            StoreError::Conflict => Self::Conflict,
            // Every domain call that can meet these says what they mean there.
            StoreError::Taken => Self::Refused(ProblemType::Conflict),
            StoreError::Absent => Self::Refused(ProblemType::Conflict),
            StoreError::Engine(text) => Self::Storage(text),
        }
    }
}

impl From<crypto::CryptoError> for DsError {
    fn from(_: crypto::CryptoError) -> Self {
        // Refusals of what clients sent are mapped where they happen; what is left is ours.
        Self::Internal("cryptography")
    }
}
