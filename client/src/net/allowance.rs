//! What to do when an allowance is used up: wait or pay.

use std::time::Duration;

use protocol::directory::AllowanceList;
use protocol::operation::Operation;

use crate::error::Refusal;
use crate::net::waits::in_steps;

/// No user is kept waiting longer than this to save a token.
const WORTH_WAITING: Duration = Duration::from_secs(5);

/// How long the allowance for an operation takes to give back one request, in whole seconds as
/// `Retry-After` has them.
fn returns_in(announced: &AllowanceList, operation: Operation) -> Duration {
    let allowance = match operation {
        Operation::ReadJournal
        | Operation::JoinRecord
        | Operation::FetchWelcome
        | Operation::RecoveryRow
        | Operation::PutChunk
        | Operation::BlobChunks
        | Operation::ReadChunk
        | Operation::DeleteBlob => announced.segment,
        Operation::ReadInbox
        | Operation::DeleteFromInbox
        | Operation::CountKeyPackages
        | Operation::DeleteKeyPackages => announced.owner,
        _ => announced.leaf,
    };
    if allowance.refill_per_minute == 0 {
        return Duration::ZERO;
    }
    Duration::from_secs(60u32.div_ceil(allowance.refill_per_minute).into())
}

/// What helps against an allowance that is used up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    Wait(Duration),
    Pay,
    None,
}

/// A short wait rather than a token, a token rather than a long wait, and only where the service
/// says that one helps.
pub(crate) fn relief(refusal: &Refusal, worth: Duration, left: Duration, can_pay: bool) -> Relief {
    let asked = refusal
        .retry_after_s
        .map(|seconds| Duration::from_secs(seconds.max(1)))
        .filter(|wait| *wait <= left);
    match asked {
        Some(wait) if wait <= worth => Relief::Wait(wait),
        _ if can_pay && refusal.token_helps => Relief::Pay,
        Some(wait) => Relief::Wait(wait),
        None => Relief::None,
    }
}

/// How long to wait rather than pay: as long as the announced allowance takes to give back a
/// request, so that a client that asks often falls in step with it. A longer wait, or nothing that
/// flows back, is worth a token.
pub(crate) fn worth_waiting(announced: Option<&AllowanceList>, operation: Operation) -> Duration {
    announced.map_or(WORTH_WAITING, |announced| {
        let returns = returns_in(announced, operation).as_secs();
        Duration::from_secs(in_steps(returns)).min(WORTH_WAITING)
    })
}

#[cfg(test)]
mod tests {
    use protocol::directory::Allowance;
    use protocol::problem::ProblemType;

    use super::*;

    #[test]
    fn waiting_is_better_than_paying_as_long_as_the_announced_allowance_gives_back_by_itself() {
        let allowance = |refill_per_minute| Allowance {
            capacity: 9,
            refill_per_minute,
        };
        let announced = AllowanceList {
            leaf: allowance(60),
            group: allowance(0),
            segment: allowance(7),
            owner: allowance(1),
        };
        let returns = |operation| returns_in(&announced, operation).as_secs();
        assert_eq!(returns(Operation::SendMessage), 1);
        assert_eq!(returns(Operation::ReadJournal), 9);
        assert_eq!(returns(Operation::JoinRecord), 9);
        let never = AllowanceList {
            leaf: allowance(0),
            ..announced
        };
        assert_eq!(returns_in(&never, Operation::AddUsers), Duration::ZERO);
    }

    #[test]
    fn a_client_waits_a_little_pays_where_that_helps_and_else_waits_no_longer_than_its_patience() {
        let second = Duration::from_secs;
        let after = |retry_after_s, token_helps| Refusal {
            problem: ProblemType::TooManyRequests,
            epoch: None,
            now_ms: None,
            retry_after_s,
            token_helps,
        };
        let relief = |refusal, can_pay| relief(&refusal, second(5), second(30), can_pay);
        assert_eq!(relief(after(Some(5), true), true), Relief::Wait(second(5)));
        assert_eq!(relief(after(Some(0), true), true), Relief::Wait(second(1)));
        assert_eq!(relief(after(Some(6), true), true), Relief::Pay);
        assert_eq!(relief(after(None, true), true), Relief::Pay);
        // No challenge in the answer, or no token in the wallet.
        assert_eq!(relief(after(Some(6), false), true), Relief::Wait(second(6)));
        assert_eq!(
            relief(after(Some(30), true), false),
            Relief::Wait(second(30))
        );
        assert_eq!(relief(after(Some(31), true), false), Relief::None);
        assert_eq!(relief(after(Some(u64::MAX), false), true), Relief::None);
        assert_eq!(relief(after(None, false), true), Relief::None);
    }
}
