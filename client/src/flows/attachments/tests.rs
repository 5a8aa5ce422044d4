use std::sync::Mutex;

use protocol::directory::Directory;
use protocol::group::Accepted;

use super::*;
use crate::error::Refusal;
use crate::in_process::{Answer, Service};
use crate::net::clock::{ServiceTime, SystemClock};
use crate::net::transport::Patience;
use crate::net::transport::patience::Budget;
use crate::store::profile::tests::endpoints;
use crate::views::{Pace, Views};

/// A service whose allowance somebody else uses up; how many tokens each request brought.
struct Busy(Mutex<Vec<usize>>);

impl Service for Busy {
    fn answer<'a>(&'a self, _: Operation, _: &'a [u8], tokens: &'a [Vec<u8>]) -> Answer<'a> {
        self.0.lock().unwrap().push(tokens.len());
        let refusal = Refusal {
            problem: ProblemType::TooManyRequests,
            epoch: None,
            now_ms: None,
            retry_after_s: Some(1),
            token_helps: true,
        };
        let answer = match tokens {
            [] => Err(Error::Refused(refusal)),
            _ => Ok(Accepted {}.encode()),
        };
        Box::pin(std::future::ready(answer))
    }

    fn directory(&self) -> Directory {
        unreachable!("nobody asks for it")
    }
}

#[tokio::test]
async fn where_others_use_an_allowance_up_a_transfer_waits_a_little_and_then_pays() {
    let busy = Arc::new(Busy(Mutex::default()));
    let patience = Patience {
        attempt: Duration::from_secs(5),
        call: Duration::from_secs(5),
    };
    let mut transport = Transport::new(
        endpoints("https://ds.example"),
        None,
        ServiceTime::new(SystemClock::shared(), 0),
        Budget::new(patience, None),
        Views::default(),
        Pace::default(),
    )
    .unwrap();
    transport.answer_by(Some(Arc::clone(&busy) as Arc<dyn Service>));
    let payer: Payer = Arc::new(|| Box::pin(async { Ok(Some(vec![1])) }));
    let way = Way::beside_calls(&transport, payer);
    let answer: Result<Accepted, Error> = way.exchange(Operation::ReadChunk, b"read").await;
    answer.unwrap();
    assert_eq!(*busy.0.lock().unwrap(), [0, 0, 0, 1]);
}
