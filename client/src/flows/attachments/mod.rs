//! Attachments: files that go to the service as blobs, sealed in chunks, and come back.
//!
//! A transfer is one bulk exchange to begin with and one for each chunk, the last of them when the
//! others are through; an upload is so in the same steps as a download. Transfers run beside calls,
//! so that they hold up no message.

#![allow(
    clippy::disallowed_methods,
    reason = "how long an answer takes says how many exchanges fit beside each other"
)]

#[cfg(not(target_arch = "wasm32"))]
mod download;
#[cfg(not(target_arch = "wasm32"))]
mod part;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::Wire;
use protocol::operation::Operation;
use protocol::problem::ProblemType;

use crate::engine::Engine;
use crate::error::{AttachmentError, Error};
use crate::flows::request::read_answer;
use crate::issuance::Token;
use crate::net::transport::Transport;
use crate::remote_file::Transferred;
use crate::store::tokens;

pub(crate) use upload::{Uploading, scan, scan_source};

/// Exchanges that are under way at once: enough to fill a line with a long way, and each holds a
/// few chunks in memory.
const AT_ONCE: usize = 4;

/// Where the first exchange, which goes alone, takes longer, the others go one by one: a slow line
/// would bring none of four to its end in time.
const SLOW: Duration = Duration::from_secs(4);

fn at_once(first: Duration) -> usize {
    if first > SLOW { 1 } else { AT_ONCE }
}

/// Longest wait that a service may ask for; beyond it the transfer ends, and goes on when it is
/// begun again.
const LONGEST_WAIT_S: u64 = 60;
/// So often an exchange waits before it pays: whoever uses the allowance of a blob up must not keep
/// the others out.
const FREE_WAITS: u64 = 2;

/// Hears how far a transfer has come.
pub type TransferProgress = Arc<dyn Fn(Transferred) + Send + Sync>;

/// Takes a token out of the wallet for an exchange that is refused without; none where there is
/// none, or where refusals have cost enough today.
pub(crate) type Payer =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Option<Token>, Error>> + Send + Sync>;

/// The way of a transfer to the service.
#[derive(Clone)]
pub(crate) struct Way {
    transport: Transport,
    payer: Payer,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way(..)")
    }
}

impl Way {
    fn beside_calls(of: &Transport, payer: Payer) -> Self {
        let transport = of.beside_calls();
        Self { transport, payer }
    }

    /// One bulk exchange. Where the allowance of a blob is used up it waits, and then pays once.
    async fn exchange<R: Wire>(&self, operation: Operation, body: &[u8]) -> Result<R, Error> {
        let (mut waits, mut tokens, mut has_asked) = (0, Vec::new(), false);
        loop {
            let mut transport = self.transport.beside_calls();
            let refusal = match transport.post(operation, body, &tokens).await {
                Err(Error::Refused(refusal)) => refusal,
                answer => return read_answer(&answer?),
            };
            match refusal.problem {
                // An answer that was paid for was lost, perhaps.
                ProblemType::TokenRejected if !tokens.is_empty() => tokens.clear(),
                ProblemType::TooManyRequests => {
                    tokens.clear();
                    waits += 1;
                    let seconds = refusal.retry_after_s.unwrap_or(1).max(1);
                    let is_long = seconds > LONGEST_WAIT_S || waits > LONGEST_WAIT_S;
                    if refusal.token_helps && !has_asked && (is_long || waits > FREE_WAITS) {
                        has_asked = true;
                        tokens.extend((self.payer)().await?);
                    }
                    if tokens.is_empty() {
                        if is_long {
                            return Err(Error::Refused(refusal));
                        }
                        crate::runtime::sleep(Duration::from_secs(seconds)).await;
                    }
                }
                _ => return Err(of_blob(Error::Refused(refusal))),
            }
        }
    }
}

impl Engine {
    /// What a [`Payer`] does. The token is about to be seen: it is not kept.
    pub(crate) fn pay_for_transfer(&mut self) -> Result<Option<Token>, Error> {
        if self.spendable()? == 0 {
            return Ok(None);
        }
        let taken = self.take_tokens_again(1)?.unwrap_or_default();
        tokens::discard(&self.db, &taken)?;
        Ok(taken.into_iter().next())
    }
}

/// What a refusal says of the blob.
pub(crate) fn of_blob(error: Error) -> Error {
    match error.problem() {
        Some(ProblemType::UnknownBlob) => AttachmentError::Gone.into(),
        Some(ProblemType::BlobDamaged) => AttachmentError::Damaged.into(),
        Some(ProblemType::BlobIncomplete) => AttachmentError::Incomplete.into(),
        _ => error,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
